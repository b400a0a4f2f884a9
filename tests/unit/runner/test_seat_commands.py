"""What a command of the language becomes in a seat."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interpreter.ports import Command
from runner.backends.docker_exec import LONGEST_ARGUMENT, check_arguments
from runner.commands import execution, simple


def argv(kind: str, text: str, **fields: object) -> tuple[str, ...]:
    return execution(Command(kind=kind, text=text, **fields), env={}, timeout_seconds=None).argv


@given(st.lists(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1))
def test_quoted_words_reach_the_program_as_they_are(words: list[str]) -> None:
    """Whatever a value holds: a prompt with quotes, newlines, `$()` and `@` is one argument, and no shell sees it."""
    line = shlex.join(["program", *words])
    assert simple(line) == ("program", *words)


@pytest.mark.parametrize(
    "line",
    ["a | b", "a && b", "a; b", "a > f", "a < f", "a &", "echo $HOME", 'echo "$HOME"', "echo `id`", "echo $(id)", "ls *.py",
     "ls ?", "ls [ab]", "cd /tmp", "X=1 env", "if true", "exit 3", "echo ~", "a\nb", "# comment", "{ a", "! true", "echo 'a",
     'echo "a', "echo a\\", "echo {a,b}", 'echo "a\\n"', "exec ls", ""],
)  # fmt: skip
def test_what_only_a_shell_understands_goes_to_one(line: str) -> None:
    assert simple(line) is None
    assert argv("cmd", line) == ("sh", "-c", line)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("git status", ("git", "status")),
        ("git commit -m 'a $b `c` *'", ("git", "commit", "-m", "a $b `c` *")),
        ('say "it\'s"', ("say", "it's")),
        ("say a\\ b", ("say", "a b")),
        ("say ''", ("say", "")),
        ('say "a\\"b"', ("say", 'a"b')),
    ],
)
def test_one_program_needs_no_shell(line: str, words: tuple[str, ...]) -> None:
    assert argv("cmd", line) == words


def test_bodies_go_to_their_interpreters() -> None:
    assert argv("sh", "a | b") == ("sh", "-c", "a | b")
    assert argv("py", "print(1)") == ("python3", "-c", "print(1)")
    assert argv("node", "x()") == ("node", "-e", "x()")


def test_a_long_body_comes_over_stdin() -> None:
    body = "# " + "x" * 200_000
    made = execution(Command(kind="py", text=body), env={}, timeout_seconds=None)
    assert (made.argv, made.stdin) == (("python3", "-"), body.encode())
    with pytest.raises(OSError, match="cannot have stdin as well"):
        argv("py", body, stdin=b"x")


def test_an_argument_that_no_program_can_be_given_is_told_with_words() -> None:
    with pytest.raises(OSError, match="pass it over stdin"):
        check_arguments(("agent", "x" * (LONGEST_ARGUMENT + 1)))
    with pytest.raises(OSError, match="NUL"):
        check_arguments(("agent", "a\0b"))
    check_arguments(("agent", "x" * LONGEST_ARGUMENT))


def test_environment_and_limits() -> None:
    command = Command(kind="cmd", text="x", env={"A": "1", "B": "2"}, secrets={"B": "secret"}, timeout_seconds=3)
    made = execution(command, env={"A": "0", "C": "3"}, timeout_seconds=9)
    assert made.env == {"A": "1", "B": "secret", "C": "3"}
    assert made.timeout_seconds == 3
    assert "secret" not in repr(made)

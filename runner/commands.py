"""Commands of the language as programs in a seat: what each kind becomes, without a shell where none is needed."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping

from interpreter.ports import Command
from runner.backends.base import Execution

_INTERPRETERS = {"sh": ("sh", "-c"), "node": ("node", "-e"), "py": ("python3", "-c")}
_FROM_STDIN = {"sh": ("sh", "-s"), "node": ("node", "-"), "py": ("python3", "-")}
_LONGEST_BODY = 100_000  # an argument may have 131,071 bytes; a longer body comes over stdin, if that is free


def execution(command: Command, *, env: Mapping[str, str], timeout_seconds: float | None) -> Execution:
    """The program that a command is. Errors: `OSError` with words for what no program can be given."""
    argv, stdin = _argv(command)
    return Execution(
        argv=argv,
        env={**env, **command.env, **command.secrets},
        cwd=command.cwd,
        stdin=stdin,
        timeout_seconds=command.timeout_seconds if command.timeout_seconds is not None else timeout_seconds,
        on_output=command.on_output,
        tty=command.tty,
    )


def _argv(command: Command) -> tuple[tuple[str, ...], bytes | None]:
    if command.kind == "cmd":
        return simple(command.text) or ("sh", "-c", command.shell_text), command.stdin
    if len(command.text.encode(errors="surrogateescape")) <= _LONGEST_BODY:
        return (*_INTERPRETERS[command.kind], command.text), command.stdin
    if command.stdin is not None:
        raise OSError(errno.E2BIG, f"a {command.kind} body of {len(command.text)} characters cannot have stdin as well")
    return _FROM_STDIN[command.kind], command.text.encode(errors="surrogateescape")


def simple(line: str) -> tuple[str, ...] | None:
    """The words of a command line which a shell would run as one program, else None.

    Where a profile grants no `sh` the shells are masked, and a plain command must run all the same. In one pass: a
    prompt of a megabyte is one word.
    """
    words: list[str] = []
    word: list[str] = []  # pieces of the one being read
    at = 0
    while at < len(line):
        piece = _PIECE.match(line, at)
        if piece is None:
            return None  # an operator, an expansion, or a quote without its end
        at = piece.end()
        text = piece[0]
        match piece.lastgroup:
            case "blank":
                words += ["".join(word)] if word else []
                word = []
                continue
            case "single":
                text = text[1:-1]
            case "double":
                text = _IN_DOUBLE.sub(r"\1", text[1:-1])
            case "escape":
                text = text[1:]
        word.append(text)
    words += ["".join(word)] if word else []
    if not words or "=" in words[0] or words[0] in _RESERVED:
        return None
    return tuple(words)


_PIECE = re.compile(
    r"""(?P<blank>[ \t]+)
      | (?P<plain>[^ \t\n|&;<>()$`*?\[\]\#~{}!'"\\]+)
      | (?P<single>'[^']*')
      | (?P<double>"(?:[^"\\$`]|\\["\\$`])*")
      | (?P<escape>\\[^\n])""",
    re.VERBOSE,
)
_IN_DOUBLE = re.compile(r"""\\(["\\$`])""")
# Words that only a shell understands.
_RESERVED = frozenset(
    ("if", "then", "else", "elif", "fi", "for", "while", "until", "do", "done", "case", "esac", "in", "function", "time",
     "[[", ".", ":", "cd", "export", "set", "unset", "exec", "eval", "source", "alias", "trap", "umask", "ulimit", "read",
     "shift", "exit", "return", "break", "continue", "wait")
)  # fmt: skip

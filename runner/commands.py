"""Commands of the language as programs in a seat: what each kind becomes, without a shell where none is needed."""

from __future__ import annotations

import errno
import shlex
from collections.abc import Mapping

from interpreter.ports import Command
from runner.backends.base import Execution

_SHELL_ONLY = frozenset("|&;<>()$`*?[]#~{}!\n")
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
        return simple(command.text) or ("sh", "-c", command.text), command.stdin
    if len(command.text.encode(errors="surrogateescape")) <= _LONGEST_BODY:
        return (*_INTERPRETERS[command.kind], command.text), command.stdin
    if command.stdin is not None:
        raise OSError(errno.E2BIG, f"a {command.kind} body of {len(command.text)} characters cannot have stdin as well")
    return _FROM_STDIN[command.kind], command.text.encode(errors="surrogateescape")


def simple(line: str) -> tuple[str, ...] | None:
    """The words of a command line which a shell would run as one program, else None.

    Where a profile grants no `sh` the shells are masked, and a plain command must run all the same.
    """
    try:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        lexer.commenters = ""
        words = list(lexer)
    except ValueError:
        return None
    if not words or "=" in words[0] or words[0] in _RESERVED or _expands(line):
        return None
    return tuple(words)


# Words that only a shell understands.
_RESERVED = frozenset(
    ("if", "then", "else", "elif", "fi", "for", "while", "until", "do", "done", "case", "esac", "in", "function", "time",
     "[[", ".", ":", "cd", "export", "set", "unset", "exec", "eval", "source", "alias", "trap", "umask", "ulimit", "read",
     "shift", "exit", "return", "break", "continue", "wait")
)  # fmt: skip


def _expands(line: str) -> bool:
    """Whether a shell would see more than words: an operator or an expansion outside of single quotes."""
    quote = ""
    skip = False
    for char in line:
        if skip:
            skip = False
            # What a backslash means depends on what comes after it, and inside double quotes more so.
            if char == "\n" or (quote and char not in '"\\$`'):
                return True
        elif char == "\\" and quote != "'":
            skip = True
        elif quote == char:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        elif (quote == '"' and char in "$`") or (not quote and char in _SHELL_ONLY):
            return True
    return bool(quote) or skip

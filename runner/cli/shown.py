"""How failures are shown: one diagnostic, with its next step; as an object where the command said `--json`."""

from __future__ import annotations

import json
import os
import sys
import traceback

import click

from interpreter.errors import MlldError
from runner.cli.lazy import nearest_option
from runner.environ import typed
from runner.errors import BadOption, Interrupted, NoSpace, RunnerError, UnknownName, UsageFailure

_NO_SPACE = 28


def fail(error: BaseException, *, as_json: bool = False) -> int:
    """Show an error on stderr (with `--json` also on stdout); returns the exit code, which is never 0."""
    while isinstance(error, BaseExceptionGroup):
        # Things that ran side by side failed: the first failure is the story, the others followed from it.
        error = error.exceptions[0]
    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case click.exceptions.NoArgsIsHelpError():
            click.echo(error.format_message(), err=True)
            return UsageFailure.exit_code
        case SystemExit():
            return error.code if isinstance(error.code, int) else 1
        case BrokenPipeError():
            # The reader of our output left (`mlld … | head`): nothing to tell, and nobody to tell it to.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        case MlldError():
            if as_json:
                print(json.dumps({"ok": False, **error.json()}, ensure_ascii=False))
            # Only the hint is ours; the picture above it is the user's text.
            lines = error.render().split("\n")
            click.echo("\n".join(typed(x) if x.startswith("  hint:") else x for x in lines), err=True)
            if not any(diagnostic.hint or diagnostic.expected for diagnostic in error.diagnostics):
                click.echo(typed(f"  next: mlld sandbox explain {error.code}"), err=True)
            return error.exit_code or 1
    failure = translated(error)
    if as_json:
        print(json.dumps({"ok": False, "exit": failure.exit_code, "errors": [failure.to_json()]}, ensure_ascii=False))
    click.echo(rendered(failure, color=sys.stderr.isatty() and "NO_COLOR" not in os.environ), err=True)
    return failure.exit_code or 1


def rendered(failure: RunnerError, *, color: bool = False) -> str:
    """What happened, where, the details, and the next command."""

    def paint(text: str, **how: object) -> str:
        return click.style(text, **how) if color else text  # type: ignore[arg-type]

    where = f"{failure.place}: " if failure.place else ""
    lines = [f"{where}{paint(f'error[{failure.code}]', fg='red', bold=True)}: {printable(failure.message)}"]
    lines += [f"  {printable(line)}" for line in failure.detail.splitlines()]
    if failure.remedy:
        lines.append(f"  {paint('next:', fg='green')} {typed(failure.remedy)}")
    return "\n".join(lines)


def printable(text: str) -> str:
    """Text of unknown origin without control characters: a server's stderr must not drive the terminal."""
    return "".join(char if char.isprintable() or char == "\t" else f"\\x{ord(char):02x}" for char in text)


def translated(error: BaseException) -> RunnerError:
    """Any exception as one of ours."""
    match error:
        case RunnerError():
            return error
        case KeyboardInterrupt() | click.Abort():
            return Interrupted()
        case click.NoSuchOption():
            command = error.ctx.command if error.ctx else None
            path = error.ctx.command_path if error.ctx else "mlld"
            known = [name for param in (command.params if command else ()) for name in param.opts if name[:2] == "--"]
            like = nearest_option(error, command)
            return UnknownName("option", error.option_name, [like] if like else known, remedy=f"{path} --help")
        case click.UsageError():
            path = error.ctx.command_path if error.ctx else "mlld"
            return BadOption(error.format_message().rstrip("."), remedy=f"{path} --help")
        case click.ClickException():
            return UsageFailure(error.format_message())
        case OSError() if error.errno == _NO_SPACE:
            return NoSpace(str(error.filename or "the disk"), str(error))
        case OSError() if error.filename:
            return RunnerError(f"{error.filename}: {error.strerror}")
        case _:
            return _bug(error)


def _bug(error: BaseException) -> RunnerError:
    frame = traceback.extract_tb(error.__traceback__)[-1:] or None
    at = f" at {os.path.basename(frame[0].filename)}:{frame[0].lineno}" if frame else ""
    detail = "".join(traceback.format_exception(error)) if "MLLD_TRACEBACK" in os.environ else ""
    return RunnerError(
        f"a defect of this program: {type(error).__name__}: {error}{at}",
        detail=detail,
        remedy="please report it; with MLLD_TRACEBACK=1 the report can show where it happened",
    )

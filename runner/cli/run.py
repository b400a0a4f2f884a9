"""`mlld run FILE`: a script from its text to its output."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path

import click

from interpreter.errors import MlldError, SyntaxFault
from interpreter.evaluate import RunOptions, recursion_depth, run_script
from interpreter.ports import Output
from interpreter.source import Source
from runner.cli import interrupt, scripts
from runner.cli.check import source_of
from runner.cli.context import Context, LazySandboxes, Sandboxed
from runner.cli.lazy import Command
from runner.errors import BadOption, TimedOut, UsageFailure
from runner.host.checkpoints import KeptResults
from runner.host.output import StreamOutput

EXAMPLES = """
Examples:
  mlld hello.mld
  mlld run                                                  # scripts of llm/run
  mlld run report --topic tickets --limit 5                 # @payload.topic, @payload.limit
  mlld run report.mld topic=tickets limit=5
  mlld run review.mld --resume @review                      # answers of models from earlier runs, but not of @review
  mlld run notes.md --document > notes.txt
  mlld run watch.mld --timeout 10m                          # exit code 6 when it takes longer
  echo 'show `hello`' | mlld -
  MLLD_MOCK_TIME=2024-05-30T14:30:00Z mlld run report.mld   # @now is always this
"""


@click.command(cls=Command, examples=EXAMPLES, context_settings={"ignore_unknown_options": True})
@click.argument("file", required=False)
@click.argument("values", nargs=-1, type=click.UNPROCESSED, metavar="[NAME=VALUE | --NAME VALUE]...")
@click.option("-e", "--eval", "text", metavar="TEXT", help="Run this text instead of a file.")
@click.option(
    "--state",
    "states",
    multiple=True,
    metavar="NAME=VALUE",
    help="A field of @state; or a JSON object, or @FILE with one.",
)
@click.option("--document", is_flag=True, help="Print the document only, and not what goes to stdout beside it.")
@click.option("--profile", help="The profile of its environments.")
@click.option("--provider", help="Where its environments run: docker (the default), or local: not isolated.")
@click.option(
    "--resume",
    is_flag=False,
    flag_value="",
    metavar="[TARGET]",
    help="Use results of earlier runs, but not those of TARGET.",
)
@click.option("--fresh", "--new", is_flag=True, help="Forget the results of earlier runs first.")
@click.option("--no-checkpoint", is_flag=True, help="Neither use nor keep results.")
@click.option("--fork", metavar="SCRIPT", help="Use the kept results of another script, too.")
@click.option(
    "--timeout", metavar="DURATION", help="The most time it may take, such as 30s, 5m or 1h. It has none by itself."
)
@click.option("--allow-absolute", is_flag=True, help="Files outside of the project may be read and written.")
def run(
    file: str | None, values: tuple[str, ...], text: str | None, states: tuple[str, ...], document: bool,
    profile: str | None, provider: str | None, resume: str | None, fresh: bool, no_checkpoint: bool, fork: str | None,
    timeout: str | None, allow_absolute: bool,
) -> None:  # fmt: skip
    """Run the script FILE, or the one with this name in llm/run; without one, list those. NAME=VALUE and options that are none of
    these become fields of @payload.
    """
    if text is not None:
        values = values if file is None else (file, *values)
        source, path = Source(name="<text>", text=text), None
    elif file is None:
        return list_scripts()
    else:
        file = scripts.find(file, Context.here())
        source, path = source_of(file), None if file == "-" else Path(file).resolve()
    context = Context.here(start=None if path is None else path.parent)
    known = [name for parameter in run.params for name in parameter.opts]
    options = RunOptions(
        root=context.project,
        home=context.home,
        directory=context.cwd if path is None else None,
        payload=scripts.given(values, known),
        state=scripts.state(states),
        settings=context.config,
        recursion=recursion_depth(context.env),
        profile=profile or context.env.get("MLLD_PROFILE"),
        provider=provider or context.env.get("MLLD_PROVIDER"),
        resume=resume,
    )
    kept = None
    if path is not None and not no_checkpoint:
        kept = KeptResults.of(path, context.project, fork=Path(fork) if fork else None)
        if fresh:
            kept.clear()
    output = DocumentOutput(context.masker) if document else None
    seconds = None if timeout is None else duration(timeout)
    script = _run(context, source, path, options, anywhere=allow_absolute, output=output, kept=kept)
    try:
        interrupt.run(script if seconds is None else _within(script, seconds))
    except MlldError as fault:
        if document and fault.exit_code == SyntaxFault.exit_code and fault.code != "unsupported":
            # Comparisons with a corpus read 3 as "not implemented here", and a fault that was found is implemented.
            fault.exit_code = 1
        raise


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def duration(text: str) -> float:
    """Seconds of `30s`, `1.5m`, `500ms`, `1h`. A number alone is refused: elsewhere it means milliseconds, or seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text.strip())
    if found is None or not float(found[1]):
        raise BadOption(f"{text!r} is no duration", remedy="mlld run FILE --timeout 30s, 5m or 1h")
    return float(found[1]) * _UNITS[found[2]]


async def _within(script: Coroutine[None, None, None], seconds: float) -> None:
    """The script, ended with all that it started when its time is over."""
    try:
        async with asyncio.timeout(seconds) as limit:
            await script
    except TimeoutError:
        if limit.expired():
            raise TimedOut("the script", seconds) from None
        raise


class DocumentOutput(StreamOutput):
    """The document alone: what a script writes to stdout beside it is dropped."""

    def stdout(self, text: str) -> None: ...


async def _run(
    context: Context, source: Source, path: Path | None, options: RunOptions, *, anywhere: bool, output: Output | None,
    kept: KeptResults | None,
) -> None:  # fmt: skip
    def sandboxes() -> Sandboxed:
        from runner.cli.opening import sandboxes_for

        return sandboxes_for(context)

    roots = [context.cwd if path is None else path.parent]
    lazy = LazySandboxes(sandboxes)
    try:
        ports = context.ports(files=roots, anywhere=anywhere, sandboxes=lazy, output=output)
        await run_script(source, path, replace(ports, checkpoints=kept), options)
    finally:
        lazy.close()
        await context.tools.close()


def list_scripts() -> None:
    context = Context.here()
    names = sorted(scripts.named(context))
    if not names:
        where = ", ".join(str(directory) for directory in scripts.directories(context))
        raise UsageFailure("there are no scripts with names", detail=f"looked in {where}", remedy="mlld run FILE")
    click.echo("\n".join(names))

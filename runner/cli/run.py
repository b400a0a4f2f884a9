"""`mlld run FILE`: a script from its text to its output."""

from __future__ import annotations

from pathlib import Path

import click

from interpreter.evaluate import RunOptions, run_script
from interpreter.ports import SandboxPort
from interpreter.source import Source
from runner.cli import interrupt
from runner.cli.check import source_of
from runner.cli.context import Context, LazySandboxes
from runner.cli.lazy import Command
from runner.errors import BadOption

EXAMPLES = """
Examples:
  mlld hello.mld
  mlld run report.mld topic=tickets limit=5
  mlld run notes.md --document
  echo 'show `hello`' | mlld -
"""


@click.command(cls=Command, examples=EXAMPLES)
@click.argument("file")
@click.argument("values", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--document", is_flag=True, help="Read it as a document: lines with /directives in prose.")
@click.option("--profile", help="The profile of its environments.")
@click.option("--provider", help="Where its environments run: docker (the default), or local: not isolated.")
@click.option("--allow-absolute", is_flag=True, help="Files outside of the project may be read and written.")
def run(
    file: str, values: tuple[str, ...], document: bool, profile: str | None, provider: str | None, allow_absolute: bool
) -> None:
    """Run the script FILE; NAME=VALUE become fields of @payload."""
    path = None if file == "-" else Path(file)
    source = source_of(file)
    context = Context.here(start=None if path is None else path.resolve().parent)
    options = RunOptions(
        root=context.project,
        directory=context.cwd if path is None else None,
        mode="document" if document else None,
        payload=dict(_pair(value) for value in values),
        settings=context.config,
        profile=profile or context.env.get("MLLD_PROFILE"),
        provider=provider or context.env.get("MLLD_PROVIDER"),
    )
    interrupt.run(_run(context, source, path, options, anywhere=allow_absolute))


async def _run(context: Context, source: Source, path: Path | None, options: RunOptions, *, anywhere: bool) -> None:
    def sandboxes() -> SandboxPort:
        from runner.cli.opening import sandboxes_for

        return sandboxes_for(context)

    roots = [context.cwd if path is None else path.resolve().parent]
    lazy = LazySandboxes(sandboxes)
    try:
        await run_script(source, path, context.ports(files=roots, anywhere=anywhere, sandboxes=lazy), options)
    finally:
        await context.tools.close()


def _pair(value: str) -> tuple[str, str]:
    name, equals, text = value.partition("=")
    if not equals or not name.isidentifier():
        raise BadOption(f"{value!r} is not NAME=VALUE", remedy="mlld run --help")
    return name, text

"""`mlld checkpoint list|inspect|clean SCRIPT`: the results that runs of a script kept."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from runner.cli.context import Context
from runner.cli.lazy import Command
from runner.host.checkpoints import KeptResults


@click.group()
def checkpoint() -> None:
    """List or remove the results that runs of a script kept."""


def _kept(script: str) -> KeptResults:
    path = Path(script)
    return KeptResults.of(path, Context.here(start=path.resolve().parent).project)


@checkpoint.command("list", cls=Command)
@click.argument("script")
def list_(script: str) -> None:
    """One line for each result: when, which call of which function, its first argument."""
    found = list(_kept(script).listed())
    for each in found:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each["at"]))
        scope = f"  [{each['checkpoint']}]" if each["checkpoint"] else ""
        click.echo(
            f"{when}  @{each['function']}:{each['index']}  {json.dumps(each['first'], ensure_ascii=False)[:60]}{scope}"
        )
    if not found:
        click.echo(f"nothing is kept of {script}", err=True)


@checkpoint.command(cls=Command)
@click.argument("script")
def inspect(script: str) -> None:
    """Everything, as one JSON array."""
    click.echo(json.dumps(list(_kept(script).listed()), ensure_ascii=False, indent=2))


@checkpoint.command(cls=Command)
@click.argument("script")
def clean(script: str) -> None:
    """Forget everything."""
    click.echo(
        f"forgot the results of {script}" if _kept(script).clear() else f"nothing was kept of {script}", err=True
    )

"""`stop` and `gc`: what runs have made is taken away."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from typing import TYPE_CHECKING

import click

from runner import environ
from runner.cli.lazy import Command
from runner.cli.runs import records
from runner.errors import SandboxFailure
from runner.lease import is_dead
from runner.record import find, read
from runner.report import Summary, clean

if TYPE_CHECKING:
    from runner.backends.docker_sweep import Swept

_PATIENCE = 15.0  # seconds in which a runner that was asked to stop cleans up


@click.command(cls=Command, examples="\nExamples:\n  mlld sandbox stop last\n")
@click.argument("run")
def stop(run: str) -> None:
    """Stop RUN and remove what it made. Its own runner does it; if that is gone or stuck, this command does."""
    from runner.backends.docker_errors import connect
    from runner.lease_sweep import sweep_run

    found = find(records(), run)
    summary = Summary.of(read(found.path))
    if summary.exit is None and summary.owner and not is_dead(summary.owner):
        with contextlib.suppress(ProcessLookupError):
            os.kill(summary.pid, signal.SIGTERM)
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until and not is_dead(summary.owner):
            time.sleep(0.1)
    with contextlib.closing(connect()) as client:
        swept = sweep_run(client.api, found.name, cache=environ.cache_directory(environ.snapshot()))
    _complain(swept)
    click.echo(f"{found.name} is stopped; nothing of it is left", err=True)


@click.command(cls=Command, examples="\nExamples:\n  mlld sandbox gc --dry-run\n")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list of what was (or would be) removed.")
def gc(dry_run: bool, as_json: bool) -> None:
    """Remove what runs have left whose runner is gone. Every start of a run does this, too."""
    from runner.backends.docker_errors import connect
    from runner.lease_sweep import dead, sweep_dead

    with contextlib.closing(connect()) as client:
        things = dead(client.api)
        if not dry_run:
            _complain(sweep_dead(client.api, cache=environ.cache_directory(environ.snapshot())))
    if as_json:
        click.echo(json.dumps([{"kind": thing.kind, "name": thing.name, "run": thing.run} for thing in things]))
        return
    for thing in things:
        click.echo(f"{'would remove' if dry_run else 'removed'} {thing.kind} {clean(thing.name)}")
    if not things:
        click.echo("nothing is left of any run whose runner is gone", err=True)


def _complain(swept: Swept) -> None:
    if swept.left:
        names = ", ".join(f"{thing.kind} {thing.name}" for thing in swept.left)
        raise SandboxFailure(f"not removed: {names}", remedy=swept.command)

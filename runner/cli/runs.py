"""`ps`, `show`, `verify`: what the records say."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner import environ
from runner.cli.lazy import Command
from runner.errors import RunnerError
from runner.lease import is_dead
from runner.record import Run, find, read, runs
from runner.record import verify as verify_record
from runner.report import Summary, clean, result_object, transcript

if TYPE_CHECKING:
    from runner.backends.docker_usage import Usage

RUN = click.argument("run", default="last")
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object.")


def records() -> Path:
    """The directory of all records of this user."""
    return environ.data_directory(environ.snapshot()) / "runs"


def state(summary: Summary) -> str:
    """`running`, how it ended, or `lost`: the runner was killed before it could write how."""
    return "lost" if summary.exit is None and is_dead(summary.owner) else summary.state


def running() -> list[tuple[Run, Summary]]:
    """The runs that go on, latest first."""
    rows = ((run, Summary.of(read(run.path))) for run in runs(records())[:-201:-1])
    return [(run, summary) for run, summary in rows if state(summary) == "running"]


@click.command(cls=Command, examples="\nExamples:\n  mlld sandbox ps --usage\n  mlld sandbox ps --all --json\n")
@click.option("--all", "-a", "everything", is_flag=True, help="Also the runs that have ended.")
@click.option("--limit", default=20, show_default=True, help="With --all: how many, latest first.")
@click.option(
    "--usage", "measured", is_flag=True, help="Also how much of its limits each seat uses, as the engine says."
)
@_JSON
def ps(everything: bool, limit: int, measured: bool, as_json: bool) -> None:
    """The runs that go on."""
    rows = [(run, Summary.of(read(run.path))) for run in runs(records())[::-1][:limit]] if everything else running()
    now = time.time()
    seats = _measured([run.name for run, summary in rows if state(summary) == "running"]) if measured else {}
    if as_json:
        shown = [_row(run, summary, now) for run, summary in rows]
        for row in shown if measured else ():
            row["usage"] = [seat.json() for seat in seats.get(str(row["run"]), ())]
        click.echo(json.dumps(shown, ensure_ascii=False))
        return
    if not rows:
        click.echo("nothing is running; mlld sandbox ps --all shows what ran", err=True)
        return
    click.echo(f"{'RUN':<9} {'STARTED':<19}  {'TIME':>8}  {'STATE':<8} {'CALLS':>6} {'DENIED':>6}  ENV")
    for run, summary in rows:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(summary.started))
        counts = f"{len(summary.tool_calls):>6} {len(summary.denials):>6}"
        took = f"{(summary.ended or now) - summary.started:6.1f} s"
        click.echo(f"{run.name:<9} {when}  {took}  {state(summary):<8} {counts}  {clean(summary.env)}")
        if state(summary) == "running":
            for line in (*_health(summary, now), *map(_used, seats.get(run.name, ()))):
                click.echo(f"  {line}")


def _measured(names: list[str]) -> dict[str, list[Usage]]:
    """What the seats of these runs use. Errors: `EngineFailure`, `EngineStopped` and its like."""
    from runner.backends.docker_errors import connect
    from runner.backends.docker_usage import usage

    if not names:
        return {}
    with contextlib.closing(connect()) as client:
        return {name: usage(client.api, name) for name in names}


def _used(seat: Usage) -> str:
    memory = f"{seat.memory_bytes / 2**20:.0f} of {seat.memory_limit // 2**20} MiB"
    return f"{clean(seat.member, 24):<16} uses {memory}, {seat.processes} of {seat.processes_limit} processes"


def _row(run: Run, summary: Summary, now: float) -> dict[str, object]:
    return {
        "run": run.name,
        "env": summary.env,
        "state": state(summary),
        "started": summary.started,
        "calls": len(summary.tool_calls),
        "denied": len(summary.denials),
        "servers": [server.json(now) for server in summary.servers.values()],
    }


def _health(summary: Summary, now: float) -> Iterator[str]:
    """A line per server: its state, what it has done, and when it is tried again."""
    for server in summary.servers.values():
        median = "" if server.p50 is None else f", p50 {server.p50:.0f} ms"
        restarts = f", {server.restarts} restart{'s' if server.restarts > 1 else ''}" if server.restarts else ""
        done = f"{server.calls} call{'' if server.calls == 1 else 's'}{median}{restarts}"
        line = f"{clean(server.name, 24):<16} {server.state:<9} {done}"
        if server.reason:
            wait = max(0.0, (server.retry_at or now) - now)
            again = f"may start again in {wait:.0f} s" if wait >= 1 else "starts again at the next call"
            line += f"; {clean(server.reason, 200)}; {again}"
        yield line


@click.command(cls=Command, examples="\nExamples:\n  mlld sandbox show last\n  mlld sandbox show kubo --json\n")
@RUN
@_JSON
@click.option("--events", is_flag=True, help="Every event of the record, one JSON line each.")
@click.option("--plan", "only_plan", is_flag=True, help="The plan that the run had, as JSON.")
def show(run: str, as_json: bool, events: bool, only_plan: bool) -> None:
    """Look back at RUN: a name, a unique prefix of one, or `last`."""
    found = find(records(), run)
    if events:
        for event in read(found.path):
            click.echo(json.dumps(event, ensure_ascii=False))
        return
    if only_plan:
        plan = next((event.get("plan") for event in read(found.path) if event.get("event") == "plan"), None)
        click.echo(json.dumps(plan, indent=2, ensure_ascii=False))
        return
    summary = Summary.of(read(found.path))
    if as_json:
        exit_code = 1 if summary.exit is None else summary.exit
        click.echo(json.dumps(result_object(summary, exit_code=exit_code), ensure_ascii=False))
        return
    click.echo(transcript(summary))
    click.echo(f"record: {found.path}")
    if faults := verify_record(found.path).faults:
        click.echo(f"the record is not whole: {faults[0]}", err=True)


@click.command(cls=Command, examples="\nExamples:\n  mlld sandbox verify last\n")
@RUN
def verify(run: str) -> None:
    """Whether the record of RUN is whole: no line changed, removed, put in or cut off."""
    found = find(records(), run)
    verdict = verify_record(found.path)
    if verdict.faults:
        raise RunnerError(
            f"the record of {found.name} is not whole",
            detail="\n".join(verdict.faults[:20]),
            remedy=f"what is left of it: mlld sandbox show {found.name} --events",
        )
    click.echo(f"{found.name}: {verdict.lines} lines, whole; the last hash is {verdict.head}")
    sys.stdout.flush()

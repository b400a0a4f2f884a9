"""`ps`, `show`, `logs`, `verify`: what the records say."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from runner import environ
from runner.cli.lazy import Command
from runner.errors import RunnerError, UnknownName
from runner.lease import is_dead
from runner.record import Run, find, read, runs
from runner.record import verify as verify_record
from runner.report import Summary, clean, clean_block, result_object, transcript

_RUN = click.argument("run", default="last")
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


@click.command(cls=Command, examples="\nExamples:\n  mlld sandbox ps\n  mlld sandbox ps --all --json\n")
@click.option("--all", "-a", "everything", is_flag=True, help="Also the runs that have ended.")
@click.option("--limit", default=20, show_default=True, help="With --all: how many, latest first.")
@_JSON
def ps(everything: bool, limit: int, as_json: bool) -> None:
    """The runs that go on."""
    rows = [(run, Summary.of(read(run.path))) for run in runs(records())[::-1][:limit]] if everything else running()
    if as_json:
        items = [{"run": run.name, "env": s.env, "state": state(s), "started": s.started} for run, s in rows]
        click.echo(json.dumps(items, ensure_ascii=False))
        return
    if not rows:
        click.echo("nothing is running; mlld sandbox ps --all shows what ran", err=True)
        return
    for run, summary in rows:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(summary.started))
        seconds = (summary.ended or time.time()) - summary.started
        calls = f"{len(summary.tool_calls)} calls, {len(summary.denials)} denied"
        click.echo(f"{run.name:<9} {when}  {seconds:6.1f} s  {state(summary):<8} {clean(summary.env)}  {calls}")


@click.command(cls=Command, examples="\nExamples:\n  mlld sandbox show last\n  mlld sandbox show kubo --json\n")
@_RUN
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


@click.command(cls=Command, examples="\nExamples:\n  mlld sandbox logs last --of tickets\n  mlld sandbox logs -f\n")
@_RUN
@click.option("--of", "member", help="Only this member: agent, sidecar or a server.")
@click.option("--follow", "-f", is_flag=True, help="Go on until the run ends.")
def logs(run: str, member: str | None, follow: bool) -> None:
    """What the agent and the servers of RUN said on stderr."""
    found = find(records(), run)
    if member:
        _known_member(found, member)
    for event in _followed(found) if follow else read(found.path):
        if event.get("event") != "log" or (member and event.get("member") != member):
            continue
        for line in clean_block(str(event.get("line", "")).rstrip("\n")).split("\n"):
            click.echo(f"{clean(event.get('member')):<10} {line}" if not member else line)


def _known_member(run: Run, member: str) -> None:
    plan = Summary.of(read(run.path)).plan
    if plan and member not in (known := [container.member for container in plan.containers]):
        raise UnknownName("member", member, known, remedy=f"mlld sandbox show {run.name}")


def _followed(run: Run) -> Iterator[dict[str, object]]:
    """Events as they come, until the closing one."""
    seen, owner = 0, ""
    while True:
        for number, event in enumerate(read(run.path)):
            if number >= seen:
                seen = number + 1
                owner = str(event.get("owner") or owner)
                yield event
                if event.get("event") == "closed":
                    return
        if is_dead(owner):
            return
        time.sleep(0.2)


@click.command(cls=Command, examples="\nExamples:\n  mlld sandbox verify last\n")
@_RUN
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

"""`mlld sandbox logs`: the record of a run line by line, while it goes on or after."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import click

from runner.cli.lazy import Command
from runner.cli.runs import RUN, records
from runner.errors import Interrupted, UnknownName
from runner.lease import is_dead
from runner.plan import AGENT, SIDECAR
from runner.record import Event, Run, Tail, find, read
from runner.report import Summary, clean, clean_block
from runner.report_events import log_line, member_of

_LOOK_SECONDS = 0.1
EXAMPLES = """
Examples:
  mlld sandbox logs                          what the latest run did
  mlld sandbox logs -f kubo                  the same while it goes on, from another terminal
  mlld sandbox logs last --of tickets        one server alone
  mlld sandbox logs last --of tickets --stderr    nothing but its own words
  mlld sandbox logs -f last --json | jq 'select(.decision == "deny")'
"""


@click.command(cls=Command, examples=EXAMPLES)
@RUN
@click.option("--of", "member", help="Only this member: agent, sidecar or a server.")
@click.option("--stderr", "words", is_flag=True, help="Only what the members said on stderr, as they said it.")
@click.option("--follow", "-f", is_flag=True, help="Go on until the run ends.")
@click.option("--json", "as_json", is_flag=True, help="The events as JSON, one a line.")
def logs(run: str, member: str | None, words: bool, follow: bool, as_json: bool) -> int:
    """What RUN did and what its members said: a name, a unique prefix of one, or `last`."""
    found = find(records(), run)
    if member:
        _known_member(found, member)
    shown = _as_json if as_json else _as_said(alone=member is not None) if words else log_line
    try:
        for event in _followed(found) if follow else read(found.path):
            if (member and member_of(event) != member) or (words and event.get("event") != "log"):
                continue
            if (line := shown(event)) is not None:
                click.echo(line)
    except KeyboardInterrupt:
        return Interrupted.exit_code  # whoever has seen enough has done nothing wrong, and the run goes on
    return 0


def _as_json(event: Event) -> str:
    return json.dumps(event, ensure_ascii=False)


def _as_said(*, alone: bool) -> Callable[[Event], str]:
    def shown(event: Event) -> str:
        line = clean_block(str(event.get("line", "")).rstrip("\n"))
        return line if alone else f"{clean(event.get('member')):<12} {line}"

    return shown


def _known_member(run: Run, member: str) -> None:
    plan = Summary.of(read(run.path)).plan
    known = [AGENT, SIDECAR, *(server.name for server in plan.servers)] if plan else []
    if plan and member not in known:
        raise UnknownName("member", member, known, remedy=f"mlld sandbox show {run.name}")


def _followed(run: Run) -> Iterator[Event]:
    """Events as they come, until the closing one, or until nobody is there who could write it."""
    owner = ""
    with Tail(run.path) as tail:
        while True:
            # Asked before the rest is read: what a runner wrote last is not missed because it ended meanwhile.
            gone = is_dead(owner)
            for event in tail.news():
                owner = str(event.get("owner") or owner)
                yield event
                if event.get("event") == "closed":
                    return
            if gone:
                click.echo(f"the runner of {run.name} was killed: there is no more of its record", err=True)
                return
            time.sleep(_LOOK_SECONDS)

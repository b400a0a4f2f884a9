"""One refusal of a record, explained: which rule and its line, which labels and where they came from, and what would have
let it through. Told from the events and the plan of that run: what a module says today does not change what was decided.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from runner.plan import SandboxPlan, Server
from runner.record import Event
from runner.report import clean, denied_thing, reason_of
from runner.spelling import nearest

_PLACE = re.compile(r"\(([^()\s]+:\d+(?::\d+)?)\)\s*$")
_LATEST = 8  # sources of one label that are told


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a label came from."""

    label: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """All of it in words."""

    number: int
    time: float
    what: str
    rule: str
    place: str | None
    reason: str
    labels: tuple[Origin, ...]  # of the refused call itself
    seen: tuple[Origin, ...]  # of what the agent had been shown before, by which rules judge it
    remedies: tuple[str, ...]

    def text(self) -> str:
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.time))
        lines = [f"#{self.number} · {clock} · {self.what}", f"denied by  {self.rule}"]
        lines += [f"at         {self.place}"] if self.place else []
        lines += [f"because    {self.reason}"] if self.reason else []
        lines += _block("labels", self.labels)
        lines += _block("had seen", self.seen)
        lines += [f"{'to let it through' if number == 0 else '':<18}{way}" for number, way in enumerate(self.remedies)]
        return "\n".join(line.rstrip() for line in lines)

    def json(self) -> dict[str, object]:
        return {
            "n": self.number,
            "time": self.time,
            "what": self.what,
            "rule": self.rule,
            "at": self.place,
            "reason": self.reason,
            "labels": [{"label": origin.label, "from": origin.source} for origin in self.labels],
            "seen": [{"label": origin.label, "from": origin.source} for origin in self.seen],
            "remedies": list(self.remedies),
        }


def explained(denial: Event, events: Sequence[Event], plan: SandboxPlan | None) -> Explanation:
    """`events`: the whole record, of which `denial` is one."""
    get: Any = denial.get
    rule = str(get("rule") or "policy")
    at = _PLACE.search(rule)
    server = next((s for s in plan.servers if s.name == get("server")), None) if plan else None
    before = [event for event in events if _number(event) < _number(denial)]
    return Explanation(
        number=_number(denial),
        time=float(get("at") or get("t") or 0.0),
        what=f"{get('method') or get('event')} · {denied_thing(denial)}",
        rule=clean(rule),
        place=clean(at[1]) if at else _declared_at(denial, server),
        reason=clean(reason_of(denial), 1000),
        labels=tuple(_own(denial, server)),
        seen=tuple(_seen(denial, before)),
        remedies=tuple(_remedies(denial, before, plan, server)),
    )


def _number(event: Event) -> int:
    number = event.get("n")
    return number if isinstance(number, int) else -1


def _block(head: str, origins: Sequence[Origin]) -> Iterator[str]:
    for number, origin in enumerate(origins):
        yield f"{head if number == 0 else '':<11}{origin.label:<18} {origin.source}"


def _declared_at(denial: Event, server: Server | None) -> str | None:
    """Of a name that a filter hides: where the server is declared."""
    return str(server.place) if server and server.place and denial.get("event") == "denied" else None


def _own(denial: Event, server: Server | None) -> Iterator[Origin]:
    tool = str(denial.get("name"))
    for label in _labels(denial):
        if label == "src:mcp" or label.startswith("mcp:"):
            yield Origin(label=clean(label), source="what comes from an MCP server")
        elif server and label in server.labels.get(tool, ()):
            at = f" ({server.place})" if server.place else ""
            yield Origin(label=clean(label), source=f"declared for {clean(server.name)}.{clean(tool)}{at}")
        else:
            yield Origin(label=clean(label), source="of its policy, or of a guard")


def _seen(denial: Event, before: Sequence[Event]) -> Iterator[Origin]:
    """What the session was shown until then, each label with the calls that brought it."""
    if denial.get("event") == "egress":
        return
    found: dict[str, list[str]] = {}
    for event in before:
        shown = event.get("event") == "call" and event.get("decision") in ("allow", "transform")
        if shown and event.get("session") == denial.get("session"):
            for label in _labels(event):
                if not label.startswith(("src:", "mcp:")):
                    found.setdefault(label, []).append(
                        f"#{_number(event)} {clean(event.get('server'))}.{clean(event.get('name'))}"
                    )
    for label, calls in found.items():
        more = f" and {len(calls) - _LATEST} more" if len(calls) > _LATEST else ""
        yield Origin(label=clean(label), source=f"{', '.join(calls[:_LATEST])}{more}")


def _remedies(denial: Event, before: Sequence[Event], plan: SandboxPlan | None, server: Server | None) -> Iterator[str]:
    rule, name = str(denial.get("rule") or ""), clean(denial.get("name") or "")
    match denial.get("event"):
        case "egress":
            yield from _of_egress(denial, plan)
        case "denied" if rule == "unknown":
            offered = {str(event.get("name")) for event in before if event.get("event") == "call"}
            like = nearest(str(denial.get("name")), offered)
            guess = f": did it mean {clean(like)!r}?" if like else ""
            yield f"call what there is{guess} (mlld sandbox tools --env REF lists it)"
        case "denied" if rule == "pin":
            yield "look at what changed, and accept it: mlld sandbox tools --lock --env REF"
        case "denied" if rule == "hidden" and server is not None:
            place = f" ({server.place})" if server.place else ""
            yield f"name {name!r} in `tools` of the server {clean(server.name)!r}{place}, if its rule there allows it"
        case _:
            yield from _of_rules(rule)


def _of_egress(denial: Event, plan: SandboxPlan | None) -> Iterator[str]:
    rule, member = str(denial.get("rule") or ""), clean(denial.get("member"))
    host, port = clean(denial.get("host")), denial.get("port")
    if rule.startswith("deny "):
        yield "nothing but taking that line away: a deny is above every grant"
        return
    if plan is not None and plan.egress_of(str(denial.get("member"))) is None:
        profile = plan.profile.name
        yield f"a profile that requires `network`, and a policy that permits it (now: {clean(profile or 'none')})"
        for other, why in plan.profile.denied.items():
            yield f"profile {clean(other)} was not permitted: {clean('; '.join(why))}"
    yield f'"{host}" (port {port}) in `net.allow`, granted to {member}'


def _of_rules(rule: str) -> Iterator[str]:
    """A guard, or a rule of the policy."""
    if rule.startswith("guard failure"):
        yield "a guard that decides: this one failed or took too long, and what cannot be judged is denied"
    elif rule.startswith("guard"):
        yield "another answer of that guard: other arguments, or other data before the call"
    elif rule.startswith("bound parameters"):
        yield "leave out the parameters that the tool collection has fixed"
    else:
        yield "an agent that has not seen data with that label (each session begins with none)"
        yield "a privileged guard that allows this one case, where the rule can be overridden"


def _labels(event: Event) -> list[str]:
    found = event.get("labels")
    return [str(label) for label in found] if isinstance(found, list | tuple) else []

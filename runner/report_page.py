"""A run as one static page: `mlld sandbox view`.

The page shows what hostile agents and servers said. It has no script, its one style is named by its hash, and its policy
lets nothing else be loaded or run, sent or framed: text that broke out of its place would still be nothing but text. The
template escapes every value; what is drawn is numbers.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from runner.plan import AGENT, SIDECAR, SandboxPlan
from runner.record import Event, Verdict
from runner.report import Summary, clean, clean_block
from runner.report_events import member_of, said
from runner.report_plan import plan_text

_HERE = Path(__file__).parent
WIDTH = 1000  # of the time axis, in units of the drawing
MOST_ROWS = 2_000
Told = tuple[Event, str]  # an event, and what it says
_MOST_LINES = 2_000  # of one member's own words
_NARROWEST = 4.0


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Something on a lane: where, how wide, of which kind, and which row tells of it."""

    left: float
    width: float
    kind: str
    title: str
    row: int


@dataclass(frozen=True, kw_only=True)
class Lane:
    """A member's line on the time axis."""

    member: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One event. `details`: what it is called, and its text."""

    number: int
    offset: str
    member: str
    kind: str
    text: str
    details: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What held in this run, and what proved it."""

    text: str
    held: bool = True
    proofs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LabelFlow:
    """A label: which event brought it first, and whether the answer carries it."""

    label: str
    row: int
    source: str
    answered: bool


@dataclass(kw_only=True)
class Page:
    """All that the template prints."""

    name: str
    title: str
    state: str
    facts: list[tuple[str, str]]
    promises: list[Promise]
    lanes: list[Lane]
    ticks: list[str]
    rows: list[Row]
    omitted: int
    labels: list[LabelFlow]
    answer: str | None
    plan: str
    words: list[tuple[str, str]] = field(default_factory=list)


def page_html(events: Sequence[Event], verdict: Verdict) -> str:
    """The page of a record. `verdict`: whether the record is whole."""
    css = (_HERE / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    return _template().render(page=page_of(events, verdict), css=css, digest=digest)


@cache
def _template() -> Template:
    # StrictUndefined: a name that is misspelt in the template is an error, not a gap in what people see.
    templates = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return templates.get_template("page.html.j2")


def page_of(events: Sequence[Event], verdict: Verdict) -> Page:
    """The page as data."""
    summary = Summary.of(events)
    start = summary.started
    end = max([summary.ended or 0.0, *(_time(event) for event in events)], default=start)
    told = [(event, text) for event in events if event.get("event") != "log" and (text := said(event)) is not None]
    shown = told[:MOST_ROWS]
    return Page(
        name=summary.name,
        title=clean(summary.env),
        state=summary.state,
        facts=list(_facts(summary)),
        promises=list(_promises(summary, verdict)),
        lanes=list(_lanes(shown, summary.plan, start, end)),
        ticks=[_seconds((end - start) * part / 4) for part in range(5)],
        rows=[_row(event, text, start) for event, text in shown],
        omitted=len(told) - len(shown),
        labels=list(_labels(summary)),
        answer=None if summary.answer is None else clean_block(summary.answer),
        plan=plan_text(summary.plan) if summary.plan else "",
        words=list(_words(events)),
    )


def _facts(summary: Summary) -> Iterator[tuple[str, str]]:
    yield "agent", clean(summary.agent or "the module's own")
    if summary.plan:
        reason = summary.plan.profile
        yield "profile", f"{clean(reason.name or 'none')}: {clean(reason.why)}"
    yield "tool calls", str(len(summary.tool_calls))
    yield "denied", str(len(summary.denials))
    yield "taint of the answer", ", ".join(map(clean, summary.taint)) or "none"
    if summary.seconds is not None:
        yield "took", _seconds(summary.seconds)
    yield "plan", summary.digest


def _promises(summary: Summary, verdict: Verdict) -> Iterator[Promise]:
    """What of the fence held, in words."""
    plan = summary.plan
    if plan is None:
        yield Promise(text="nothing was planned, so nothing was started")
        return
    if plan.provider == "local":
        yield Promise(text="nothing was isolated: the provider was `local`", held=False)
    else:
        yield from _fence(plan)
        wrong = [canary for canary in summary.canaries if not canary.get("ok")]
        proofs = tuple(
            f"{clean(c.get('member'))}: {clean(c.get('name'))}: {clean(c.get('saw'))}" for c in summary.canaries
        )
        seats = len({canary.get("member") for canary in summary.canaries})
        yield Promise(
            text=f"{len(proofs)} facts proved it from {seats} seats before anything of the user's ran"
            if not wrong
            else f"{len(wrong)} of {len(proofs)} facts of the self-test were wrong: the run was ended",
            held=bool(proofs) and not wrong,
            proofs=proofs,
        )
    left = [f"{kind[:-1]} {clean(name)}" for kind, names in (summary.left or {}).items() for name in names]
    if summary.left is not None:
        yield Promise(text="nothing was left behind" if not left else "something was left behind", held=not left,
                      proofs=tuple(left))  # fmt: skip
    whole = not verdict.faults
    head = f"the record is whole: {verdict.lines} lines, the last hash is {verdict.head}"
    yield Promise(text=head if whole else "the record is not whole", held=whole, proofs=verdict.faults)


def _fence(plan: SandboxPlan) -> Iterator[Promise]:
    inside = [c.member for c in plan.containers if c.member != SIDECAR]
    yield Promise(text=f"{', '.join(map(clean, inside))}: no network but their own loopback")
    if plan.networked:
        hosts = [f"{clean(member)} may {clean(what)}" for member, what, _ in plan.grants() if what.startswith("reach")]
        yield Promise(text="only the sidecar had a network, and let through what was granted", proofs=tuple(hosts))
    else:
        yield Promise(text="the sidecar had no network either: no packet could leave the run")
    yield Promise(text="every container: no capability, no new privileges, read-only root, not root")
    for secret in plan.secrets:
        yield Promise(text=f"{clean(secret.variable)} was handed to {', '.join(map(clean, secret.holders))} alone")


def _lanes(told: Sequence[Told], plan: SandboxPlan | None, start: float, end: float) -> Iterator[Lane]:
    known = [AGENT, SIDECAR, *(server.name for server in plan.servers)] if plan else []
    marks: dict[str, list[Mark]] = {member: [] for member in known}
    scale = WIDTH / max(end - start, 0.001)
    for event, text in told:
        if member := member_of(event):
            marks.setdefault(member, []).append(_mark(event, text, start, scale))
    for member, found in marks.items():
        yield Lane(member=clean(member, 24), marks=tuple(found))


def _mark(event: Event, text: str, start: float, scale: float) -> Mark:
    took = event.get("ms") if event.get("event") in ("call", "request", "denied") else None
    seconds = took / 1000 if isinstance(took, (int, float)) else 0.0
    width = min(max(seconds * scale, _NARROWEST), WIDTH)
    left = min(max((_time(event) - seconds - start) * scale, 0.0), WIDTH - width)
    return Mark(left=round(left, 2), width=round(width, 2), kind=_kind(event), title=text, row=_number(event))


def _row(event: Event, text: str, start: float) -> Row:
    return Row(
        number=_number(event),
        offset=_seconds(max(0.0, _time(event) - start)),
        member=clean(member_of(event) or "run", 24),
        kind=_kind(event),
        text=text,
        details=tuple(_details(event)),
    )


def _kind(event: Event) -> str:
    """How it is drawn."""
    if event.get("decision") == "deny" or event.get("event") in ("failed", "oom", "shed"):
        return "deny"
    if event.get("isError") or event.get("state") in ("failed", "exited") or event.get("event") == "error":
        return "trouble"
    return {"call": "call", "egress": "egress", "asked": "call", "narrowed": "trouble"}.get(
        str(event.get("event")), "life"
    )


def _details(event: Event) -> Iterator[tuple[str, str]]:
    """What a row has to show for itself when it is opened."""
    for name in ("rule", "reason", "arguments", "result", "labels", "withheld", "session", "trace", "span", "parent"):
        value = event.get(name)
        if value is None or value in ("", []):
            continue
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
        yield name, clean_block(text)
    if event.get("bytesOut") is not None:
        yield "size", f"{event.get('bytesIn')} bytes in, {event.get('bytesOut')} bytes out"
    if isinstance(event.get("ms"), (int, float)):
        yield "took", f"{event['ms']} ms"


def _labels(summary: Summary) -> Iterator[LabelFlow]:
    """Each label with the call that brought it first."""
    seen: set[str] = set()
    for call in summary.calls:
        found = call.get("labels")
        if call.get("decision") == "deny" or not isinstance(found, (list, tuple)):
            continue
        for label in map(str, found):
            if label not in seen:
                seen.add(label)
                source = f"{clean(call.get('server'))}.{clean(call.get('name'))}"
                yield LabelFlow(label=clean(label), row=_number(call), source=source, answered=label in summary.taint)


def _words(events: Sequence[Event]) -> Iterator[tuple[str, str]]:
    """What each member said on stderr."""
    found: dict[str, list[str]] = {}
    for event in events:
        if event.get("event") == "log":
            found.setdefault(clean(event.get("member"), 24), []).append(clean_block(str(event.get("line", ""))))
    for member, lines in found.items():
        more = [f"… {len(lines) - _MOST_LINES} more lines: mlld sandbox logs"] if len(lines) > _MOST_LINES else []
        yield member, "\n".join([*lines[:_MOST_LINES], *more])


def _time(event: Event) -> float:
    at = event.get("at") or event.get("t")
    return float(at) if isinstance(at, (int, float)) else 0.0


def _number(event: Event) -> int:
    number = event.get("n")
    return number if isinstance(number, int) else 0


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"

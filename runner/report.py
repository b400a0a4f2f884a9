"""What people and programs get to see of a run: progress while it goes on, the transcript after, one object for CI.

All of it is read from the events of the record (see `record`), so that what is shown and what is kept cannot differ.
Text of agents and servers is hostile: control characters never reach the terminal.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from interpreter.declarations import Place
from runner.environ import typed
from runner.plan import AGENT, SIDECAR, Container, Mount, SandboxPlan, Server, from_json
from runner.record import Event
from runner.report_servers import ServerLife

WIDTH = 100


def clean(text: object, limit: int = 400) -> str:
    """One line of text of unknown origin that cannot drive a terminal."""
    line = _shown(" ".join(str(text).split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def clean_block(text: str) -> str:
    """The same for several lines."""
    return "\n".join("\t".join(map(_shown, line.split("\t"))) for line in text.split("\n"))


def _shown(text: str) -> str:
    """Text whose every character can be seen."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


@dataclass(kw_only=True)
class Summary:
    """A run as its events tell it."""

    name: str = ""
    env: str = ""
    agent: str = ""
    pid: int = 0
    owner: str = ""
    started: float = 0.0
    ended: float | None = None
    plan: SandboxPlan | None = None
    digest: str = ""
    calls: list[Event] = field(default_factory=list)
    egress: list[Event] = field(default_factory=list)
    denials: list[Event] = field(default_factory=list)
    canaries: list[Event] = field(default_factory=list)
    states: dict[str, str] = field(default_factory=dict)
    servers: dict[str, ServerLife] = field(default_factory=dict)
    answer: str | None = None
    taint: tuple[str, ...] = ()
    exit: int | None = None
    left: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    head: str = ""

    @classmethod
    def of(cls, events: Iterable[Event]) -> Summary:
        summary = cls()
        for event in events:
            summary.take(event)
        return summary

    def take(self, event: Event) -> None:
        """Add one event."""
        get: Any = event.get
        self.started = self.started or float(get("t", 0.0))
        match event.get("event"):
            case "run":
                self.name, self.env, self.agent = str(get("name", "")), str(get("env", "")), str(get("agent") or "")
                self.pid, self.owner = int(get("pid") or 0), str(get("owner") or "")
            case "plan":
                self.digest = str(get("digest", ""))
                self.plan = from_json(json.dumps(get("plan")).encode())
                # A server whose lists are known is started by its first use: until then it is as good as stopped.
                self.servers = {server.name: ServerLife(name=server.name) for server in self.plan.servers}
            case "state":
                self.states[str(get("member"))] = str(get("state"))
            case "canary":
                self.canaries.append(event)
            case "server":
                self._server(event).take(event)
            case "call":
                self._server(event).take(event)
                self.calls.append(event)
                if get("decision") == "deny":
                    self.denials.append(event)
            case "egress" if get("phase") != "closed":  # the same connection again, with what it carried
                self.egress.append(event)
                if get("decision") == "deny":
                    self.denials.append(event)
            case "denied":
                self.denials.append(event)
            case "answer":
                self.answer, self.taint = str(get("text", "")), tuple(get("taint") or ())
            case "left":
                self.left = {key: get(key) or [] for key in ("containers", "networks", "volumes")}
            case "failed":
                self.error = {key: get(key) for key in ("code", "message", "detail", "next", "at") if get(key)}
            case "closed":
                self.exit, self.ended = get("exit"), float(get("t", 0.0))
        self.head = str(get("hash", self.head))

    def _server(self, event: Event) -> ServerLife:
        name = str(event.get("server"))
        return self.servers.setdefault(name, ServerLife(name=name))

    @property
    def tool_calls(self) -> list[Event]:
        return [call for call in self.calls if call.get("method") == "tools/call"]

    @property
    def seconds(self) -> float | None:
        return None if self.ended is None else self.ended - self.started

    @property
    def state(self) -> str:
        if self.exit is None:
            return "running"
        return "ok" if self.exit == 0 else f"exit {self.exit}"


# ----------------------------------------------------------------------------------------------------------- transcript


def transcript(summary: Summary, *, answer: bool = True) -> str:
    """The run in the order of its questions: which profile, who may reach what, what was done, what was denied, what it
    saw, and whether anything is left. `answer=False` where the answer went to stdout already."""
    parts = [_head(summary)]
    if summary.plan:
        parts += [_profile(summary.plan), "who may reach what", *_seats(summary.plan)]
    if calls := summary.tool_calls:
        parts += ["tool calls", *map(call_line, calls)]
    if summary.egress:
        parts += ["network", *_counted(map(egress_line, summary.egress))]
    parts += ["denied", *_denied(summary)] if summary.denials else ["denied: nothing"]
    if answer and summary.answer is not None:
        parts += ["answer", *(f"  │ {line}" for line in clean_block(summary.answer.rstrip("\n")).split("\n"))]
    if summary.answer is not None:
        parts.append(f"taint: {', '.join(summary.taint) or 'none'}")
    if summary.error:
        parts.append(f"failed: {clean(summary.error.get('message'))} [{summary.error.get('code')}]")
    parts += _left(summary)
    return "\n".join(parts)


def _counted(lines: Iterable[str]) -> Iterator[str]:
    """Each line once, with how often it came: a program that is denied tries again."""
    for line, times in Counter(lines).items():
        yield line if times == 1 else f"{line}  ({times} times)"


def _head(summary: Summary) -> str:
    time = "" if summary.seconds is None else f" · {summary.seconds:.1f} s"
    agent = f" · agent {clean(summary.agent)}" if summary.agent else ""
    return f"run {summary.name} · {clean(summary.env)}{agent} · {summary.state}{time}"


def _profile(plan: SandboxPlan) -> str:
    reason = plan.profile
    lines = [f"profile: {clean(reason.name or 'none')} ({clean(reason.why)})"]
    for name, rules in reason.denied.items():
        lines += [f"  not {clean(name)}: {clean(rule)}" for rule in rules]
    return "\n".join(lines)


def _seats(plan: SandboxPlan) -> list[str]:
    """A sentence per member."""
    width = max([len(AGENT), len(SIDECAR), *(len(server.name) for server in plan.servers)])
    reach = "the tools of the servers below" if plan.servers else "no tools"
    lines = [f"  {AGENT:<{width}}  has {reach}; {_grants(plan, AGENT)}"]
    for server in plan.servers:
        tools = "all its tools" if server.tools == "*" else f"tools {', '.join(map(clean, server.tools)) or 'none'}"
        told = f"{authorization_text(server)}; " if server.url else ""
        lines.append(f"  {server.name:<{width}}  {clean(server.source)}; {tools}; {told}{_grants(plan, server.name)}")
    for refusal in plan.refused:
        lines.append(f"  {refusal.member:<{width}}  asked for {clean(refusal.asked)}: denied, {clean(refusal.rule)}")
    network = "one network, for the hosts above" if plan.networked else "no network: no packet can leave the run"
    lines.append(f"  {SIDECAR:<{width}}  {network}")
    lines += [f"  warning: {clean(text)}" for text in plan.warnings]
    return lines


def _grants(plan: SandboxPlan, member: str) -> str:
    """What a member may reach, read, write and hold, each with its line."""
    parts = []
    if rules := plan.egress_of(member):
        hosts = [f"{h.host}:{','.join(map(str, h.ports))}{at(h.place)}" for h in rules.allow]
        hosts += [f"any public address{at(rules.place)}"] if rules.public else []
        parts.append(f"may reach {', '.join(hosts)}")
    else:
        parts.append("may reach nothing")
    container = next((c for c in plan.containers if c.member == member), None)
    for verb, mounts in shown_mounts(container).items() if container else ():
        if mounts:
            parts.append(f"{verb} {', '.join(f'{clean(m.target)}{at(m.place)}' for m in mounts)}")
    if held := [f"{s.variable}{at(s.place)}" for s in plan.secrets if member in s.holders]:
        parts.append(f"holds {', '.join(held)}")
    return "; ".join(parts)


def authorization_text(server: Server) -> str:
    """How a remote server is told who asks; secrets by name."""
    said = server.authorization
    if said is None:
        return "asks without a credential"
    way = {
        "bearer": f"by the bearer auth:{clean(said.bearer or '')}",
        "authorization_code": "by the login of a person (mlld sandbox login)",
        "client_credentials": f"by OAuth client credentials as {clean(said.client_id or '')}",
        "jwt_bearer": "by the assertion of a workload",
        "identity_assertion": "by an assertion of the enterprise's identity provider",
    }[said.grant]
    issuer = f", at {clean(said.issuer)} only" if said.issuer else ""
    scopes = f", for {clean(' '.join(said.scopes))} at most" if said.scopes is not None else ""
    return f"authenticates {way}{issuer}{scopes}"


def shown_mounts(container: Container) -> dict[str, list[Mount]]:
    """What a seat reads and writes of this machine. A mount inside of another one is there to take away from it, not to
    give: it is not told here."""
    binds = [mount for mount in container.mounts if mount.kind == "bind"]
    outer = [
        m
        for m in binds
        if not any(m is not o and m.target.startswith(f"{o.target}/") and not o.read_only for o in binds)
    ]
    return {"reads": [m for m in outer if m.read_only], "writes": [m for m in outer if not m.read_only]}


def at(place: Place | None) -> str:
    """The line that caused it, in parentheses."""
    return f" ({place})" if place else ""


def call_line(call: Event) -> str:
    """A call that went through, well or not."""
    arguments = call.get("arguments")
    said = clean(json.dumps(arguments, ensure_ascii=False) if arguments else "", 60)
    mark = {"deny": "✗", "transform": "~"}.get(str(call.get("decision")), "✓" if not call.get("isError") else "!")
    name = f"{clean(call.get('server'))}.{clean(call.get('name'))}"
    took = call.get("ms")
    time = f"{took:.0f} ms" if isinstance(took, (int, float)) else ""
    # That it comes from this server's tool is said by the line itself.
    declared = [clean(label) for label in _strings(call.get("labels")) if not label.startswith(("src:", "mcp:"))]
    labels = f"  [{', '.join(declared)}]" if declared else ""
    return f"  {mark} {name} {said}  {time}{labels}".rstrip()


def egress_line(event: Event) -> str:
    """A connection to a host."""
    mark = "✗" if event.get("decision") == "deny" else "✓"
    where = f"{clean(event.get('host'))}:{event.get('port')}"
    return f"  {mark} {clean(event.get('member'))} → {where}  {clean(event.get('rule') or '')}".rstrip()


def denial_line(event: Event) -> str:
    """What was refused, by which rule and why."""
    reason = reason_of(event)
    return (
        f"  ✗ {denied_thing(event)} by {clean(event.get('rule') or 'policy')}{f': {clean(reason)}' if reason else ''}"
    )


def denied_thing(event: Event) -> str:
    """What was asked for and refused."""
    if event.get("event") == "egress":
        return f"{clean(event.get('member'))} → {clean(event.get('host'))}:{event.get('port')}"
    arguments = event.get("arguments")
    said = f" {clean(json.dumps(arguments, ensure_ascii=False), 60)}" if arguments else ""
    whose = clean(event.get("server") or event.get("member") or "")
    return f"{whose}{'.' if whose else ''}{clean(event.get('name') or '')}{said}"


def reason_of(event: Event) -> str:
    """The rule's own words."""
    # The sidecar tells the agent "Denied by RULE: REASON"; the record has that as the result.
    return str(event.get("reason") or str(event.get("result") or "").partition(f"{event.get('rule')}: ")[2])


def _denied(summary: Summary) -> Iterator[str]:
    """Each refusal once, with its number in the record and how often it came: a program that is denied tries again."""
    found: dict[str, list[object]] = {}
    for event in summary.denials:
        found.setdefault(denial_line(event), []).append(event.get("n"))
    for line, numbers in found.items():
        yield f"{line}  #{numbers[0]}" + (f"  ({len(numbers)} times)" if len(numbers) > 1 else "")
    yield typed(f"  why: mlld sandbox explain {summary.name} {next(iter(found.values()))[0]}")


def _left(summary: Summary) -> list[str]:
    if summary.left is None:
        return []
    if not any(summary.left.values()):
        return ["left behind: nothing (no container, no network, no volume)"]
    things = [f"{kind[:-1]} {clean(name)}" for kind, names in summary.left.items() for name in names]
    return [f"left behind: {', '.join(things)}; remove it with: mlld sandbox gc"]


def _strings(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, (list, tuple)) else []


# ------------------------------------------------------------------------------------------------------ for programs, CI


def result_object(summary: Summary, *, exit_code: int) -> dict[str, object]:
    """What `--json` prints: one object, always with the same keys."""
    return {
        "ok": exit_code == 0,
        "run": summary.name,
        "env": summary.env,
        "exit": exit_code,
        "answer": summary.answer,
        "profile": summary.plan.profile.name if summary.plan else None,
        "calls": [_plain(call) for call in summary.tool_calls],
        "denials": [_plain(event) for event in summary.denials],
        "egress": [_plain(event) for event in summary.egress],
        "taint": list(summary.taint),
        "seconds": None if summary.seconds is None else round(summary.seconds, 3),
        "plan": summary.digest,
        "left": summary.left,
        "error": summary.error,
    }


def _plain(event: Event) -> dict[str, object]:
    return {key: value for key, value in event.items() if key not in ("prev", "hash")}


def markdown(summary: Summary) -> str:
    """What `--summary FILE` writes: a page for a job summary."""
    rows = [
        ("result", summary.state),
        ("environment", summary.env),
        ("profile", summary.plan.profile.name or "none" if summary.plan else "none"),
        ("tool calls", str(len(summary.tool_calls))),
        ("denials", str(len(summary.denials))),
        ("taint", ", ".join(summary.taint) or "none"),
        ("plan", summary.digest),
    ]
    lines = [f"## Sandbox run `{summary.name}`", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {_cell(value)} |" for key, value in rows]
    if summary.answer:
        # A fence longer than any run of backticks inside: the answer cannot break out of it.
        longest = max((len(run) for run in _backticks(summary.answer)), default=0)
        fence = "`" * max(3, longest + 1)
        lines += ["", "### Answer", "", f"{fence}text", clean_block(summary.answer.rstrip("\n")), fence]
    if summary.denials:
        lines += [
            "",
            "### Denied",
            "",
            *(f"* {_cell(line.strip())}" for line in _counted(map(denial_line, summary.denials))),
        ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    for char, instead in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("`", "\\`"), ("*", "\\*"), ("[", "\\[")):
        text = text.replace(char, instead)
    return clean(text)


def _backticks(text: str) -> list[str]:
    return [run for run in "".join(char if char == "`" else " " for char in text).split() if run]

"""An event of a record as one line for people: what `mlld sandbox logs` prints."""

from __future__ import annotations

import time

from runner.plan import AGENT
from runner.record import Event
from runner.report import call_line, clean, denial_line, egress_line

_MEMBER = 12


def member_of(event: Event) -> str:
    """Whose event it is: a member, the server that a call went to, or the agent, who asked for what no server has."""
    named = event.get("member") or event.get("server")
    return str(named or (AGENT if event.get("event") in ("request", "denied", "answer") else ""))


def log_line(event: Event) -> str | None:
    """`12:00:01.250 tickets      text`; None for what only programs want to know."""
    if (text := said(event)) is None:
        return None
    at = event.get("at") or event.get("t")
    seconds = float(at) if isinstance(at, (int, float)) else 0.0
    clock = f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{int(seconds * 1000) % 1000:03d}"
    return f"{clock} {clean(member_of(event) or 'run', 24):<{_MEMBER}} {text}"


def said(event: Event) -> str | None:
    """The event in words; None for what only programs want to know."""
    denied = event.get("decision") == "deny"
    match event.get("event"):
        case "log":
            return f"│ {clean(str(event.get('line', '')), 4096)}"
        case "call":
            return (denial_line(event) if denied else call_line(event)).strip()
        case "denied":
            return denial_line(event).strip()
        case "request" if denied:
            return f"✗ {clean(event.get('method'))}: {clean(event.get('result'))}"
        case "egress" if event.get("phase") != "closed":
            return (denial_line(event) if denied else egress_line(event)).strip()
        case "server":
            reason = f": {clean(event['reason'])}" if event.get("reason") else ""
            return f"{clean(event.get('state'))}{reason}"
        case "auth" if event.get("decision") == "allow":
            scopes = event.get("scopes")
            named = " ".join(map(str, scopes)) if isinstance(scopes, list) and scopes else "no scope"
            return f"has a token of {clean(event.get('issuer'))}, for {clean(named)}"
        case "auth":
            return f"✗ has no token: {clean(event.get('reason'))}"
        case "state" if event.get("state") in ("starting", "fenced", "ended"):
            code = event.get("exit")
            return f"{clean(event.get('state'))}{'' if code is None else f' with {code}'}"
        case "canary" if not event.get("ok"):
            return f"✗ fence: {clean(event.get('name'))}: {clean(event.get('saw'))}"
        case "asked":
            return f"{'✗ ' if denied else ''}asked the agent: {clean(event.get('method'))}"
        case "narrowed":
            named = ", ".join(_names(event))
            return f"the agent has seen {', '.join(map(clean, _strings(event.get('labels'))))}: withdrawn {named}"
        case "shed":
            more = "" if event.get("times") == 1 else f" ({event.get('times')} times)"
            return f"✗ lost {event.get('bytes')} bytes that were not finished: the sidecar holds too much{more}"
        case "forgotten":
            what = clean(event.get("what"))
            return f"forgets what it said in an earlier run: {what} is not as in the lock; it is asked anew"
        case "oom":
            return "a process went over the memory limit"
        case "error":
            return f"! {clean(event.get('where') or event.get('kind') or '')}: {clean(event.get('error') or event.get('reason'))}"
        case _:
            return _of_the_run(event)


def _names(event: Event) -> list[str]:
    withdrawn = event.get("withdrawn")
    items = withdrawn if isinstance(withdrawn, list | tuple) else []
    return [clean(item.get("name")) for item in items if isinstance(item, dict)]


def _strings(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list | tuple) else []


def _of_the_run(event: Event) -> str | None:
    match event.get("event"):
        case "run":
            return f"{clean(event.get('name'))} · {clean(event.get('env'))}"
        case "ready":
            return f"ready with {event.get('tools')} tools after {event.get('ms')} ms"
        case "answer":
            return f"answered, with {event.get('exit')}"
        case "failed":
            return f"failed: {clean(event.get('message'))} [{clean(event.get('code'))}]"
        case "closed":
            return f"ended with {event.get('exit')}"
        case _:
            return None

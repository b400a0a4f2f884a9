"""A plan in sentences: per member what it is, what it may reach, read, write and hold, and which line says so."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from runner.plan import AGENT, SIDECAR, Container, Egress, SandboxPlan, Server, digest
from runner.report import at, authorization_text, clean, shown_mounts

_MARGIN = 12


def plan_text(plan: SandboxPlan) -> str:
    """What `mlld sandbox plan` prints. Equal plans print alike, whatever their run is called."""
    lines = [f"plan of {clean(plan.environment)} · {digest(plan)}", *_profile(plan), ""]
    for container in sorted(plan.containers, key=lambda c: (c.member == SIDECAR, c.member != AGENT)):
        lines += _labelled(container.member, _seat(plan, container))
    for server in plan.servers:
        if server.url:
            lines += _labelled(server.name, _remote(plan, server))
    if plan.refused:
        denied = [f"{r.member} asked for {clean(r.asked)}{at(r.place)}: {clean(r.rule)}" for r in plan.refused]
        lines += _labelled("refused", denied)
    if plan.guards:
        lines += _labelled("guards", [f"of {clean(plan.guards.module)} ({plan.guards.digest}) judge every call"])
    lines += [f"warning: {clean(warning)}" for warning in plan.warnings]
    return "\n".join(line.rstrip() for line in lines)


def plan_diff(before: SandboxPlan, now: SandboxPlan) -> str:
    """What changed between two plans, as a unified diff of their sentences; empty when nothing did."""
    old, new = plan_text(before).splitlines()[1:], plan_text(now).splitlines()[1:]
    return "\n".join(difflib.unified_diff(old, new, f"run {before.run}", "now", lineterm="", n=2))


def _profile(plan: SandboxPlan) -> Iterator[str]:
    reason = plan.profile
    yield f"profile {clean(reason.name or 'none')}: {clean(reason.why)}{at(reason.place)}"
    for name, rules in reason.denied.items():
        yield from (f"  not {clean(name)}: {clean(rule)}" for rule in rules)


def _remote(plan: SandboxPlan, server: Server) -> Iterator[str]:
    yield f"remote, at {clean(server.url or '')}{at(server.place)}"
    yield f"reaches {_reach(plan, server.name)}"
    yield authorization_text(server)
    if held := list(_held(plan, server.name)):
        yield f"sends what is in {', '.join(held)}"
    yield from _tools(server)


def _seat(plan: SandboxPlan, container: Container) -> Iterator[str]:
    """The sentences about one container."""
    server = next((s for s in plan.servers if s.name == container.member), None)
    if server:
        yield f"{clean(server.source)}{at(server.place)}"
        yield from _tools(server)
    elif container.member == AGENT and plan.agent:
        yield f"agent {clean(plan.agent)}"
    yield f"image {container.image}, as user {container.hardening.user}"
    if container.member == SIDECAR:
        yield "network: one of its own, for the hosts above" if plan.networked else "network: none, no packet leaves"
        if plan.ca_bundle:
            told = f"{clean(plan.ca_bundle.path)} (sha256:{plan.ca_bundle.sha256[:12]}…)"
            yield f"trusts the certificate authorities in {told}, too, towards remote servers"
    else:
        yield f"reaches {_reach(plan, container.member)}"
        for verb, mounts in shown_mounts(container).items():
            paths = [f"{clean(m.source)} at {m.target}{at(m.place)}" for m in mounts]
            yield f"{verb} {', '.join(paths) or 'nothing'}"
        guarded = sorted(m.target for m in container.mounts if m.kind == "bind" and m.read_only)
        if guarded and shown_mounts(container)["writes"]:
            yield f"cannot write {', '.join(guarded)}"
        masked = sorted(m.target for m in container.mounts if m.kind == "mask")
        if masked:
            yield f"does not see {', '.join(masked[:6])}{f' and {len(masked) - 6} more' if len(masked) > 6 else ''}"
        yield f"holds {', '.join(_held(plan, container.member)) or 'no secret'}"
    limits = container.limits
    yield f"limits: {limits.memory_bytes >> 20} MiB, {limits.cpus:g} cpu, {limits.pids} processes"


def _held(plan: SandboxPlan, member: str) -> Iterator[str]:
    for secret in plan.secrets:
        if member in secret.holders:
            yield f"{secret.variable} from {clean(secret.source)}{at(secret.place)}"


def _tools(server: Server) -> Iterator[str]:
    if server.tools == "*":
        yield "tools: all"
    else:
        yield f"tools: {', '.join(map(clean, server.tools)) or 'none'}"
    checked = [binding.tool for binding in server.bindings if binding.validate]
    if server.validate or checked:
        of = "" if server.validate else f" of {', '.join(map(clean, checked))}"
        yield f"  arguments{of} are held against the schema"
    for tool, labels in server.labels.items():
        yield f"  {clean(tool)} is {', '.join(map(clean, labels))}"
    for binding in server.bindings:
        bound = f", with {', '.join(map(clean, binding.bind))} fixed" if binding.bind else ""
        yield f"  {clean(binding.tool)} is shown as {clean(binding.exposed)}{bound}"
    for rule in server.narrowed:
        taken = f"no {', '.join(map(clean, rule.tools))}" if rule.tools else "nothing of it"
        taken += f" but {', '.join(map(clean, rule.but))}" if rule.but else ""
        yield f"  after {clean(rule.after)}: {taken}{at(rule.place)}"


def _reach(plan: SandboxPlan, member: str) -> str:
    endpoint = ["the MCP endpoint"] if member == AGENT else []
    rules = plan.egress_of(member)
    return ", ".join([*endpoint, *(_hosts(rules) if rules else ())]) or "nothing"


def _hosts(rules: Egress) -> Iterator[str]:
    if rules.public:
        yield f"any public address{at(rules.place)}"
    for host in rules.allow:
        yield f"{host.host}:{','.join(map(str, host.ports))}{at(host.place)}"
    for host in rules.deny:
        yield f"but not {host.host}{at(host.place)}"


def _labelled(label: str, sentences: Iterator[str] | list[str]) -> Iterator[str]:
    for number, sentence in enumerate(sentences):
        yield f"{label if number == 0 else '':<{_MARGIN}}{sentence}"

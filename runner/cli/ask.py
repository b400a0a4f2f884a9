"""`mlld sandbox check`: whether a plan allows one thing, and which line says so. Answered from data; nothing is started."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import Any

import click

from interpreter.declarations import Place
from interpreter.names import same_name
from runner.cli import interrupt
from runner.cli.environment import environment_options
from runner.cli.lazy import Command
from runner.cli.plan import planned
from runner.errors import BadOption, Denied, UnknownName
from runner.plan import AGENT, WORKSPACE, Host, SandboxPlan

EXAMPLES = """
Examples:
  mlld sandbox check --env @local/myenv "net api.github.com:443"
  mlld sandbox check --env @local/myenv "tool tickets.close_ticket"
  mlld sandbox check --env @local/myenv "fs write docs/tickets" --of tickets
"""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Allowed or not, and why."""

    allowed: bool
    rule: str
    place: Place | None = None


@click.command(cls=Command, examples=EXAMPLES)
@environment_options
@click.option("--of", "member", default=AGENT, show_default=True, help="Who wants it: agent, or a server.")
@click.argument("question")
def check(question: str, member: str, **options: Any) -> None:
    """Whether "net HOST[:PORT]", "tool SERVER.TOOL" or "fs read|write PATH" is allowed."""
    plan = interrupt.run(planned(**options))
    members = [container.member for container in plan.containers]
    if member not in members:
        raise UnknownName("member", member, members, remedy="mlld sandbox plan --env REF")
    verdict = answered(plan, member, question)
    where = f" ({verdict.place})" if verdict.place else ""
    if not verdict.allowed:
        raise Denied(
            f"{member}: {question} is not allowed", rule=f"{verdict.rule}{where}", remedy="mlld sandbox plan --env REF"
        )
    click.echo(f"{member}: {question} is allowed: {verdict.rule}{where}")


def answered(plan: SandboxPlan, member: str, question: str) -> Verdict:
    """Errors: `BadOption` for what is no question."""
    match question.split():
        case ["net", target]:
            host, _, port = target.partition(":")
            return _net(plan, member, host.lower().rstrip("."), int(port) if port.isdigit() else 443)
        case ["tool", name]:
            return _tool(plan, name)
        case ["fs", ("read" | "write") as verb, path]:
            return _file(plan, member, verb, path)
    raise BadOption(
        f"{question!r} cannot be answered",
        detail='ask "net HOST[:PORT]", "tool SERVER.TOOL" or "fs read|write PATH"',
        remedy="mlld sandbox check --help",
    )


def _net(plan: SandboxPlan, member: str, host: str, port: int) -> Verdict:
    rules = plan.egress_of(member)
    if rules is None:
        return Verdict(allowed=False, rule="it has no network at all")
    for rule in rules.deny:
        if _fits(rule, host, port):
            return Verdict(allowed=False, rule=f"deny {rule.host}", place=rule.place)
    for rule in rules.allow:
        if _fits(rule, host, port):
            return Verdict(allowed=True, rule=f"allow {rule.host}", place=rule.place)
    if rules.public and port in (80, 443):
        return Verdict(allowed=True, rule="any public address, checked when it is resolved", place=rules.place)
    return Verdict(allowed=False, rule="no host of its list", place=rules.place)


def _fits(rule: Host, host: str, port: int) -> bool:
    named = host.endswith(rule.host[1:]) if rule.host.startswith("*.") else host == rule.host
    return named and port in rule.ports


def _tool(plan: SandboxPlan, name: str) -> Verdict:
    wanted, dot, tool = name.partition(".")
    servers = [server for server in plan.servers if not dot or server.name == wanted]
    if not servers:
        return Verdict(allowed=False, rule=f"no server {wanted} in this profile")
    for server in servers:
        if server.tools == "*":
            return Verdict(allowed=True, rule=f"all tools of {server.name}, if it has it", place=server.place)
        if any(same_name(tool if dot else name, each) for each in server.tools):
            return Verdict(allowed=True, rule=f"listed for {server.name}", place=server.place)
    return Verdict(allowed=False, rule=f"not listed for {', '.join(s.name for s in servers)}", place=servers[0].place)


def _file(plan: SandboxPlan, member: str, verb: str, path: str) -> Verdict:
    target = posixpath.normpath(posixpath.join(WORKSPACE, path))
    over = [m for m in plan.container(member).mounts if target == m.target or target.startswith(f"{m.target}/")]
    mount = max(over, key=lambda m: len(m.target), default=None)
    if mount is None:
        return Verdict(allowed=False, rule="nothing of this machine is there")
    if mount.kind == "mask":
        return Verdict(allowed=False, rule="it is masked", place=mount.place)
    if verb == "write" and mount.read_only:
        return Verdict(allowed=False, rule=f"{mount.target} is read-only", place=mount.place)
    return Verdict(allowed=True, rule=f"{mount.source} at {mount.target}", place=mount.place)

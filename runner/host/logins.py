"""Logging in: a person, a browser, and a process that speaks to the servers under the rules of the plan.

The process is the sidecar's own code without a fence around it, as with the provider `local`: what it may reach is what the
gate of a run would let that server reach.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from interpreter.declarations import EnvironmentSpec, Files, Limits, Network, ServerSpec
from runner.backends.processes import ended, started
from runner.backends.waiting import finished
from runner.errors import BadOption, CheckFailure, SandboxFailure, UnknownName
from runner.handover import Handover, sidecar_line
from runner.plan import SandboxPlan
from runner.secrets_logins import Credential

_ROOT = Path(__file__).parents[2]  # where `images` is imported from
_LONGEST_LINE = 1 << 20


def environment_of(spec: EnvironmentSpec) -> str:
    """Which environment a login belongs to: the real path of its module."""
    root = spec.module.root if spec.module else None
    return str(Path(root).resolve()) if root else spec.name


def server_of(spec: EnvironmentSpec, name: str) -> ServerSpec:
    """The server that somebody wants to log in to. Errors: `UnknownName`, `BadOption`."""
    server = next((server for server in spec.mcp.servers if server.name == name), None)
    if server is None:
        raise UnknownName(
            "server", name, [server.name for server in spec.mcp.servers], remedy="mlld sandbox plan --env REF"
        )
    if server.authorization is None or server.authorization.grant != "authorization_code":
        raise BadOption(
            f"nobody logs in to {name}: its auth is not a person's",
            remedy='a person\'s is: auth: { grant: "authorization_code" }, at a server with url',
        )
    return server


def alone(spec: EnvironmentSpec, server: ServerSpec) -> EnvironmentSpec:
    """The declaration of nothing but this server: same grants, same policy, same hosts."""
    network = replace(server.network, deny=(*server.network.deny, *spec.network.deny))
    only = replace(server, network=network, files=Files(), limits=Limits(), tools="*")
    return replace(
        spec, provider="local", module=None, image=None, agent=None, files=Files(), network=Network(), limits=Limits(),
        tools="*", mcp=replace(spec.mcp, servers=(only,), bindings=()), agent_auth=(),
    )  # fmt: skip


async def log_in(
    plan: SandboxPlan,
    handover: Handover,
    *,
    env: Mapping[str, str],
    port: int,
    scopes: Sequence[str],
    on_url: Callable[[str], None],
) -> Credential:
    """What a login at the one server of the plan leaves. Errors: `CheckFailure`, `SandboxFailure`."""
    if not plan.servers:
        rules = "; ".join(f"{refusal.asked}: {refusal.rule}" for refusal in plan.refused)
        raise CheckFailure(f"the server is out of reach ({rules})", remedy="mlld sandbox plan --env REF says why")
    [server] = plan.servers
    plan = replace(
        plan, egress=tuple(rule for rule in plan.egress if rule.member == server.name)
    )  # nobody else is there
    options = ["--port", str(port), *(word for scope in scopes for word in ("--scope", scope))]
    process = await started(
        # -P, and a directory of nobody's: the project's own `images` must not be what is run here.
        sys.executable, "-P", "-m", "images.sidecar.login", *options, cwd="/", env={**env, "PYTHONPATH": str(_ROOT)},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_LONGEST_LINE,
    )  # fmt: skip
    credential: Credential | None = None
    reason = "its process ended"
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(sidecar_line(plan, handover))
        async for line in process.stdout:
            event = msgspec.json.decode(line)
            match event["event"]:
                case "open":
                    on_url(event["url"])
                case "credential":
                    credential = event["credential"]
                case "failed":
                    reason = event["reason"]
        code = await process.wait()
    finally:
        process.stdin.close()
        await finished(ended(process))
    if code != 0 or credential is None:
        raise SandboxFailure(f"the login to {server.name} failed: {reason}", place=server.place)
    return credential

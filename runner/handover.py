"""What a run must be given and a plan must never hold: secret values, the token, the text of the module.

It goes to each container over its attached standard input, and lies nowhere: not in a configuration that `inspect`
shows, not in an argument, not on a disk.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from interpreter.declarations import ModuleSource
from runner.errors import SandboxFailure, SecretMissing
from runner.lock import Pins
from runner.offers import Offers
from runner.plan import AGENT, LINKS, Egress, Host, SandboxPlan, Server, guards_digest
from runner.planner_seats import MCP_PORT, proxy_environment
from runner.secrets_logins import Credential, tokens
from runner.trace import Trace


@dataclass(frozen=True, kw_only=True)
class Handover:
    """The other half of a run. `secrets` by the name of their declaration; none of this is ever shown."""

    token: str = field(repr=False)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    module: ModuleSource | None = field(default=None, repr=False)
    policy: Mapping[str, object] = field(default_factory=dict)
    # What logins have left, by server.
    credentials: Mapping[str, Credential] = field(default_factory=dict, repr=False)
    pins: Pins = field(default_factory=dict)  # of the lock, by server
    remembered: Mapping[str, Mapping[str, Offers]] = field(default_factory=dict)  # by server and situation
    tell_pins: bool = False  # have the sidecar tell what a lock is made of
    trace: Trace | None = None  # None: nobody keeps a trace of this run
    # Secrets of remote servers are files beside the sidecar, and its configuration has their names alone (compose).
    secret_files: bool = False
    ca_bundle: str = ""  # the text of the plan's (`trust.planned`)
    host_addresses: tuple[str, ...] = ()  # public ones of this machine: the gate refuses them like private ones

    def values(self) -> frozenset[str]:
        """Everything that must be masked wherever text is shown or kept."""
        left = (token for credential in self.credentials.values() for token in tokens(credential))
        return frozenset({self.token, *self.secrets.values(), *left})


def environment_block(plan: SandboxPlan, handover: Handover, member: str) -> bytes:
    """The environment of a server's process beyond its container's: `NAME=VALUE\\0`…, ended by an empty entry."""
    if member == AGENT:
        return b"\0"  # the agent's commands get theirs one by one, with the exec that says `using`
    entries = [
        f"{secret.variable}={value_of(handover, secret.name)}"
        for secret in plan.secrets
        if secret.name in plan.container(member).secrets
    ]
    for entry in entries:
        if "\0" in entry:
            raise SandboxFailure(
                f"a secret of {member} holds a NUL byte, which no environment can carry", remedy="change it"
            )
    return b"".join(entry.encode() + b"\0" for entry in entries) + b"\0"


def agent_environment(plan: SandboxPlan, token: str, *, port: int = MCP_PORT) -> dict[str, str]:
    """What tells the agent's programs where tools and network are."""
    env = {"MLLD_PROFILE": plan.profile.name or ""}
    if plan.servers:
        servers = [
            {"name": s.name, "source": " ".join(s.source.split(" ")[:2]), "tools": s.tools} for s in plan.servers
        ]
        env |= {
            "MCP_SERVER_URL": f"http://127.0.0.1:{port}/mcp",
            "MLLD_MCP_TOKEN": token,
            "MLLD_MCP_SERVERS": json.dumps(servers),
        }
    fenced = plan.provider == "docker"
    return env | (proxy_environment() if fenced and plan.egress_of(AGENT) else {})


def value_of(handover: Handover, name: str) -> str:
    """A secret's value. Errors: `SecretMissing`."""
    if name not in handover.secrets:
        raise SecretMissing(name, "its value was not handed to the run")
    return handover.secrets[name]


def sidecar_line(plan: SandboxPlan, handover: Handover, *, links: str = LINKS, hosts: Sequence[str] = ()) -> bytes:
    """The sidecar's configuration: one line of JSON. What decides in it is what the plan says, or it is not made.
    `links` and `hosts`: where the sockets are and under which names the endpoint is known, with the provider `local`."""
    module = handover.module
    if (plan.guards is None) != (module is None) or (
        plan.guards is not None
        and module is not None
        and plan.guards.digest != guards_digest(module.files, handover.policy)
    ):
        raise SandboxFailure(
            "the module's text is not the one that was planned", remedy="plan again: it was changed meanwhile"
        )
    if (plan.ca_bundle is None) != (not handover.ca_bundle):
        raise SandboxFailure("the CA bundle is not the one that was planned", remedy="plan again")
    config = {
        "version": 1,
        "run": plan.run,
        "token": handover.token,
        "agent": {"link": f"{links}/{AGENT}"},
        "hosts": list(hosts),
        "servers": [_server(server, handover, links) for server in plan.servers],
        "lifecycle": {
            "startupTimeoutMs": plan.lifecycle.startup_timeout_ms,
            "idleTimeoutMs": plan.lifecycle.idle_timeout_ms,
            "callTimeoutMs": plan.lifecycle.call_timeout_ms,
            "maxConcurrent": plan.lifecycle.max_concurrent,
        },
        "egress": {rule.member: _egress(rule) for rule in plan.egress},
        "resolver": plan.resolver,
        **({"caBundle": handover.ca_bundle} if handover.ca_bundle else {}),
        "hostAddresses": list(handover.host_addresses),
        "module": None
        if module is None
        else {
            "entry": module.entry,
            "files": dict(module.files),
            "name": module.name,
            "profile": plan.profile.name,
            "policy": handover.policy,
        },
        **({"tellPins": True} if handover.tell_pins else {}),
        **({"trace": _traced(handover.trace)} if handover.trace else {}),
        "limits": {"resultBytes": plan.result_bytes, "bodyBytes": plan.body_bytes},
    }
    return msgspec.json.encode(config, enc_hook=dict) + b"\n"


def _traced(trace: Trace) -> dict[str, object]:
    return {"parent": trace.traceparent, "spans": trace.spans, **({"state": trace.state} if trace.state else {})}


def _server(server: Server, handover: Handover, links: str) -> dict[str, object]:
    labels = {tool: list(names) for tool, names in server.labels.items()}
    for binding in server.bindings:
        labels[binding.tool] = [*labels.get(binding.tool, []), *binding.labels]
    return {
        "name": server.name,
        "link": f"{links}/{server.name}" if server.url is None else None,
        "transport": server.transport,
        "url": server.url,
        **_authorization(server, handover),
        "tools": server.tools if server.tools == "*" else list(server.tools),
        "as": server.alias,
        "bind": {
            binding.tool: {
                "bind": dict(binding.bind),
                "expose": None if binding.expose is None else list(binding.expose),
                "optional": list(binding.optional),
                "description": binding.description,
            }
            for binding in server.bindings
        },
        "labels": {tool: names for tool, names in labels.items() if names},
        **({"validate": _validated(server)} if _validated(server) else {}),
        **({"pins": handover.pins[server.name]} if server.name in handover.pins else {}),
        **({"remembered": handover.remembered[server.name]} if server.name in handover.remembered else {}),
        **({} if server.only == "*" else {"only": list(server.only)}),
        **({"withheld": list(server.withheld)} if server.withheld else {}),
    }


def _authorization(server: Server, handover: Handover) -> dict[str, object]:
    """How the sidecar says who asks: a header, or what it gets tokens with. Errors: `SecretMissing`."""
    said = server.authorization
    if said is None:
        return {}
    if said.bearer is not None:
        return {"headers": {"Authorization": _secret(handover, said.bearer, "Bearer ")}}
    return {"oauth": oauth_of(server, handover)}


def _secret(handover: Handover, name: str, before: str = "") -> object:
    """A secret as the sidecar's configuration has it: its value, or the name of its file."""
    if handover.secret_files:
        return {"secret": name, **({"before": before} if before else {})}
    return before + value_of(handover, name)


def oauth_of(server: Server, handover: Handover) -> dict[str, object]:
    """The OAuth grant of a remote server with its secrets. Errors: `SecretMissing`."""
    said = server.authorization
    assert said is not None

    def held(name: str | None) -> object:
        return None if name is None else _secret(handover, name)

    provider = said.provider
    return {
        "grant": said.grant,
        "issuer": said.issuer,
        "clientId": said.client_id,
        "clientSecret": held(said.client_secret),
        "privateKey": held(said.private_key),
        "algorithm": said.algorithm,
        "clientMetadata": said.client_metadata,
        "scopes": None if said.scopes is None else list(said.scopes),
        "assertion": held(said.assertion),
        "provider": None
        if provider is None
        else {
            "tokenEndpoint": provider.token_endpoint,
            "clientId": provider.client_id,
            "clientSecret": held(provider.client_secret),
            "idToken": held(provider.id_token),
        },
        "credential": handover.credentials.get(server.name),
    }


def _validated(server: Server) -> list[str] | str:
    return "*" if server.validate else [binding.tool for binding in server.bindings if binding.validate]


def _egress(rule: Egress) -> dict[str, object]:
    return {"allow": [*map(_host, rule.allow)], "deny": [*map(_host, rule.deny)], "public": rule.public}


def _host(host: Host) -> dict[str, object]:
    return {"host": host.host, "ports": list(host.ports), "source": None if host.place is None else str(host.place)}

"""An environment: what its configuration asks, narrowed to what its parent has and policy permits.

    box config ──parse_config──▶ Config ──build──▶ EnvironmentSpec
                                   ▲        ▲ policy.env, capability hosts, profile
                                   └─ parent: widening is an error that prints the difference

A configuration and everything below it can only narrow. What a policy takes away is taken silently from the
configuration and said in the plan; what a *child* adds to its parent is a mistake of the author, and an error."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal
from urllib.parse import urlsplit

from interpreter.declarations import (
    AuthDecl,
    EnvironmentSpec,
    Files,
    HostRule,
    McpConfig,
    ModuleSource,
    Needs,
    Network,
    Place,
    ProfileChoice,
    ServerSpec,
)
from interpreter.environment_config import Config
from interpreter.environment_narrow import Bounds, check_narrower, narrow_network
from interpreter.errors import Denied, MlldError
from interpreter.names import same_name
from interpreter.policy import Denied as Refused
from interpreter.policy import Policy, require
from interpreter.policy_parse import least
from interpreter.profiles import grants, requirements, warning

Provider = Literal["docker", "local"]
PROVIDERS: Mapping[str, Provider] = MappingProxyType({
    "docker": "docker", "@mlld/env-docker": "docker", "local": "local",
})  # fmt: skip


class ProviderDenied(Denied):
    """A policy does not permit the provider."""

    code = "provider-denied"


def choose_provider(
    policy: Policy, *, config: str | None = None, option: str | None = None, variable: str | None = None
) -> Provider:
    """The provider: of the configuration, the option, `MLLD_PROVIDER`, policy, else docker; first given wins.

    Errors: `MlldError` for a name that is none, `ProviderDenied`.
    """
    default = next((layer.env.default for layer in reversed(policy.layers) if layer.env.default), None)
    asked = next((name for name in (config, option, variable, default) if name), "docker")
    provider = PROVIDERS.get(asked)
    if provider is None:
        raise MlldError(f"there is no provider '{asked}'", code="provider", hint="docker (the default) or local")
    for layer in policy.layers:
        allowed = [PROVIDERS.get(name, name) == provider and yes for name, yes in layer.env.providers.items()]
        denied = any(PROVIDERS.get(name, name) == provider and not yes for name, yes in layer.env.providers.items())
        if denied or (provider == "local" and layer.env.providers and not any(allowed)):
            rule = f"policy @{layer.name}: env.providers"
            where = f" ({layer.env.place})" if layer.env.place else ""
            raise ProviderDenied(
                f"provider '{provider}' is denied by policy @{layer.name}", rule=rule + where,
                hint="there is no silent fall-back: choose another provider, or change the policy",
            )  # fmt: skip
    return provider


@dataclass(frozen=True, kw_only=True)
class Around:
    """What a configuration is put into: the module, the policy in force, the profile, the block outside."""

    name: str
    provider: Provider = "docker"
    policy: Policy = field(default_factory=Policy)
    choice: ProfileChoice | None = None
    mcp: McpConfig = field(default_factory=McpConfig)
    needs: Needs = field(default_factory=Needs)
    module: ModuleSource | None = None
    auth: Mapping[str, AuthDecl] = field(default_factory=lambda: MappingProxyType({}))
    agent_auth: tuple[str, ...] = ()
    parent: EnvironmentSpec | None = None
    agent: str | None = None
    warnings: tuple[str, ...] = ()


def build(config: Config, around: Around) -> EnvironmentSpec:
    """The environment that a configuration comes to. Errors: `WideningFault`."""
    bounds = config.bounds
    warnings = list(around.warnings)
    if around.choice and (said := warning(around.choice)):
        warnings.append(said)
    if around.parent is not None:
        outer = Bounds.of(around.parent)
        check_narrower(outer, bounds, span=None, place=config.place)
        bounds = bounds.inside(outer)
        if config.bounds.network is None:
            # As the parent's was stated: without its grant there is none, and `local` refuses a "none" that nobody asked for.
            bounds = replace(bounds, network=around.parent.network)
    policy = around.policy
    net = narrow_network(bounds.network or Network(), policy, warnings)
    tools = _narrow_names(bounds.tools, policy, "tools", warnings)
    servers = tuple(replace(s, network=_server_network(s, policy, warnings)) for s in around.mcp.servers)
    limits = bounds.limits
    for layer in policy.layers:
        limits = least(limits, layer.env.limits)
    granted = _grants(config, around)
    if around.parent is not None:
        granted = {key: place for key, place in granted.items() if key in around.parent.grants}
    return EnvironmentSpec(
        name=around.name,
        provider=around.provider,
        module=around.module,
        profile=around.choice,
        grants=MappingProxyType(granted),
        needs=around.needs,
        image=config.image or (around.parent.image if around.parent else None),
        agent=config.agent or around.agent,
        files=bounds.files or Files(),
        network=net,
        limits=limits,
        tools="*" if tools is None else tools,
        tools_denied=tuple(dict.fromkeys(name for layer in policy.layers for name in layer.env.tools.deny)),
        servers_allowed=_server_names(servers, bounds.servers, policy, warnings),
        mcp=replace(around.mcp, servers=servers, bindings=(*around.mcp.bindings, *config.bindings)),
        auth=around.auth,
        agent_auth=tuple(dict.fromkeys((*around.agent_auth, *config.auth))),
        policy=policy.json() if policy.layers else MappingProxyType({}),
        keep=config.keep,
        warnings=tuple(dict.fromkeys(warnings)),
        place=config.place,
    )


def _server_network(server: ServerSpec, policy: Policy, warnings: list[str]) -> Network:
    """What a server may reach: the hosts it asks for, of those that policy lets environments reach; without asking, none.

    A remote server asks for its own host, and for those of its authorization: a policy that does not list them withholds
    them, and without its own host the server.
    """
    asked = server.network
    if server.source == "url":
        urls = (server.target, *(server.authorization.hosts if server.authorization else ()))
        own = tuple(_host_of(url, server.place) for url in urls)
        asked = replace(asked, allow=tuple(dict.fromkeys((*own, *(asked.allow or ())))))
    narrowed = narrow_network(asked, policy, warnings)
    return narrowed if asked.allow is not None else replace(narrowed, allow=None)


def _host_of(url: str, place: Place | None) -> HostRule:
    parts = urlsplit(url)
    return HostRule(
        host=parts.hostname or "", ports=(parts.port or (443 if parts.scheme == "https" else 80),), place=place
    )


def _grants(config: Config, around: Around) -> dict[str, Place | None]:
    """What is granted: by the profile, or, where nobody declared profiles, by what the configuration itself asks
    for.
    """
    if around.choice is not None:
        return dict(grants(around.choice))
    net, files = config.bounds.network, config.bounds.files
    asked = Needs(
        sh=True,
        network=net is not None and not net.none and net.allow != (),
        filesystem=files is not None and bool(files.write),
    )
    if around.parent is not None and net is None and files is None:
        held = around.parent.grants
        asked = Needs(sh="sh" in held, network="network" in held, filesystem="filesystem" in held)
    return {
        name: config.place
        for name, pattern, whole in requirements(asked)
        if not isinstance(require(around.policy, pattern, name, whole=whole), Refused)
    }


def _narrow_names(
    names: tuple[str, ...] | None, policy: Policy, axis: Literal["tools", "mcps"], warnings: list[str]
) -> tuple[str, ...] | None:
    for layer in policy.layers:
        rule = layer.env.tools if axis == "tools" else layer.env.mcps
        before = names
        if rule.allow is not None:
            names = rule.allow if names is None else tuple(n for n in names if _among(n, rule.allow))
        if names is not None:
            names = tuple(n for n in names if not _among(n, rule.deny))
        lost = [n for n in before or () if n not in (names or ())]
        if lost:
            warnings.append(f"{axis}: {', '.join(lost)} withheld by policy @{layer.name}: env.{axis} ({rule.place})")
    return names


def _among(name: str, names: Iterable[str]) -> bool:
    return any(other == "*" or same_name(name, other) for other in names)


def _server_names(
    servers: Sequence[ServerSpec], asked: tuple[str, ...] | None, policy: Policy, warnings: list[str]
) -> tuple[str, ...] | Literal["*"]:
    """The servers that may be started, by name; those that nobody configured keep the name under which they were
    asked.
    """
    if asked is None and all(layer.env.mcps.allow is None and not layer.env.mcps.deny for layer in policy.layers):
        return "*"
    names = tuple(server.name for server in servers)
    if asked is not None:
        known = {spec: server.name for server in servers for spec in specs(server)}
        names = tuple(dict.fromkeys(known.get(name, name) for name in asked))
    by_name = {server.name: server for server in servers}

    def listed(name: str, rule: Iterable[str]) -> bool:
        spellings = specs(by_name[name]) if name in by_name else (name,)
        return any(spelling in rule or "*" in rule for spelling in spellings)

    for layer in policy.layers:
        rule = layer.env.mcps
        kept = tuple(n for n in names if (rule.allow is None or listed(n, rule.allow)) and not listed(n, rule.deny))
        for lost in [n for n in names if n not in kept]:
            warnings.append(f"server {lost} withheld by policy @{layer.name}: env.mcps ({rule.place})")
        names = kept
    return names


def rooted(spec: EnvironmentSpec, directory: str) -> EnvironmentSpec:
    """The environment with the relative paths of served modules made whole, for one that travels without its module."""
    servers = tuple(
        replace(s, target=posixpath.normpath(posixpath.join(directory, s.target)))
        if s.source == "module" and s.target.startswith(".")
        else s
        for s in spec.mcp.servers
    )
    return replace(spec, mcp=replace(spec.mcp, servers=servers))


def specs(server: ServerSpec) -> tuple[str, ...]:
    """Every text by which `mcps` may name a server: its name, its target, its whole command."""
    return (server.name, server.target, " ".join((server.target, *server.args)))


def denied_tool(policy: Policy, server: str, tool: str) -> str | None:
    """The rule of `policy.env` that keeps a tool from being used in an environment; None when none does."""
    for layer in policy.layers:
        for name, rule, axis in ((tool, layer.env.tools, "tools"), (server, layer.env.mcps, "mcps")):
            if _among(name, rule.deny) or (rule.allow is not None and not _among(name, rule.allow)):
                where = f" ({rule.place})" if rule.place else ""
                return f"policy @{layer.name}: env.{axis}{where}"
    return None

"""Attenuation: what a child environment may keep of its parent, over tools, servers, hosts, paths, limits and
labels.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType

from interpreter.declarations import EnvironmentSpec, Files, HostRule, Limits, Network, PathRule, Place, place_of
from interpreter.errors import MlldError
from interpreter.names import same_name
from interpreter.policy import Policy
from interpreter.policy_parse import least
from interpreter.policy_patterns import Pattern, covers, host_matches, meet_hosts
from interpreter.source import Span

_LIMITS = {"memory_bytes": "mem", "cpus": "cpu", "pids": "pids", "timeout_seconds": "timeout"}


class WideningFault(MlldError):
    """A child environment that asks for more than its parent has; the message is the difference."""

    code = "widening"
    exit_code = 3

    def __init__(self, differences: Iterable[str], *, span: Span | None, place: Place | None) -> None:
        self.differences = tuple(differences)
        self.place = place
        lines = "".join(f"\n  + {difference}" for difference in self.differences)
        where = f"{place}: " if place and not span else ""
        super().__init__(
            f"{where}an environment can only narrow what its parent has; this one adds{lines}", span=span,
            hint=f"{_scope(self.differences)}take these out of the child, or grant them to the parent",
        )  # fmt: skip


def _scope(differences: tuple[str, ...]) -> str:
    """The rule in words, where it is tools alone that are added."""
    return "Tool scope cannot add tools outside parent: " if all(d.startswith("tools: ") for d in differences) else ""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The axes on which an environment is narrowed. None = not stated: everything of the parent."""

    tools: tuple[str, ...] | None = None
    servers: tuple[str, ...] | None = None
    network: Network | None = None
    files: Files | None = None
    limits: Limits = field(default_factory=Limits)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))  # by tool

    @classmethod
    def of(cls, spec: EnvironmentSpec) -> Bounds:
        """The bounds of an environment that exists."""
        # Without a grant there is no network to hand down, whatever was listed.
        network = spec.network if "network" in spec.grants else Network(none=True)
        return cls(
            tools=None if spec.tools == "*" else spec.tools,
            servers=None if spec.servers_allowed == "*" else spec.servers_allowed,
            network=network,
            files=spec.files if spec.files.read or spec.files.write else None,
            limits=spec.limits,
            labels={binding.exposed: binding.labels for binding in spec.mcp.bindings if binding.labels},
        )

    def inside(self, outer: Bounds) -> Bounds:
        """These bounds where they are stated, else the outer ones; both where both must hold."""
        return Bounds(
            tools=outer.tools if self.tools is None else self.tools,
            servers=outer.servers if self.servers is None else self.servers,
            network=_inner_network(self.network, outer.network),
            files=outer.files if self.files is None else self.files,
            limits=least(self.limits, outer.limits),
            labels={**outer.labels, **self.labels},
        )


def check_narrower(outer: Bounds, inner: Bounds, *, span: Span | Place | None, place: Place | None = None) -> None:
    """Nothing, when the inner bounds lie within the outer ones. Errors: `WideningFault`."""
    if found := tuple(differences(outer, inner)):
        where = span if isinstance(span, Span) else None
        raise WideningFault(found, span=where, place=place or place_of(span))


def differences(outer: Bounds, inner: Bounds) -> Iterator[str]:
    """What the inner bounds add, axis by axis."""
    yield from _names("tools", inner.tools, outer.tools)
    yield from _names("mcps", inner.servers, outer.servers)
    yield from _hosts(inner.network, outer.network)
    yield from _paths(inner.files, outer.files)
    for attribute in fields(Limits):
        mine, theirs = getattr(inner.limits, attribute.name), getattr(outer.limits, attribute.name)
        if mine is not None and theirs is not None and mine > theirs:
            unit = "m" if attribute.name == "memory_bytes" else ""
            mine, theirs = (each / 2**20 if unit else each for each in (mine, theirs))
            yield f"limits.{_LIMITS[attribute.name]}: {mine:g}{unit} (the parent has {theirs:g}{unit})"
    for tool, labels in outer.labels.items():
        if tool in inner.labels or (inner.tools is not None and tool in inner.tools and inner.labels):
            dropped = [label for label in labels if label not in inner.labels.get(tool, ())]
            if dropped:
                yield f"labels of {tool}: without {', '.join(dropped)}"


def _names(axis: str, inner: tuple[str, ...] | None, outer: tuple[str, ...] | None) -> Iterator[str]:
    if inner is None or outer is None:
        return
    extra = [name for name in inner if not any(same_name(name, other) for other in outer)]
    if extra:
        yield f"{axis}: {', '.join(extra)} (the parent has {', '.join(outer) or 'none'})"


def _hosts(inner: Network | None, outer: Network | None) -> Iterator[str]:
    if inner is None or outer is None or inner.none:
        return
    if outer.none:
        asked = ", ".join(map(_host, inner.allow)) if inner.allow else "any host" if inner.allow is None else ""
        if asked:
            yield f"net: {asked} (the parent has no network)"
        return
    for rule in inner.allow or ():
        if outer.allow is not None and not any(meet_hosts(rule, other) == rule for other in _bare(outer.allow, rule)):
            yield f"net: {_host(rule)} (the parent has {', '.join(map(_host, outer.allow)) or 'none'})"
        for denied in outer.deny:
            if host_matches(denied.host, rule.host) and set(rule.ports) <= set(denied.ports):
                yield f"net: {_host(rule)} (the parent denies {_host(denied)})"


def _bare(rules: Iterable[HostRule], like: HostRule) -> Iterator[HostRule]:
    """The rules with the place of another one, so that they compare by what they allow."""
    return (replace(rule, place=like.place) for rule in rules)


def _host(rule: HostRule) -> str:
    return rule.host if rule.ports == HostRule(host="").ports else f"{rule.host}:{','.join(map(str, rule.ports))}"


def _inner_network(inner: Network | None, outer: Network | None) -> Network | None:
    if inner is None or outer is None:
        return inner or outer
    if inner.none or outer.none:
        return Network(none=True, allow=(), deny=())
    allow = outer.allow if inner.allow is None else inner.allow
    return Network(allow=allow, deny=tuple(dict.fromkeys((*outer.deny, *inner.deny))))


def _paths(inner: Files | None, outer: Files | None) -> Iterator[str]:
    if inner is None:
        return
    for mode, rules in (("read", inner.read), ("write", inner.write)):
        for rule in rules:
            if outer is None:
                # The parent said nothing: it sees the workspace, and no other path of the host.
                if rule.path.startswith(("/", "~")):
                    yield f"fs.{mode}: {rule.path} (the parent has the workspace)"
                continue
            have = outer.write if mode == "write" else (*outer.read, *outer.write)
            if not any(within(rule.path, other.path) for other in have):
                yield f"fs.{mode}: {rule.path} (the parent has {_listed(have)})"


def _listed(rules: Iterable[PathRule]) -> str:
    return ", ".join(rule.path for rule in rules) or "none"


def within(path: str, above: str) -> bool:
    """Whether a path is another one or lies below it."""
    inner, outer = posixpath.normpath(path), posixpath.normpath(above)
    if outer == ".":
        return not inner.startswith(("/", "~", ".."))
    return inner == outer or inner.startswith(outer.rstrip("/") + "/")


def narrow_network(network: Network, policy: Policy, warnings: list[str]) -> Network:
    """The network within what every layer of the policy lets environments reach."""
    allow, deny, none = network.allow, list(network.deny), network.none
    for layer in policy.layers:
        rules = layer.env
        none = none or rules.no_network
        deny += rules.hosts_deny
        capability = [e for e in layer.allow or () if e.pattern.kind == "network"]
        named = [HostRule(host=e.pattern.tokens[0], place=e.place) for e in capability if e.pattern.tokens]
        wide = any(covers(e.pattern, Pattern(kind="network")) for e in layer.allow or ())
        for limit in (rules.hosts_allow, None if layer.allow is None or wide else tuple(named)):
            if limit is not None:
                allow = tuple(limit) if allow is None else _met(allow, limit, layer.name, warnings)
        deny += [
            HostRule(host=e.pattern.tokens[0], place=e.place)
            for e in layer.deny if e.pattern.kind == "network" and e.pattern.tokens
        ]  # fmt: skip
    return Network(none=none, allow=allow, deny=tuple(dict.fromkeys(deny)))


def _met(
    allow: tuple[HostRule, ...], limit: Iterable[HostRule], layer: str, warnings: list[str]
) -> tuple[HostRule, ...]:
    """The rules cut down to the limit; a rule that loses everything is said."""
    limits, found = tuple(limit), {}
    for rule in allow:
        met = [both for other in limits if (both := meet_hosts(rule, other))]
        if not met:
            warnings.append(f"host {_host(rule)} withheld by policy @{layer}")
        found.update(dict.fromkeys(met))
    return tuple(found)

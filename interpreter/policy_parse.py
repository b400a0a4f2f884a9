"""From the value of `policy @p = {…}` to a layer: every key is known, every entry is in normal form, or it is an
error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal

from interpreter.declarations import AuthDecl, HostRule, Limits, Place
from interpreter.labels import LABEL
from interpreter.policy import Entry, EnvRules, LabelRule, Layer, Names, Policy
from interpreter.policy_patterns import ALIASES, BadPattern, Side, parse_host, parse_pattern
from interpreter.policy_reader import Locator, Reader, nowhere
from interpreter.policy_rules import BUILT_IN

_KEYS = (
    "allow", "deny", "danger", "capabilities", "deny_cmd", "default", "defaults", "labels", "operations", "auth",
    "keychain", "env", "limits", "locked",
)  # fmt: skip
_UNITS = {"": 1, "b": 1, "k": 2**10, "kb": 2**10, "m": 2**20, "mb": 2**20, "g": 2**30, "gb": 2**30,
          "ki": 2**10, "mi": 2**20, "gi": 2**30, "kib": 2**10, "mib": 2**20, "gib": 2**30}  # fmt: skip
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_policy(value: object, *, name: str, locate: Locator = nowhere) -> Policy:
    """The policy that a declaration states. Errors: `ConfigFault` with the path and the line."""
    return Policy(layers=(_layer(Reader(value=value, name=f"policy @{name}", locate=locate), name),))


def from_json(value: object) -> Policy:
    """The policy that `Policy.json` wrote. Errors: `ConfigFault`."""
    layers = []
    for layer in Reader(value=value, name="policy").mapping(("layers",)).at("layers").elements("a list of policies"):
        layer.mapping(("name", "policy", "places", "place"))
        name = layer.at("name").string()
        places = {key: _place(text.string()) for key, text in layer.at("places").items()}
        whole = _place(place.string()) if (place := layer.get("place")) else None

        def locate(
            path: tuple[str | int, ...], places: Mapping[str, Place] = places, whole: Place | None = whole
        ) -> Place | None:
            return places.get(".".join(map(str, path))) if path else whole

        layers.append(_layer(Reader(value=layer.at("policy").value, name=f"policy @{name}", locate=locate), name))
    return Policy(layers=tuple(layers))


def _place(text: str) -> Place:
    file, line, column = text.rsplit(":", 2)
    return Place(file=file, line=int(line), column=int(column))


def _layer(reader: Reader, name: str) -> Layer:
    reader.mapping(_KEYS, what='an object such as { deny: ["network"] }, or union(@a, @b)')
    capabilities = reader.get("capabilities")
    sources = [reader, *([capabilities.mapping(("allow", "deny", "danger"))] if capabilities else [])]
    allow = [each for source in sources if (each := _capabilities(source, "allow")) is not None]
    allowed = reader.get("allow")
    opening = [
        *sources,
        *([allowed] if allowed and isinstance(allowed.value, Mapping) else []),
    ]  # `allow: { danger: […] }`
    danger = [each for source in opening if (each := _capabilities(source, "danger")) is not None]
    deny = [entry for source in sources for entry in _capabilities(source, "deny") or ()]
    if commands := reader.get("deny_cmd"):
        deny += [
            e
            for each in commands.elements()
            for e in _entries(each, f"cmd:{each.string().removeprefix('cmd:')}", "deny")
        ]
    defaults = reader.get("defaults")
    if defaults:
        # Signing is not ours: what we do not enforce is refused, never ignored.
        defaults.mapping(("rules", "unlabeled", "taint"))
    rules = defaults.get("rules") if defaults else None
    unlabeled = defaults.get("unlabeled") if defaults else None
    taint = defaults.get("taint") if defaults else None
    keychain = reader.get("keychain")
    if keychain:
        keychain.mapping(("allow", "deny"))
    default = reader.get("default")
    env = reader.get("env")
    stances: dict[str, Literal["trusted", "untrusted"]] = {"trusted": "trusted", "untrusted": "untrusted"}
    answers: dict[str, Literal["allow", "deny"]] = {"allow": "allow", "deny": "deny"}
    locked = reader.get("locked")
    return Layer(
        name=name,
        place=reader.place,
        default=default.one_of(answers) if default else "allow",
        allow=tuple(entry for each in allow for entry in each) if allow else None,
        deny=tuple(deny),
        danger=tuple(entry for each in danger for entry in each) if danger else None,
        labels=tuple(_label_rules(reader)),
        operations={risk: _labels(said) for risk, said in reader.at("operations").items()}
        if reader.get("operations")
        else {},
        rules=tuple(_rules(rules)) if rules else (),
        unlabeled=unlabeled.one_of(stances) if unlabeled else None,
        run_wide=taint.one_of({"session": False, "run": True}) if taint else False,
        keychain_allow=keychain.at("allow").strings() if keychain and keychain.get("allow") else None,
        keychain_deny=keychain.at("deny").strings() if keychain and keychain.get("deny") else (),
        env=_env(env or Reader(value={}, name=""), reader.get("limits")),
        auth={key: parse_auth(said, key) for key, said in reader.at("auth").items()} if reader.get("auth") else {},
        locked=locked.boolean() if locked else False,
        written=reader.value if isinstance(reader.value, Mapping) else {},
        places=dict(_places(reader)),
    )


def _rules(reader: Reader) -> Iterator[str]:
    """The built-in rules that are on: a list of names, or one name."""
    for rule in [reader] if isinstance(reader.value, str) else reader.elements():
        yield rule.one_of({known: known for known in BUILT_IN})


def _places(reader: Reader) -> Iterator[tuple[str, Place]]:
    """Where each entry stands, by its dotted path: only what its place is known for."""
    children = (
        [child for _, child in reader.items()] if isinstance(reader.value, Mapping)
        else list(reader.elements()) if isinstance(reader.value, list | tuple) else []
    )  # fmt: skip
    for child in children:
        if child.locate(child.path) and (place := child.place):
            yield ".".join(map(str, child.path)), place
        yield from _places(child)


def _capabilities(reader: Reader, side: Side) -> tuple[Entry, ...] | None:
    """An `allow`, `deny` or `danger`: `true`, a word, a list of patterns, or a map by capability."""
    said = reader.get(side)
    if said is None:
        return None
    match said.value:
        case bool():
            return tuple(_entries(said, "*", side)) if said.value else ()
        case str():
            return tuple(_entries(said, said.string(), side))
        case list() | tuple():
            return tuple(entry for each in said.elements() for entry in _entries(each, each.string(), side))
        case Mapping():
            listed = [(key, each) for key, each in said.items() if side != "allow" or key != "danger"]
            return tuple(entry for key, each in listed for entry in _by_capability(key, each, side))
    raise said.expected(
        'a list such as ["cmd:git:*", "network"], or an object such as { cmd: ["git:*"], network: true }'
    )


def _by_capability(key: str, said: Reader, side: Side) -> Iterator[Entry]:
    if key.lower() not in ALIASES:
        raise said.unknown(key, ALIASES)
    match said.value:
        case False | None:
            return
        case True | "*":
            yield from _entries(said, key, side)
        case str():
            yield from _entries(said, f"{key}:{said.string()}", side)
        case list() | tuple():
            for each in said.elements():
                yield from _entries(each, f"{key}:{each.string().removeprefix(key + ':')}", side)
        case Mapping() if ALIASES[key.lower()] == "filesystem":
            for mode, paths in said.mapping(("read", "write", "r", "w")).items():
                for each in [paths] if isinstance(paths.value, str | bool) else paths.elements():
                    if each.value is not False:
                        glob = "**" if each.value in (True, "*") else each.string()
                        yield from _entries(each, f"fs:{mode[0]}:{glob}", side)
        case Mapping() if ALIASES[key.lower()] == "network":
            for _, hosts in said.mapping(("domains", "hosts")).items():
                for each in hosts.elements():
                    yield from _entries(each, f"network:{each.string()}", side)
        case Mapping() if ALIASES[key.lower()] == "cmd":
            for program, uses in said.items():
                for each in [uses] if isinstance(uses.value, str | bool) else uses.elements():
                    if each.value is not False:
                        use = "*" if each.value in (True, "*") else each.string()
                        yield from _entries(each, f"cmd:{program}:{use}", side)
        case _:
            raise said.expected("true, false, or a list of strings")


def _entries(reader: Reader, text: str, side: Side) -> Iterator[Entry]:
    try:
        patterns = parse_pattern(text, side)
    except BadPattern as error:
        raise reader.fault(f"is no capability: {error}") from None
    for pattern in patterns:
        yield Entry(pattern=pattern, text=text, place=reader.place)


def _labels(reader: Reader) -> tuple[str, ...]:
    names = reader.names("a list of labels")
    for name in names:
        if name != "*" and not LABEL.match(name):
            raise reader.fault(
                f"holds '{name}', which is no label", hint="labels are words joined by colons, such as net:w"
            )
    return names


def _label_rules(reader: Reader) -> Iterator[LabelRule]:
    rules = reader.get("labels")
    for label, said in rules.items() if rules else ():
        if label != "*" and not LABEL.match(label):
            raise said.fault("is no label", hint="labels are words joined by colons, such as src:mcp")
        said.mapping(("allow", "deny"))
        yield LabelRule(
            label=label,
            allow=_labels(said.at("allow")) if said.get("allow") else None,
            deny=_labels(said.at("deny")) if said.get("deny") else None,
            place=said.place,
        )


def _env(reader: Reader, limits: Reader | None) -> EnvRules:
    reader.mapping(("default", "providers", "tools", "mcps", "net", "limits"))
    providers: dict[str, bool] = {}
    for name, said in reader.at("providers").items() if reader.get("providers") else ():
        if isinstance(said.value, bool):
            providers[name] = said.boolean()
        else:
            allowed = said.mapping(("allowed",)).get("allowed")
            providers[name] = allowed.boolean() if allowed else True
    none, allow, deny = parse_net(reader.at("net"), keys=("allow", "deny")) if reader.get("net") else (False, None, ())
    default = reader.get("default")
    own = parse_limits(reader.at("limits")) if reader.get("limits") else Limits()
    return EnvRules(
        default=default.string() if default else None,
        providers=providers,
        tools=_names(reader.get("tools")),
        mcps=_names(reader.get("mcps")),
        hosts_allow=allow,
        hosts_deny=deny,
        no_network=none,
        limits=least(own, parse_limits(limits)) if limits else own,
        place=reader.place,
    )


def _names(reader: Reader | None) -> Names:
    if reader is None:
        return Names()
    if isinstance(reader.value, list | tuple | str):  # a plain list is what is allowed
        return Names(allow=None if reader.value == "*" else reader.names(), place=reader.place)
    reader.mapping(("allow", "deny"), what="a list of names or { allow, deny }")
    allow, deny = reader.get("allow"), reader.get("deny")
    return Names(
        allow=allow.names() if allow and allow.value != "*" else None,
        deny=deny.names() if deny else (),
        place=reader.place,
    )


def parse_net(
    reader: Reader, *, keys: tuple[str, ...]
) -> tuple[bool, tuple[HostRule, ...] | None, tuple[HostRule, ...]]:
    """`"none"`, `"limited"` or `{ allow, deny }`: whether there is none, the allowed hosts if listed, the denied
    ones.
    """
    if isinstance(reader.value, str):
        if reader.value == "host":
            raise reader.fault(
                'cannot be "host"',
                hint='the fence has no way out to the host: grant hosts with { allow: ["api.example.com"] }',
            )
        choices = {"none": (True, (), ()), "limited": (False, None, ())}
        return reader.one_of(choices)
    reader.mapping(keys, what='"none", "limited" or { allow: [hosts], deny: [hosts] }')
    allow, deny = reader.get("allow"), reader.get("deny")
    return False, _hosts(allow) if allow else None, _hosts(deny, deny=True) if deny else ()


def _hosts(reader: Reader, *, deny: bool = False) -> tuple[HostRule, ...]:
    return tuple(_host(each, deny=deny) for each in reader.elements("a list of hosts"))


def _host(reader: Reader, *, deny: bool) -> HostRule:
    try:
        return replace(parse_host(reader.string("a host name"), deny=deny), place=reader.place)
    except BadPattern as error:
        raise reader.fault(f"is no host: {error}") from None


def parse_limits(reader: Reader) -> Limits:
    """`{ mem: "512m", cpu: 1.5, pids: 100, timeout: "5m" }`."""
    reader.mapping(("mem", "memory", "cpu", "cpus", "pids", "timeout", "time"))

    def said(*names: str) -> Reader | None:
        found = [each for name in names if (each := reader.get(name))]
        if len(found) > 1:
            raise found[1].fault(f"says the same as {found[0]}", hint="keep one of them")
        return found[0] if found else None

    memory, cpus, pids, timeout = said("mem", "memory"), said("cpu", "cpus"), said("pids"), said("timeout", "time")
    return Limits(
        memory_bytes=int(_quantity(memory, {k: float(v) for k, v in _UNITS.items()}, '"512m"', 2**20))
        if memory
        else None,
        cpus=cpus.number("a number of processors such as 1.5", least=0.01) if cpus else None,
        pids=pids.integer("a number of processes", least=1) if pids else None,
        timeout_seconds=_quantity(timeout, _SECONDS, '"30s"', 0.001) if timeout else None,
    )


def _quantity(reader: Reader, units: Mapping[str, float], example: str, least_value: float) -> float:
    if isinstance(reader.value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", reader.value.lower())
        if not match or match[2] not in units:
            raise reader.fault(
                f"cannot be read: '{reader.value}'", hint=f"write a number with a unit, such as {example}"
            )
        amount = float(match[1]) * units[match[2]]
    else:
        amount = reader.number(f"a number, or text such as {example}")
    if amount < least_value:
        raise reader.fault(f"is too small: {reader.value}", hint=f"write a number with a unit, such as {example}")
    return amount


def least(one: Limits, other: Limits) -> Limits:
    """The stricter of both, limit by limit."""

    def smaller(a: float | None, b: float | None) -> float | None:
        return b if a is None else a if b is None else min(a, b)

    memory, pids = smaller(one.memory_bytes, other.memory_bytes), smaller(one.pids, other.pids)
    return Limits(
        memory_bytes=None if memory is None else int(memory), pids=None if pids is None else int(pids),
        cpus=smaller(one.cpus, other.cpus), timeout_seconds=smaller(one.timeout_seconds, other.timeout_seconds),
    )  # fmt: skip


def parse_auth(reader: Reader, name: str) -> AuthDecl:
    """`"VARIABLE"` or `{ from, as }`. Errors: `ConfigFault` for a source that nobody can read."""
    if isinstance(reader.value, str):
        variable, source = reader.string("a name of a variable"), f"keychain:mlld-box-{{projectname}}/{reader.value}"
    else:
        reader.mapping(("from", "as"), what='"VARIABLE" or { from: "env:NAME", as: "VARIABLE" }')
        source = reader.at("from").string('where the secret is: "env:NAME", "keychain:service/account" or "command:…"')
        at = reader.get("as")
        variable = at.string() if at else source.removeprefix("env:") if source.startswith("env:") else name.upper()
        if source == "keychain":
            source = f"keychain:mlld-box-{{projectname}}/{variable}"
    if not re.fullmatch(r"[A-Za-z_]\w*", variable):
        raise reader.fault(
            f"names the variable '{variable}'", hint="a variable is letters, digits and _, such as GITHUB_TOKEN"
        )
    scheme, colon, rest = source.partition(":")
    if scheme not in ("env", "keychain", "command") or not colon or not rest.strip():
        raise reader.fault(
            f"cannot be read from '{scheme}:…', an unsupported auth provider",
            hint='write from: "env:NAME", "keychain:service/account" or "command:…"',
        )
    return AuthDecl(name=name, variable=variable, source=source, place=reader.place)

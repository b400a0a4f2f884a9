"""The configuration of `env @cfg with { … }`: what each key may hold, and what a derived one may change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from interpreter.declarations import Limits, Place, Profile, ToolBinding
from interpreter.environment_mcp import network, parse_files
from interpreter.environment_narrow import Bounds, check_narrower
from interpreter.policy_parse import parse_limits
from interpreter.policy_reader import Locator, Reader, nowhere
from interpreter.profiles import parse_profiles

KEYS = (
    "provider", "image", "agent", "fs", "net", "limits", "tools", "mcps", "auth", "profile", "profiles", "mcpConfig", "name",
)  # fmt: skip
_BINDING = ("mlld", "mcp", "bind", "expose", "optional", "labels", "description", "validate")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The value of `env @cfg`. None = the key is absent."""

    provider: str | None = None
    image: str | None = None
    agent: str | None = None
    bounds: Bounds = field(default_factory=Bounds)
    bindings: tuple[ToolBinding, ...] = ()
    auth: tuple[str, ...] = ()
    profile: str | None = None
    profiles: tuple[Profile, ...] = ()
    mcp_config: object = None  # a value, or the name of a function: the evaluator's
    keep: str | None = None
    place: Place | None = None


def parse_config(value: object, *, locate: Locator = nowhere, name: str = "env config") -> Config:
    """The configuration that a value states. Errors: `ConfigFault` with path and line."""
    reader = Reader(value={} if value is None else value, name=name, locate=locate)
    reader.mapping(KEYS, what="an object")
    get = reader.get
    tools, bindings = _tools(get("tools"))
    fs, net, limits, mcps = get("fs"), get("net"), get("limits"), get("mcps")
    provider, image, agent, keep, profile = (get(key) for key in ("provider", "image", "agent", "name", "profile"))
    auth, profiles = get("auth"), get("profiles")
    if keep and not _is_name(keep.string()):
        raise keep.fault(f"is no name: '{keep.value}'", hint="letters, digits, - and _, at most 40")
    return Config(
        provider=provider.string() if provider else None,
        image=image.string("an image reference") if image else None,
        agent=agent.string("the name of an agent") if agent else None,
        bounds=Bounds(
            tools=tools,
            servers=_servers(mcps),
            network=network(net) if net else None,
            files=parse_files(fs) if fs else None,
            limits=parse_limits(limits) if limits else Limits(),
            labels={binding.exposed: binding.labels for binding in bindings if binding.labels},
        ),
        bindings=bindings,
        auth=auth.names("a name of an auth declaration, or a list of them") if auth else (),
        profile=(profile.string() if profile.value != "" else None) if profile else None,
        profiles=parse_profiles(profiles.value, name=str(profiles), locate=_below(locate, "profiles"))
        if profiles
        else (),
        mcp_config=reader.value.get("mcpConfig") if isinstance(reader.value, Mapping) else None,
        keep=keep.string() if keep else None,
        place=reader.place,
    )


def _below(locate: Locator, key: str) -> Locator:
    return lambda path: locate((key, *path))


def _is_name(text: str) -> bool:
    return text.replace("-", "").replace("_", "").isalnum() and text.isascii() and len(text) <= 40


def _tools(reader: Reader | None) -> tuple[tuple[str, ...] | None, tuple[ToolBinding, ...]]:
    """The names that `tools` allows (None: everything of the parent), and the bindings of a tool collection."""
    if reader is None or reader.value == "*":
        return None, ()
    if isinstance(reader.value, Mapping):
        entries = tuple(reader.items())
        return tuple(name for name, _ in entries), tuple(b for name, each in entries if (b := _binding(name, each)))
    if isinstance(reader.value, str):
        names = tuple(part.strip() for part in reader.string().split(","))
        if "*" in names:
            raise reader.fault('cannot mix "*" with names', hint='write "*" alone, or the names')
        return names, ()
    return tuple(dict.fromkeys(reader.strings('"*", a list of names or a tool collection'))), ()


def _binding(name: str, reader: Reader) -> ToolBinding | None:
    """An entry of a tool collection that stands for a tool of a server; None when it stands for a function."""
    reader.mapping(_BINDING, what='an object such as { mcp: "server:tool" } or { mlld: @function }')
    said = reader.get("mcp")
    if said is None:
        if reader.get("mlld") is None:
            raise reader.fault("must have mlld or mcp", hint='{ mlld: @function } or { mcp: "server:tool" }')
        if check := reader.get("validate"):
            raise check.fault("is for tools of servers", hint="give the function's parameters types")
        return None
    if reader.get("mlld"):
        raise reader.fault("cannot have both mlld and mcp")
    server, colon, tool = said.string().partition(":")
    if not colon or not server or not tool:
        raise said.fault(f"must name a server and a tool, got '{said.value}'", hint='mcp: "github:create_issue"')
    bind, expose, optional = reader.get("bind"), reader.get("expose"), reader.get("optional")
    labels, description, validate = (reader.get(key) for key in ("labels", "description", "validate"))
    exposed = expose.strings("a list of parameters") if expose else None
    freely = optional.strings("a list of parameters") if optional else ()
    bound = bind.mapping().value if bind else {}
    assert isinstance(bound, Mapping)
    if both := [key for key in exposed or () if key in bound]:
        raise reader.fault(f"exposes '{both[0]}', which it binds", hint="a bound parameter is not the caller's to give")
    if extra := [key for key in freely if exposed is None or key not in exposed]:
        raise reader.fault(
            f"says that '{extra[0]}' is optional, which it does not expose", hint=f'expose: ["{extra[0]}"]'
        )
    return ToolBinding(
        exposed=name, server=server, tool=tool, bind=MappingProxyType(dict(bound)), expose=exposed, optional=freely,
        labels=labels.names() if labels else (), description=description.string() if description else None,
        validate=validate.boolean() if validate else False,
    )  # fmt: skip


def _servers(reader: Reader | None) -> tuple[str, ...] | None:
    """The names or specs of servers that `mcps` allows; None when it is absent or `"*"`."""
    if reader is None or reader.value == "*":
        return None
    if isinstance(reader.value, str):
        return (reader.string(),)
    found = []
    for each in reader.elements('"*" or a list of servers'):
        if isinstance(each.value, str):
            found.append(each.string())
            continue
        each.mapping(("module", "command", "args", "npm", "python", "image", "url"), what="a name or a server")
        given = [key for key, _ in each.items() if key != "args"]
        if len(given) != 1:
            raise each.fault("must have exactly one of module, command, npm, python, image or url")
        args = each.get("args")
        found.append(" ".join((each.at(given[0]).string(), *(args.strings() if args else ()))))
    return tuple(found)


def derive(
    parent: Mapping[str, object], changes: Mapping[str, object], *, locate: Locator = nowhere
) -> dict[str, object]:
    """`new @cfg with { … }`, and the `with` of a block: the configuration with changes that only narrow it.

    Errors: `WideningFault` with the difference, `ConfigFault`.
    """
    above = parse_config(parent)
    below = parse_config(changes, locate=locate, name="env with")
    check_narrower(above.bounds, below.bounds, span=Reader(value=changes, name="", locate=locate).where)
    kept = {key: value for key, value in changes.items() if not (value in ("*", None) and key in ("tools", "mcps"))}
    if above.bounds.network and below.bounds.network and not below.bounds.network.none:
        # A list of denied hosts stays denied, and a list of allowed ones stays the limit, unless the child says less.
        kept["net"] = _merged_net(parent["net"], changes["net"])
    for key in ("fs", "limits"):
        old, new = parent.get(key), changes.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            kept[key] = {**old, **new}
    return {**parent, **kept}


def _merged_net(parent: object, child: object) -> object:
    if not isinstance(parent, Mapping):
        return child
    new = child if isinstance(child, Mapping) else {}
    denied = list(dict.fromkeys([*_list(parent.get("deny")), *_list(new.get("deny"))]))
    return {**parent, **new, **({"deny": denied} if denied else {})}


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else []

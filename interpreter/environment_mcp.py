"""The value of `@mcpConfig()`: which servers, started how, with which of their tools."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, get_args
from urllib.parse import urlsplit

from interpreter.declarations import Files, Lifecycle, Limits, McpConfig, Network, PathRule, ServerSpec, SourceKind
from interpreter.environment_authorization import fit_for_credentials, parse_authorization
from interpreter.errors import MlldError, listing
from interpreter.labels import LABEL
from interpreter.names import camel, same_name, snake
from interpreter.policy_parse import parse_limits, parse_net
from interpreter.policy_patterns import nearest
from interpreter.policy_reader import Locator, Reader, nowhere

SOURCES: tuple[SourceKind, ...] = get_args(SourceKind)
_KEYS = ("name", *SOURCES, "args", "tools", "env", "auth", "fs", "net", "limits", "as", "labels", "validate")
_LIFECYCLE = {
    "startupTimeoutMs": "startup_timeout_ms", "idleTimeoutMs": "idle_timeout_ms", "callTimeoutMs": "call_timeout_ms",
    "maxConcurrent": "max_concurrent",
}  # fmt: skip
_MOST_SERVERS = 64
# Names of packages as their registries allow them, with an optional version: nothing that an installer takes for an
# option.
_NPM = re.compile(r"(?:@[a-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*(?:@[\w.^~<>=*-][\w.^~<>=*+-]*)?\Z")
_PYTHON = re.compile(r"[A-Za-z0-9][\w.-]*(?:\[[\w,.-]+\])?(?:(?:[~=!<>]=?|===)[\w.*+!,<>=~-]+)?\Z")
_IMAGE = re.compile(r"[a-z0-9][\w.-]*(?::\d+)?(?:/[\w.-]+)*(?::[\w.-]+)?(?:@sha256:[0-9a-f]{64})?\Z")
_MODULE = re.compile(r"@[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)+(?:@[\w.-]+)?\Z")


class UnknownTool(MlldError):
    """A filter names a tool that its server does not have."""

    code = "unknown-tool"
    exit_code = 3


def parse_mcp_config(value: object, *, locate: Locator = nowhere, name: str = "mcpConfig") -> McpConfig:
    """The servers that a value of `@mcpConfig()` states; null states none. Errors: `ConfigFault` with path and line."""
    reader = Reader(value=value, name=name, locate=locate)
    if value is None:
        return McpConfig(place=reader.place)
    if isinstance(value, str):
        try:
            reader = Reader(value=json.loads(value), name=name, locate=lambda path: locate(()) if not path else None)
        except (ValueError, RecursionError) as error:
            where = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
            raise reader.fault(
                f"is text that is not JSON{where}", hint="return an object: => { servers: [ … ] }"
            ) from None
        if reader.value is None:
            return McpConfig(place=reader.place)
    reader.mapping(("servers", "lifecycle"), what="an object such as { servers: [ … ] }, or null for no servers")
    servers: list[ServerSpec] = []
    if listed := reader.get("servers"):
        for each in listed.elements("a list of servers"):
            if len(servers) == _MOST_SERVERS:
                raise listed.fault(f"has more than {_MOST_SERVERS} servers")
            servers.append(_server(each, servers))
    lifecycle = reader.get("lifecycle")
    return McpConfig(
        servers=tuple(servers), lifecycle=_lifecycle(lifecycle) if lifecycle else Lifecycle(), place=reader.place
    )


def _lifecycle(reader: Reader) -> Lifecycle:
    reader.mapping(_LIFECYCLE)
    return Lifecycle(**{
        field: each.integer("a whole number", least=1)
        for key, field in _LIFECYCLE.items() if (each := reader.get(key))
    })  # fmt: skip


def _server(reader: Reader, before: Sequence[ServerSpec]) -> ServerSpec:
    reader.mapping(_KEYS)
    given = [kind for kind in SOURCES if reader.get(kind)]
    if len(given) != 1:
        said = f"has {listing(given).replace(' or ', ' and ')}" if given else "has none of them"
        raise reader.fault(
            f"must have exactly one of {listing(SOURCES)}, and {said}",
            hint='for example { npm: "@scope/server", tools: "*" }',
        )
    kind = given[0]
    target, args = _target(kind, reader.at(kind), reader.get("args"))
    alias, auth, env, fs, net, limits = (reader.get(key) for key in ("as", "auth", "env", "fs", "net", "limits"))
    labels, validate = reader.get("labels"), reader.get("validate")
    if kind == "url":
        authorization = parse_authorization(auth) if auth else None
        if authorization and not fit_for_credentials(target):
            raise reader.at("url").fault("must be https: with `auth`, anybody on the way could read the credential")
        names = authorization.auth if authorization else ()
    else:
        authorization = None
        names = auth.names("a name of an auth declaration, or a list of them") if auth else ()
    return ServerSpec(
        name=_name(reader, kind, target, args, before),
        source=kind,
        target=target,
        args=args,
        tools=_tools(reader.get("tools")),
        env=_env(env) if env else MappingProxyType({}),
        auth=names,
        authorization=authorization,
        files=parse_files(fs) if fs else Files(),
        network=network(net) if net else Network(),
        limits=parse_limits(limits) if limits else Limits(),
        alias=_alias(alias) if alias else None,
        labels={tool: _labels(each) for tool, each in labels.items()} if labels else {},
        validate=validate.boolean() if validate else False,
        place=reader.place,
    )


def _target(kind: SourceKind, reader: Reader, args: Reader | None) -> tuple[str, tuple[str, ...]]:
    text = reader.string().strip()
    if "\0" in text:
        raise reader.fault("holds a NUL character")
    extra = args.strings("a list of strings") if args else ()
    match kind:
        case "command":
            try:
                words = shlex.split(text)
            except ValueError as error:
                raise reader.fault(f"cannot be split as a shell would: {error}", hint="close the quote") from None
            return words[0], (*words[1:], *extra)
        case "npm" if not _NPM.match(text):
            raise reader.fault(
                f"is no npm package: '{text}'", hint='for example "@scope/name@1.2.3"; arguments go into args'
            )
        case "python" if not _PYTHON.match(text):
            raise reader.fault(
                f"is no Python package: '{text}'", hint='for example "name==1.2.3"; arguments go into args'
            )
        case "image" if not _IMAGE.match(text):
            raise reader.fault(f"is no image reference: '{text}'", hint='for example "ghcr.io/owner/server:1"')
        case "url":
            parts = urlsplit(text)
            if parts.scheme not in ("https", "http") or not parts.hostname:
                raise reader.fault(f"is no http(s) URL: '{text}'")
            if parts.username or parts.password:
                raise reader.fault("holds a password", hint="declare it with auth, and name it in the server's auth")
            if extra:
                raise reader.fault("cannot have args: a remote server is not started")
        case "module" if not (_MODULE.match(text) or text.startswith((".", "/")) or text.endswith((".mld", ".mld.md"))):
            raise reader.fault(
                f"is no module: '{text}'", hint="write @local/name, @author/name, or a path such as ./tools.mld"
            )
    return text, extra


def _name(reader: Reader, kind: SourceKind, target: str, args: tuple[str, ...], before: Sequence[ServerSpec]) -> str:
    taken = {server.name for server in before} | {"agent", "sidecar"}
    if said := reader.get("name"):
        text = said.string()
        name = slug(text)
        if not name:
            raise said.fault(f"has no letter or digit: '{text}'")
        if name in taken:
            raise said.fault(f"is taken: '{name}'", hint="give each server a name of its own")
        return name
    name = slug(_last_part(kind, target, args)) or kind
    number = 1
    while (unique := name if number == 1 else f"{name}-{number}") in taken:
        number += 1
    return unique


def _last_part(kind: SourceKind, target: str, args: tuple[str, ...]) -> str:
    """What a server without a name is called after: the package, the script, the host."""
    if kind == "url":
        return urlsplit(target).hostname or ""
    if kind == "command":
        script = next((each for each in args if re.search(r"\.(?:c|m)?(?:js|ts)$|\.py$", each)), None)
        if not script and "-m" in args[:-1]:
            script = args[args.index("-m") + 1]
        target = script or target
    text = re.split(r"@(?=[\w.^~])", target.lstrip("@"))[0] if kind in ("npm", "module", "image") else target
    return re.sub(
        r"(?:\.mld(?:\.md)?|\.[cm]?[jt]s|\.py)$|:[\w.-]+$|[\[~=!<>].*$", "", text.rstrip("/").rsplit("/", 1)[-1]
    )


def slug(text: str) -> str:
    """The form that names a container and its link: `[a-z0-9-]+`, at most 40 characters."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-")


def _alias(reader: Reader) -> str:
    text = reader.string("a name").removeprefix("@")
    if not re.fullmatch(r"[A-Za-z_][\w/-]*", text):
        raise reader.fault(f"is no name: '{text}'", hint="letters, digits and _, such as github")
    return camel(text.replace("/", "_"))


def _tools(reader: Reader | None) -> tuple[str, ...] | Literal["*"]:
    if reader is None or reader.value == "*":
        return "*"
    if isinstance(reader.value, str):
        raise reader.fault(
            f"must be \"*\" or a list of strings, got '{reader.value}'", hint=f'write ["{reader.value}"]'
        )
    return tuple(dict.fromkeys(reader.strings('"*" or a list of strings')))


def _env(reader: Reader) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for name, each in reader.mapping().items():
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise each.fault("is no name of a variable")
        value = each.value
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise each.expected("a string")
        if "\0" in str(value):
            raise each.fault("holds a NUL character")
        found[name] = str(value)
    return MappingProxyType(found)


def _labels(reader: Reader) -> tuple[str, ...]:
    names = reader.names("a list of labels")
    for name in names:
        if not LABEL.match(name):
            raise reader.fault(f"holds '{name}', which is no label", hint="words joined by colons, such as net:w")
    return names


def network(reader: Reader) -> Network:
    """`net`: `"none"`, `"limited"` or `{ allow, deny }`."""
    none, allow, deny = parse_net(reader, keys=("allow", "deny"))
    return Network(none=none, allow=allow, deny=deny)


def parse_files(reader: Reader) -> Files:
    """`fs`: `{ read: [paths], write: [paths] }`; `.` is the workspace."""
    reader.mapping(("read", "write"), what='an object such as { read: ["."], write: ["out"] }')
    read, write = reader.get("read"), reader.get("write")
    return Files(read=_paths(read) if read else (), write=_paths(write) if write else ())


def _paths(reader: Reader) -> tuple[PathRule, ...]:
    found: list[PathRule] = []
    for each in [reader] if isinstance(reader.value, str) else reader.elements("a list of paths"):
        text = each.string("a path").strip()
        if ":" in text:
            raise each.fault(f"cannot be '{text}'", hint="name the path alone: it is seen under the same name inside")
        if "\0" in text or ".." in text.split("/"):
            raise each.fault(f"cannot be '{text}'", hint="name a path inside the workspace, or an absolute one")
        if "*" in text.rstrip("*").rstrip("/") or (text.endswith("*") and not text.endswith("/**") and text != "**"):
            raise each.fault(f"cannot be a pattern: '{text}'", hint="name a directory: all below it is meant")
        clean = re.sub(r"/{2,}", "/", text.removesuffix("**")).removeprefix("./").rstrip("/")
        found.append(PathRule(path=clean or ("/" if text.startswith("/") else "."), place=each.place))
    return tuple(dict.fromkeys(found))


def match_tools(wanted: Iterable[str] | Literal["*"], offered: Iterable[str], *, server: str = "") -> tuple[str, ...]:
    """The offered names that a filter lets through, in the server's order: one function for list and call.

    A filter may spell a name as the server does, in camelCase or in snake_case. Errors: `UnknownTool` listing what
    there is."""
    names = tuple(offered)
    if wanted == "*":
        return names
    chosen: set[str] = set()
    for want in wanted:
        exact = [name for name in names if name == want]
        found = exact or [name for name in names if same_name(want, name)]
        if not found:
            close = nearest(snake(want), [snake(name) for name in names])
            like = next((name for name in names if snake(name) == close), None)
            of = f"server '{server}'" if server else "the server"
            raise UnknownTool(
                f"{of} has no tool '{want}': it has {listing(names, 40) if names else 'none'}",
                hint=f"did you mean '{like}'?" if like else "correct the tools of that server in @mcpConfig",
            )
        chosen |= set(found)
    return tuple(name for name in names if name in chosen)

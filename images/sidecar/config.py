"""The sidecar's configuration: one JSON object, read once, refused with the exact path of what is wrong.

The runner writes it on standard input, compose mounts it as a file. Both are made from a checked plan; it is checked
again here, because a forgotten or misspelt field must deny, and because this process is the fence.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast, get_args

from msgspec import Struct, structs

from images.sidecar import remembered
from images.sidecar.addresses import Network
from images.sidecar.reading import ConfigError, Reader
from images.sidecar.rules import BadHost, EgressRules, HostRule, parse_host
from images.sidecar.seams import EndpointSpec, Grant, IdentityProvider, Lifecycle, Limits, OAuth, ServerSpec
from images.sidecar.trace import RunTrace
from images.sidecar.trace import parse as parse_trace

LONGEST_SECRET = 64 << 10
# Where a credential may be sent: nobody on the way can read it.
_SECRET_ENOUGH = ("https://", "http://127.0.0.1:", "http://localhost:")


class ToolShape(Struct, frozen=True, kw_only=True):
    """How one tool of a collection is shown: bound parameters vanish, `expose` and `optional` reshape the rest."""

    bind: Mapping[str, Any] = {}
    expose: tuple[str, ...] | None = None
    optional: tuple[str, ...] = ()
    description: str | None = None


class ServerRules(Struct, frozen=True, kw_only=True):
    """What of one server exists for the agent, in which shape, and the labels of its tools."""

    tools: tuple[str, ...] | Literal["*"] = "*"
    only: tuple[str, ...] | Literal["*"] = "*"
    withheld: tuple[str, ...] = ()
    shapes: Mapping[str, ToolShape] = {}
    labels: Mapping[str, tuple[str, ...]] = {}
    validate: tuple[str, ...] | Literal["*"] = ()
    """Tools whose arguments are held against their schemas."""
    pins: Mapping[str, Any] | None = None
    """What the lock holds of each tool; None: the server is not locked."""


class ModuleConfig(Struct, frozen=True, kw_only=True):
    """The environment module whose guards and policy decide here, as text: nothing of it is read from a disk."""

    entry: str
    files: Mapping[str, str]
    name: str
    profile: str | None
    policy: Mapping[str, Any]


class SidecarConfig(Struct, frozen=True, kw_only=True):
    """Everything the sidecar knows."""

    run: str
    token: str
    agent_link: str
    servers: tuple[ServerSpec, ...] = ()
    rules: Mapping[str, ServerRules] = {}
    lifecycle: Lifecycle = Lifecycle()
    egress: Mapping[str, EgressRules] = {}
    resolver: tuple[str, int] | None = None
    host_addresses: tuple[Network, ...] = ()
    hosts: tuple[str, ...] = ()
    module: ModuleConfig | None = None
    trace: RunTrace | None = None
    """None: nobody keeps a trace of this run."""
    tell_pins: bool = False
    """Whether the record gets what a lock is made of."""
    limits: Limits = Limits()
    ca_bundle: str = ""
    """Certificates (PEM) of authorities that remote servers may have beside those that the image trusts."""

    @property
    def links(self) -> dict[str, str]:
        """The directory of each member that has one, by the member's name."""
        return {"agent": self.agent_link} | {s.name: s.link for s in self.servers if s.link is not None}

    @property
    def endpoint(self) -> EndpointSpec:
        """What the endpoint needs of it."""
        spec = EndpointSpec(
            servers=self.servers, token=self.token, lifecycle=self.lifecycle, limits=self.limits, trace=self.trace
        )
        return structs.replace(spec, hosts=self.hosts) if self.hosts else spec

    def secrets(self) -> frozenset[str]:
        """Values that must never be written anywhere."""
        headers = {value for server in self.servers for value in server.headers.values()}
        tokens = {value for server in self.servers if server.oauth for value in server.oauth.secrets()}
        return frozenset({self.token, *tokens, *headers, *(value.partition(" ")[2] for value in headers)})


def parse(text: str | bytes, *, secrets: Path | None = None) -> SidecarConfig:
    """The configuration in `text`, or a ConfigError that names the path. `secrets`: the directory with the files of those
    secrets that it only names."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"config is not JSON: {error}") from None
    root = Reader(value, "config")
    if secrets is not None:
        for server in root.get("servers").optional_items():
            for key in ("headers", "oauth"):
                if server.get(key).given:
                    of = server.get(key).members()
                    server.value[key] = {name: _with_secrets(item, secrets) for name, item in of}
    root.keys(
        "version",
        "run",
        "token",
        "agent",
        "servers",
        "lifecycle",
        "egress",
        "resolver",
        "hostAddresses",
        "hosts",
        "caBundle",
        "module",
        "tellPins",
        "trace",
        "limits",
    )
    if root.get("version").integer() != 1:
        raise root.get("version").error("must be 1: the runner and the sidecar image are of different releases")
    agent = root.get("agent")
    agent.keys("link")
    servers = tuple(_server(item) for item in root.get("servers").items())
    rules = tuple(_server_rules(item) for item in root.get("servers").items())
    names = [server.name for server in servers]
    for index, name in enumerate(names):
        if name == "agent" or name in names[:index]:
            raise root.get("servers").at(index).get("name").error(f"must be unique, and {name!r} is taken")
    members = {"agent", *names}
    egress = {}
    if (table := root.get("egress")).given:
        for name, item in table.members():
            if name not in members:
                raise item.error(f"must be named after a member ({', '.join(sorted(members))})")
            egress[name] = _egress(item)
    return SidecarConfig(
        run=root.get("run").string(),
        token=root.get("token").string(at_least=16),
        agent_link=agent.get("link").path_like(),
        servers=servers,
        rules=MappingProxyType(dict(zip(names, rules, strict=True))),
        lifecycle=_lifecycle(root.get("lifecycle")),
        egress=MappingProxyType(egress),
        resolver=_resolver(root.get("resolver")),
        host_addresses=tuple(_network(item) for item in root.get("hostAddresses").optional_items()),
        hosts=tuple(item.string() for item in root.get("hosts").optional_items()),
        module=_module(root.get("module")),
        trace=_trace(root.get("trace")),
        tell_pins=root.get("tellPins").boolean(default=False),
        limits=_limits(root.get("limits")),
        ca_bundle=root.get("caBundle").string() if root.get("caBundle").given else "",
    )


def _with_secrets(reader: Reader, folder: Path) -> Any:
    """The value with the text of a file in each place that names a secret."""
    if not isinstance(reader.value, dict):
        return reader.value
    if "secret" not in reader.value:
        return {name: _with_secrets(item, folder) for name, item in reader.members()}
    reader.keys("secret", "before")
    path = folder / reader.get("secret").name()
    try:
        text = path.read_bytes()[: LONGEST_SECRET + 1].decode()
    except (OSError, UnicodeDecodeError) as error:
        told = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise reader.error(f"cannot be read from {path}: {told} (the sidecar runs as uid {os.getuid()})") from None
    secret = text.removesuffix("\n").removesuffix("\r")
    if not secret or len(text) > LONGEST_SECRET:
        raise reader.error(f"must have 1 to {LONGEST_SECRET} bytes in {path}")
    before = reader.get("before")
    return (before.string() if before.given else "") + secret


def _server(reader: Reader) -> ServerSpec:
    reader.keys(
        "name", "link", "transport", "url", "headers", "oauth",
        "tools", "only", "withheld", "as", "bind", "labels", "validate", "pins", "remembered",
    )  # fmt: skip
    link, url, prefix, oauth = (reader.get(key) for key in ("link", "url", "as", "oauth"))
    transport = reader.get("transport").one_of("stdio", "http", "sse", default="stdio")
    if transport == "stdio" and not (link.given and not url.given):
        raise reader.error("must have `link` and no `url`, because its transport is stdio")
    if transport != "stdio" and not url.given:
        raise reader.error(f"must have `url`, because its transport is {transport}")
    if url.given and (oauth.given or reader.get("headers").value) and not url.string().startswith(_SECRET_ENOUGH):
        raise url.error("must be https, because a credential is sent there")
    return ServerSpec(
        name=reader.get("name").name(),
        link=link.path_like() if link.given else None,
        transport=cast(Literal["stdio", "http", "sse"], transport),
        url=url.string() if url.given else None,
        headers=_headers(reader.get("headers")),
        oauth=_oauth(oauth, url) if oauth.given else None,
        remembered=remembered.read(reader.get("remembered")),
        prefix=prefix.name() if prefix.given else None,
    )


def _headers(reader: Reader) -> Mapping[str, str]:
    for _, item in reader.optional_members():
        # A line end in a secret would write headers of its own.
        if any(not " " <= character <= "\xff" for character in item.string(at_least=0)):
            raise item.error("must be one line of a header")
    return reader.string_map()


def _oauth(reader: Reader, url: Reader) -> OAuth:
    texts = ("clientId", "clientSecret", "privateKey", "clientMetadata", "assertion")
    reader.keys("grant", "issuer", "algorithm", "scopes", "provider", "credential", *texts)
    if not url.given:
        raise reader.error("must belong to a server with `url`")
    client_id, client_secret, private_key, client_metadata, assertion = (
        reader.get(key).string() if reader.get(key).given else "" for key in texts
    )
    grant = reader.get("grant")
    grant.string()  # there is no default
    issuer, provider, scopes, kept = (reader.get(key) for key in ("issuer", "provider", "scopes", "credential"))
    return OAuth(
        grant=cast(Grant, grant.one_of(*get_args(Grant), default="")),
        issuer=issuer.string() if issuer.given else None,
        client_id=client_id,
        client_secret=client_secret,
        private_key=private_key,
        algorithm=reader.get("algorithm").string() if reader.get("algorithm").given else "ES256",
        client_metadata=client_metadata,
        scopes=scopes.strings() if scopes.given else None,
        assertion=assertion,
        provider=_provider(provider) if provider.given else None,
        credential=MappingProxyType({name: item.value for name, item in kept.members()}) if kept.given else None,
    )


def _provider(reader: Reader) -> IdentityProvider:
    reader.keys("tokenEndpoint", "clientId", "clientSecret", "idToken")
    secret = reader.get("clientSecret")
    return IdentityProvider(
        token_endpoint=reader.get("tokenEndpoint").string(),
        client_id=reader.get("clientId").string(),
        client_secret=secret.string() if secret.given else "",
        id_token=reader.get("idToken").string(),
    )


def _server_rules(reader: Reader) -> ServerRules:
    tools, only, validate, pins = (reader.get(key) for key in ("tools", "only", "validate", "pins"))
    return ServerRules(
        tools="*" if tools.value == "*" else tools.strings(),
        only=only.strings() if only.given and only.value != "*" else "*",
        withheld=reader.get("withheld").strings() if reader.get("withheld").given else (),
        shapes=MappingProxyType({name: _shape(item) for name, item in reader.get("bind").optional_members()}),
        labels=MappingProxyType({name: item.strings() for name, item in reader.get("labels").optional_members()}),
        validate="*" if validate.value == "*" else validate.strings() if validate.given else (),
        pins=MappingProxyType({name: item.value for name, item in pins.members()}) if pins.given else None,
    )


def _shape(reader: Reader) -> ToolShape:
    reader.keys("bind", "expose", "optional", "description")
    expose, description = reader.get("expose"), reader.get("description")
    return ToolShape(
        bind=MappingProxyType({name: item.value for name, item in reader.get("bind").optional_members()}),
        expose=expose.strings() if expose.given else None,
        optional=reader.get("optional").strings() if reader.get("optional").given else (),
        description=description.string() if description.given else None,
    )


def _lifecycle(reader: Reader) -> Lifecycle:
    if not reader.given:
        return Lifecycle()
    reader.keys("startupTimeoutMs", "idleTimeoutMs", "callTimeoutMs", "maxConcurrent")
    default = Lifecycle()
    return Lifecycle(
        startup_timeout=reader.get("startupTimeoutMs").seconds(default.startup_timeout),
        idle_timeout=reader.get("idleTimeoutMs").seconds(default.idle_timeout),
        call_timeout=reader.get("callTimeoutMs").seconds(default.call_timeout),
        max_concurrent=reader.get("maxConcurrent").integer(at_least=1, default=default.max_concurrent),
    )


def _egress(reader: Reader) -> EgressRules:
    reader.keys("allow", "deny", "public")
    return EgressRules(
        allow=tuple(_rule(item, HostRule.allow) for item in reader.get("allow").optional_items()),
        deny=tuple(_rule(item, HostRule.deny) for item in reader.get("deny").optional_items()),
        public=reader.get("public").boolean(default=False),
    )


def _rule(reader: Reader, make: Any) -> HostRule:
    reader.keys("host", "ports", "source")
    ports = [item.integer(at_least=1, at_most=65_535) for item in reader.get("ports").optional_items()]
    source = reader.get("source").string() if reader.get("source").given else None
    try:
        return cast(HostRule, make(reader.get("host").string(), ports=ports, source=source))
    except BadHost as error:
        raise reader.get("host").error(f"is refused: {error}") from None


def _resolver(reader: Reader) -> tuple[str, int] | None:
    if not reader.given:
        return None
    host, _, port = reader.string().rpartition(":")
    try:
        address = parse_host(host)
        if isinstance(address, str) or not (port.isdecimal() and 0 < int(port) < 65_536):
            raise BadHost
    except BadHost:
        raise reader.error("must be ADDRESS:PORT of a DNS server, as in '192.0.2.53:53'") from None
    return str(address), int(port)


def _network(reader: Reader) -> Network:
    try:
        return ip_network(reader.string())
    except ValueError as error:
        raise reader.error(f"must be an address or a network: {error}") from None


def _module(reader: Reader) -> ModuleConfig | None:
    if not reader.given:
        return None
    reader.keys("entry", "files", "name", "profile", "policy")
    profile = reader.get("profile")
    module = ModuleConfig(
        entry=reader.get("entry").string(),
        files=reader.get("files").string_map(),
        name=reader.get("name").string(),
        profile=profile.string() if profile.given else None,
        policy=MappingProxyType({name: item.value for name, item in reader.get("policy").optional_members()}),
    )
    if module.entry not in module.files:
        raise reader.get("entry").error(f"must be one of the files, and {module.entry!r} is not")
    return module


def _trace(reader: Reader) -> RunTrace | None:
    if not reader.given:
        return None
    reader.keys("parent", "state", "spans")
    state = reader.get("state")
    trace = parse_trace(reader.get("parent").string(), state.string() if state.given else "")
    if trace is None:
        raise reader.get("parent").error("must be a W3C traceparent: 00-<32 digits>-<16 digits>-<2 digits>")
    return RunTrace(trace, known=True, spans=reader.get("spans").boolean(default=False))


def _limits(reader: Reader) -> Limits:
    if not reader.given:
        return Limits()
    reader.keys("resultBytes", "bodyBytes")
    default = Limits()
    return Limits(
        result_bytes=reader.get("resultBytes").integer(at_least=1024, default=default.result_bytes),
        body_bytes=reader.get("bodyBytes").integer(at_least=1024, default=default.body_bytes),
    )

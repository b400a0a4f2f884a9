"""What an environment module declares, as frozen data.

This is the seam between the language and the runner: the interpreter fills an `EnvironmentSpec`, the planner turns it
into containers. Nothing here acts, reads a clock or touches a file. Every default is the strictest value, so that a
forgotten field denies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from interpreter.source import Span

EMPTY: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, order=True)
class Place:
    """Where in the source something was said: the line that a plan prints beside each grant."""

    file: str  # relative to the module's root where it lies inside, else as given
    line: int  # 1-based
    column: int  # 1-based

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


def place_of(where: Span | Place | None) -> Place | None:
    """The place of a stretch of source: what is left of it once the text stays behind."""
    if isinstance(where, Span):
        line, column = where.source.position(where.start)
        return Place(file=where.source.name, line=line, column=column)
    return where


@dataclass(frozen=True, kw_only=True)
class CommandNeed:
    """One command, with what is said about its use; empty tuples mean "any"."""

    name: str
    methods: tuple[str, ...] = ()
    subcommands: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Package:
    """One package of an ecosystem, `specifier` as its own installer spells it (`^4`, `>=2.28`), "" for any."""

    name: str
    specifier: str = ""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Capabilities in normal form (aliases resolved): what must be present, or what a profile requires permitted."""

    sh: bool = False
    network: bool = False
    filesystem: bool = False
    any_command: bool = False  # `cmd: "*"`
    commands: tuple[CommandNeed, ...] = ()
    # keys: node, python, ruby, go, rust
    packages: Mapping[str, tuple[Package, ...]] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A declared profile: what must be permitted for it to be chosen."""

    name: str
    requires: Needs = Needs()
    description: str = ""
    place: Place | None = None


@dataclass(frozen=True, kw_only=True)
class Denial:
    """A requirement which the policy does not permit, and the rule that says so."""

    requirement: str  # "network", "sh", "cmd:git"
    rule: str  # "policy @p: deny network (index.mld:3:1)"


@dataclass(frozen=True, kw_only=True)
class ProfileChoice:
    """The profile in force and why it was chosen."""

    profile: Profile
    reason: Literal["first permitted", "asked for", "last declared: none permitted"]
    denied: Mapping[str, tuple[Denial, ...]] = field(default_factory=lambda: MappingProxyType({}))  # by profile name

    @property
    def granted(self) -> frozenset[str]:
        """Requirements of the profile that policy permits: an explicit profile grants nothing by itself."""
        refused = {denial.requirement for denial in self.denied.get(self.profile.name, ())}
        requires = self.profile.requires
        wanted = {name for name in ("sh", "network", "filesystem") if getattr(requires, name)}
        wanted |= {f"cmd:{command.name}" for command in requires.commands} | (
            {"cmd:*"} if requires.any_command else set()
        )
        return frozenset(wanted - refused)


@dataclass(frozen=True, kw_only=True)
class HostRule:
    """A host of the network: exact, or `*.example.com` for every name below it."""

    host: str
    ports: tuple[int, ...] = (443, 80)
    place: Place | None = None


@dataclass(frozen=True, kw_only=True)
class Network:
    """What was said about the network. `allow=None` means that no list was given: public addresses, if network is
    granted.
    """

    none: bool = False  # `net: "none"`
    allow: tuple[HostRule, ...] | None = None
    deny: tuple[HostRule, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PathRule:
    """A path of the workspace (relative) or of the host (absolute)."""

    path: str
    place: Place | None = None


@dataclass(frozen=True, kw_only=True)
class Files:
    """Paths that were asked for; the workspace itself is `.`."""

    read: tuple[PathRule, ...] = ()
    write: tuple[PathRule, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Resource limits; None = the runner's default, which is finite."""

    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = None
    timeout_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class ToolBinding:
    """One entry of a tool collection over a server's tool (semantics §10)."""

    exposed: str  # the name under which the agent sees it
    server: str
    tool: str
    bind: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    expose: tuple[str, ...] | None = None
    optional: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    description: str | None = None
    validate: bool = False  # hold the arguments against the schema before they leave


SourceKind = Literal["module", "command", "npm", "python", "image", "url"]


Grant = Literal["bearer", "authorization_code", "client_credentials", "jwt_bearer", "identity_assertion"]


@dataclass(frozen=True, kw_only=True)
class IdentityProvider:
    """An enterprise's own authorization server. `client_secret` and `id_token` name auth declarations."""

    token_endpoint: str
    client_id: str
    client_secret: str | None = None
    id_token: str


@dataclass(frozen=True, kw_only=True)
class Authorization:
    """How a remote server is told who asks: a bearer, or tokens by an OAuth grant. Secrets by their names."""

    grant: Grant
    bearer: str | None = None  # with the grant `bearer` only
    issuer: str | None = None  # the only authorization server that secrets may go to
    client_id: str | None = None
    client_secret: str | None = None
    private_key: str | None = None  # PEM, signs with `algorithm`
    algorithm: str = "ES256"
    client_metadata: str | None = None  # URL of a client ID metadata document
    scopes: tuple[str, ...] | None = None  # the only ones that may be asked for
    assertion: str | None = None
    provider: IdentityProvider | None = None

    @property
    def auth(self) -> tuple[str, ...]:
        """Names of the auth declarations that it takes its secrets from."""
        provider = (self.provider.client_secret, self.provider.id_token) if self.provider else ()
        named = (self.bearer, self.client_secret, self.private_key, self.assertion, *provider)
        return tuple(dict.fromkeys(name for name in named if name))

    @property
    def hosts(self) -> tuple[str, ...]:
        """URLs that it names: whoever declares them wants them reached."""
        return tuple(url for url in (self.issuer, self.provider.token_endpoint if self.provider else None) if url)


@dataclass(frozen=True, kw_only=True)
class ServerSpec:
    """One entry of `@mcpConfig().servers`, in normal form."""

    name: str  # [a-z0-9-]+, unique in the run; also names its container and its link
    source: SourceKind
    target: str  # module reference, program, package (with version), image reference or URL
    args: tuple[str, ...] = ()
    tools: tuple[str, ...] | Literal["*"] = "*"
    env: Mapping[str, str] = field(default_factory=lambda: EMPTY)  # not secret: these are visible in the plan
    auth: tuple[str, ...] = ()  # names of auth declarations
    authorization: Authorization | None = None  # of a remote server
    files: Files = Files()
    network: Network = Network()
    limits: Limits = Limits()
    alias: str | None = None  # `as`
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))  # by tool name
    validate: bool = False  # of all its tools: hold the arguments against the schema before they leave
    place: Place | None = None


@dataclass(frozen=True, kw_only=True)
class Lifecycle:
    """How long servers may take; milliseconds, as in the language."""

    startup_timeout_ms: int = 10_000
    idle_timeout_ms: int = 60_000
    call_timeout_ms: int = 60_000
    max_concurrent: int = 8


@dataclass(frozen=True, kw_only=True)
class McpConfig:
    """The value of `@mcpConfig()`. No servers is a lawful answer and is said in the plan."""

    servers: tuple[ServerSpec, ...] = ()
    lifecycle: Lifecycle = Lifecycle()
    bindings: tuple[ToolBinding, ...] = ()
    place: Place | None = None


@dataclass(frozen=True, kw_only=True)
class AuthDecl:
    """A secret by name: where it comes from and under which variable its user gets it. Never the value."""

    name: str
    variable: str  # `as`
    source: str  # "env:NAME", "keychain:svc/acct", "command:…"
    place: Place | None = None


@dataclass(frozen=True, kw_only=True)
class ModuleSource:
    """The text of a module: travels into the sidecar, where its guards decide."""

    name: str
    entry: str  # key of `files`
    files: Mapping[str, str]
    # Its directory on this machine: where `module: "./x"` of a server is looked for. Never told to the sidecar.
    root: str | None = None


@dataclass(frozen=True, kw_only=True)
class EnvironmentSpec:
    """Everything the planner needs to know about one environment, already narrowed by the composed policy."""

    name: str
    provider: Literal["docker", "local"] = "docker"
    module: ModuleSource | None = None
    profile: ProfileChoice | None = None
    grants: Mapping[str, Place | None] = field(
        default_factory=lambda: MappingProxyType({})
    )  # network, filesystem, sh → line
    needs: Needs = Needs()
    image: str | None = None
    agent: str | None = None  # key of the adapter table; None = the module's @spawn brings its own command
    files: Files = Files()
    network: Network = Network()
    limits: Limits = Limits()
    tools: tuple[str, ...] | Literal["*"] = "*"
    tools_denied: tuple[str, ...] = ()  # by policy, from whatever `tools` lets through
    servers_allowed: tuple[str, ...] | Literal["*"] = "*"  # `mcps`
    mcp: McpConfig = McpConfig()
    auth: Mapping[str, AuthDecl] = field(default_factory=lambda: MappingProxyType({}))
    # Names of the auth declarations that the agent's own commands may use (`using auth:x`).
    agent_auth: tuple[str, ...] = ()
    # The composed policy in the language's own normal form (JSON-able): decides in the sidecar.
    policy: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    keep: str | None = None  # `name:` — the sandbox outlives the block
    warnings: tuple[str, ...] = ()
    place: Place | None = None

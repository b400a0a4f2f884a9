"""The plan of a run: frozen data which says every container, link, mount, host and tool before anything starts.

    SandboxPlan
    ├── containers   Container(member, image, argv, mounts, tmpfs, Hardening, Limits)   one per seat, hardened alike
    ├── links        Link(member, sockets)        a tmpfs volume that the member and the sidecar mount, nobody else
    ├── egress       Egress(member, allow, deny)  who may reach which host; an absent member reaches nothing
    ├── servers      Server(name, tools, …)       what the endpoint serves, and which tools are hidden
    ├── guards       Guards(module, digest)       by reference: the text travels beside the plan
    └── profile      ProfileReason                what was chosen, why, and what policy refused

A grant carries the `Place` of the source line that caused it. Every default is the strictest value, so that a forgotten
field denies. No secret value can be put in: a plan knows secrets by name only. The planner makes plans, the
invariants judge them, backends apply them, renderers show them. Nothing here acts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec

from interpreter.declarations import Authorization, Place

PLAN_VERSION = 1
AGENT = "agent"
SIDECAR = "sidecar"
WORKSPACE = "/workspace"
LINK = "/.mlld/link"  # a member's own end of its link
LINKS = "/.mlld/links"  # the sidecar's ends, one directory per member
BIN = "/.mlld/bin"  # the bridge, on a read-only volume which all runs share
BRIDGE = f"{BIN}/bridge"
MIB = 1 << 20

Role = Literal["agent", "sidecar", "server"]
SocketName = Literal["mcp.sock", "egress.sock", "stdio.sock"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one container may use. All finite: a run cannot take the machine with it."""

    memory_bytes: int = 512 * MIB  # swap included
    cpus: float = 1.0
    pids: int = 128
    open_files: int = 1024
    shm_bytes: int = 16 * MIB


@dataclass(frozen=True, kw_only=True)
class Hardening:
    """The promises that every container keeps. `invariants` refuses a plan in which one of these is loosened."""

    user: str = "1000:1000"
    read_only_root: bool = True
    capabilities: tuple[str, ...] = ()  # added back after dropping all
    no_new_privileges: bool = True
    privileged: bool = False
    # A PID 1 that reaps and ends on SIGTERM at once. Where the bridge is the command it is one itself, and as PID 1
    # no program of the same user can kill it.
    init: Literal["engine", "bridge", "none"] = "engine"
    seccomp: Literal["default-deny", "unconfined"] = "default-deny"
    host_namespaces: tuple[str, ...] = ()  # pid, ipc, uts, user, cgroup, network
    devices: tuple[str, ...] = ()
    published_ports: tuple[str, ...] = ()
    restart: Literal["no", "always", "on-failure", "unless-stopped"] = "no"
    runtime: str = ""  # "" = the engine's own; `runsc` for another layer


@dataclass(frozen=True, kw_only=True)
class Mount:
    """One thing of the outside that a container sees.

    `bind`: a path of the host. `link`: the volume of the link of member `source`. `asset`: a named volume that
    all runs share, never writable. `mask`: an empty thing over a path of the image or of a bind that must not be seen.
    """

    kind: Literal["bind", "link", "asset", "mask"]
    source: str = ""
    target: str
    read_only: bool = True
    directory: bool = False  # for `mask`: whether the target is a directory
    made: bool = False  # the target is not there yet on the host: the engine makes it, removal takes it away again
    why: str = ""
    place: Place | None = None


@dataclass(frozen=True, kw_only=True)
class Tmpfs:
    """A file system in memory, of limited size, that ends with its container. `nosuid` and `nodev` always."""

    target: str
    size_bytes: int = 64 * MIB
    mode: str = "0700"
    executable: bool = False


@dataclass(frozen=True, kw_only=True)
class Container:
    """One seat of the run: the agent, the sidecar, or a server."""

    member: str
    role: Role
    image: str  # by digest, or under a tag that is named by its content
    argv: tuple[str, ...]  # the whole command: an image's entrypoint is never used
    env: Mapping[str, str] = field(default_factory=dict)  # not secret
    secrets: tuple[str, ...] = ()  # names in `SandboxPlan.secrets`; values come by the attached stream
    cwd: str = "/"
    network: Literal["none", "egress"] = "none"
    mounts: tuple[Mount, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    hardening: Hardening = Hardening()
    limits: Limits = Limits()


@dataclass(frozen=True, kw_only=True)
class Link:
    """A directory of sockets between a member and the sidecar, which makes them all; the member only connects."""

    member: str
    sockets: tuple[SocketName, ...]
    size_bytes: int = MIB


@dataclass(frozen=True, kw_only=True)
class Host:
    """A host that is granted or refused: exact, or `*.example.com` for every name below it."""

    host: str
    ports: tuple[int, ...] = (443, 80)
    place: Place | None = None


@dataclass(frozen=True, kw_only=True)
class Egress:
    """What one member may reach through the gate. `public`: any public address, never a private one."""

    member: str
    allow: tuple[Host, ...] = ()
    deny: tuple[Host, ...] = ()
    public: bool = False
    place: Place | None = None


@dataclass(frozen=True, kw_only=True)
class Tool:
    """What a tool collection says about one tool of a server: its other name, bound parameters, labels."""

    tool: str
    exposed: str
    bind: Mapping[str, Any] = field(default_factory=dict)
    expose: tuple[str, ...] | None = None
    optional: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    description: str | None = None
    validate: bool = False


@dataclass(frozen=True, kw_only=True)
class Narrowed:
    """What a rule of the policy takes from an agent that has seen data with a label."""

    after: str  # the label
    tools: tuple[str, ...] = ()  # empty: everything of the server
    but: tuple[str, ...] = ()  # what of everything stays
    rule: str
    place: Place | None = None


@dataclass(frozen=True, kw_only=True)
class Process:
    """How a server is started where there are no containers."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)  # not secret
    cwd: str | None = None


@dataclass(frozen=True, kw_only=True)
class Server:
    """One MCP server as the endpoint serves it. Without a container it is a remote one that the sidecar reaches."""

    name: str
    source: str  # "npm @modelcontextprotocol/server-everything", for people
    transport: Literal["stdio", "http", "sse"] = "stdio"
    url: str | None = None
    authorization: Authorization | None = None  # of a remote one; secrets by name
    tools: tuple[str, ...] | Literal["*"] = ()
    # What the environment's own `tools` and the policy leave of them; unlike `tools` they may name what no server has.
    only: tuple[str, ...] | Literal["*"] = "*"
    withheld: tuple[str, ...] = ()
    alias: str | None = None
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    bindings: tuple[Tool, ...] = ()
    validate: bool = False  # the arguments of all its tools are held against their schemas
    narrowed: tuple[Narrowed, ...] = ()
    process: Process | None = None  # with the provider `local` only
    place: Place | None = None


@dataclass(frozen=True, kw_only=True)
class Lifecycle:
    """How long servers may take, in milliseconds."""

    startup_timeout_ms: int = 10_000
    idle_timeout_ms: int = 60_000
    call_timeout_ms: int = 60_000
    max_concurrent: int = 8


@dataclass(frozen=True, kw_only=True)
class Guards:
    """The module whose guards and policy decide in the sidecar: by name and by the digest of its text."""

    module: str
    entry: str
    digest: str  # of files and policy, see `guards_digest`


@dataclass(frozen=True, kw_only=True)
class Secret:
    """A secret by name: where it is read and the variable under which its holders get it."""

    name: str
    variable: str
    source: str
    holders: tuple[str, ...]  # members; the agent only per command that says `using`
    place: Place | None = None


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Something that was asked for and is not given, and the rule that says so."""

    asked: str  # "network", "filesystem", "host api.example.com"
    member: str
    rule: str
    place: Place | None = None


@dataclass(frozen=True, kw_only=True)
class ProfileReason:
    """The profile in force, why it is that one, and what stood in the way of each other."""

    name: str | None = None
    why: str = "the module declares no profiles"
    granted: tuple[str, ...] = ()
    denied: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # profile → "network: policy @p …"
    place: Place | None = None


@dataclass(frozen=True, kw_only=True)
class CaBundle:
    """Certificate authorities of the user's that the sidecar trusts beside those of its image, towards remote servers."""

    path: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class SandboxPlan:
    """One run. Two plans with equal digests fence alike, whatever their run ids are."""

    run: str
    environment: str
    provider: Literal["docker", "local"] = "docker"
    version: int = PLAN_VERSION
    profile: ProfileReason = ProfileReason()
    containers: tuple[Container, ...] = ()
    links: tuple[Link, ...] = ()
    egress: tuple[Egress, ...] = ()
    servers: tuple[Server, ...] = ()
    lifecycle: Lifecycle = Lifecycle()
    guards: Guards | None = None
    secrets: tuple[Secret, ...] = ()
    agent: str | None = None  # key of the adapter table
    workspace: str | None = None  # path on the host
    timeout_seconds: float | None = None
    result_bytes: int = 10 * MIB
    body_bytes: int = 4 * MIB
    resolver: str | None = None  # "IP:PORT" that the gate asks; None = what the engine gives the sidecar
    ca_bundle: CaBundle | None = None
    keep: str | None = None  # the sandbox outlives its block under this name
    refused: tuple[Refusal, ...] = ()
    warnings: tuple[str, ...] = ()

    def container(self, member: str) -> Container:
        """The seat of a member. Errors: `KeyError`."""
        for container in self.containers:
            if container.member == member:
                return container
        raise KeyError(member)

    def egress_of(self, member: str) -> Egress | None:
        return next((rule for rule in self.egress if rule.member == member), None)

    @property
    def networked(self) -> bool:
        """Whether any packet can leave the run at all."""
        return bool(self.egress)

    @property
    def network_name(self) -> str:
        return f"mlld-{self.run}"

    def container_name(self, member: str) -> str:
        return f"mlld-{self.run}-{member}"

    def volume_name(self, member: str) -> str:
        return f"mlld-{self.run}-{member}"

    def grants(self) -> Iterator[tuple[str, str, Place | None]]:
        """Every (member, grant in words, line that caused it): what `plan` prints and `check` answers from."""
        for rule in self.egress:
            if rule.public:
                yield rule.member, "reach any public address", rule.place
            for host in rule.allow:
                yield rule.member, f"reach {host.host}:{','.join(map(str, host.ports))}", host.place
        for container in self.containers:
            for mount in container.mounts:
                if mount.kind == "bind":
                    verb = "read" if mount.read_only else "write"
                    yield container.member, f"{verb} {mount.source} at {mount.target}", mount.place
        for secret in self.secrets:
            for holder in secret.holders:
                yield holder, f"hold {secret.variable}", secret.place


def digest(plan: SandboxPlan) -> str:
    """`sha256:…` over everything but the run's id."""
    return "sha256:" + hashlib.sha256(_canonical(msgspec.to_builtins(replace(plan, run="")))).hexdigest()


def guards_digest(files: Mapping[str, str], policy: Mapping[str, object]) -> str:
    """`sha256:…` over what decides in the sidecar."""
    return "sha256:" + hashlib.sha256(_canonical({"files": dict(files), "policy": _plain(policy)})).hexdigest()


def to_json(plan: SandboxPlan) -> bytes:
    """The plan as `mlld sandbox plan --format json` prints it."""
    return msgspec.json.format(msgspec.json.encode(plan), indent=2)


def from_json(data: bytes) -> SandboxPlan:
    """The plan that `to_json` wrote. Errors: `ValueError` with the path of what is wrong in it."""
    try:
        plan = msgspec.json.decode(data, type=SandboxPlan)
    except msgspec.MsgspecError as error:
        raise ValueError(f"this is not a plan: {error}") from error
    if plan.version != PLAN_VERSION:
        raise ValueError(f"this plan has version {plan.version}; this program reads version {PLAN_VERSION}")
    return plan


def json_schema() -> dict[str, Any]:
    """JSON Schema of a plan (`mlld schema plan`)."""
    return msgspec.json.schema(SandboxPlan)


def _canonical(value: object) -> bytes:
    return msgspec.json.encode(value, order="deterministic")


def _plain(value: object) -> object:
    """Mappings as dicts, sequences as lists: a read-only view and a dict digest alike."""
    match value:
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case set() | frozenset():
            return sorted(map(str, value))
        case _:
            return value

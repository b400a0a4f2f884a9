"""From a declaration to a plan: a pure function. What cannot be enforced is refused with the path of its key.

The grants of a profile are the only door: a capability that is not among `spec.grants` gives nothing to anybody,
whatever else the declaration says, and the plan tells it as refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from interpreter.declarations import AuthDecl, EnvironmentSpec, Files, HostRule, Network, PathRule, Place, ServerSpec
from interpreter.declarations import Limits as Asked
from runner.errors import CheckFailure, Unsupported
from runner.plan import (
    AGENT,
    BIN,
    BRIDGE,
    LINK,
    LINKS,
    MIB,
    SIDECAR,
    WORKSPACE,
    Container,
    Egress,
    Guards,
    Hardening,
    Lifecycle,
    Limits,
    Link,
    Mount,
    Process,
    ProfileReason,
    Refusal,
    SandboxPlan,
    Secret,
    Server,
    SocketName,
    Tmpfs,
    Tool,
    guards_digest,
)
from runner.planner_files import Wanted, forbidden, mounts, read_only, wanted
from runner.planner_network import egress
from runner.planner_options import PlanOptions

MCP_PORT = 7000
EGRESS_PORT = 7001
HOME = "/home/agent"
# The workspace may belong to root, and nobody inside is root: git would refuse to read it as "dubious ownership".
GIT_TRUST = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": WORKSPACE}
MODULE = "/module"  # where a served module lies in its server's container
SHELLS = ("sh", "bash", "dash", "ash", "rbash", "zsh", "fish", "ksh", "mksh", "csh", "tcsh", "busybox", "pwsh")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?\Z")
_RUN = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?\Z")
_SMALLEST_MEMORY = 6 * MIB  # the engine's own floor


def plan(spec: EnvironmentSpec, options: PlanOptions) -> SandboxPlan:
    """The plan of one run. Errors: `Unsupported` where something declared cannot be enforced."""
    return _Planner(spec=spec, options=options).plan()


@dataclass(kw_only=True)
class _Planner:
    """One planning: collects what was refused and warned about on the way."""

    spec: EnvironmentSpec
    options: PlanOptions
    refused: list[Refusal] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def plan(self) -> SandboxPlan:
        spec, options = self.spec, self.options
        if not _RUN.match(options.run):
            raise CheckFailure(f"{options.run!r} is no name for a run: it has letters, digits and '-' only")
        if options.host.workspace and (reason := forbidden(options.host.workspace, options.host.home)):
            raise Unsupported(
                f"the workspace {options.host.workspace} must not be seen from inside: {reason}",
                remedy="run it from the directory of a project",
            )
        self.warnings += spec.warnings
        servers = self._servers()
        rules = tuple(rule for rule in (self._agent_egress(), *map(self._server_egress, servers)) if rule)
        described = tuple(self._server(server) for server in servers)
        secrets = tuple(self._secrets(servers))
        common = SandboxPlan(
            run=options.run,
            environment=spec.name,
            provider=spec.provider,
            profile=self._profile(),
            egress=rules,
            servers=described,
            lifecycle=self._lifecycle(),
            guards=self._guards(),
            secrets=secrets,
            agent=options.agent or spec.agent,
            workspace=options.host.workspace,
            timeout_seconds=options.timeout_seconds or spec.limits.timeout_seconds,
            resolver=options.resolver,
            keep=spec.keep,
        )
        if spec.provider == "local":
            self._refuse_what_local_cannot()
            made = replace(common, warnings=(*self.warnings, "provider local: nothing is isolated"))
        else:
            made = self._contained(common, [s for s in servers if s.source != "url"])
            made = replace(made, warnings=tuple(self.warnings))
        return replace(made, refused=tuple(self.refused))

    # ------------------------------------------------------------------------------------------------------- grants

    def _granted(self, capability: str) -> bool:
        """A capability counts when the interpreter granted it and the profile in force, if any, asks for it."""
        choice = self.spec.profile
        return capability in self.spec.grants and (choice is None or capability in choice.granted)

    def _refuse(self, capability: str, member: str, what: str, place: Place | None) -> None:
        choice = self.spec.profile
        denied = () if choice is None else choice.denied.get(choice.profile.name, ())
        rule = next((d.rule for d in denied if d.requirement == capability), None)
        if rule is None:
            rule = (
                "nothing grants it"
                if choice is None
                else f"profile {choice.profile.name} does not require {capability}"
            )
        self.refused.append(Refusal(asked=what, member=member, rule=rule, place=place))

    def _profile(self) -> ProfileReason:
        choice = self.spec.profile
        granted = tuple(name for name in ("network", "filesystem", "sh") if self._granted(name))
        if choice is None:
            return ProfileReason(granted=granted)
        for denial in choice.denied.get(choice.profile.name, ()):
            self.refused.append(
                Refusal(asked=denial.requirement, member=AGENT, rule=denial.rule, place=choice.profile.place)
            )
        return ProfileReason(
            name=choice.profile.name,
            why=choice.reason,
            granted=granted,
            denied={
                name: tuple(f"{denial.requirement}: {denial.rule}" for denial in denials)
                for name, denials in choice.denied.items()
            },
            place=choice.profile.place,
        )

    # ------------------------------------------------------------------------------------------------------ network

    def _agent_egress(self) -> Egress | None:
        network, place = self.spec.network, self.spec.grants.get("network")
        if not self._granted("network"):
            for rule in network.allow or ():
                self._refuse("network", AGENT, f"host {rule.host}", rule.place)
            if self.options.agent_hosts:
                self.warnings.append(
                    f"the agent's model is at {', '.join(self.options.agent_hosts)}, which this profile does not grant"
                )
            return None
        if network.allow is not None and self.options.agent_hosts:
            extra = tuple(HostRule(host=host, ports=(443,), place=place) for host in self.options.agent_hosts)
            network = replace(network, allow=(*network.allow, *extra))
        return egress(AGENT, network, key="net", public=True, place=place)

    def _server_egress(self, server: ServerSpec) -> Egress | None:
        key = f"mcpConfig.servers[{server.name}].net"
        network = replace(server.network, deny=(*server.network.deny, *self.spec.network.deny))
        if server.source == "url" and network.allow is None:
            network = replace(network, allow=(_host_of(server),))
        if not self._granted("network"):
            for rule in network.allow or ():
                self._refuse("network", server.name, f"host {rule.host}", rule.place or server.place)
            return None
        return egress(server.name, network, key=key, public=False, place=server.place)

    # ------------------------------------------------------------------------------------------------------ servers

    def _servers(self) -> list[ServerSpec]:
        """The servers that this run has: lawful names, allowed, with at least one tool, and reachable."""
        kept: list[ServerSpec] = []
        for i, server in enumerate(self.spec.mcp.servers):
            key = f"mcpConfig.servers[{i}]"
            if not _NAME.match(server.name) or server.name in (AGENT, SIDECAR):
                raise Unsupported(
                    f"{key}.name: {server.name!r} cannot name a server",
                    remedy=f"up to 40 of a-z, 0-9 and '-'; not {AGENT!r} or {SIDECAR!r}",
                    place=server.place,
                )
            if any(other.name == server.name for other in kept):
                raise Unsupported(f"{key}.name: {server.name!r} is the name of another server", place=server.place)
            if self.spec.servers_allowed != "*" and server.name not in self.spec.servers_allowed:
                refusal = Refusal(asked="server", member=server.name, rule="not among mcps", place=server.place)
                self.refused.append(refusal)
            elif server.tools == ():
                self.warnings.append(f"{server.name}: not started, because it has no tools (tools: [])")
            elif server.source == "url" and not self._granted("network"):
                self._refuse("network", server.name, f"host {_host_of(server).host}", server.place)
            elif server.source == "url" and server.network.allow == ():
                # Asked for by its URL, and taken away by policy: a server that nobody can reach is not served.
                withheld = f"host {_host_of(server).host}"
                self.refused.append(
                    Refusal(
                        asked=withheld, member=server.name, rule="not among the hosts of policy", place=server.place
                    )
                )
            else:
                kept.append(server)
        return kept

    def _server(self, server: ServerSpec) -> Server:
        bindings = tuple(
            Tool(
                tool=b.tool,
                exposed=b.exposed,
                bind=dict(b.bind),
                expose=b.expose,
                optional=b.optional,
                labels=b.labels,
                description=b.description,
            )
            for b in self.spec.mcp.bindings
            if b.server == server.name
        )
        return Server(
            name=server.name,
            source=" ".join((server.source, server.target, *server.args)),
            transport="http" if server.source == "url" else "stdio",
            url=server.target if server.source == "url" else None,
            tools=server.tools,
            alias=server.alias,
            labels={tool: tuple(labels) for tool, labels in server.labels.items()},
            bindings=bindings,
            process=self._process(server) if self.spec.provider == "local" else None,
            place=server.place,
        )

    def _lifecycle(self) -> Lifecycle:
        asked = self.spec.mcp.lifecycle
        return Lifecycle(
            startup_timeout_ms=asked.startup_timeout_ms,
            idle_timeout_ms=asked.idle_timeout_ms,
            call_timeout_ms=asked.call_timeout_ms,
            max_concurrent=asked.max_concurrent,
        )

    def _guards(self) -> Guards | None:
        module = self.spec.module
        if module is None:
            return None
        digest = guards_digest(module.files, self.spec.policy)
        return Guards(module=module.name, entry=module.entry, digest=digest)

    # ------------------------------------------------------------------------------------------------------ secrets

    def _secrets(self, servers: list[ServerSpec]) -> Iterator[Secret]:
        holders: dict[str, list[str]] = {name: [AGENT] for name in self.spec.agent_auth}
        for server in servers:
            for name in server.auth:
                holders.setdefault(name, []).append(server.name)
        for name, members in holders.items():
            declared: AuthDecl | None = self.spec.auth.get(name)
            if declared is None:
                raise Unsupported(
                    f"auth:{name} is used by {', '.join(members)} and declared nowhere",
                    remedy=f'declare it: auth @{name} = "VARIABLE"',
                    place=self.spec.place,
                )
            yield Secret(
                name=name,
                variable=declared.variable,
                source=declared.source,
                holders=tuple(members),
                place=declared.place,
            )

    # --------------------------------------------------------------------------------------------------- containers

    def _contained(self, common: SandboxPlan, servers: list[ServerSpec]) -> SandboxPlan:
        agent = self._agent(common)
        made = [self._server_container(server, common) for server in servers]
        links = [Link(member=AGENT, sockets=("mcp.sock", *_egress_socket(common, AGENT)))]
        links += [Link(member=s.name, sockets=("stdio.sock", *_egress_socket(common, s.name))) for s in servers]
        sidecar = Container(
            member=SIDECAR,
            role="sidecar",
            image=self.options.images.sidecar,
            argv=self.options.images.sidecar_argv,
            network="egress" if common.networked else "none",
            mounts=tuple(
                Mount(kind="link", source=link.member, target=f"{LINKS}/{link.member}", read_only=False)
                for link in links
            ),
            tmpfs=(Tmpfs(target="/tmp", size_bytes=16 * MIB, mode="1777"),),
            # Its sockets' other ends are not trusted, so no stronger user than theirs, and never the workspace's owner.
            hardening=Hardening(runtime=self.options.runtime),
            limits=self._limits(self.options.sidecar_limits, Asked(), "sidecar"),
        )
        return replace(common, containers=(sidecar, agent, *made), links=tuple(links))

    def _agent(self, common: SandboxPlan) -> Container:
        shell = self._granted("sh")
        forward = ("--forward", f"127.0.0.1:{MCP_PORT}={LINK}/mcp.sock")
        seen = self._paths(AGENT, self.spec.files, key="fs", whole=True)
        tmpfs = [Tmpfs(target="/tmp", size_bytes=256 * MIB, mode="1777", executable=shell)]
        tmpfs.append(Tmpfs(target=HOME, size_bytes=256 * MIB, mode="1777", executable=shell))
        if not any(mount.target == WORKSPACE for mount in seen):
            tmpfs.append(Tmpfs(target=WORKSPACE, size_bytes=256 * MIB, mode="1777"))
        return Container(
            member=AGENT,
            role="agent",
            image=self.options.images.agent,
            argv=(BRIDGE, "--lease", "--canary", *forward, *_egress_forward(common, AGENT)),
            env={"HOME": HOME, **GIT_TRUST, **self.options.agent_env},
            secrets=tuple(s.name for s in common.secrets if AGENT in s.holders),
            cwd=WORKSPACE,
            mounts=(_link(AGENT), self._bridge(), *seen, *(() if shell else _masked_shells())),
            tmpfs=tuple(tmpfs),
            hardening=self._hardening(),
            limits=self._limits(self.options.agent_limits, self.spec.limits, "limits"),
        )

    def _server_container(self, server: ServerSpec, common: SandboxPlan) -> Container:
        image = self.options.images.servers.get(server.name)
        if image is None:
            raise CheckFailure(f"no image was made for the server {server.name!r}", place=server.place)
        key = f"mcpConfig.servers[{server.name}]"
        seen = self._paths(server.name, server.files, key=f"{key}.fs", whole=False)
        module = self.options.host.modules.get(server.name)
        if module is not None:
            served = Mount(kind="bind", source=module, target=MODULE, why="the module it serves", place=server.place)
            seen = (served, *seen)
        serve = ("--serve", f"{LINK}/stdio.sock", "--max", str(self.spec.mcp.lifecycle.max_concurrent))
        return Container(
            member=server.name,
            role="server",
            image=image.image,
            argv=(BRIDGE, "--lease", "--canary", *_egress_forward(common, server.name), *serve, "--", *image.argv),
            env={"HOME": "/tmp", **GIT_TRUST, **image.env, **_proxy_env(common, server.name), **server.env},
            secrets=tuple(s.name for s in common.secrets if server.name in s.holders),
            cwd=WORKSPACE
            if any(m.target.startswith(WORKSPACE) for m in seen)
            else MODULE
            if module
            else image.cwd or "/tmp",
            mounts=(_link(server.name), self._bridge(), *seen),
            tmpfs=(Tmpfs(target="/tmp", size_bytes=64 * MIB, mode="1777"),),
            hardening=self._hardening(),
            limits=self._limits(self.options.server_limits, server.limits, f"{key}.limits"),
        )

    def _bridge(self) -> Mount:
        return Mount(kind="asset", source=self.options.images.bridge, target=BIN, directory=True)

    def _hardening(self) -> Hardening:
        uid, gid = self.options.host.owner
        return Hardening(user=f"{uid}:{gid}", init="bridge", runtime=self.options.runtime)

    def _limits(self, default: Limits, asked: Asked, key: str) -> Limits:
        memory = default.memory_bytes if asked.memory_bytes is None else asked.memory_bytes
        cpus = min(default.cpus, float(self.options.host.cpus)) if asked.cpus is None else asked.cpus
        pids = default.pids if asked.pids is None else asked.pids
        if memory < _SMALLEST_MEMORY:
            raise Unsupported(f"{key}.mem: {memory} bytes are too few for any process", remedy="give at least 6m")
        if not 0.01 <= cpus <= self.options.host.cpus:
            raise Unsupported(
                f"{key}.cpu: this machine has {self.options.host.cpus} CPUs, so {cpus:g} cannot be enforced",
                remedy=f"give a number from 0.01 to {self.options.host.cpus}",
            )
        if pids < 4:
            raise Unsupported(f"{key}.pids: {pids} leaves no room for the process itself", remedy="give at least 4")
        return replace(default, memory_bytes=memory, cpus=cpus, pids=pids)

    def _paths(self, member: str, files: Files, *, key: str, whole: bool) -> tuple[Mount, ...]:
        """What a member sees of the host. `whole`: with no list, the workspace; written only where that is granted."""
        host, granted = self.options.host, self._granted("filesystem")
        wants: list[Wanted] = []
        if whole and host.workspace is not None and not files.read:
            write = granted and not files.write
            place = self.spec.grants.get("filesystem") if write else None
            wants.append(Wanted(real=host.workspace, target=WORKSPACE, write=write, place=place, why="the workspace"))
        wants += [
            wanted(rule, host, write=False, key=f"{key}.read[{i}]", why="fs.read") for i, rule in enumerate(files.read)
        ]
        writes = [
            wanted(rule, host, write=True, key=f"{key}.write[{i}]", why="fs.write")
            for i, rule in enumerate(files.write)
        ]
        if writes and not granted:
            for rule in files.write:
                self._refuse("filesystem", member, f"write {rule.path}", rule.place)
            writes = read_only(writes)
        found = mounts([*wants, *writes], host)
        written = any(mount.kind == "bind" and not mount.read_only for mount in found)
        if written and _roots(host.workspace_owner, host.owner):
            self.warnings.append(
                f"{member}: the workspace belongs to root and nothing inside runs as root, so writes to it will fail"
            )
        return found

    # -------------------------------------------------------------------------------------------------------- local

    def _process(self, server: ServerSpec) -> Process | None:
        """The command that starts a server on this machine."""
        module = self.options.host.modules.get(server.name, server.target)
        match server.source:
            case "command":
                argv = (server.target, *server.args)
            case "npm":
                argv = ("npx", "-y", server.target, *server.args)
            case "python":
                argv = ("uvx", server.target, *server.args)
            case "module":
                argv = ("mlld", "mcp", module, *server.args)
            case "image" | "url":
                return None
        return Process(argv=argv, env=dict(server.env))

    def _refuse_what_local_cannot(self) -> None:
        """A key that the provider cannot enforce is refused, never ignored."""
        spec = self.spec
        asked: list[tuple[str, bool, Place | None]] = [
            ("image", spec.image is not None, spec.place),
            *_unenforced("", spec.files, spec.network, spec.limits, spec.place),
        ]
        for server in spec.mcp.servers:
            key = f"mcpConfig.servers[{server.name}]."
            asked.append((f"{key}image", server.source == "image", server.place))
            asked += _unenforced(key, server.files, server.network, server.limits, server.place)
        for key, said, place in asked:
            if said:
                raise Unsupported(
                    f"{key}: the provider 'local' cannot enforce it, because it isolates nothing",
                    remedy="leave it out, or use the provider 'docker'",
                    place=place,
                )


def _unenforced(
    key: str, files: Files, network: Network, limits: Asked, place: Place | None
) -> Iterator[tuple[str, bool, Place | None]]:
    yield f"{key}fs.read", bool(files.read), _first(files.read) or place
    yield f"{key}fs.write", bool(files.write), _first(files.write) or place
    yield f"{key}net", network != Network(), place
    yield f"{key}limits.mem", limits.memory_bytes is not None, place
    yield f"{key}limits.cpu", limits.cpus is not None, place
    yield f"{key}limits.pids", limits.pids is not None, place


def _first(rules: tuple[PathRule, ...]) -> Place | None:
    return rules[0].place if rules else None


def _roots(owner: int | None, user: tuple[int, int]) -> bool:
    return owner == 0 and user[0] != 0


def _host_of(server: ServerSpec) -> HostRule:
    """The one host that a remote server's URL grants to the sidecar. Errors: `Unsupported`."""
    found = re.fullmatch(r"(https?)://([^/@:?#\s]+)(?::([0-9]{1,5}))?([/?].*)?", server.target)
    if found is None:
        raise Unsupported(
            f"mcpConfig.servers[{server.name}].url: {server.target!r} is not the URL of a server",
            remedy="write http(s)://HOST[:PORT]/PATH, without user or password",
            place=server.place,
        )
    scheme, host, port, _ = found.groups()
    return HostRule(host=host, ports=(int(port) if port else 443 if scheme == "https" else 80,), place=server.place)


def _link(member: str) -> Mount:
    return Mount(kind="link", source=member, target=LINK, directory=True)


def _egress_socket(plan: SandboxPlan, member: str) -> tuple[SocketName, ...]:
    return ("egress.sock",) if plan.egress_of(member) else ()


def _egress_forward(plan: SandboxPlan, member: str) -> tuple[str, ...]:
    return ("--forward", f"127.0.0.1:{EGRESS_PORT}={LINK}/egress.sock") if plan.egress_of(member) else ()


def _proxy_env(plan: SandboxPlan, member: str) -> dict[str, str]:
    return proxy_environment() if plan.egress_of(member) else {}


def proxy_environment() -> dict[str, str]:
    """What makes programs use the gate: both spellings, and what node, Java-less package managers and git read."""
    gate = f"http://127.0.0.1:{EGRESS_PORT}"
    both = {"HTTP_PROXY": gate, "HTTPS_PROXY": gate, "ALL_PROXY": gate, "NO_PROXY": "127.0.0.1,localhost"}
    lower = {name.lower(): value for name, value in both.items()}
    host, port = "127.0.0.1", str(EGRESS_PORT)
    java = " ".join(f"-D{s}.proxyHost={host} -D{s}.proxyPort={port}" for s in ("http", "https"))
    return {**both, **lower, "NODE_USE_ENV_PROXY": "1", "npm_config_proxy": gate, "npm_config_https_proxy": gate,
            "CARGO_HTTP_PROXY": gate, "PIP_PROXY": gate, "JAVA_TOOL_OPTIONS": java}  # fmt: skip


def _masked_shells() -> tuple[Mount, ...]:
    """Empty files over every shell: without the grant of `sh` there is none to run."""
    return tuple(
        Mount(kind="mask", target=f"{directory}/{shell}", why="profile grants no sh")
        for directory in ("/bin", "/usr/bin", "/usr/local/bin")
        for shell in SHELLS
    )

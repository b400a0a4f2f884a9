"""The seats of a plan: agent, sidecar and servers as containers, each with its link, its limits and the one hardening."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace

from interpreter.declarations import EnvironmentSpec, ServerSpec
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
    Hardening,
    Limits,
    Link,
    Mount,
    SandboxPlan,
    SocketName,
    Tmpfs,
)
from runner.planner_options import PlanOptions

MCP_PORT = 7000
EGRESS_PORT = 7001
HOME = "/home/agent"
# The workspace may belong to root, and nobody inside is root: git would refuse to read it as "dubious ownership".
GIT_TRUST = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": WORKSPACE}
MODULE = "/module"  # where a served module lies in its server's container
SHELLS = ("sh", "bash", "dash", "ash", "rbash", "zsh", "fish", "ksh", "mksh", "csh", "tcsh", "busybox", "pwsh")
_SMALLEST_MEMORY = 6 * MIB  # the engine's own floor


@dataclass(frozen=True, kw_only=True)
class Seats:
    """Makes the containers of one plan, whose grants are settled."""

    plan: SandboxPlan
    options: PlanOptions

    def links(self, servers: Sequence[ServerSpec]) -> tuple[Link, ...]:
        """One link for each member; a way to the gate only where there is a grant."""
        agent = Link(member=AGENT, sockets=("mcp.sock", *_egress_socket(self.plan, AGENT)))
        return (
            agent,
            *(Link(member=s.name, sockets=("stdio.sock", *_egress_socket(self.plan, s.name))) for s in servers),
        )

    def sidecar(self, links: Sequence[Link]) -> Container:
        """The only seat that may have a network, and the only one that sees every link, and nothing else."""
        return Container(
            member=SIDECAR,
            role="sidecar",
            image=self.options.images.sidecar,
            argv=self.options.images.sidecar_argv,
            network="egress" if self.plan.networked else "none",
            mounts=tuple(
                Mount(kind="link", source=link.member, target=f"{LINKS}/{link.member}", read_only=False)
                for link in links
            ),
            tmpfs=(Tmpfs(target="/tmp", size_bytes=16 * MIB, mode="1777"),),
            # Its sockets' other ends are not trusted, so no stronger user than theirs, and never the workspace's owner.
            hardening=Hardening(runtime=self.options.runtime),
            limits=self._limits(self.options.sidecar_limits, Asked(), "sidecar"),
        )

    def agent(self, spec: EnvironmentSpec, seen: tuple[Mount, ...], *, shell: bool) -> Container:
        """Where the agent's programs run. `shell`: whether they may have one."""
        forward = ("--forward", f"127.0.0.1:{MCP_PORT}={LINK}/mcp.sock")
        tmpfs = [Tmpfs(target="/tmp", size_bytes=256 * MIB, mode="1777", executable=shell)]
        tmpfs.append(Tmpfs(target=HOME, size_bytes=256 * MIB, mode="1777", executable=shell))
        if not any(mount.target == WORKSPACE for mount in seen):
            tmpfs.append(Tmpfs(target=WORKSPACE, size_bytes=256 * MIB, mode="1777"))
        return Container(
            member=AGENT,
            role="agent",
            image=self.options.images.agent,
            argv=(BRIDGE, "--lease", "--canary", *forward, *_egress_forward(self.plan, AGENT)),
            env={"HOME": HOME, **GIT_TRUST, **self.options.agent_env},
            secrets=tuple(s.name for s in self.plan.secrets if AGENT in s.holders),
            cwd=WORKSPACE,
            mounts=(_link(AGENT), self._bridge(), *seen, *(() if shell else _masked_shells())),
            tmpfs=tuple(tmpfs),
            hardening=self._hardening(),
            limits=self._limits(self.options.agent_limits, spec.limits, "limits"),
        )

    def server(self, server: ServerSpec, seen: tuple[Mount, ...], *, processes: int) -> Container:
        """Where one MCP server runs, as up to so many processes. Errors: `CheckFailure` without its image."""
        image = self.options.images.servers.get(server.name)
        if image is None:
            raise CheckFailure(f"no image was made for the server {server.name!r}", place=server.place)
        module = self.options.host.modules.get(server.name)
        if module is not None:
            # A file lies in a directory of its own, so that it keeps its name and is served alone.
            target = f"{MODULE}/{posixpath.basename(module)}" if module.endswith((".mld", ".mld.md")) else MODULE
            served = Mount(kind="bind", source=module, target=target, why="the module it serves", place=server.place)
            seen = (served, *seen)
        serve = ("--serve", f"{LINK}/stdio.sock", "--max", str(processes))
        return Container(
            member=server.name,
            role="server",
            image=image.image,
            argv=(BRIDGE, "--lease", "--canary", *_egress_forward(self.plan, server.name), *serve, "--", *image.argv),
            env={"HOME": "/tmp", **GIT_TRUST, **image.env, **_proxy_env(self.plan, server.name), **server.env},
            secrets=tuple(s.name for s in self.plan.secrets if server.name in s.holders),
            cwd=WORKSPACE
            if any(m.target.startswith(WORKSPACE) for m in seen)
            else MODULE
            if module
            else image.cwd or "/tmp",
            mounts=(_link(server.name), self._bridge(), *seen),
            tmpfs=(Tmpfs(target="/tmp", size_bytes=64 * MIB, mode="1777"),),
            hardening=self._hardening(),
            limits=self._limits(self.options.server_limits, server.limits, f"mcpConfig.servers[{server.name}].limits"),
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

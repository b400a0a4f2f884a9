"""From a declaration to a plan: a pure function. What cannot be enforced is refused with the path of its key.

The grants of a profile are the only door: a capability that is not among `spec.grants` gives nothing to anybody,
whatever else the declaration says, and the plan tells it as refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from interpreter.declarations import AuthDecl, EnvironmentSpec, Files, HostRule, Place, ServerSpec
from runner.errors import CheckFailure, Unsupported
from runner.plan import (
    AGENT,
    SIDECAR,
    WORKSPACE,
    Egress,
    Guards,
    Lifecycle,
    Mount,
    ProfileReason,
    Refusal,
    SandboxPlan,
    Secret,
    Server,
    Tool,
    guards_digest,
)
from runner.planner_files import Wanted, forbidden, mounts, read_only, wanted
from runner.planner_local import NOTHING_ISOLATED, process, refuse_what_cannot_be_enforced
from runner.planner_narrowing import narrowed
from runner.planner_network import egress
from runner.planner_options import PlanOptions
from runner.planner_seats import Seats

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?\Z")
_RUN = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?\Z")


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
            ca_bundle=options.ca_bundle if any(server.url for server in described) else None,
            keep=spec.keep,
        )
        if spec.provider == "local":
            refuse_what_cannot_be_enforced(spec)
            made = replace(common, warnings=(*self.warnings, NOTHING_ISOLATED))
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
            elif server.source == "url" and not _reaches_itself(server):
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
        bound = tuple(b for b in self.spec.mcp.bindings if b.server == server.name)
        bindings = tuple(
            Tool(
                tool=b.tool,
                exposed=b.exposed,
                bind=dict(b.bind),
                expose=b.expose,
                optional=b.optional,
                labels=b.labels,
                description=b.description,
                validate=b.validate,
            )
            for b in bound
        )
        return Server(
            name=server.name,
            source=" ".join((server.source, server.target, *server.args)),
            transport="http" if server.source == "url" else "stdio",
            url=server.target if server.source == "url" else None,
            authorization=server.authorization,
            tools=server.tools,
            only=self._only(server),
            withheld=self.spec.tools_denied,
            alias=server.alias,
            labels={tool: tuple(labels) for tool, labels in server.labels.items()},
            bindings=bindings,
            validate=server.validate,
            narrowed=narrowed(self.spec.policy, server, bound),
            process=process(server, self.options.host.modules.get(server.name))
            if self.spec.provider == "local"
            else None,
            place=server.place,
        )

    def _only(self, server: ServerSpec) -> tuple[str, ...] | Literal["*"]:
        """The names that the environment's `tools` lets through: a tool's own, and those behind its exposed names."""
        if self.spec.tools == "*":
            return "*"
        behind = (b.tool for b in self.spec.mcp.bindings if b.server == server.name and b.exposed in self.spec.tools)
        return tuple(dict.fromkeys((*self.spec.tools, *behind)))

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
        seats = Seats(plan=common, options=self.options)
        seen = self._paths(AGENT, self.spec.files, key="fs", whole=True)
        agent = seats.agent(self.spec, seen, shell=self._granted("sh"))
        made = []
        for server in servers:
            seen = self._paths(server.name, server.files, key=f"mcpConfig.servers[{server.name}].fs", whole=False)
            made.append(seats.server(server, seen, processes=self.spec.mcp.lifecycle.max_concurrent))
        links = seats.links(servers)
        return replace(common, containers=(seats.sidecar(links), agent, *made), links=links)

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


def _roots(owner: int | None, user: tuple[int, int]) -> bool:
    return owner == 0 and user[0] != 0


def _reaches_itself(server: ServerSpec) -> bool:
    """Whether the host of a remote server's URL is still among those that it may reach."""
    allow, own = server.network.allow, _host_of(server)
    return allow is None or any(own.host.lower() == rule.host and {*own.ports} <= {*rule.ports} for rule in allow)


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

"""A plan as a compose file: the same seats, made from the same bodies that the engine gets from us, run by compose alone.

What a run has and compose lacks is replaced, never dropped:

    attached stdin as lease   → each bridge holds a connection to the sidecar, which ends with the agent's
    configuration over stdin  → a variable of the sidecar; it holds no secret, only the token of a socket nobody else sees
    secrets over stdin        → files that compose mounts; their place is named by a variable, which must be set. Those of
                                remote servers are the sidecar's, which reads them itself
    `exec` of the agent       → the bridge runs it (`--run`), so that its exit code is the container's
    events to the runner      → the engine's log, limited in size
    the shared bridge volume  → a volume of the project, filled from the bridge's image by being created

What cannot be carried at all is refused. Every field of the engine's body has its line in `_service`; one that this file
does not know stops it, so that a new promise is not lost here in silence.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, TypeVar

import yaml

from interpreter.declarations import EnvironmentSpec
from runner import recipes
from runner.agents import Agent
from runner.backends.docker_create import container_body, network_body, volume_body
from runner.errors import Unsupported
from runner.handover import Handover, agent_environment, sidecar_line
from runner.plan import AGENT, BIN, BRIDGE, LINK, SIDECAR, Container, SandboxPlan, Secret

T = TypeVar("T")
LOG = {"driver": "json-file", "options": {"max-size": "10m", "max-file": "1"}}
BRIDGE_SERVICE = "bridge"
CONFIG = "MLLD_CONFIG"
TOKEN_DEFAULT = "only-the-agent-has-this-socket"
LONGEST_VARIABLE = 120_000  # an entry of an environment has 131,071 bytes at most
_PINNED = re.compile(r"^mlld/([a-z0-9._-]+):[0-9a-f]{16}$")
# Answers of the body for which compose has nothing to say, because its own default is the same.
_NOTHING: Mapping[str, object] = {
    "Devices": [], "PublishAllPorts": False, "PortBindings": {}, "PidMode": "", "UTSMode": "", "UsernsMode": "",
    "OomKillDisable": False, "Tty": False, "Privileged": False, "CapAdd": [], "Healthcheck": {"Test": ["NONE"]},
}  # fmt: skip
# What a run has and a compose project replaces, see above.
_REPLACED = {
    "AttachStdin", "AttachStdout", "AttachStderr", "OpenStdin", "StdinOnce", "AutoRemove", "LogConfig", "Entrypoint",
    "Cmd", "Env", "Labels", "NetworkMode", "HostConfig", "Mounts", "SecurityOpt", "Tmpfs", "Ulimits", "RestartPolicy",
    "NanoCpus", "Runtime", "Sysctls",
}  # fmt: skip
_SAME: Mapping[str, str] = {
    "Image": "image", "WorkingDir": "working_dir", "User": "user", "Hostname": "hostname", "StopSignal": "stop_signal",
    "Init": "init", "CapDrop": "cap_drop", "ReadonlyRootfs": "read_only", "Memory": "mem_limit",
    "MemorySwap": "memswap_limit", "PidsLimit": "pids_limit", "ShmSize": "shm_size", "IpcMode": "ipc",
    "CgroupnsMode": "cgroup",
}  # fmt: skip


class Variable(str):
    """Text that compose fills in: the only text in which `$` means something."""


@dataclass(frozen=True, kw_only=True)
class ComposeOptions:
    """What a compose file needs to know beside the plan. `agent`: the program with its arguments; the prompt is its stdin."""

    agent: tuple[str, ...]
    bridge_image: str
    seccomp: str  # path of the profile, as seen from the file
    prompt: str = "Summarize the open tickets"
    name: str = "mlld"
    pinned: bool = True  # False: images by name, so that a committed file outlives a change of the sources
    comment: str = ""


def compose_text(plan: SandboxPlan, handover: Handover, options: ComposeOptions) -> str:
    """The file. `handover` has no secrets here, and its token is a variable. Errors: `Unsupported`."""
    _refuse(plan, handover)
    made = _Compose(plan=plan, handover=handover, options=options)
    text = yaml.dump(
        made.file(), Dumper=_Dumper, sort_keys=False, width=118, allow_unicode=True, default_flow_style=None
    )
    comment = "".join(f"# {line}".rstrip() + "\n" for line in options.comment.splitlines())
    return comment + text


def compose_of(plan: SandboxPlan, spec: EnvironmentSpec, agent: Agent | None, *, ref: str, pinned: bool = True) -> str:
    """The file of the environment `ref`, to lie at the top of the plan's workspace. Errors: `Unsupported`."""
    if agent is None:
        raise Unsupported(
            "compose runs an agent's program, not the module's @spawn", remedy="name one: --agent scripted"
        )
    profile = recipes.IMAGES / "base/seccomp.json"
    if plan.workspace and profile.is_relative_to(plan.workspace):
        profile = profile.relative_to(plan.workspace)
    name = re.sub(r"[^a-z0-9_-]+", "-", f"mlld-{spec.name.rpartition('/')[2]}".lower())
    options = ComposeOptions(
        agent=tuple(shlex.split(agent.command())),
        bridge_image=recipes.bridge().tag,
        seccomp=str(profile),
        pinned=pinned,
        name=name,
        comment=_COMMENT.format(env=ref, profile=plan.profile.name, agent=agent.name),
    )
    return compose_text(
        plan, Handover(token=TOKEN_DEFAULT, module=spec.module, policy=spec.policy, secret_files=True), options
    )


_COMMENT = """\
{env} under compose. Run it: docker compose up --exit-code-from agent
It ends with the agent's answer and its exit code. Another prompt: MLLD_PROMPT="…" docker compose up
Made by: mlld sandbox plan --env {env} --profile {profile} --agent {agent} --format compose
"""


def _refuse(plan: SandboxPlan, handover: Handover) -> None:
    if plan.timeout_seconds is not None:
        raise Unsupported(
            "compose cannot stop the agent after a time", remedy="leave out the time limit for this format"
        )
    for server in plan.servers:
        if server.authorization is not None and server.authorization.grant == "authorization_code":
            raise Unsupported(
                f"compose cannot keep a person's login at the remote server {server.name}: it is renewed while a run lasts",
                remedy="use a grant for programs (client_credentials), or mlld sandbox spawn",
                place=server.place,
            )
    if plan.ca_bundle is not None:
        raise Unsupported(
            "compose is handed no CA bundle", remedy="have it in the images: SSL_CERT_FILE while they are built"
        )
    if handover.secrets:
        raise AssertionError("a compose file is no place for secrets")


@dataclass(kw_only=True)
class _Compose:
    """One file in the making."""

    plan: SandboxPlan
    handover: Handover
    options: ComposeOptions
    token: Variable = field(default_factory=lambda: Variable(f"${{MLLD_MCP_TOKEN:-{TOKEN_DEFAULT}}}"))

    def file(self) -> dict[str, Any]:
        plan = self.plan
        services = {BRIDGE_SERVICE: self._bridge_service()}
        services |= {c.member: self._service(c) for c in sorted(plan.containers, key=lambda c: c.member != AGENT)}
        volumes: dict[str, Any] = {"bin": {}}
        for link in plan.links:
            body = volume_body(plan, link, labels={})
            volumes[f"link-{link.member}"] = {"driver": body["Driver"], "driver_opts": body["DriverOpts"]}
        file: dict[str, Any] = {"name": self.options.name, "services": services, "volumes": volumes}
        if plan.networked:
            network = network_body(plan, labels={})
            file["networks"] = {"egress": {"driver": network["Driver"], "driver_opts": network["Options"]}}
        if plan.secrets:
            file["secrets"] = {s.name: {"file": self._secret_file(s.name, s.variable)} for s in plan.secrets}
        return file

    def _secret_file(self, name: str, variable: str) -> Variable:
        return Variable(f"${{{variable}_FILE:?put the secret {name} into a file and name it here}}")

    def _bridge_service(self) -> dict[str, Any]:
        """Fills the volume with the bridge: being created is its work, what it runs writes nothing nowhere."""
        return {
            "image": self._image(self.options.bridge_image),
            "command": [BRIDGE, "--put", "/dev/null"],
            "attach": False,
            "pull_policy": "never",
            "network_mode": "none",
            "read_only": True,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "volumes": [{"type": "volume", "source": "bin", "target": BIN}],
        }

    def _service(self, container: Container) -> dict[str, Any]:
        body = container_body(self.plan, container, labels={})
        host: Mapping[str, Any] = body["HostConfig"]
        service: dict[str, Any] = {"image": self._image(body["Image"]), "pull_policy": "never"}
        service["entrypoint"], service["command"] = list(container.argv[:1]), self._command(container)
        service["environment"] = self._environment(container)
        service["depends_on"] = {BRIDGE_SERVICE: {"condition": "service_completed_successfully"}}
        if container.member != AGENT:
            service["attach"] = False  # its output is the record, not the answer
        for key, value in {**body, **host}.items():
            if key in _SAME:
                service.setdefault(_SAME[key], _plain(value))
            elif key not in _REPLACED and _NOTHING.get(key, self) != value:
                raise Unsupported(f"compose has no words for {key}: {value!r}", remedy="use another format")
        service["cpus"] = host["NanoCpus"] / 1e9
        service["restart"] = host["RestartPolicy"]["Name"]
        service["healthcheck"] = {"disable": True}
        service["logging"] = LOG
        service["ulimits"] = {u["Name"]: {"soft": u["Soft"], "hard": u["Hard"]} for u in host["Ulimits"]}
        service["security_opt"] = [self._security(option) for option in host["SecurityOpt"]]
        service["tmpfs"] = [_plain(f"{path}:{how}") for path, how in host["Tmpfs"].items()]
        service["volumes"] = [self._mount(mount) for mount in host["Mounts"]]
        if host["Runtime"]:
            service["runtime"] = host["Runtime"]
        if host["Sysctls"]:
            service["sysctls"] = dict(host["Sysctls"])
        if container.network == "none":
            service["network_mode"] = "none"
        else:
            service["networks"] = ["egress"]
        if held := [s.name for s in self.plan.secrets if self._holds(container.member, s)]:
            service["secrets"] = held
        return service

    def _holds(self, member: str, secret: Secret) -> bool:
        """A remote server has no container: what says who asks there is said by the sidecar."""
        seated = {container.member for container in self.plan.containers}
        return member in secret.holders or (member == SIDECAR and not seated.issuperset(secret.holders))

    def _command(self, container: Container) -> list[str]:
        if container.member == SIDECAR:
            return [*map(_plain, container.argv[1:]), "--config-from", CONFIG]
        secrets = [s for s in self.plan.secrets if container.member in s.holders]
        held = [word for s in secrets for word in ("--env-from", f"{s.variable}=/run/secrets/{s.name}")]
        lease = container.argv.index("--lease")
        before, after = container.argv[1:lease], container.argv[lease + 1 :]
        argv = [*map(_plain, (*before, "--hold", f"{LINK}/lease.sock", *held, *after))]
        if container.member == AGENT:
            prompt = Variable(f"${{MLLD_PROMPT:-{self.options.prompt}}}")
            argv += ["--run", "--input", prompt, "--", *map(_plain, self.options.agent)]
        return argv

    def _environment(self, container: Container) -> dict[str, str]:
        env = {name: _plain(value) for name, value in container.env.items()}
        if container.member == AGENT:
            env |= {name: _plain(value) for name, value in agent_environment(self.plan, "").items()}
            if self.plan.servers:
                env["MLLD_MCP_TOKEN"] = self.token
        if container.member == SIDECAR:
            config = _plain(sidecar_line(self.plan, self.handover).decode())
            if len(config.encode()) > LONGEST_VARIABLE:
                raise Unsupported("the module is too long for a variable, which is how compose would hand it over")
            env[CONFIG] = Variable(config.replace(self.handover.token, self.token))
        return env

    def _security(self, option: str) -> str:
        return f"seccomp={self.options.seccomp}" if option.startswith("seccomp={") else option

    def _mount(self, mount: Mapping[str, Any]) -> dict[str, Any] | str:
        if mount["Source"] == "/dev/null":
            return f"/dev/null:{_plain(mount['Target'])}:ro"  # a mask; there are many
        if mount["Type"] == "volume":
            source = mount["Source"]
            links = {self.plan.volume_name(link.member): f"link-{link.member}" for link in self.plan.links}
            return {
                "type": "volume",
                "source": links.get(source, "bin"),
                "target": mount["Target"],
                "read_only": mount["ReadOnly"],
                "volume": {"nocopy": mount["VolumeOptions"]["NoCopy"]},
            }
        how: dict[str, Any] = {"create_host_path": False}
        if propagation := mount.get("BindOptions", {}).get("Propagation"):
            how["propagation"] = propagation
        return {
            "type": "bind",
            "source": self._path(mount["Source"]),
            "target": _plain(mount["Target"]),
            "read_only": mount["ReadOnly"],
            "bind": how,
        }

    def _path(self, path: str) -> str:
        """Below the workspace relative to it: the file lies at its top."""
        top = self.plan.workspace
        if top and PurePosixPath(path).is_relative_to(top):
            relative = str(PurePosixPath(path).relative_to(top))
            return _plain("." if relative == "." else f"./{relative}")
        return _plain(path)

    def _image(self, reference: str) -> str:
        match = None if self.options.pinned else _PINNED.match(reference)
        return f"mlld/{match[1]}:latest" if match else reference


def _plain(value: T) -> T:
    """Text as it is: compose would take a `$` for a variable."""
    return value.replace("$", "$$") if isinstance(value, str) else value  # type: ignore[return-value]


class _Dumper(yaml.SafeDumper):
    """Long texts as blocks, the rest as plain as YAML allows; no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, data: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(data), style="'" if len(data) > 200 else None)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(Variable, _text)

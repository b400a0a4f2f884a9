"""A plan as `docker` command lines, made from the very bodies that the engine gets: for whoever wants to see every flag.

The lines create what a run is made of and start nothing: configuration, secrets and the lease go to each container over
its attached standard input, which a command line cannot hold without showing them. Every field of the engine's body has
its line here; one that this file does not know stops it, so that a new promise is not lost in silence.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from runner.backends import docker_seccomp
from runner.backends.docker_create import container_body, network_body, volume_body
from runner.errors import Unsupported
from runner.plan import Container, SandboxPlan

SECCOMP = "mlld-seccomp.json"
# Said by the form of the command, by what is left out of it, or by its own default.
_SILENT: Mapping[str, object] = {
    "StdinOnce": True, "Tty": False, "Healthcheck": {"Test": ["NONE"]}, "AutoRemove": True, "CapAdd": [],
    "Privileged": False, "OomKillDisable": False, "PidMode": "", "UTSMode": "", "UsernsMode": "", "Devices": [],
    "PublishAllPorts": False, "PortBindings": {}, "AttachStdin": True, "AttachStdout": True, "AttachStderr": True,
    "OpenStdin": True, "Runtime": "", "Sysctls": {}, "Init": False,
}  # fmt: skip
_VALUES = {
    "WorkingDir": "--workdir", "User": "--user", "Hostname": "--hostname", "StopSignal": "--stop-signal",
    "NetworkMode": "--network", "Memory": "--memory", "MemorySwap": "--memory-swap", "PidsLimit": "--pids-limit",
    "ShmSize": "--shm-size", "IpcMode": "--ipc", "CgroupnsMode": "--cgroupns", "Runtime": "--runtime",
}  # fmt: skip
_APART = {"Image", "Entrypoint", "Cmd", "HostConfig"}


def script(plan: SandboxPlan) -> str:
    """A POSIX script that creates the run's network, volumes and containers."""
    lines = [
        "#!/bin/sh",
        "# What the run is made of. mlld starts it: it attaches the standard input of each container first.",
        "set -eu",
    ]
    lines += [f"cat >{SECCOMP} <<'PROFILE'", docker_seccomp.profile(), "PROFILE"]
    if plan.networked:
        lines.append(shlex.join(network_argv(plan)))
    lines += [shlex.join(volume_argv(plan, link.member)) for link in plan.links]
    lines += [_folded(create_argv(plan, container)) for container in plan.containers]
    return "\n".join(lines) + "\n"


def network_argv(plan: SandboxPlan) -> list[str]:
    body = network_body(plan, labels={})
    options = [f"--opt={key}={value}" for key, value in body["Options"].items()]
    return ["docker", "network", "create", f"--driver={body['Driver']}", *options, body["Name"]]


def volume_argv(plan: SandboxPlan, member: str) -> list[str]:
    link = next(link for link in plan.links if link.member == member)
    body = volume_body(plan, link, labels={})
    options = [f"--opt={key}={value}" for key, value in body["DriverOpts"].items()]
    return ["docker", "volume", "create", f"--driver={body['Driver']}", *options, body["Name"]]


def create_argv(plan: SandboxPlan, container: Container, *, labels: Mapping[str, str] | None = None) -> list[str]:
    """`docker create …` of one seat. Errors: `Unsupported` for a field without a flag here."""
    body = container_body(plan, container, labels=labels or {})
    argv = [
        "docker",
        "create",
        "--interactive",
        "--rm",
        "--no-healthcheck",
        f"--name={plan.container_name(container.member)}",
    ]
    for key, value in {**body, **body["HostConfig"]}.items():
        if key not in _APART:
            argv += _flags(key, value)
    return [*argv, f"--entrypoint={body['Entrypoint'][0]}", body["Image"], *body["Cmd"]]


def _flags(key: str, value: Any) -> Iterator[str]:
    if key in _VALUES and value:
        yield f"{_VALUES[key]}={value}"
        return
    match key:
        case "Env":
            yield from (f"--env={entry}" for entry in value)
        case "Labels":
            yield from (f"--label={name}={text}" for name, text in value.items())
        case "NanoCpus":
            yield f"--cpus={value / 1e9:g}"
        case "ReadonlyRootfs" if value:
            yield "--read-only"
        case "Init":
            yield f"--init={'true' if value else 'false'}"
        case "CapDrop":
            yield from (f"--cap-drop={name}" for name in value)
        case "SecurityOpt":
            yield from (f"--security-opt={f'seccomp={SECCOMP}' if o.startswith('seccomp={') else o}" for o in value)
        case "Ulimits":
            yield from (f"--ulimit={limit['Name']}={limit['Soft']}:{limit['Hard']}" for limit in value)
        case "RestartPolicy":
            yield f"--restart={value['Name']}"
        case "LogConfig":
            yield f"--log-driver={value['Type']}"
        case "Tmpfs":
            yield from (f"--tmpfs={path}:{options}" for path, options in value.items())
        case "Mounts":
            yield from (f"--mount={_mount(mount)}" for mount in value)
        case "Sysctls":
            yield from (f"--sysctl={name}={text}" for name, text in value.items())
        case _ if key not in _SILENT or _SILENT[key] != value:
            raise Unsupported(f"a plan with {key} = {value!r} cannot be said as a docker command line")


def _mount(mount: Mapping[str, Any]) -> str:
    parts = [f"type={mount['Type']}", f"source={mount['Source']}", f"target={mount['Target']}"]
    if any("," in part for part in parts):
        raise Unsupported(f"the path {mount['Source']} has a comma, which `docker --mount` cannot carry")
    parts += ["readonly"] if mount["ReadOnly"] else []
    if bind := mount.get("BindOptions"):
        parts += [f"bind-propagation={bind['Propagation']}", *(["bind-nonrecursive"] if bind["NonRecursive"] else [])]
    if mount.get("VolumeOptions", {}).get("NoCopy"):
        parts.append("volume-nocopy")
    return ",".join(parts)


def _folded(argv: list[str]) -> str:
    """One flag per line, so that it can be read."""
    return " \\\n  ".join([" ".join(argv[:2]), *map(shlex.quote, argv[2:])])

"""Facts about the engine itself, and whether a fence holds on it, for `mlld doctor`."""

from __future__ import annotations

from dataclasses import dataclass

import docker

from runner.backends.docker_create import container_body
from runner.backends.docker_errors import translated
from runner.plan import BRIDGE, Container, SandboxPlan


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """What the engine says about itself."""

    version: str
    api: str
    system: str
    data: str  # its folder; of another machine, if the engine is there
    seccomp: bool
    limits_missing: tuple[str, ...]
    runtimes: tuple[str, ...]  # beside its own


def facts(client: docker.DockerClient) -> EngineFacts:
    """Two requests. Errors: `EngineFailure`."""
    with translated():
        info = client.api.info()
    limits = {"memory": "MemoryLimit", "cpu": "CpuCfsQuota", "pids": "PidsLimit"}
    own = ("runc", "io.containerd.runc.v2", "io.containerd.runtime.v1.linux")
    return EngineFacts(
        version=info.get("ServerVersion", "unknown"),
        api=client.api.api_version,
        system=info.get("OperatingSystem", "unknown"),
        data=info.get("DockerRootDir", ""),
        seccomp=any("seccomp" in option for option in info.get("SecurityOptions") or ()),
        limits_missing=tuple(name for name, key in limits.items() if not info.get(key)),
        runtimes=tuple(sorted(name for name in info.get("Runtimes") or () if name not in own)),
    )


def broken(client: docker.DockerClient, bridge_image: str) -> list[str]:
    """What a seat on this engine sees that it must not see; nothing if the fence holds. `bridge_image` holds the bridge."""
    argv = (BRIDGE, "--canary", "--run", "--", BRIDGE, "--put", "/dev/null")
    seat = Container(member="doctor", role="agent", image=bridge_image, argv=argv)
    plan = SandboxPlan(run="doctor", environment="doctor", containers=(seat,))
    body = container_body(plan, seat, labels={"dev.mlld.asset": "doctor"})
    # There is nothing to read on its stdin and nobody to read along, so what it says goes to the engine's log.
    body["HostConfig"] |= {"LogConfig": {"Type": "json-file"}, "AutoRemove": False, "Init": False}
    body |= {"OpenStdin": False, "AttachStdin": False}
    api = client.api
    with translated():
        made = api.create_container_from_config(body)
        try:
            api.start(made["Id"])
            code = api.wait(made["Id"])["StatusCode"]
            said = api.logs(made["Id"], stdout=False).decode(errors="replace").splitlines()
        finally:
            api.remove_container(made["Id"], force=True)
    if code == 0:
        return []
    return [line.rpartition("broken here: ")[2] for line in said] or [f"the self-test ended with {code}"]

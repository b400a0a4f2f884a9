"""Facts about the engine itself, for `mlld doctor`."""

from __future__ import annotations

from dataclasses import dataclass

import docker

from runner.backends.docker_errors import translated


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

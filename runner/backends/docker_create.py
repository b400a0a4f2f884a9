"""From plan to the engine's own words: the one place that hardens, as pure functions from data to request bodies.

Nothing else builds a container. What is said here is read back from the engine in tests/integration/test_effective.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from runner.backends import docker_seccomp
from runner.plan import SIDECAR, Container, Link, Mount, SandboxPlan, digest

RUN = "dev.mlld.run"
MEMBER = "dev.mlld.member"
OWNER = "dev.mlld.owner"
PLAN = "dev.mlld.plan"
WORKSPACE = "dev.mlld.workspace"  # digest of its path: who shares it, without saying it

_IMAGE_VOLUME_BYTES = 64 << 20
_NO_PROCESS_DUMP = {"Name": "core", "Soft": 0, "Hard": 0}


def labels(plan: SandboxPlan, owner: str, member: str = "") -> dict[str, str]:
    """What finds a thing of ours again, after a crash too."""
    found = {RUN: plan.run, OWNER: owner}
    return {**found, MEMBER: member, PLAN: digest(plan)} if member else found


def container_body(
    plan: SandboxPlan, container: Container, *, labels: Mapping[str, str], image_volumes: Iterable[str] = ()
) -> dict[str, Any]:
    """The request that creates a container, hardened as its plan says. `image_volumes`: what its image declares."""
    hard, limits = container.hardening, container.limits
    uid, gid = hard.user.split(":")
    # The owner matters: runc gives a tmpfs the mode of the directory it covers, whatever `mode` says.
    owned = f"uid={uid},gid={gid}"
    tmpfs = {
        t.target: f"rw,nosuid,nodev,{'exec' if t.executable else 'noexec'},size={t.size_bytes},mode={t.mode},{owned}"
        for t in container.tmpfs
    }
    tmpfs |= {m.target: "ro,nosuid,nodev,noexec,size=4096,mode=0555" for m in container.mounts if _is_masked_folder(m)}
    taken = {*tmpfs, *(m.target for m in container.mounts)}
    # A VOLUME of the image would be an unlimited, writable directory on the engine's disk that outlives the run.
    tmpfs |= {
        path: f"rw,nosuid,nodev,noexec,size={_IMAGE_VOLUME_BYTES},mode=1777,{owned}"
        for path in image_volumes
        if path not in taken
    }
    networked = container.network != "none"
    return {
        "Image": container.image,
        # The image's entrypoint never runs: it could start anything before the fence has been tested.
        "Entrypoint": list(container.argv[:1]),
        "Cmd": list(container.argv[1:]),
        "Env": [f"{name}={value}" for name, value in container.env.items()],
        "WorkingDir": container.cwd,
        "User": hard.user,
        "Hostname": container.member,
        "Labels": dict(labels),
        # The runner holds stdin: when it dies, the engine closes it, and whoever reads it ends (the lease).
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": False,
        "StopSignal": "SIGTERM",
        # A health check of the image would be a command that nobody planned.
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "AutoRemove": True,
            "NetworkMode": plan.network_name if networked else "none",
            "Init": hard.init == "engine",
            "CapDrop": ["ALL"],
            "CapAdd": list(hard.capabilities),
            "Privileged": hard.privileged,
            "SecurityOpt": _security_options(container),
            "ReadonlyRootfs": hard.read_only_root,
            "Memory": limits.memory_bytes,
            "MemorySwap": limits.memory_bytes,  # the sum of both: no swap
            "NanoCpus": int(limits.cpus * 1e9),
            "PidsLimit": limits.pids,
            "ShmSize": limits.shm_bytes,
            "Ulimits": [{"Name": "nofile", "Soft": limits.open_files, "Hard": limits.open_files}, _NO_PROCESS_DUMP],
            "OomKillDisable": False,
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "PidMode": "",
            "UTSMode": "",
            "UsernsMode": "",
            "Devices": [],
            "PublishAllPorts": False,
            "PortBindings": {},
            "RestartPolicy": {"Name": hard.restart},
            # json-file would keep every byte of stdio on the engine's disk, without a limit.
            "LogConfig": {"Type": "none"},
            "Runtime": hard.runtime,
            "Tmpfs": tmpfs,
            "Mounts": [_mount(plan, m) for m in container.mounts if not _is_masked_folder(m)],
            # A container with two ways is a router (facts: frames to its address were forwarded to the host).
            "Sysctls": {"net.ipv4.ip_forward": "0"} if networked else {},
        },
    }


def volume_body(plan: SandboxPlan, link: Link, *, labels: Mapping[str, str]) -> dict[str, Any]:
    """The volume of a link: in memory, owned by the sidecar, too small to be a store."""
    uid, gid = plan.container(SIDECAR).hardening.user.split(":")
    options = f"size={link.size_bytes},nr_inodes=64,mode=0755,uid={uid},gid={gid},nosuid,nodev,noexec"
    return {
        "Name": plan.volume_name(link.member),
        "Driver": "local",
        "DriverOpts": {"type": "tmpfs", "device": "tmpfs", "o": options},
        "Labels": dict(labels),
    }


def network_body(plan: SandboxPlan, *, labels: Mapping[str, str]) -> dict[str, Any]:
    """The sidecar's own network, on which nobody else is, and on which nobody else could be talked to."""
    return {
        "Name": plan.network_name,
        "CheckDuplicate": True,
        "Driver": "bridge",
        "Internal": False,
        "Attachable": False,
        "EnableIPv6": False,
        "Options": {"com.docker.network.bridge.enable_icc": "false"},
        "Labels": dict(labels),
    }


def _security_options(container: Container) -> list[str]:
    hard = container.hardening
    options = ["no-new-privileges:true"] if hard.no_new_privileges else []
    seccomp = docker_seccomp.profile() if hard.seccomp == "default-deny" else "unconfined"
    return [*options, f"seccomp={seccomp}"]


def _is_masked_folder(mount: Mount) -> bool:
    return mount.kind == "mask" and mount.directory


def _mount(plan: SandboxPlan, mount: Mount) -> dict[str, Any]:
    match mount.kind:
        case "bind":
            return {
                "Type": "bind",
                "Source": mount.source,
                "Target": mount.target,
                "ReadOnly": mount.read_only,
                # Not recursive: what is mounted below it on the host would come in writable under a read-only bind.
                "BindOptions": {"Propagation": "rprivate", "NonRecursive": True},
            }
        case "mask":
            # Reads as empty, and cannot be written through, executed or replaced.
            return {"Type": "bind", "Source": "/dev/null", "Target": mount.target, "ReadOnly": True}
        case "link" | "asset":
            source = plan.volume_name(mount.source) if mount.kind == "link" else mount.source
            return {
                "Type": "volume",
                "Source": source,
                "Target": mount.target,
                "ReadOnly": mount.read_only,
                "VolumeOptions": {"NoCopy": True},  # else the image's files at that place would go into the volume
            }

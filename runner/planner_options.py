"""What the planner is told about this machine and this run: facts gathered elsewhere, as data.

The planner is pure, so everything that a plan depends on beside the declaration is here: which images were made, who
owns the workspace, what lies at the paths that were asked for. `survey` looks at the disk and fills `HostFacts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from runner.plan import MIB, CaBundle, Limits

AGENT_LIMITS = Limits(memory_bytes=2048 * MIB, cpus=2.0, pids=256)
SERVER_LIMITS = Limits(memory_bytes=512 * MIB, cpus=1.0, pids=128)
SIDECAR_LIMITS = Limits(memory_bytes=256 * MIB, cpus=1.0, pids=64, open_files=8192)

PathKind = Literal["file", "directory", "link", "other", "missing"]  # other: a device, a socket, a pipe


@dataclass(frozen=True, kw_only=True)
class PathFact:
    """What lies at a path: `real` has every symbolic link resolved."""

    real: str
    kind: PathKind


@dataclass(frozen=True, kw_only=True)
class HostFacts:
    """What `survey` saw. Keys of `paths` are as declared, those of `sensitive` relative to the workspace."""

    workspace: str | None = None  # resolved
    owner: tuple[int, int] = (1000, 1000)  # whom agent and servers run as: the owner of the workspace, never root
    workspace_owner: int | None = None  # uid, as it is
    home: str = "/root"
    cpus: int = 2
    paths: Mapping[str, PathFact] = field(default_factory=dict)
    sensitive: Mapping[str, PathKind] = field(default_factory=dict)
    secret_files: tuple[str, ...] = ()  # relative to the workspace: `.env` and the like
    modules: Mapping[str, str] = field(default_factory=dict)  # server → resolved directory of the module it serves
    module: str | None = None  # resolved directory of the environment module


@dataclass(frozen=True, kw_only=True)
class ServerImage:
    """The image of a server and the command that starts it inside."""

    image: str
    argv: tuple[str, ...]
    cwd: str = ""  # where a command that the image brings expects to be started; "" = the planner chooses
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Images:
    """What every seat is made of."""

    agent: str
    sidecar: str
    bridge: str  # name of the volume that holds the bridge
    servers: Mapping[str, ServerImage] = field(default_factory=dict)  # by name of the server
    sidecar_argv: tuple[str, ...] = ("python3", "-m", "images.sidecar")


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """One run's own choices."""

    run: str
    images: Images
    host: HostFacts = HostFacts()
    agent: str | None = None
    agent_hosts: tuple[str, ...] = ()  # that the agent's model needs; granted only with the network
    agent_env: Mapping[str, str] = field(default_factory=dict)
    runtime: str = ""
    resolver: str | None = None
    ca_bundle: CaBundle | None = None
    timeout_seconds: float | None = None
    agent_limits: Limits = AGENT_LIMITS
    server_limits: Limits = SERVER_LIMITS
    sidecar_limits: Limits = SIDECAR_LIMITS

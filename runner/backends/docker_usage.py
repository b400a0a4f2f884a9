"""How much of its limits each seat of a run uses at this moment, as the engine measures it (`mlld sandbox ps --usage`)."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import docker.errors

from runner.backends.docker_create import MEMBER, RUN
from runner.backends.docker_errors import translated
from runner.backends.docker_sweep import APIClient


@dataclass(frozen=True, kw_only=True)
class Usage:
    """One seat. What it writes to `/tmp` and its home lies in memory, and is counted there."""

    member: str
    memory_bytes: int
    """Without what the kernel gives back as soon as somebody needs it."""
    memory_limit: int
    processes: int
    processes_limit: int

    def json(self) -> dict[str, object]:
        return {
            "member": self.member,
            "memoryBytes": self.memory_bytes,
            "memoryLimit": self.memory_limit,
            "processes": self.processes,
            "processesLimit": self.processes_limit,
        }


def usage(api: APIClient, run: str) -> list[Usage]:
    """The seats that run, by name. Errors: `EngineFailure`."""
    # Some engines take a second over each.
    with translated(), ThreadPoolExecutor(max_workers=8, thread_name_prefix="mlld-usage") as pool:
        found = pool.map(lambda container: _usage(api, container), api.containers(filters={"label": f"{RUN}={run}"}))
        return sorted(filter(None, found), key=lambda used: used.member)


def _usage(api: APIClient, container: Mapping[str, Any]) -> Usage | None:
    """None of what has ended meanwhile."""
    try:
        measured = api.stats(container["Id"], stream=False, one_shot=True)
    except docker.errors.NotFound:
        return None
    memory, processes = measured["memory_stats"], measured["pids_stats"]
    if not processes.get("current"):
        return None
    kept = memory.get("stats", {})
    # The names of cgroup versions 1, which has the other for a part of it, and 2.
    spare = kept.get("total_inactive_file", kept.get("inactive_file", 0))
    member = str(container["Labels"][MEMBER])
    return Usage(
        member=member,
        memory_bytes=max(0, memory["usage"] - spare),
        memory_limit=memory["limit"],
        processes=processes["current"],
        processes_limit=processes["limit"],
    )

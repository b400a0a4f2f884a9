"""Mount points that the engine makes in a workspace for things that must not be created there, and their removal.

A mask over `.mcp.json` needs a file of that name to be mounted on, so the engine makes an empty one on the host. Runs
that share a workspace share these: removing the name under a mount point of another run would take the mount away
there. So who made what is written down outside of the workspace, and the last run to leave removes it, if it is
still empty.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from runner.backends.docker_create import WORKSPACE
from runner.plan import WORKSPACE as SEEN_AT
from runner.plan import SandboxPlan


class Placeholders:
    """The mount points of one run's workspace that were not there before."""

    def __init__(self, plan: SandboxPlan, *, cache: Path) -> None:
        self._names = {
            os.path.relpath(mount.target, SEEN_AT)
            for container in plan.containers
            for mount in container.mounts
            if mount.kind == "mask" and mount.made
        }
        self._workspace = plan.workspace
        self.key = workspace_key(plan.workspace) if plan.workspace else ""
        self._cache = cache

    @property
    def labels(self) -> dict[str, str]:
        """Says that a run uses this workspace."""
        return {WORKSPACE: self.key} if self.key else {}

    def reserve(self) -> None:
        """Writes down what will be made, before it is."""
        if not self._names or self._workspace is None:
            return
        with _state(self._cache, self.key) as state:
            _, known = _read(state)
            absent = {name for name in self._names if not os.path.lexists(os.path.join(self._workspace, name))}
            names = sorted({*known, *absent})
            state.write_text(json.dumps({"workspace": self._workspace, "names": names}))

    def release(self, shared: bool) -> None:
        """Removes what is empty, unless another run still uses the workspace."""
        if self.key and not shared:
            release(self._cache, self.key)


def workspace_key(workspace: str) -> str:
    return hashlib.sha256(workspace.encode()).hexdigest()[:24]


def release(cache: Path, key: str) -> None:
    """Removes the empty mount points of a workspace that no run uses any more."""
    if not _path(cache, key).exists():
        return
    with _state(cache, key) as state:
        workspace, names = _read(state)
        for name in sorted(names, reverse=True):  # what lies in a directory before the directory
            path = os.path.join(workspace, name)
            with contextlib.suppress(OSError):  # gone, or not empty: then it is somebody's
                found = os.lstat(path)
                if stat.S_ISDIR(found.st_mode):
                    os.rmdir(path)
                elif stat.S_ISREG(found.st_mode) and found.st_size == 0:
                    os.unlink(path)
        state.unlink(missing_ok=True)


def _path(cache: Path, key: str) -> Path:
    return cache / "workspaces" / f"{key}.json"


@contextlib.contextmanager
def _state(cache: Path, key: str) -> Iterator[Path]:
    path = _path(cache, key)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(path.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path


def _read(path: Path) -> tuple[str, list[str]]:
    try:
        known = json.loads(path.read_text())
        return str(known["workspace"]), [str(name) for name in known["names"]]
    except (OSError, ValueError, KeyError):
        return "/nowhere", []  # never written, or cut short by a full disk: then nothing was made

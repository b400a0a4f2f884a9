"""The lease: a run lives as long as its runner does, whoever ends the runner and however.

Three layers, each enough where the one before fails:

1. The runner holds the standard input of every container; its end ends sidecar and bridges, and the engine removes them.
2. A detached watchdog (`python -m runner.lease`) holds the other end of a pipe. When the runner ends without saying
   that its runs are gone, the watchdog removes what carries the runner's mark: volumes and networks, too.
3. Every start removes what carries the mark of an owner who is no more.

The watchdog waits for days and costs one small process: it imports nothing but what is here, and becomes the sweeper
(`runner.lease_sweep`) only when there is something to sweep.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

_HOLD, _GONE = b"+", b"-"


def owner() -> str:
    """This process, so that nobody else is ever taken for it: machine, boot, process namespace, id, start time."""
    return ":".join((_machine(), _boot(), _pid_namespace(), str(os.getpid()), _started(os.getpid()) or "0"))


def is_dead(mark: str) -> bool:
    """Whether an owner is known to be no more. Of another machine, or in another process namespace, nothing is known."""
    parts = mark.split(":")
    if len(parts) != 5:
        return False
    machine, boot, namespace, pid, started = parts
    if machine != _machine():
        return False
    if boot != _boot():
        return True
    if namespace != _pid_namespace():
        return False
    return _started(int(pid)) != started


class Lease:
    """Held by a process that has runs. The watchdog is started with the first and told of each one's end."""

    def __init__(self, *, cache: Path) -> None:
        self.owner = owner()
        self._cache = cache
        self._watchdog: subprocess.Popen[bytes] | None = None

    def hold(self) -> None:
        """Before anything of a run is made."""
        if self._watchdog is None or self._watchdog.poll() is not None:
            self._watchdog = subprocess.Popen(
                [sys.executable, "-m", "runner.lease", self.owner, str(self._cache)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # The terminal's Ctrl-C is for the runner; and no directory of the user's is held.
                start_new_session=True,
                cwd="/",
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, map(os.path.abspath, sys.path)))},
            )
        self._tell(_HOLD)

    def release(self) -> None:
        """After everything of a run is gone."""
        self._tell(_GONE)

    def close(self) -> None:
        """The runner ends: a watchdog with nothing to watch ends, too."""
        if self._watchdog is not None and self._watchdog.stdin is not None:
            with contextlib.suppress(OSError):
                self._watchdog.stdin.close()
            self._watchdog.wait()
            self._watchdog = None

    def _tell(self, what: bytes) -> None:
        if self._watchdog is not None and self._watchdog.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it was killed: the other two layers remain
                os.write(self._watchdog.stdin.fileno(), what)


def watch(mark: str, cache: str) -> None:
    """The watchdog: counts runs until the pipe ends; becomes the sweeper if some are left."""
    held = 0
    while told := os.read(0, 4096):
        held += told.count(_HOLD) - told.count(_GONE)
    if held > 0:
        os.execv(sys.executable, [sys.executable, "-m", "runner.lease_sweep", mark, cache])


def _machine() -> str:
    with contextlib.suppress(OSError):
        return Path("/etc/machine-id").read_text().strip()[:12] or os.uname().nodename
    return os.uname().nodename


def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:13]
    return "boot"


def _pid_namespace() -> str:
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    return "0"


def _started(pid: int) -> str | None:
    """When a process started, in ticks since boot; None if there is no such process (a zombie is none)."""
    try:
        # The second field, the name, may hold spaces and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None if Path("/proc/self/stat").exists() else _alive(pid)
    return None if fields[0] in ("Z", "X") else fields[19]


def _alive(pid: int) -> str | None:
    """Without /proc there is no start time: being there is all that can be known."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "0"


if __name__ == "__main__":
    watch(sys.argv[1], sys.argv[2])

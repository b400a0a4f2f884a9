"""A server as a child process on two pipes: for benchmarks and conformance runs, never in a sandbox."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess

_PIPE = 1 << 20
_TERMINATE_SECONDS, _KILL_SECONDS, _POLL_SECONDS = 0.5, 2.0, 0.02


_ahead: dict[tuple[str, ...], Child] = {}


def start_ahead(command: tuple[str, ...]) -> None:
    """Starts a server before the endpoint is there, which takes its first process from here."""
    with contextlib.suppress(OSError):  # told when it is needed
        _ahead[command] = Child(command)


def started(command: tuple[str, ...]) -> Child | None:
    """The process that was started ahead, for whoever asks first."""
    return _ahead.pop(command, None)


class Child:
    """A started process and our ends of its pipes. Raises OSError if it cannot be started."""

    def __init__(self, command: tuple[str, ...]) -> None:
        down_read, self.input = os.pipe()
        self.output, up_write = os.pipe()
        for fd in (self.input, self.output):
            with contextlib.suppress(OSError):
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE)
        try:
            self._process = subprocess.Popen(command, stdin=down_read, stdout=up_write)
        except OSError:
            os.close(self.input)
            os.close(self.output)
            raise
        finally:
            os.close(down_read)
            os.close(up_write)

    async def end(self) -> None:
        """Closes its input, waits for it, and ends it when it does not end by itself."""
        import asyncio  # here, because a child is started before anything takes the time to be imported

        os.close(self.input)
        began = asyncio.get_running_loop().time()
        try:
            while self._process.poll() is None:
                waited = asyncio.get_running_loop().time() - began
                if waited > _KILL_SECONDS:
                    self._process.kill()
                elif waited > _TERMINATE_SECONDS:
                    self._process.terminate()
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            os.close(self.output)

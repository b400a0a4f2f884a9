"""A server as a child process on two pipes: for benchmarks and conformance runs, never in a sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import subprocess

_PIPE = 1 << 20
_TERMINATE_SECONDS, _KILL_SECONDS, _POLL_SECONDS = 0.5, 2.0, 0.02


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

"""The bridge as a process of this machine: static, so what runs in containers runs here."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.waiting import PATIENCE, wait_until

PYTHON = sys.executable


class Bridge:
    """One running bridge with its sockets' folder; ends with the block."""

    def __init__(self, binary: Path, *args: str, lease: bool = True, **options: Any) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bridge-", dir="/tmp"))  # a socket's path is at most 107 bytes long
        self._arguments = [str(binary), *(["--lease"] if lease else []), *args]
        self._options = options
        self.events: list[dict[str, Any]] = []
        self._rest = b""

    def __enter__(self) -> Self:
        arguments = [a.replace("{folder}", str(self.folder)) for a in self._arguments]
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **self._options
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()
        self.process.wait()
        shutil.rmtree(self.folder)

    def give_environment(self, *entries: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"".join(entry.encode() + b"\0" for entry in entries) + b"\0")
        self.process.stdin.flush()

    def end_lease(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def poll_events(self) -> list[dict[str, Any]]:
        """Everything that it has said so far."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        while select.select([descriptor], [], [], 0)[0]:
            chunk = os.read(descriptor, 65536)
            if not chunk:
                break
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            self.events += [json.loads(line) for line in lines]
        return self.events

    def event(self, name: str, **fields: Any) -> dict[str, Any]:
        """The first event of this name with these fields, waited for."""

        def find() -> dict[str, Any] | None:
            wanted = {"event": name, **fields}
            return next((e for e in self.poll_events() if wanted.items() <= e.items()), None)

        found: dict[str, Any] = wait_until(find, f"{name} {fields}; got {self.events}")
        return found


class Listener:
    """A Unix socket as the sidecar makes it, and the connections that came."""

    def __init__(self, path: Path, backlog: int) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        path.chmod(0o666)
        self._socket.listen(backlog)
        self._accepted: list[socket.socket] = []

    def accept(self) -> socket.socket:
        self._socket.settimeout(PATIENCE)
        connection, _ = self._socket.accept()
        connection.settimeout(PATIENCE)
        self._accepted.append(connection)
        return connection

    def nobody_comes(self, seconds: float = 0.3) -> bool:
        """True if no connection is waiting and none arrives."""
        return not select.select([self._socket], [], [], seconds)[0]

    def close(self) -> None:
        for each in (self._socket, *self._accepted):
            each.close()


@contextlib.contextmanager
def listening(path: Path, backlog: int = 64) -> Iterator[Listener]:
    listener = Listener(path, backlog)
    try:
        yield listener
    finally:
        listener.close()


def read_all(connection: socket.socket) -> bytes:
    chunks = []
    while chunk := connection.recv(1 << 20):
        chunks.append(chunk)
    return b"".join(chunks)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

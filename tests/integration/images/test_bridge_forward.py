"""Loopback TCP to a Unix socket: bytes, half-closes, absent and slow sidecars, many and rude clients."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bridges import Bridge, free_port, listening, read_all
from tests.support.processes import cpu_seconds
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.engine


@contextlib.contextmanager
def forwarding(binary: Path) -> Iterator[tuple[Bridge, int]]:
    port = free_port()
    with Bridge(binary, "--forward", f"127.0.0.1:{port}={{folder}}/mcp.sock") as b:
        b.give_environment()
        b.event("ready", forwards=1)
        yield b, port


def client(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def memory_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_the_answer_comes_after_the_request_has_ended(bridge: Path) -> None:
    """Half-close: the client says that it is done, and still reads all of a long answer."""
    request, answer = os.urandom(2_000_000), os.urandom(5_000_000)
    with forwarding(bridge) as (b, port), listening(b.folder / "mcp.sock") as server, client(port) as c:
        s = server.accept()

        def serve() -> None:
            assert read_all(s) == request
            s.sendall(answer)
            s.close()

        thread = threading.Thread(target=serve)
        thread.start()
        c.sendall(request)
        c.shutdown(socket.SHUT_WR)
        assert read_all(c) == answer
        thread.join()


def test_a_sidecar_may_close_first_and_nothing_of_its_answer_is_lost(bridge: Path) -> None:
    """The client's late bytes must not turn the end of the connection into a reset that swallows the answer."""
    answer = os.urandom(4_000_000)
    with forwarding(bridge) as (b, port), listening(b.folder / "mcp.sock") as server, client(port) as c:
        s = server.accept()
        c.sendall(b"first")
        assert s.recv(5) == b"first"
        thread = threading.Thread(target=lambda: (s.sendall(answer), s.close()))
        thread.start()
        time.sleep(0.2)
        c.sendall(b"late and unread")
        assert read_all(c) == answer
        thread.join()


def test_a_server_side_half_close_leaves_the_other_direction_open(bridge: Path) -> None:
    with forwarding(bridge) as (b, port), listening(b.folder / "mcp.sock") as server, client(port) as c:
        s = server.accept()
        s.sendall(b"done")
        s.shutdown(socket.SHUT_WR)
        assert read_all(c) == b"done"
        c.sendall(b"still talking")
        assert s.recv(100) == b"still talking"


def test_a_client_that_comes_too_early_is_kept_for_a_moment(bridge: Path) -> None:
    with forwarding(bridge) as (b, port), client(port) as c:
        c.sendall(b"early")
        time.sleep(0.3)
        with listening(b.folder / "mcp.sock") as server:
            assert server.accept().recv(10) == b"early"


def test_without_a_sidecar_a_client_is_reset_not_answered_with_nothing(bridge: Path) -> None:
    with forwarding(bridge) as (_, port), client(port) as c:
        started = time.monotonic()
        with pytest.raises(ConnectionResetError):
            c.recv(1)
        assert time.monotonic() - started > 2


def test_a_reader_that_does_not_read_costs_little_memory_and_no_time(bridge: Path) -> None:
    with forwarding(bridge) as (b, port), listening(b.folder / "mcp.sock") as server, client(port) as c:
        s = server.accept()
        s.setblocking(False)
        pushed = 0
        with contextlib.suppress(BlockingIOError):
            while pushed < 200_000_000:
                pushed += s.send(b"x" * 100_000)
        before = cpu_seconds(b.process.pid)
        time.sleep(0.5)
        with contextlib.suppress(BlockingIOError):
            while pushed < 200_000_000:
                pushed += s.send(b"x" * 100_000)
        assert pushed < 200_000_000, "back-pressure reaches the sidecar"
        assert cpu_seconds(b.process.pid) - before < 0.2, "waiting is not spinning"
        assert memory_bytes(b.process.pid) < 8_000_000
        s.close()
        assert len(read_all(c)) == pushed, "and in the end everything arrives"


@pytest.mark.parametrize("who", ["client half-closed", "sidecar half-closed", "client gone", "idle"])
def test_waiting_is_never_spinning(bridge: Path, who: str) -> None:
    with forwarding(bridge) as (b, port), listening(b.folder / "mcp.sock") as server, client(port) as c:
        s = server.accept()
        c.sendall(b"x")
        assert s.recv(1) == b"x"
        if who == "client half-closed":
            c.shutdown(socket.SHUT_WR)
        elif who == "sidecar half-closed":
            s.shutdown(socket.SHUT_WR)
        elif who == "client gone":
            c.close()
        time.sleep(0.1)
        before = cpu_seconds(b.process.pid)
        time.sleep(0.6)
        assert cpu_seconds(b.process.pid) - before < 0.1


def test_more_clients_than_it_takes_wait_their_turn(bridge: Path) -> None:
    with forwarding(bridge) as (b, port), listening(b.folder / "mcp.sock", backlog=512) as server:
        clients = [client(port) for _ in range(256)]
        served = [server.accept() for _ in range(256)]
        late = client(port)
        late.sendall(b"late")
        assert server.nobody_comes()
        clients[0].close()
        served[0].close()
        s = server.accept()
        assert s.recv(4) == b"late"
        for connection in (*clients, *served, late, s):
            connection.close()


def test_a_client_that_resets_frees_its_place(bridge: Path) -> None:
    with forwarding(bridge) as (b, port), listening(b.folder / "mcp.sock", backlog=512) as server:
        for _ in range(600):  # more than there are places
            c = client(port)
            s = server.accept()
            c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            c.close()
            assert read_all(s) == b""
            s.close()
        descriptors = len(os.listdir(f"/proc/{b.process.pid}/fd"))
        assert descriptors < 20


def test_a_port_that_is_taken_is_told(bridge: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [bridge, "--forward", f"127.0.0.1:{port}=/x.sock"], capture_output=True, text=True, timeout=PATIENCE
        )
    assert done.returncode == 71
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr

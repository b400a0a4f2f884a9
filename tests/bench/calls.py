"""What the endpoint adds to a call: `python -m tests.bench.calls [--servers N] [--rounds N] [--unix]`.

A tool call of a server directly on its pipe, and the same call through the endpoint, taken in turns in one run: time of one
call after another for three sizes of results, calls per second over several connections, time to the whole list from
nothing, memory, and what a guard with two policy rules adds. Read the ratios; the figures themselves are the machine's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SIZES = (1 << 10, 64 << 10, 1 << 20)
CALLS = {1 << 10: 400, 64 << 10: 200, 1 << 20: 40}
CONNECTIONS = (1, 8, 32)
LOAD_SECONDS = 1.5
CACHE = tempfile.TemporaryDirectory(prefix="mlld-bench-")
_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)", re.IGNORECASE)


def server(name: str, tools: int = 20) -> list[str]:
    return [sys.executable, "-S", "-E", str(ROOT / "tests" / "bench" / "echo_server.py"), name, str(tools)]


def message(number: int, method: str, params: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode()


def call(tool: str, size: int) -> bytes:
    return message(1, "tools/call", {"name": tool, "arguments": {"size": size}})


class Direct:
    """A server on its own pipes."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(server("s0"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.exchange(message(1, "initialize", {}))

    def exchange(self, body: bytes) -> bytes:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(body + b"\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def close(self) -> None:
        self._process.communicate()


class Client:
    """One connection to the endpoint, with a session."""

    def __init__(self, address: str | int) -> None:
        if isinstance(address, str):
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(address)
            host = "127.0.0.1:7000"
        else:
            self._socket = socket.create_connection(("127.0.0.1", address))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            host = f"127.0.0.1:{address}"
        self._head = (
            f"POST /mcp HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            "Accept: application/json, text/event-stream\r\n"
        ).encode()
        about = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
        head, _ = self._roundtrip(self.request(message(1, "initialize", about)))
        found = re.search(rb"mcp-session-id: (\w+)", head, re.IGNORECASE)
        assert found, head
        self._head += b"Mcp-Session-Id: %s\r\n" % found[1]

    def request(self, body: bytes) -> bytes:
        return self._head + b"Content-Length: %d\r\n\r\n" % len(body) + body

    def exchange(self, body: bytes) -> bytes:
        return self._roundtrip(self.request(body))[1]

    def _roundtrip(self, data: bytes) -> tuple[bytes, bytes]:
        self._socket.sendall(data)
        got = bytearray()
        while (end := got.find(b"\r\n\r\n")) < 0:
            got += self._socket.recv(1 << 18)
        head = bytes(got[:end])
        length = _LENGTH.search(head)
        assert length, head
        whole = end + 4 + int(length[1])
        while len(got) < whole:
            got += self._socket.recv(1 << 18)
        return head, bytes(got[end + 4 :])

    def tools(self) -> list[str]:
        listed = json.loads(self.exchange(message(1, "tools/list", {})))
        return [tool["name"] for tool in listed["result"]["tools"]]

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def endpoint(
    count: int, *, unix: bool, tools: int = 20, guards: bool = False
) -> Iterator[tuple[subprocess.Popen[bytes], str | int]]:
    """The endpoint over so many servers, and where it listens."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "servers.json"
        commands = {f"s{i}": server(f"s{i}", tools) for i in range(count)}
        config.write_text(
            json.dumps({"mcpServers": {k: {"command": v[0], "args": v[1:]} for k, v in commands.items()}})
        )
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        where = ["--socket", f"{folder}/mcp.sock"] if unix else ["--port", str(port)]
        where += ["--guards"] if guards else []
        command = [sys.executable, str(ROOT / "tests" / "bench" / "endpoint.py"), "--config", str(config), *where]
        # An image holds its code compiled: without this, a start would also be a compilation.
        compiled = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": CACHE.name}
        process = subprocess.Popen(command, env=os.environ | compiled)
        try:
            yield process, f"{folder}/mcp.sock" if unix else port
        finally:
            process.terminate()
            process.wait(10)


def connected(address: str | int) -> Client:
    deadline = time.monotonic() + 20
    while True:
        try:
            return Client(address)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)


def median_us(target: Direct | Client, tool: str, size: int) -> float:
    body, times = call(tool, size), []
    for _ in range(CALLS[size]):
        began = time.perf_counter()
        answer = target.exchange(body)
        times.append(time.perf_counter() - began)
        assert len(answer) > size, answer[:200]
    return statistics.median(times) * 1e6


def load(address: str | int, connections: int, tools: list[str]) -> float:
    """Calls of a kilobyte per second over so many connections."""
    clients = [Client(address) for _ in range(connections)]

    async def worker(client: Client, tool: str, until: float) -> int:
        loop, sock, data, done = asyncio.get_running_loop(), client._socket, client.request(call(tool, 1024)), 0
        sock.setblocking(False)
        whole = 0
        while time.monotonic() < until:
            await loop.sock_sendall(sock, data)
            got = await loop.sock_recv(sock, 1 << 16)
            if not whole:
                whole = len(got)
            while len(got) < whole:
                got += await loop.sock_recv(sock, 1 << 16)
            done += 1
        return done

    async def main() -> int:
        until = time.monotonic() + LOAD_SECONDS
        return sum(await asyncio.gather(*(worker(c, tools[i % len(tools)], until) for i, c in enumerate(clients))))

    total = asyncio.run(main())
    for client in clients:
        client.close()
    return total / LOAD_SECONDS


def rss_mib(process: subprocess.Popen[bytes]) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def cpu_us(process: subprocess.Popen[bytes]) -> float:
    """Time that a process was at work, which other processes of the machine do not lengthen."""
    return int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[0]) / 1e3


def added_by_guards(count: int, rounds: int, *, unix: bool) -> list[tuple[float, float]]:
    """A call of a kilobyte without and with a guard and two policy rules, asked in turns: median µs that the caller
    waits, and µs that the endpoint works."""
    with contextlib.ExitStack() as stack:
        ends = [stack.enter_context(endpoint(count, unix=unix, guards=guards)) for guards in (False, True)]
        clients = [connected(address) for _, address in ends]
        for client in clients:
            client.tools()
            median_us(client, "s0_search_1", 1 << 10)
        waited: list[list[float]] = [[], []]
        worked: list[list[float]] = [[], []]
        for _ in range(rounds * 2):
            for which, client in enumerate(clients):
                before = cpu_us(ends[which][0])
                waited[which].append(median_us(client, "s0_search_1", 1 << 10))
                worked[which].append((cpu_us(ends[which][0]) - before) / CALLS[1 << 10])
        for client in clients:
            client.close()
    return [(statistics.median(without), statistics.median(guarded)) for without, guarded in (waited, worked)]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.calls", description=__doc__)
    parser.add_argument("--servers", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--unix", action="store_true", help="over a Unix socket, as the agent's bridge does")
    options = parser.parse_args(arguments)
    with endpoint(options.servers, unix=options.unix) as (process, address):
        client = connected(address)
        tools = client.tools()
        assert len(tools) == 20 * options.servers, len(tools)
        direct = Direct()
        print(f"{'result':>8}  {'direct µs':>10}  {'through µs':>10}  ratio")
        for size in SIZES:
            pairs = [
                (median_us(direct, "s0_search_1", size), median_us(client, "s0_search_1", size))
                for _ in range(options.rounds)
            ]
            alone, through = (statistics.median(column) for column in zip(*pairs, strict=True))
            print(f"{size // 1024:>6} K  {alone:>10.0f}  {through:>10.0f}  {through / alone:.2f}")
        direct.close()
        picked = [f"s{i}_search_2" for i in range(options.servers)]
        for connections in CONNECTIONS:
            rates = [load(address, connections, picked) for _ in range(options.rounds)]
            print(f"{connections:>3} connections  {statistics.median(rates):>8.0f} calls/s")
        print(f"memory after that  {rss_mib(process):.1f} MiB")
        client.close()
    for what, (without, guarded) in zip(
        ("waiting", "work"), added_by_guards(options.servers, options.rounds, unix=options.unix), strict=True
    ):
        told = f"{guarded - without:.0f} µs to {without:.0f} µs of {what}, {guarded / without:.2f} times"
        print(f"a guard and two policy rules add  {told}")
    for count in (1, 5, 20):
        times = []
        for _ in range(options.rounds):
            began = time.perf_counter()
            with endpoint(count, unix=options.unix) as (_, address):
                client = connected(address)
                assert len(client.tools()) == 20 * count
                times.append(time.perf_counter() - began)
                client.close()
        print(f"{count:>3} servers, from nothing to the whole list  {statistics.median(times) * 1e3:.0f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Whether memory stays flat under hostile servers: `python -m tests.bench.soak [--seconds 120]` (an hour is 3600).

A server that misbehaves in every way, called without end, and a good one beside it, whose answers are checked and timed.
Ends with 1 if the endpoint's memory grew after it had settled, if it died, or if the good server ever failed.
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
from pathlib import Path

import mcp

ROOT = Path(__file__).parents[2]
BAD = ("twice", "wrong_id", "malformed", "deep", "huge", "flood", "ask", "changes", "crash", "silent")
GROWTH_MIB = 12.0
CALL_SECONDS = 2.0


def rss_mib(process: subprocess.Popen[bytes]) -> float:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
    assert found, "it is gone"
    return int(found[1]) / 1024


async def torment(url: str, until: float) -> int:
    """Calls every bad tool again and again; how often."""
    done = 0
    while time.monotonic() < until:
        with contextlib.suppress(Exception):  # whatever a session of this server dies of, the next one begins
            async with mcp.Client(url, mode="legacy") as client:
                for _ in range(20):
                    for name in BAD:
                        with contextlib.suppress(mcp.MCPError):
                            await client.call_tool(name, {})
                        done += 1
                        if time.monotonic() > until:
                            return done
    return done


async def check(url: str, process: subprocess.Popen[bytes], until: float) -> tuple[list[float], list[float]]:
    """The good server's times, and the memory, once a second."""
    times, memory = [], []
    async with mcp.Client(url, mode="legacy") as client:
        await client.list_tools()
        while time.monotonic() < until:
            began = time.monotonic()
            answer = await client.call_tool("good_search_1", {"size": 1000})
            times.append(time.monotonic() - began)
            assert not answer.is_error, answer
            memory.append(rss_mib(process))
            await asyncio.sleep(1)
    return times, memory


async def soak(url: str, process: subprocess.Popen[bytes], seconds: float) -> bool:
    until = time.monotonic() + seconds
    (times, memory), *calls = await asyncio.gather(check(url, process, until), *(torment(url, until) for _ in range(3)))
    settled, end = statistics.median(memory[len(memory) // 4 : len(memory) // 2]), statistics.median(memory[-10:])
    print(f"{sum(calls)} hostile calls; the good server answered {len(times)} times, at most {max(times) * 1e3:.0f} ms")
    print(
        f"memory: {memory[0]:.1f} MiB at first, {settled:.1f} settled, {end:.1f} at the end, {max(memory):.1f} at most"
    )
    return end - settled < GROWTH_MIB


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    options = parser.parse_args(arguments)
    here = ROOT / "tests" / "bench"
    servers = {
        "evil": {"command": sys.executable, "args": ["-S", "-E", str(here / "hostile_server.py")]},
        "good": {"command": sys.executable, "args": ["-S", "-E", str(here / "echo_server.py"), "good"]},
    }
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        config = Path(folder) / "servers.json"
        config.write_text(json.dumps({"mcpServers": servers}))
        command = [sys.executable, str(here / "endpoint.py"), "--config", str(config), "--port", str(port)]
        command += ["--call-seconds", str(CALL_SECONDS)]
        process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
        try:
            for _ in range(200):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.05)
            flat = asyncio.run(soak(f"http://127.0.0.1:{port}/mcp", process, options.seconds))
            return 0 if flat and process.poll() is None else 1
        finally:
            process.terminate()
            process.wait(15)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A whole sidecar as a process of this machine, each server behind a bridge: for measurements that need no container."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from runner.planner_options import SIDECAR_LIMITS
from tests.unit.sidecar.sidecar_process import TOKEN

ROOT = Path(__file__).parents[2]


@dataclass
class Sidecar:
    """The process, where agents find it, and what it wrote down."""

    process: subprocess.Popen[bytes]
    path: str
    container: str = ""
    events: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def read(self) -> None:
        """Takes the record as it comes; without a reader the sidecar would wait."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            self.events[event["event"]] += 1
            if event["event"] == "error" and event.get("where") != "admission" and len(self.faults) < 100:
                self.faults.append(line.decode())

    @cached_property
    def pid(self) -> int:
        """Of the sidecar itself."""
        if not self.container:
            return self.process.pid
        ask = ["docker", "inspect", "--format", "{{.State.Pid}}", self.container]
        return int(subprocess.run(ask, stdout=subprocess.PIPE, check=True).stdout)

    def rss_mib(self) -> float:
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())
        assert found, "the sidecar is gone"
        return int(found[1]) / 1024

    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))


@contextmanager
def sidecar(
    folder: Path, servers: Mapping[str, Sequence[str]], lifecycle: Mapping[str, int], *, image: str = "", **how: Any
) -> Iterator[Sidecar]:
    """A sidecar over servers, given by their commands; its sockets are in `folder`. `how` is for the servers' Popen.

    With an `image` it runs in a container of that, which has as much memory as one in a sandbox.
    """
    links = {name: folder / name for name in ("agent", *servers)}
    for link in links.values():
        link.mkdir()
    config = {
        "version": 1, "run": "bench", "token": TOKEN, "agent": {"link": str(links["agent"])}, "lifecycle": lifecycle,
        "servers": [{"name": name, "link": str(links[name]), "tools": "*"} for name in servers],
    }  # fmt: skip
    container = f"mlld-test-{secrets.token_hex(4)}" if image else ""
    memory = str(SIDECAR_LIMITS.memory_bytes)
    enclosed = [
        "docker", "run", "--rm", "--interactive", "--name", container, "--label", "dev.mlld.test=soak", "--network", "none",
        "--memory", memory, "--memory-swap", memory, "--user", f"{os.getuid()}:{os.getgid()}", "--cap-drop", "ALL",
        "--volume", f"{folder}:{folder}", image,
    ]  # fmt: skip
    process = subprocess.Popen(
        [*(enclosed if image else (sys.executable, "-m", "images.sidecar")), "--unfenced"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    dialing = [sys.executable, "-S", "-E", str(ROOT / "tests" / "bench" / "dialing.py")]
    bridges = [
        subprocess.Popen([*dialing, str(links[name] / "stdio.sock"), *command], stderr=subprocess.DEVNULL, **how)
        for name, command in servers.items()
    ]
    assert process.stdin is not None
    started = Sidecar(process, str(links["agent"] / "mcp.sock"), container)
    reader = threading.Thread(target=started.read, daemon=True)
    reader.start()
    try:
        process.stdin.write(json.dumps(config).encode() + b"\n")
        process.stdin.flush()
        yield started
    finally:
        process.stdin.close()
        for bridge in bridges:
            bridge.terminate()
            bridge.wait(10)
        process.wait(15)
        reader.join(10)

"""Spawn to ready, against `docker run` of one equally hardened container: ratios, taken in turns in one process.

    python -m tests.bench.spawn [REPETITIONS] [SERVERS…]          default: 5 repetitions, 1, 4 and 16 servers

Ready is a `tools/list` from the agent's seat that every server has answered. Absolute times depend on the machine and
on what else it does; each ratio compares neighbours in time.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
import uuid

from runner.backends import docker_seccomp
from runner.plan import AGENT
from tests.support.runs import Recorder, Runs, environment, make_runs, server

TARGETS = {1: 2.5, 4: 4.0}


def docker_run(image: str) -> float:
    """Seconds of one hardened `docker run`, as a person would type it."""
    argv = [
        "docker", "run", "--rm", "--init", "--network", "none", "--read-only", "--cap-drop", "ALL",
        "--security-opt", "no-new-privileges", "--security-opt", f"seccomp={seccomp_file()}", "--user", "1000:1000",
        "--memory", "512m", "--memory-swap", "512m", "--cpus", "1", "--pids-limit", "128", "--tmpfs", "/tmp:size=64m",
        "--log-driver", "none", "--name", f"mlld-bench-{uuid.uuid4().hex[:8]}", "--entrypoint", "/usr/bin/true", image,
    ]  # fmt: skip
    began = time.perf_counter()
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    return time.perf_counter() - began


def seccomp_file() -> str:
    path = "/tmp/mlld-bench-seccomp.json"
    with open(path, "w") as file:
        file.write(docker_seccomp.profile())
    return path


async def spawn(runs: Runs, servers: int) -> tuple[float, dict[str, int]]:
    """Seconds from plan to ready, and the stages of it in milliseconds."""
    sandbox = runs.sandbox(environment(*(server(f"s{i}") for i in range(servers))))
    began = time.perf_counter()
    async with sandbox:
        seconds = time.perf_counter() - began
    assert isinstance(sandbox.sink, Recorder)
    (ready,) = sandbox.sink.of("ready")
    return seconds, {key: ready[key] for key in ("applied", "tested", "ms")}


async def main(repetitions: int, counts: list[int]) -> None:
    with make_runs() as runs:
        image = runs.plan(environment()).container(AGENT).image
        await spawn(runs, 1)  # warm
        for count in counts:
            alone, spawned, stages = [], [], []
            for _ in range(repetitions):
                alone.append(docker_run(image))
                seconds, parts = await spawn(runs, count)
                spawned.append(seconds)
                stages.append(parts)
                alone.append(docker_run(image))
            one, all_ = statistics.median(alone), statistics.median(spawned)
            target = f"(target ≤ {TARGETS[count]})" if count in TARGETS else ""
            parts_text = ", ".join(f"{k} {statistics.median(s[k] for s in stages):.0f}" for k in stages[0])
            print(
                f"{count:>2} servers: ready in {all_ * 1000:.0f} ms ({parts_text}), one docker run {one * 1000:.0f} ms: "
                f"ratio {all_ / one:.2f} {target}",
                flush=True,
            )


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    asyncio.run(main(numbers[0] if numbers else 5, numbers[1:] or [1, 4, 16]))

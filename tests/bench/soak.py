"""Whether the sidecar stays flat under hostile servers and agents: `python -m tests.bench.soak [--seconds 120] [--container]`.

A whole sidecar with a server for each way to misbehave (`hostile_server`), agents that do (`hostile_agents`), and beside
them a good agent at a good server, whose answers are checked and timed. Memory and descriptors are taken once a second, and
their latest three fifths must be flat: the trend, the Theil–Sen slope of medians of windows, carried over the time, within a
bound. What is not flat gets up to twice the time more. Ends with 1 if it is not flat then, if the sidecar died or wrote down
a fault of its own, or if the good agent ever got anything but its answer. An hour is 3600.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from runner import recipes
from tests.bench.hostile_agents import ATTACKS, repeat
from tests.bench.whole import ROOT, Sidecar, sidecar
from tests.support.engine import engine, image_store
from tests.unit.sidecar.sidecar_process import Agent

MODES = ("calls", "pages", "many", "shifting", "mute", "stillborn")
WINDOWS = 12
JUDGED, EXTENSIONS = 0.6, 4
GROWTH_MIB = 24.0
GROWTH_FILES = 40.0
LIFECYCLE = {"startupTimeoutMs": 5000, "callTimeoutMs": 10_000, "idleTimeoutMs": 5000, "maxConcurrent": 32}


def windows(values: Sequence[float]) -> list[float]:
    """The medians of a series in equal parts."""
    size = max(1, len(values) // WINDOWS)
    return [statistics.median(values[i : i + size]) for i in range(0, len(values) - size + 1, size)]


def growth(values: Sequence[float]) -> float:
    """How much a series grows from its first to its last value by its trend; single peaks do not count."""
    middles = windows(values)
    slopes = [(b - a) / (j - i) for (i, a), (j, b) in combinations(enumerate(middles), 2)]
    return statistics.median(slopes) * (len(middles) - 1) if slopes else 0.0


def commands() -> dict[str, list[str]]:
    """The servers; the good one first, so that the first page of the tools has its."""
    here, python = ROOT / "tests" / "bench", [sys.executable, "-S", "-E"]
    hostile = {mode: [*python, str(here / "hostile_server.py"), mode] for mode in MODES}
    return {"good": [*python, str(here / "echo_server.py"), "good"], **hostile}


@dataclass
class Samples:
    """One value a second of each."""

    memory: list[float] = field(default_factory=list)
    files: list[float] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)
    judged: int = 1
    """How many of the latest count: the first ones are of a sidecar that fills what it may fill."""

    @property
    def memory_growth(self) -> float:
        return growth(self.memory[-self.judged :])

    @property
    def files_growth(self) -> float:
        return growth(self.files[-self.judged :])

    @property
    def flat(self) -> bool:
        return self.memory_growth <= GROWTH_MIB and self.files_growth <= GROWTH_FILES


async def behave(tested: Sidecar, agent: Agent, samples: Samples, seconds: float) -> None:
    """The good agent. Raises when it gets anything but its answer."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.monotonic()
        answer = await agent.call("good_search_1", size=1000)
        samples.answers.append(time.monotonic() - began)
        assert "result" in answer, answer
        assert len(answer["result"]["content"][0]["text"]) == 1000, answer
        samples.memory.append(tested.rss_mib())
        samples.files.append(tested.files())
        await asyncio.sleep(1)


async def soak(tested: Sidecar, seconds: float) -> tuple[Samples, Counter[str]]:
    """What the good agent saw, and how often each attack was made. What is still filling up its bounds gets more time: a
    slow machine needs it, and what has no bound is not flat after it either."""
    while not os.path.exists(tested.path):
        assert tested.process.poll() is None, "the sidecar did not start"
        await asyncio.sleep(0.05)
    counts = Counter({attack.__name__: 0 for attack in ATTACKS})
    attacks = [asyncio.create_task(repeat(attack, tested.path, counts)) for attack in ATTACKS]
    samples = Samples()
    try:
        agent = await Agent(tested.path).hello()
        assert "good_search_1" in {tool["name"] for tool in await agent.tools()}
        await behave(tested, agent, samples, seconds)
        samples.judged = max(1, int(len(samples.memory) * JUDGED))
        for _ in range(EXTENSIONS):
            if samples.flat and all(counts.values()):
                break
            await behave(tested, agent, samples, seconds / 2)
        return samples, counts
    finally:
        for task in attacks:
            task.cancel()
        await asyncio.gather(*attacks, return_exceptions=True)


def verdict(tested: Sidecar, samples: Samples, attacks: Counter[str]) -> bool:
    """Prints what was found; whether all of it is as it must be."""
    answers = sorted(samples.answers)
    print("attacks: " + ", ".join(f"{name} {count}" for name, count in attacks.items()))
    print("recorded: " + ", ".join(f"{name} {count}" for name, count in sorted(tested.events.items())))
    median = statistics.median(answers) * 1e3
    print(f"good answers: {len(answers)}, median {median:.0f} ms, at most {answers[-1]:.2f} s")
    for what, values, grown, bound in (
        ("memory, MiB", samples.memory, samples.memory_growth, GROWTH_MIB),
        ("descriptors", samples.files, samples.files_growth, GROWTH_FILES),
    ):
        course = " ".join(f"{value:.0f}" for value in windows(values))
        print(f"{what}: {course}; at most {max(values):.1f}; grown by {grown:+.2f} (at most {bound:g})")
    for fault in tested.faults:
        print(f"fault: {fault}", end="")
    unused = [name for name, count in attacks.items() if not count]
    if unused:
        print(f"never made: {', '.join(unused)}")
    return samples.flat and not tested.faults and not unused


def image() -> str:
    """The sidecar's image as a sandbox has it."""
    with engine() as client:
        store = image_store(client)
        return store.ensure(recipes.sidecar(ca=store.ca)).name


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--container", action="store_true", help="in the sidecar's own image and limit of memory")
    options = parser.parse_args(arguments)
    logging.getLogger("asyncio").setLevel(
        logging.ERROR
    )  # which tells of every connection that was ended on an attacker
    with (
        tempfile.TemporaryDirectory(prefix="mlld-soak-") as folder,
        sidecar(Path(folder), commands(), LIFECYCLE, image=image() if options.container else "") as tested,
    ):
        samples, attacks = asyncio.run(soak(tested, options.seconds))
        alive = tested.process.poll() is None
    return 0 if verdict(tested, samples, attacks) and alive and not tested.process.returncode else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

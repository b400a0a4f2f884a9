"""The sidecar beside its peers, in one run: `python -m tests.bench.peers [--mcpbench FOLDER] [--rounds 3] [--all]`.

mcpbench is a program outside this repository which starts MCP proxies in turns and measures them; where it is, is said by
`--mcpbench` or `$MCPBENCH`, and `$MCPBENCH_LAB` is the folder in which it looks for peers. By default it measures what our
targets are held against (direct stdio, a proxy of nothing but copies on asyncio, a naive one on the Go SDK if it was
built) and our own rows; `--all` measures every peer that is there. Then a list of a thousand tools is timed, and each
target is printed with what it was in this run. Ends with 1 if one was missed. Three rounds take about six minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench.calls import ROOT, Client, connected, endpoint, message

OURS, FIRST, SOCKETS, GUARDED = "ours", "first start of ours", "ours, two sockets", "ours, with guards"
DIRECT, FLOOR, GO = "direct stdio", "floor zero-copy on asyncio", "naive Go SDK proxy"
MEASURED = (DIRECT, FLOOR, GO, OURS, FIRST, SOCKETS, GUARDED)
KIB, MIB = 1 << 10, 1 << 20
Rounds = dict[str, list[dict[str, Any]]]
"""What mcpbench found: target → one table of cells for each round."""


def bridge(folder: Path) -> Path:
    """The bridge, compiled for this machine; its row is left out where there is no compiler."""
    binary, compiler = folder / "bridge", shutil.which("cc")
    if compiler:
        sources = sorted((ROOT / "images" / "bridge").glob("*.c"))
        subprocess.run([compiler, "-O2", "-std=gnu11", "-o", str(binary), *map(str, sources)], check=True)
    return binary


def measure(mcpbench: Path, options: argparse.Namespace, folder: Path) -> Rounds:
    """Runs mcpbench, which prints its own tables."""
    out = options.out or folder / "rows.json"
    command = [sys.executable, str(mcpbench / "bench.py"), "--rounds", str(options.rounds), "--out", str(out)]
    command += [f"--{flag}" for flag in ("quick", "rt") if getattr(options, flag)]
    if not options.all:
        command += ["--only", ",".join(name.partition(",")[0] for name in MEASURED)]
    ours = {
        "MCPBENCH_EXTRA": str(ROOT / "tests" / "bench" / "mcpbench_rows.py"),
        "MLLD_BENCH_ROOT": str(ROOT),
        "MLLD_BENCH_BRIDGE": str(bridge(folder)),
        "MLLD_BENCH_COMPILED": str(folder / "compiled"),
    }
    subprocess.run(command, env=os.environ | ours, check=True)
    rounds: Rounds = {}
    for row in json.loads(Path(out).read_text())["results"]:
        rounds.setdefault(row["target"], []).append(row["data"])
    return rounds


def cell(rounds: Rounds, target: str, *path: str) -> float | None:
    """The median over the rounds of one figure; None if the target was not there."""
    found = []
    for cells in rounds.get(target, ()):
        value: Any = cells
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, int | float):
            found.append(value)
    return statistics.median(found) if found else None


def pairs(rounds: Rounds, target: str, base: str, *path: str) -> list[tuple[float, float]]:
    """A figure of each round beside the same one of another target in that round."""
    both = zip(rounds.get(target, ()), rounds.get(base, ()), strict=False)
    found = ((cell({target: [one]}, target, *path), cell({base: [other]}, base, *path)) for one, other in both)
    return [(one, other) for one, other in found if one and other]


def ratio(rounds: Rounds, target: str, base: str, *path: str) -> float | None:
    """The median over the rounds of a figure beside the same one of another target in the same round."""
    found = [one / other for one, other in pairs(rounds, target, base, *path)]
    return statistics.median(found) if found else None


def added(rounds: Rounds, target: str, base: str, *path: str) -> float | None:
    """The median over the rounds of what a figure has more than the same one of another target in the same round: what else
    the machine does, and how much of our code and data it leaves in the caches, differs more from round to round than between
    two of one round."""
    found = [one - other for one, other in pairs(rounds, target, base, *path)]
    return statistics.median(found) if found else None


def list_of_a_thousand() -> float:
    """Milliseconds of a warm tools/list of a thousand tools."""
    with endpoint(1, unix=True, tools=1000) as (_, address):
        client = connected(address)
        assert len(client.tools()) == 1000
        return median_ms(client, message(1, "tools/list", {}))


def median_ms(client: Client, body: bytes) -> float:
    times = []
    for _ in range(40):
        began = time.perf_counter()
        client.exchange(body)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3


def verdicts(rounds: Rounds, listed_ms: float) -> list[tuple[str, float | None, float, bool]]:
    """Each target: what it is, what was found, its bound, and whether the bound is the least instead of the most."""
    plain, guarded = (partial(cell, rounds, row) for row in (OURS, GUARDED))
    memory = [plain("start5", "mem", "rss"), plain("mem_after", "rss"), guarded("mem_after", "rss")]
    over_five, loaded, with_guards = (None if value is None else value / MIB for value in memory)
    return [
        ("1 KB, to the floor", ratio(rounds, OURS, FLOOR, f"seq{KIB}", "p50"), 1.4, False),
        ("64 KB, to the floor", ratio(rounds, OURS, FLOOR, f"seq{64 * KIB}", "p50"), 1.4, False),
        ("1 MB, to direct stdio", ratio(rounds, OURS, DIRECT, f"seq{MIB}", "p50"), 1.5, False),
        ("calls/s at 8, to the Go SDK's proxy", ratio(rounds, OURS, GO, "load8", "rps"), 4.0, True),
        ("two sockets, 1 KB, to plain", ratio(rounds, SOCKETS, OURS, f"seq{KIB}", "p50"), 1.6, False),
        ("two sockets, 64 KB, to plain", ratio(rounds, SOCKETS, OURS, f"seq{64 * KIB}", "p50"), 1.6, False),
        ("two sockets, 1 MB, to plain", ratio(rounds, SOCKETS, OURS, f"seq{MIB}", "p50"), 1.6, False),
        ("start with 5 servers, ms", plain("start5", "list_ms"), 150.0, False),
        ("first start with 5, to the floor", ratio(rounds, FIRST, FLOOR, "start5", "list_ms"), 1.2, False),
        ("memory over 5 servers, MiB", over_five, 30.0, False),
        ("memory after the load, MiB", loaded, 30.0, False),
        ("memory with guards and bridges, MiB", with_guards, 60.0, False),
        ("a guard and two rules add, µs", added(rounds, GUARDED, SOCKETS, f"seq{KIB}", "p50"), 150.0, False),
        ("list of 1,000 tools, ms", listed_ms, 5.0, False),
    ]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers", description=__doc__)
    parser.add_argument("--mcpbench", type=Path, default=os.environ.get("MCPBENCH"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="shorter cells")
    parser.add_argument("--rt", action="store_true", help="at real-time priority, on a machine with other work (root)")
    parser.add_argument("--all", action="store_true", help="every peer that is there")
    parser.add_argument("--out", type=Path, help="keep the figures here")
    options = parser.parse_args(arguments)
    if options.mcpbench is None or not (options.mcpbench / "bench.py").exists():
        parser.error("name the folder of mcpbench with --mcpbench or $MCPBENCH")
    with tempfile.TemporaryDirectory(prefix="mlld-bench-") as folder:
        rounds = measure(options.mcpbench, options, Path(folder))
    missed = 0
    print(f"\n{'target':<38} {'found':>8} {'bound':>8}")
    for what, found, bound, least in verdicts(rounds, list_of_a_thousand()):
        good = found is not None and (found >= bound if least else found <= bound)
        missed += found is not None and not good
        mark = "not measured" if found is None else "ok" if good else "MISSED"
        print(f"{what:<38} {'–' if found is None else f'{found:.2f}':>8} {'≥' if least else '≤'} {bound:>6g}  {mark}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

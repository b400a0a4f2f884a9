"""What a command costs before it does anything: `python -m tests.bench.start [REPETITIONS]`.

`mlld --version` against `python -c pass`, taken in turns; `mlld run` of one line: processor time and memory. The reference,
mlld 2.0.5, took 0.78 s of processor time and 136 MiB for that line.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

MLLD = (sys.executable, "-m", "runner")  # what the `mlld` script does
VERSION_RATIO, RUN_CPU, RUN_MIB = 3.0, 0.35, 60


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one process with its children."""

    wall: float
    cpu: float
    mib: float


def cost(*argv: str) -> Cost:
    """Runs it. Errors: `RuntimeError` if it fails: a quick failure is no result."""
    started = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{argv} ended with {process.returncode}")
    wall = time.perf_counter() - started
    return Cost(wall=wall, cpu=usage.ru_utime + usage.ru_stime, mib=usage.ru_maxrss / 1024)


def main(repetitions: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "hello.mld"
        script.write_text('show "hello"\n')
        cost(*MLLD, "run", str(script))  # fills caches, as a second run finds them
        bare, version, hello = [], [], []
        for _ in range(repetitions):
            bare.append(cost(sys.executable, "-c", "pass"))
            version.append(cost(*MLLD, "--version"))
            hello.append(cost(*MLLD, "run", str(script)))
    one, other = (statistics.median(c.wall for c in costs) for costs in (bare, version))
    shown = f"{other * 1000:.0f} ms, python -c pass {one * 1000:.0f} ms"
    print(f"mlld --version: {shown}: ratio {other / one:.2f} (target ≤ {VERSION_RATIO:g})")
    cpu, mib = statistics.median(c.cpu for c in hello), max(c.mib for c in hello)
    print(f"mlld run hello.mld: {cpu:.2f} s of CPU (target ≤ {RUN_CPU}), {mib:.0f} MiB (target < {RUN_MIB})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 11)

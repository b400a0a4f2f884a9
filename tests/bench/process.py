"""What a process costs: processor time with its children, and memory."""

from __future__ import annotations

import subprocess
import sys

from tests.bench.start import MLLD as MLLD

# A process counts the memory of the one that started it as its own until it becomes another program: so a bare Python does.
LAUNCHER = """
import os, sys
into_nothing = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
_, status, usage = os.wait4(os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=into_nothing), 0)
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def cost(*argv: str) -> tuple[float, int]:
    """Processor seconds and KiB of one process. Errors: `CalledProcessError` if it fails."""
    launched = subprocess.run([sys.executable, "-c", LAUNCHER, *argv], stdout=subprocess.PIPE, text=True, check=True)
    cpu, kib = launched.stdout.split()
    return float(cpu), int(kib)


def least(*argv: str, repetitions: int) -> tuple[float, int]:
    """Of the cheapest of several runs."""
    return min(cost(*argv) for _ in range(repetitions))

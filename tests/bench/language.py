"""What the language costs: `python -m tests.bench.language [--repetitions N] [--reference COMMAND]`.

Every figure is a ratio within this run, so that it says the same on a slow machine and on a busy one: processor time and memory of
a process against those of `python -c pass`, and, where the reference is at hand, against the same scripts in it. How the time grows
with the input is measured by `tests.bench.growth`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.bench.growth import parsed
from tests.bench.process import MLLD, least
from tests.bench.reference import SCRIPTS, START, compare, prepare

LEAST_KBPS = 300


def processes(root: Path, repetitions: int) -> None:
    """Whole processes, with their start and their memory, beside a Python that does nothing."""
    bare_cpu, bare_kib = least(sys.executable, "-c", "pass", repetitions=repetitions)
    print(f"{'process':<40} {'CPU':>9} {'memory':>8}   against python -c pass")
    for each in (START, *SCRIPTS):
        script = root / "script.mld"
        script.write_text(each.text)
        cpu, kib = least(*MLLD, "run", str(script), repetitions=repetitions)
        print(f"{each.name:<40} {cpu / bare_cpu:>7.1f} × {kib / bare_kib:>6.1f} ×")


def parsing(root: Path, repetitions: int) -> bool:
    """Bytes a second, of the samples of every form."""
    sample = (Path(__file__).parents[1] / "language" / "syntax" / "strict.mld").read_text().split("---\n", 2)[2]
    text = sample * (200_000 // len(sample))
    rate = len(text) / min(parsed(text, root) for _ in range(repetitions)) / 1000
    print(f"\nparse: {rate:.0f} kB/s (target ≥ {LEAST_KBPS})\n", flush=True)
    return rate >= LEAST_KBPS


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.language", description="What the language costs.")
    parser.add_argument("--repetitions", type=int, default=3, help="turns, of which the least counts (default: 3)")
    parser.add_argument("--reference", metavar="COMMAND", help="what runs a script in mlld 2.0.5")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        prepare(root)
        processes(root, options.repetitions)
        met = parsing(root, options.repetitions)
        if options.reference is not None:
            met = compare(root, options.reference, options.repetitions) and met
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

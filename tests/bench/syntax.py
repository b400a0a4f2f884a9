"""Parsing: speed, growth and start-up, in CPU time.

    python -m tests.bench.syntax [FILE…]          default: the samples of tests/language/syntax, repeated

Prints kB/s over the files (target: 300), the time for twice the input as a ratio (target: 2.3), and what a start with
a warm table costs beside `python -c pass`.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

from interpreter.check import check_source
from interpreter.parser import parse
from interpreter.source import Mode, Source, mode_of

SAMPLES = Path(__file__).parents[1] / "language" / "syntax"
LEAST_KBPS = 300
MOST_GROWTH = 2.3
START = "import interpreter.parser as p; from interpreter.source import Source; p.parse(Source(text='show 1'))"


def seconds(texts: list[tuple[str, Mode]], repeat: int = 3) -> float:
    """The best of a few runs over all texts."""
    best = float("inf")
    for _ in range(repeat):
        began = time.process_time()
        for text, mode in texts:
            parse(Source(text=text), mode)
        best = min(best, time.process_time() - began)
    return best


def cpu(program: str) -> float:
    """User and system time of a Python of its own, the least of five."""
    argv = [sys.executable, "-c", program]
    took = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(argv, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(took)


def main() -> None:
    paths = [Path(name) for name in sys.argv[1:]] or sorted(SAMPLES.iterdir())
    texts = [(path.read_text(), mode_of(path.name)) for path in paths]
    size = sum(len(text) for text, _ in texts)
    rounds = max(1, 200_000 // size)
    parsed = seconds(texts * rounds)
    began = time.process_time()
    for path, (text, mode) in zip(paths, texts, strict=True):
        check_source(Source(name=path.name, text=text), mode)
    checked = time.process_time() - began
    print(f"parse  {size * rounds / parsed / 1000:6.0f} kB/s over {len(paths)} files (target {LEAST_KBPS})")
    print(f"check  {size / checked / 1000:6.0f} kB/s")
    sample = (SAMPLES / "strict.mld").read_text().split("---\n", 2)[2]
    once, twice = seconds([(sample * 20, "strict")]), seconds([(sample * 40, "strict")])
    print(f"growth {twice / once:6.2f} for twice the input (target {MOST_GROWTH})")
    empty, start = cpu("pass"), cpu(START)
    print(
        f"start  {start * 1000:6.0f} ms of CPU to the first parse, {start / empty:.1f} × python -c pass ({empty * 1000:.0f} ms)"
    )


if __name__ == "__main__":
    main()

"""What the language costs: `python -m tests.bench.language [REPETITIONS]`.

Every figure is a ratio within this run, so that it says the same on a slow machine and on a busy one: processor time of a
process against that of `python -c pass`, and of an input against half of it (2 is linear, 4 is quadratic).
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from interpreter.evaluate import RunOptions, run_script
from interpreter.parser import parse
from interpreter.ports import Ports
from interpreter.source import Source
from runner.host.clock import SystemClock
from runner.host.files import HostFiles
from tests.bench.start import MLLD

MOST_GROWTH = 2.5
LIST = "@xs.length()"
# A process counts the memory of the one that started it as its own until it becomes another program: so a bare Python does.
LAUNCHER = """
import os, sys
into_nothing = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
_, status, usage = os.wait4(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=into_nothing), 0)
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


class Silent:
    """An output that keeps nothing (`ports.Output`)."""

    def document(self, text: str) -> None: ...

    def stdout(self, text: str) -> None: ...

    def stderr(self, text: str) -> None: ...

    def event(self, event: object) -> None: ...


def numbers(count: int) -> str:
    return f"[{', '.join(map(str, range(count)))}]"


def loop(count: int) -> str:
    return f"exe @twice(x) = @x * 2\nvar @xs = for @x in {numbers(count)} => @twice(@x)\nshow {LIST}\n"


def pipeline(count: int) -> str:
    return f"exe @same(x) = @x\nshow `text`{' | @same' * count}\n"


def glob(count: int) -> str:
    return f"var @xs = <{count}/*.md>\nshow {LIST}\n"


def template(count: int) -> str:
    return f"var @x = `text`\nshow `{'@x ' * count}`\n"


def variables(count: int) -> str:
    return "".join(f"var @v{i} = {i}\n" for i in range(count))


def labelled(count: int) -> str:
    return f"var secret @s = `text`\nvar @xs = for @x in {numbers(count)} => `@s @x`\nshow {LIST}\n"


def guarded(count: int) -> str:
    guard = "guard @judge before secret = when [\n  @input == `never` => deny `no`\n  * => allow\n]\n"
    return f"{guard}exe @same(x) = @x\nvar secret @s = `text`\nvar @xs = for @x in {numbers(count)} => @same(@s)\nshow {LIST}\n"


@dataclass(frozen=True, kw_only=True)
class Growth:
    """A script for any size, and the size that is measured against its half."""

    name: str
    script: Callable[[int], str]
    size: int


GROWTHS = (
    Growth(name="iterations of a for with a call", script=loop, size=10_000),
    Growth(name="stages of one pipeline", script=pipeline, size=1_000),
    Growth(name="files of one glob", script=glob, size=2_000),
    Growth(name="names in one template", script=template, size=10_000),
    Growth(name="variables of one script", script=variables, size=4_000),
    Growth(name="templates with a labelled value", script=labelled, size=4_000),
    Growth(name="calls that a guard judges", script=guarded, size=1_000),
)


def evaluated(text: str, root: Path) -> float:
    """Processor seconds from the text to its end."""
    ports = Ports(output=Silent(), clock=SystemClock(), files=HostFiles([root]))
    script = run_script(Source(name="bench.mld", text=text), root / "bench.mld", ports, RunOptions(root=root))
    began = time.process_time()
    asyncio.run(script)
    return time.process_time() - began


def parsed(text: str) -> float:
    began = time.process_time()
    parse(Source(text=text), "strict")
    return time.process_time() - began


def compared(small: Callable[[], float], large: Callable[[], float], repetitions: int) -> tuple[float, float]:
    """The least of either, taken in turns: whatever else the machine does only ever adds."""
    times = [(small(), large()) for _ in range(repetitions)]
    return min(time for time, _ in times), min(time for _, time in times)


def fill(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.md").write_text(f"# Title {number}\n\nSome text.\n")


def cost(*argv: str) -> tuple[float, int]:
    """Processor seconds and KiB of one process. Errors: `CalledProcessError` if it fails."""
    launched = subprocess.run([sys.executable, "-c", LAUNCHER, *argv], stdout=subprocess.PIPE, text=True, check=True)
    cpu, kib = launched.stdout.split()
    return float(cpu), int(kib)


def least(*argv: str, repetitions: int) -> tuple[float, int]:
    """Of the cheapest of several runs."""
    return min(cost(*argv) for _ in range(repetitions))


def processes(root: Path, repetitions: int) -> None:
    """Whole processes, with their start and their memory, beside a Python that does nothing."""
    bare_cpu, bare_kib = least(sys.executable, "-c", "pass", repetitions=repetitions)
    print(f"{'process':<36} {'CPU':>9} {'memory':>8}   against python -c pass")
    for name, text in (("mlld run: one line", "show `hello`\n"), ("mlld run: 10,000 iterations", loop(10_000))):
        script = root / "process.mld"
        script.write_text(text)
        cpu, kib = least(*MLLD, "run", str(script), repetitions=repetitions)
        print(f"{name:<36} {cpu / bare_cpu:>7.1f} × {kib / bare_kib:>6.1f} ×")


def growths(root: Path, repetitions: int) -> None:
    print(f"\n{'input':<36} {'size':>9} {'ms':>8}   against half of it (target ≤ {MOST_GROWTH:g})")
    for growth in GROWTHS:
        half, whole = growth.script(growth.size // 2), growth.script(growth.size)
        one, two = compared(partial(evaluated, half, root), partial(evaluated, whole, root), repetitions)
        print(f"{growth.name:<36} {growth.size:>9,} {two * 1000:>8.0f}   {two / one:.2f} ×")
    half, whole = (variables(count) + loop(count) for count in (4_000, 8_000))
    one, two = compared(partial(parsed, half), partial(parsed, whole), repetitions)
    rate = f"{len(whole) / two / 1000:.0f} kB/s"
    print(f"{'bytes to parse':<36} {len(whole):>9,} {two * 1000:>8.0f}   {two / one:.2f} ×, {rate}")


def main(repetitions: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        for count in (1_000, 2_000):
            fill(root / str(count), count)
        processes(root, repetitions)
        growths(root, repetitions)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)

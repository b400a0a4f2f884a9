"""The same scripts in another implementation, in turns with ours: `python -m tests.bench.language --reference 'COMMAND'`.

COMMAND runs one script whose path is put at its end (`node mlld/dist/cli.cjs` for mlld 2.0.5). Both print the same, or the
comparison ends with an error: what fails is quick. Each figure is the least of several turns, of whole processes: user and system
time with all children, and the greatest resident memory. Work is what a script takes beyond the start.

The reference ends a pipeline after 100 stages and reads `1` + a thousand stages as one, so a thousand stages are twenty pipelines.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.bench.process import MLLD, least

LEAST_SPEED = 1.0
MOST_START = 0.5
MOST_MEMORY = 0.5


@dataclass(frozen=True, kw_only=True)
class Script:
    """A script that both can run, and what it prints."""

    name: str
    text: str
    prints: str


START = Script(name="start: show one line", text="show `hello`\n", prints="hello")
SCRIPTS = (
    Script(
        name="10,000 iterations with a call",
        text="exe @mark(x) = `@x!`\nvar @numbers = <numbers.json>\n"
        "var @xs = for @x in @numbers => @mark(@x)\nshow @xs.length()\n",
        prints="10000",
    ),
    Script(
        name="1,000 stages of pipelines",
        text="exe @same(x) = `@x`\nvar @twenty = <twenty.json>\n"
        f"var @xs = for @x in @twenty => @x{' | @same' * 50}\nshow @xs.length()\n",
        prints="20",
    ),
    Script(name="2,000 files of a glob", text="var @xs = <files/*.md>\nshow @xs.length()\n", prints="2000"),
    Script(
        name="2,000 variables and a template of them",
        text="".join(f"var @v{i} = `value {i}`\n" for i in range(2_000))
        + f"show `{' '.join(f'@v{i}' for i in range(2_000))}`\n",
        prints=" ".join(f"value {i}" for i in range(2_000)),
    ),
)


def prepare(root: Path) -> None:
    """The files that the scripts read."""
    (root / "numbers.json").write_text(json.dumps(list(range(10_000))))
    (root / "twenty.json").write_text(json.dumps(list(range(20))))
    (root / "files").mkdir()
    for number in range(2_000):
        (root / "files" / f"{number}.md").write_text(f"# Title {number}\n\nSome text.\n")


def check(argv: tuple[str, ...], script: Script) -> None:
    """Errors: `RuntimeError` if it fails or prints something else."""
    ran = subprocess.run(argv, capture_output=True, text=True, check=False)
    if ran.returncode or ran.stdout.strip() != script.prints:
        raise RuntimeError(f"{shlex.join(argv)} ended with {ran.returncode}: {(ran.stdout + ran.stderr)[-2000:]}")


def compare(root: Path, command: str, repetitions: int) -> bool:
    """Prints the table, in a folder that `prepare` has filled; are all targets met?"""
    reference = tuple(shlex.split(command))
    base: tuple[float, float] = (0.0, 0.0)
    met = True
    print(f"{'script':<40} {'reference':>15} {'ours':>15}   ours : reference")
    for script in (START, *SCRIPTS):
        path = root / "script.mld"
        path.write_text(script.text)
        theirs_argv, ours_argv = (*reference, str(path)), (*MLLD, "run", str(path))
        check(theirs_argv, script)
        check(ours_argv, script)
        turns = [(least(*theirs_argv, repetitions=1), least(*ours_argv, repetitions=1)) for _ in range(repetitions)]
        theirs, ours = min(t for t, _ in turns), min(o for _, o in turns)
        memory = min(kib for (_, kib), _ in turns), min(kib for _, (_, kib) in turns)
        ratio, of_memory = ours[0] / theirs[0], memory[1] / memory[0]
        line = f"CPU {ratio:.2f} ×, memory {of_memory:.2f} ×"
        if script is START:
            base = theirs[0], ours[0]
            met = met and ratio <= MOST_START
        else:
            speed = (theirs[0] - base[0]) / max(ours[0] - base[1], 0.001)
            line += f", speed of the work {speed:.1f} ×"
            met = met and 1 / ratio >= LEAST_SPEED and speed >= LEAST_SPEED
        met = met and of_memory <= MOST_MEMORY
        figures = (f"{cpu:.2f} s {kib / 1024:.0f} MiB" for cpu, kib in ((theirs[0], memory[0]), (ours[0], memory[1])))
        print(f"{script.name:<40} {next(figures):>15} {next(figures):>15}   {line}", flush=True)
    print(
        f"targets: start ≤ {MOST_START} ×, memory ≤ {MOST_MEMORY} ×, speed ≥ {LEAST_SPEED} ×: {'met' if met else 'MISSED'}"
    )
    return met

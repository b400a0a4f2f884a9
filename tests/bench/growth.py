"""Nothing is quadratic: twice the input takes about twice the time. `python -m tests.bench.growth [NAME…]`.

Each row makes an input for a size, and one for twice that size; both are measured in turns in processor time, and the least of each
counts, because whatever else the machine does only ever adds. While the ratio is above the limit there are more turns, up to
`MOST_TURNS`: noise goes away, growth does not. 2 is linear, 4 is quadratic.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from interpreter.check import ast_json, check_source, tokens_json
from interpreter.evaluate import RunOptions, run_script
from interpreter.parser import parse
from interpreter.ports import Ports
from interpreter.printer import print_source
from interpreter.source import Source
from runner.host.clock import SystemClock
from runner.host.files import HostFiles

LIMIT = 2.3
LEAST_TURNS, MOST_TURNS = 3, 15
LEAST_SECONDS = 0.02
"""Below that the clock says more about the machine than about us: a row whose larger input is quicker passes."""

Make = Callable[[int], str]
Measure = Callable[[str, Path], float]


class Silent:
    """An output that keeps nothing (`ports.Output`)."""

    def document(self, text: str) -> None: ...

    def stdout(self, text: str) -> None: ...

    def stderr(self, text: str) -> None: ...

    def event(self, event: object) -> None: ...


# ── What is measured: processor seconds from the text to its end ─────────────────────────────────


def evaluated(text: str, root: Path) -> float:
    ports = Ports(output=Silent(), clock=SystemClock(), files=HostFiles([root]))
    script = run_script(Source(name="bench.mld", text=text), root / "bench.mld", ports, RunOptions(root=root))
    return _timed(lambda: asyncio.run(script))


def parsed(text: str, root: Path) -> float:
    return _timed(lambda: parse(Source(text=text), "strict"))


def parsed_as_document(text: str, root: Path) -> float:
    return _timed(lambda: parse(Source(text=text), "document"))


def checked(text: str, root: Path) -> float:
    """All faults and warnings, as a person and a program read them."""
    return _timed(lambda: [(fault.render(), fault.json()) for fault in check_source(Source(text=text))])


def printed(text: str, root: Path) -> float:
    tree, faults = parse(Source(text=text), "strict")
    assert not faults, faults[0].render()
    return _timed(lambda: (print_source(tree), ast_json(tree)))


def listed(text: str, root: Path) -> float:
    return _timed(lambda: tokens_json(Source(text=text)))


def _timed(work: Callable[[], object]) -> float:
    gc.collect()
    gc.disable()  # how much garbage others left would decide when it is collected here
    try:
        began = time.process_time()
        work()
        return time.process_time() - began
    finally:
        gc.enable()


# ── The inputs ───────────────────────────────────────────────────────────────────────────────────

LENGTH = "show @xs.length()\n"
GUARD = "guard @judge before secret = when [\n  @input == `never` => deny `no`\n  * => allow\n]\n"


def numbers(count: int) -> str:
    return f"[{', '.join(map(str, range(count)))}]"


def over(count: int, value: str, before: str = "") -> str:
    """A `for` of so many elements that gives a list."""
    return f"{before}var @xs = for @x in {numbers(count)} => {value}\n{LENGTH}"


def gathered(count: int, start: str, step: str) -> str:
    """A name that grows by one step in each round."""
    rounds = f"  for @x in {numbers(count)} [ let @all += {step} ]\n"
    return f"exe @gather() = [\n  let @all = {start}\n{rounds}  => @all.length()\n]\nshow @gather()\n"


def objects(count: int) -> str:
    """An object to which one key is added in each round."""
    listed = f"[{', '.join(f'{{ k{i}: {i} }}' for i in range(count))}]"
    rounds = f"  for @o in {listed} [ let @all += @o ]\n"
    return f"exe @gather() = [\n  let @all = {{}}\n{rounds}  => @all\n]\nvar @all = @gather()\nshow @all.k0\n"


def rounds(count: int) -> str:
    until = f"  loop({count + 1}) until @n >= {count} [ let @n += 1 ]\n"
    return f"exe @f() = [\n  let @n = 0\n{until}  => @n\n]\nshow @f()\n"


def keys(count: int) -> str:
    listed = ", ".join(f"k{i}: {i}" for i in range(count))
    return f"var @o = {{ {listed} }}\nvar @xs = for @k, @v in @o => `@k @v`\n{LENGTH}"


def matches(count: int) -> str:
    return f"var @a = `{'ab ' * count}`\nshow @a.replace(/(a)(b)/g, `x`).length()\n"


def judged(count: int) -> str:
    return over(count, "@same(@s)", f"{GUARD}exe @same(x) = @x\nvar secret @s = `t`\n")


def files(count: int) -> str:
    return f"var @xs = <{count}/*.md>\n{LENGTH}"


def imports(count: int) -> str:
    """One module for each name, `count` of them in the folder of that name."""
    return "".join(f'import {{ @v{i} }} from "./{count}/m{i}.mld"\n' for i in range(count // 10)) + "show @v0\n"


def fill(folder: Path, count: int) -> None:
    """The files that `files` and `imports` of that size read."""
    folder.mkdir()
    for i in range(count):
        (folder / f"{i}.md").write_text(f"# Title {i}\n\nSome text.\n")
    for i in range(count // 10):
        (folder / f"m{i}.mld").write_text(f"var @v{i} = {i}\nexport {{ @v{i} }}\n")


def lined(count: int, before: str, line: str, after: str) -> str:
    return before + line * count + after


def lines(line: str) -> Make:
    return lambda count: "".join(line.replace("#", str(i)) for i in range(count))


@dataclass(frozen=True, kw_only=True)
class Growth:
    """An input for any size, what is done with it, and the size that is measured against twice that."""

    name: str
    make: Make
    measure: Measure = evaluated
    size: int = 1_000


GROWTHS = (
    # The parser and its neighbours.
    Growth(name="parse: statements", make=lines("var @v# = @y.z[0] + 1\n"), measure=parsed),
    Growth(name="parse: one list", make=lambda n: f"var @x = {numbers(n)}\n", measure=parsed, size=8_000),
    Growth(name="parse: one object", make=lambda n: f"var @x = {{ {'k: @a, ' * n} }}\n", measure=parsed, size=4_000),
    Growth(name="parse: one template", make=lambda n: f"show `{'a @x.y b ' * n}`\n", measure=parsed, size=4_000),
    Growth(name="parse: one block", make=lambda n: lined(n, "exe @f() = [\n", "  let @a = 1\n", "]\n"), measure=parsed),
    Growth(name="parse: one when", make=lambda n: lined(n, "show when [\n", "  @a == 1 => 2\n", "]\n"), measure=parsed),
    Growth(name="parse: one pipeline", make=lambda n: f"show @x {'| @f ' * n}\n", measure=parsed, size=4_000),
    Growth(name="parse: prose", make=lines("Some text with @name # in it.\n"), measure=parsed_as_document, size=16_000),
    Growth(name="check: unclosed brackets", make=lines("var @x# = (\n"), measure=checked, size=16_000),
    Growth(name="check: unclosed texts", make=lines("var @x# = `text\n"), measure=checked, size=16_000),
    Growth(name="check: faults of one statement", make=lambda n: f"show [{'a, ' * n}]\n", measure=checked, size=400),
    Growth(name="check: unknown names", make=lines("var @name# = 1\nshow @nome#\n"), measure=checked, size=500),
    Growth(name="check: names", make=lines("var @v# = 1\nshow @v#\n"), measure=checked),
    Growth(name="print and tree", make=lines("var @v# = { a: [@y.z, 1], b: `text @x` }\n"), measure=printed),
    Growth(name="tokens", make=lines("var @v# = { a: [@y.z, 1], b: `text @x` }\n"), measure=listed),
    # Evaluation.
    Growth(name="iterations with a call", make=lambda n: over(n, "@twice(@x)", "exe @twice(x) = @x * 2\n"), size=3_000),
    Growth(name="stages of a pipeline", make=lambda n: f"exe @same(x) = @x\nshow `text`{' | @same' * n}\n"),
    Growth(name="a pipeline for each element", make=lambda n: over(n, "`@x` | @upper | @trim")),
    Growth(name="files of a glob", make=files),
    Growth(name="imports", make=imports),
    Growth(name="variables", make=lines("var @v# = #\n"), size=2_000),
    Growth(name="names in a template", make=lambda n: f"var @x = `text`\nshow `{'@x ' * n}`\n", size=5_000),
    Growth(name="text that grows", make=lambda n: gathered(n, "``", "`some text @x`"), size=8_000),
    Growth(name="a list that grows", make=lambda n: gathered(n, "[]", "[@x]"), size=8_000),
    Growth(name="an object that grows", make=objects, size=2_000),
    Growth(name="objects of a list", make=lambda n: over(n, "{ a: @x, b: [@x, @x] }"), size=3_000),
    Growth(name="joined and split", make=lambda n: f"var @xs = {numbers(n)}.join(`,`).split(`,`)\n{LENGTH}", size=8_000),
    Growth(name="JSON and back", make=lambda n: f"var @o = {numbers(n)}\nvar @xs = @o | @json | @parse\n{LENGTH}", size=8_000),
    # Labels.
    Growth(name="templates with a label", make=lambda n: over(n, "`@s @x`", "var secret @s = `text`\n"), size=3_000),
    Growth(name="one template of labels", make=lambda n: f"var secret @s = `text`\nshow `{'@s ' * n}`\n", size=5_000),
    Growth(
        name="a list of labelled values",
        make=lambda n: lines("var secret, l# @v# = `x`\n")(n) + f"var @xs = [{', '.join(f'@v{i}' for i in range(n))}]\n{LENGTH}",
        size=800,
    ),
    Growth(name="a labelled list that grows", make=lambda n: "var secret @s = `x`\n" + gathered(n, "[]", "[@s]"), size=2_000),
    Growth(name="a labelled text that grows", make=lambda n: "var secret @s = `x`\n" + gathered(n, "``", "@s"), size=2_000),
    Growth(name="functions", make=lines("exe @f#(a) = `@a`\nshow @f#(1)\n")),
    Growth(name="rounds of a loop", make=rounds),
    Growth(name="a parallel for", make=lambda n: over(n, "@x").replace("for @x", "for parallel(8) @x"), size=2_000),
    Growth(name="a for in a template", make=lambda n: f"var @a = {numbers(n)}\nshow `\n/for @x in @a\n- @x\n/end\n`\n", size=4_000),
    Growth(name="keys of an object", make=keys, size=3_000),
    Growth(name="elements by index", make=lambda n: over(n, "@a[@x]", f"var @a = {numbers(n)}\n"), size=3_000),
    Growth(name="matches of a pattern", make=matches, size=40_000),
    Growth(name="files in one text", make=lambda n: files(n) + "var @t = `@xs`\nshow @t.length()\n"),
    Growth(name="guards", make=lambda n: lines("guard @g# before l# = when [ * => allow ]\n")(n) + "show 1\n"),
    Growth(name="calls that a guard judges", make=judged, size=600),
)  # fmt: skip


def ratio(growth: Growth, root: Path, *, limit: float = LIMIT, turns: int = LEAST_TURNS) -> tuple[float, float, float]:
    """Seconds for the size, for twice the size, and how they compare (0 where both are too quick to tell)."""
    once, twice = growth.make(growth.size), growth.make(2 * growth.size)
    small = large = float("inf")
    for turn in range(MOST_TURNS):
        small, large = min(small, growth.measure(once, root)), min(large, growth.measure(twice, root))
        if turn + 1 >= turns and large / small <= limit:
            break
    return small, large, large / small if large > LEAST_SECONDS else 0.0


def main(wanted: list[str]) -> int:
    rows = [growth for growth in GROWTHS if not wanted or any(word in growth.name for word in wanted)]
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        for size in (1_000, 2_000):
            fill(root / str(size), size)
        print(f"{'input':<36} {'twice':>9} {'ms':>8}   against once (limit {LIMIT:g})")
        for growth in rows:
            _, large, found = ratio(growth, root)
            worst = max(worst, found)
            print(
                f"{growth.name:<36} {2 * growth.size:>9,} {large * 1000:>8.0f}   {found:.2f} ×{'  <<<' * (found > LIMIT)}",
                flush=True,
            )
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

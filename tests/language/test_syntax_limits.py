"""Bounds: no input makes the parser fall over, hang, or take more than its share of time."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from interpreter.check import check_source
from interpreter.parser import parse, parse_template
from interpreter.source import Mode, Source

DEEP: dict[str, Callable[[int], str]] = {
    "parentheses": lambda n: "show " + "(" * n + "1" + ")" * n,
    "lists": lambda n: "show " + "[" * n + "]" * n,
    "objects": lambda n: "var @x = " + "{ a: " * n + "1" + " }" * n,
    "blocks": lambda n: "if @a [ " * n + "skip" + " ]" * n,
    "templates": lambda n: "show " + "`@f(" * n + ")`" * n,
    "snippets": lambda n: "show " + "`@a?" * n,
    "loops": lambda n: "for @x in @y => " * n + "show 1",
    "ternaries": lambda n: "show " + "@a ? 1 : " * n + "2",
    "negations": lambda n: "show " + "!" * n + "@a",
    "fields": lambda n: "show @a" + ".b" * n,
    "calls": lambda n: "show @a" + "()" * n,
    "sums": lambda n: "show 1" + " + 1" * n,
    "else-if": lambda n: "if @a [ skip ]" + " else if @a [ skip ]" * n,
    "labels": lambda n: "=> " * n + "@a",
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_nesting_is_an_error_with_a_place(name: str) -> None:
    faults = check_source(Source(name="t.mld", text=DEEP[name](1000) + "\n"))
    assert faults
    assert faults[0].span is not None
    assert faults[0].code in ("too-deep", "syntax", "unclosed-text")


@pytest.mark.parametrize("name", sorted(set(DEEP) - {"snippets", "labels"}))
def test_moderate_nesting_is_fine(name: str) -> None:
    _, faults = parse(Source(text=DEEP[name](25) + "\n"), "strict")
    assert faults == []


LONG: dict[str, Callable[[int], str]] = {
    "statements": lambda n: "var @x = @y.z[0] + 1\n" * n,
    "list": lambda n: "var @x = [" + "1, " * n + "1]\n",
    "object": lambda n: "var @x = {" + "k: @a, " * n + "}\n",
    "block": lambda n: "exe @f() = [\n" + "  let @a = 1\n" * n + "]\n",
    "cases": lambda n: "exe @f(x) = when [\n" + "  @x == 1 => [ => 2 ]\n" * n + "]\n",
    "template": lambda n: "show `" + "a @x.y b " * n + "`\n",
    "angles": lambda n: "show `" + "<" * n + "`\n",
    "snippets": lambda n: "show `" + "@x?`a`" * n + "`\n",
    "pipeline": lambda n: "show @x " + "| @f " * n + "\n",
    "command": lambda n: "run cmd { " + "echo 'a' \"b\" " * n + "}\n",
    "apostrophes": lambda n: "exe @f() = sh { echo don't }\n" * n,
    "fences": lambda n: "```x\n" * n,
    "unclosed-brackets": lambda n: "var @x = (\n" * n,
    "unclosed-templates": lambda n: "var @x = `abc\n" * n,
    "prose": lambda n: "hello world, it isn't code\n" * n,
    "comments": lambda n: "exe js = {}\nexe @f() = js { " + "/* " * n + "}\n",
}


def compared(work: Callable[[str], object], small: str, large: str, limit: float) -> tuple[float, float]:
    """Processor seconds for either text, the least of several turns: noise goes away in more of them, growth does not."""

    def spent(text: str) -> float:
        begin = time.process_time()
        work(text)
        return time.process_time() - begin

    once = many = float("inf")
    for turn in range(15):
        once, many = min(once, spent(small)), min(many, spent(large))
        if turn and many / once < limit:
            break
    return once, many


@pytest.mark.parametrize("name", LONG)
def test_four_times_the_input_takes_about_four_times_as_long(name: str) -> None:
    mode: Mode = "document" if name == "fences" else "strict"
    small, large = compared(lambda text: parse(Source(text=text), mode), LONG[name](700), LONG[name](2800), 9)
    # 16 would be quadratic. Below 10 ms the clock says more about the machine than about us.
    assert large < 0.01 or large / small < 9, f"{small * 1000:.1f} ms, then {large * 1000:.1f} ms"


def test_blocks_in_a_template_file_that_do_not_end_are_looked_for_once() -> None:
    fences = "```mlld\n"
    small, large = compared(
        lambda text: parse_template(Source(name="t.att", text=text)), fences * 2000, fences * 8000, 9
    )
    assert large < 0.02 or large / small < 9, f"{small * 1000:.1f} ms, then {large * 1000:.1f} ms"

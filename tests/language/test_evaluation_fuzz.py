"""Fuzzing of what runs, bounded: a script without effects gives a result or a diagnostic, and never anything else.

Scripts are made by the grammar: values, templates, operators, methods, built-in transformers, `when`, `if`, `for`, blocks
with `let` and `+=`, functions. Names are those that the script declares, so that most scripts get far.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interpreter.errors import MlldError
from interpreter.evaluate import RunOptions, run_script
from interpreter.evaluate.methods import ARRAY, NUMBER, TEXT
from interpreter.ports import Ports
from interpreter.resolve import BUILT_IN
from interpreter.source import Source
from runner.host.clock import SystemClock

SECONDS = 20.0
"""No script here has more than a few thousand steps; the clock is generous because machines are shared."""
NAMES = ("a", "b", "c", "f", "g", "x", "input")
METHODS = sorted({*TEXT, *ARRAY, *NUMBER})
OPERATORS = ("+", "-", "*", "/", "%", "==", "!=", "<", ">", "<=", ">=", "&&", "||", "??", "~=", "!~=")
bounded = settings(max_examples=120, suppress_health_check=list(HealthCheck))

literals = st.one_of(
    st.integers(-(2**60), 2**60).map(str),
    st.floats(0, 1e9, allow_nan=False).map(lambda x: f"{x:.3f}"),
    st.sampled_from(
        ["true", "false", "null", '""', "'it'", '"a,b"', "[]", "{}", "0", "1", "2s", "/a+/g", '`{"k": [1]}`']
    ),
    st.text("ab @.<>{}[]|#\n", max_size=8).map(lambda text: f"'{text}'"),
    st.text("ab @.{}|\n", max_size=8).map(lambda text: f"`{text}`"),
)
references = st.sampled_from(NAMES).flatmap(
    lambda name: st.sampled_from(
        ["", ".k", ".length", "[0]", "[-1]", "[1:2]", "[*]", ".mx.labels", ".k.k?", "[@a]"]
    ).map(lambda rest: f"@{name}{rest}")
)


def wider(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """The compound forms over given values."""
    few = st.lists(inner, max_size=3)
    return st.one_of(
        few.map(lambda items: f"[{', '.join(items)}]"),
        few.map(lambda items: f"{{ {', '.join(f'k{i}: {item}' for i, item in enumerate(items))} }}"),
        st.tuples(inner, st.sampled_from(OPERATORS), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        inner.map(lambda value: f"(!{value})"),
        st.tuples(inner, inner, inner).map(lambda t: f"({t[0]} ? {t[1]} : {t[2]})"),
        st.tuples(st.sampled_from(METHODS), st.lists(inner, max_size=2)).map(lambda t: f"@c.{t[0]}({', '.join(t[1])})"),
        st.tuples(inner, st.lists(st.sampled_from(sorted(BUILT_IN)), min_size=1, max_size=2)).map(
            lambda t: f"({t[0]}{''.join(f' | @{name}' for name in t[1])})"
        ),
        st.tuples(st.sampled_from("fg"), few).map(lambda t: f"@{t[0]}({', '.join(t[1])})"),
        st.tuples(inner, inner).map(lambda t: f"(for @x in {t[0]} => {t[1]})"),
        st.tuples(inner, inner, inner).map(lambda t: f"(for @x in {t[0]} when {t[1]} => {t[2]})"),
        st.tuples(inner, inner, inner).map(lambda t: f"(when [ {t[0]} => {t[1]}\n * => {t[2]} ])"),
        st.tuples(inner, inner).map(lambda t: f"(when {t[0]} [ {t[1]} => 1\n none => 2 ])"),
        inner.map(lambda value: f"[...{value}]"),
        references.map(lambda name: f"`<{name}> {name}|@json {name}?`"),
    )


values = st.recursive(literals | references, wider, max_leaves=8)
statements = st.one_of(
    values.map(lambda value: f"show {value}"),
    values.map(lambda value: f"log {value}"),
    values.map(lambda value: f"var @v = {value}"),
    st.tuples(values, values).map(lambda t: f"if {t[0]} [ show {t[1]} ] else [ show 1 ]"),
    st.tuples(values, values).map(lambda t: f"for @x in {t[0]} [ show {t[1]} ]"),
    st.tuples(values, values, values).map(
        lambda t: f"exe @h() = [\n  let @n = {t[0]}\n  for @x in [1, 2] [ let @n += {t[1]} ]\n  => {t[2]}\n]\nshow @h()"
    ),
    st.tuples(values, values).map(lambda t: f"loop(3) until {t[0]} [ show {t[1]} ]"),
)
seeds = (
    literals | st.lists(literals, max_size=4).map(lambda items: f"[{', '.join(items)}]") | st.just("{ k: { k: [1] } }")
)
scripts = st.tuples(seeds, seeds, seeds, values, statements).map(
    lambda t: (
        f"var @a = {t[0]}\nvar secret @b = {t[1]}\nvar @c = {t[2]}\nexe @f(x) = {t[3]}\nexe @g(input) = `@input @a`\n{t[4]}\n"
    )
)


class Output:
    """`ports.Output` that keeps the text."""

    def __init__(self) -> None:
        self.text = ""

    def document(self, text: str) -> None:
        self.text += text

    stdout = stderr = document

    def event(self, event: object) -> None: ...


def ran(text: str, root: Path) -> MlldError | None:
    """The diagnostic with which it ended, if it did. Any other exception is passed on: it is the fault that is looked for."""
    output = Output()
    began = time.process_time()
    error = None
    try:
        script = run_script(
            Source(name="fuzz.mld", text=text),
            root / "fuzz.mld",
            Ports(output=output, clock=SystemClock()),
            RunOptions(root=root),
        )
        asyncio.run(script)
    except MlldError as caught:
        error = caught
    assert time.process_time() - began < SECONDS, text
    assert error is None or (error.render() and error.exit_code), text
    return error


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz")
    ran("show 1\n", path)  # the first run raises Python's limit of recursion, which hypothesis looks after
    return path


@bounded
@given(script=scripts)
def test_a_script_gives_a_result_or_a_diagnostic(script: str, root: Path) -> None:
    ran(script, root)


def test_most_of_the_scripts_run(root: Path) -> None:
    fine: list[bool] = []

    @settings(bounded, max_examples=60)
    @given(script=scripts)
    def each(script: str) -> None:
        error = ran(script, root)
        fine.append(error is None or error.exit_code != 3)

    each()
    assert sum(fine) > len(fine) / 2

"""Fuzzing, bounded: whatever the text, the parser gives a tree or faults with a place; and what it prints it can read."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interpreter.check import check_source
from interpreter.lexer_words import ACTION_WORDS, LINK_WORDS, STATEMENT_WORDS
from interpreter.parser import parse
from interpreter.printer import print_source
from interpreter.source import Mode, Source

SAMPLES = {
    mode: (Path(__file__).with_name("syntax") / name).read_text()
    for mode, name in (("strict", "strict.mld"), ("document", "document.md"))
}
MARK_TEXT = (
    "@ . , : ; ! ? | || && ?? == != ~= => = += + - * / % ( ) [ ] { } < > << >> # ` \" ' :: ::: {{ }} ... \\ \n \n\n @x @x.y "
    "@f( 1 2s \"a\" 'b' `c` <a.md> cmd{ js{ sh{ /* // --- ``` /for /end"
)
MARKS = MARK_TEXT.split(" ")
WORDS = [*STATEMENT_WORDS, *ACTION_WORDS, *LINK_WORDS, "name", "pii", "before", "cmd", "js"]
soup = st.lists(st.sampled_from([*MARKS, *WORDS, " ", "  "]), max_size=60).map("".join) | st.lists(
    st.sampled_from([*MARKS, *WORDS]), max_size=60
).map(" ".join)
bounded = settings(max_examples=40, suppress_health_check=list(HealthCheck))
modes = st.sampled_from(["strict", "document"])


def survives(text: str, mode: Mode) -> None:
    source = Source(text=text)
    tree, faults = parse(source, mode)
    for fault in [*faults, *check_source(source, mode)]:
        assert fault.span is not None
        assert 0 <= fault.span.start <= fault.span.end <= len(text), fault
        assert fault.render()
    if not faults:
        printed = print_source(tree)
        again, more = parse(Source(text=printed), mode)
        assert not more, f"{printed}\n{more[0].render()}"
        assert again == tree, printed


@bounded
@given(soup, modes)
def test_any_soup_of_tokens(text: str, mode: Mode) -> None:
    survives(text, mode)


@bounded
@given(st.text(max_size=200), modes)
def test_any_text(text: str, mode: Mode) -> None:
    survives(text, mode)


@bounded
@given(
    modes,
    st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 40), st.sampled_from([*MARKS, *WORDS, ""])), min_size=1, max_size=3
    ),
)
def test_a_sound_script_with_pieces_cut_and_put_in(mode: Mode, edits: list[tuple[float, int, str]]) -> None:
    text = SAMPLES[mode]
    for place, cut, put in edits:
        at = int(place * len(text))
        text = text[:at] + put + text[at + cut :]
    survives(text, mode)


@bounded
@given(st.lists(st.integers(0, 200), min_size=1, max_size=12))
def test_statements_in_any_order(order: list[int]) -> None:
    lines = [
        line for line in print_source(parse(Source(text=SAMPLES["strict"]), "strict")[0]).split("\n") if line.strip()
    ]
    survives("\n".join(lines[i % len(lines)] for i in order) + "\n", "strict")

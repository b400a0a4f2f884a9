"""Printing: the source that the printer writes parses to the same tree, and printing it again changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from interpreter import nodes as n
from interpreter.check import ast_json, tokens_json
from interpreter.parser import parse_or_raise, parse_template, tokens
from interpreter.printer import print_source
from interpreter.source import Source, mode_of

SAMPLES = sorted(Path(__file__).with_name("syntax").iterdir())


def load(path: Path) -> n.Document:
    return parse_or_raise(Source(name=path.name, text=path.read_text()))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.name)
def test_print_and_parse_give_the_same_tree(path: Path) -> None:
    tree = load(path)
    printed = print_source(tree)
    again = parse_or_raise(Source(text=printed), mode_of(path.name))
    assert again == tree
    assert print_source(again) == printed


def kinds(node: n.Node) -> set[str]:
    found = {type(node).__name__}
    for child in node.children():
        found |= kinds(child)
    return found


def test_the_samples_hold_every_node() -> None:
    every = {name for name in n.__all__ if isinstance(getattr(n, name), type) and issubclass(getattr(n, name), n.Node)}
    seen = set().union(*(kinds(load(path)) for path in SAMPLES))
    assert every - seen <= {"Node"}


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.name)
def test_every_node_stands_where_its_span_says(path: Path) -> None:
    def inside(node: n.Node) -> None:
        for child in node.children():
            assert node.span.start <= child.span.start <= child.span.end <= node.span.end, f"{child!r} in {node!r}"
            inside(child)

    inside(load(path))


def test_a_template_file_is_a_template() -> None:
    made = parse_template(Source(name="t.att", text="Hi @name!\n/for @x in @xs\n- @x\n/end\n"))
    assert made.quote == "att"
    assert made.parts[0:2] == (n.Text(text="Hi "), n.Variable(name="name"))
    assert isinstance(made.parts[3], n.TemplateFor)
    assert parse_template(Source(name="t.mtt", text="{{a.b}} @c")).parts == (
        n.Field(target=n.Variable(name="a"), name="b"),
        n.Text(text=" @c"),
    )


def test_tokens_and_trees_for_editors() -> None:
    source = Source(name="t.mld", text="show `a @b`\n")
    assert [t[0] for t in tokens(source)] == ["SHOW", "T_OPEN", "TEXT", "AT", "T_CLOSE", "END"]
    assert tokens_json(source)[3] == {"type": "AT", "value": "b", "start": 8, "end": 10, "line": 1, "column": 9}
    tree = ast_json(parse_or_raise(source))
    assert isinstance(tree, dict)
    (statement,) = tree["body"]
    assert (statement["type"], statement["value"]["parts"][1]) == (
        "Show",
        {"type": "Variable", "start": 8, "end": 10, "name": "b"},
    )

"""What `docs/differences.md` says of the syntax is so."""

from __future__ import annotations

import pytest

from interpreter import nodes as n
from interpreter.check import check_source
from interpreter.parser import parse
from interpreter.source import Mode, Source


def codes(text: str, mode: Mode = "strict") -> list[str]:
    return [fault.code for fault in check_source(Source(name="t.mld", text=text), mode)]


def body(text: str, mode: Mode = "strict") -> tuple[n.Node, ...]:
    document, faults = parse(Source(text=text), mode)
    assert not faults
    return document.body


@pytest.mark.parametrize(
    "keys",
    [
        "defaults: { autosign: [`templates`] }",
        "defaults: { autoverify: true }",
        "defaults: { trustconflict: `warn` }",
        "verify_all_instructions: true",
    ],
)
def test_a_protection_that_is_not_there_cannot_be_asked_for(keys: str) -> None:
    (fault,) = check_source(Source(name="t.mld", text=f"policy @p = {{ {keys} }}"), "strict")
    assert fault.code == "config"
    assert keys.split(":")[-2].split()[-1] in fault.message or "verify_all_instructions" in fault.message


@pytest.mark.parametrize(
    "text",
    [
        "var @config = {\n  a: `b`,   >> why\n  c: [`x`]  >> why not\n}",
        "exe @f(a) = when [\n  @a => 1\n  * => 2 << why\n]",
        "exe @f() = [\n  let @x = 1\n  >> nothing comes of it\n]",
        "guard @g before op:exe = when [\n  @input => [\n    log `x`\n    deny `no`\n  ]\n  * => allow\n]",
        'files <@root/> = git "https://host/x" branch:"main" path:"docs/" depth:1',
    ],
)
def test_what_means_one_thing_only_is_accepted(text: str) -> None:
    assert codes(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "var @x = [[some words]]",
        "exe @f(a) = @a\nshow @f(/tmp)",
        "exe @f(a) = @a\nshow @f(tmp)",
        "exe @f(a) = @a\nwhen [\n  true => @f(1); @f(2)\n]",
        'import { * } from "x.mld"',
    ],
)
def test_what_could_mean_two_things_is_refused(text: str) -> None:
    assert len(codes(text)) == 1


def test_brackets_in_brackets_are_a_list_in_a_list() -> None:
    (made,) = body("var @x = [[1]]")
    one = n.Array(items=(n.Literal(value=1),))
    assert made == n.Var(name="x", value=n.Array(items=(one,)))


def test_only_a_slash_begins_a_statement_of_a_document() -> None:
    _, *prose = body("/var @x = 1\nText\n@x | show\n", "document")
    assert prose == [n.Text(text="Text\n@x | show\n")]


def test_a_document_without_a_line_of_prose_is_a_script() -> None:
    _, statement = body("/var @x = 1\n\n@x | show\n", "document")
    assert isinstance(statement, n.ExpressionStatement)

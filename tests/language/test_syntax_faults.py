"""Bad input: each fault has a code, a place, and a next step. The caret is in the script, as `^` under what is meant."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from interpreter.check import check_source
from interpreter.errors import Diagnostic
from interpreter.source import Mode, Source

# Script, with the caret in a line of its own · code · a piece of message or hint.
FAULTS = [
    ("var @x = (1 + 2\n         ^", "unclosed-bracket", "( is opened here and never closed"),
    ("var @a = [1, 2\n         ^\nvar @b = 3", "unclosed-bracket", "add ] where this part ends"),
    ("exe @f() = [\n           ^\n  => 1\nexe @g() = 2", "unclosed-bracket", "[ is opened here"),
    ("var @x = { a: [1, 2 }\n                    ^", "unclosed-bracket", "} cannot close ["),
    ("show ))\n     ^", "unexpected-closer", ") closes nothing"),
    ('show "unclosed\n     ^', "unclosed-text", 'end it with " on this line'),
    ("show `unclosed\n     ^", "unclosed-text", "closing `"),
    ("show `\n/for @x in @xs\n^^^^\n- @x\n`", "unclosed-for", "write /end on a line of its own"),
    ("show ::unclosed\n     ^", "unclosed-text", "closing ::"),
    ("var @x = <foo.md\n         ^", "unclosed-load", "> is missing"),
    ("exe @f() = js { return 1\n              ^", "unclosed-code", "has no }"),
    ("run cmd { echo a\n        ^", "unclosed-command", "} is missing"),
    (
        "exe @f(x) = [\n  when @x [\n    let @y = 1\n    => @y\n    ^\n  ]\n]",
        "syntax",
        "write when @condition => [ … ]",
    ),
    ("var @x = @a ? @b | @c : null\n                 ^", "syntax", "name the result first"),
    ("const x = 5\n^", "habit", "write var @name = …"),
    ("function foo() { }\n^", "habit", "exe @name(a, b)"),
    ("return 5\n^", "habit", "write => value"),
    ("var @x = 1;\n          ^", "semicolon", "a statement ends with its line"),
    ("var @x = 5 # why\n           ^", "unexpected-character", ">> begins a comment"),
    ("// why\n^", "unexpected-character", ">> begins a comment"),
    ("Hello world\n^", "prose", "prose belongs in a .mld.md file"),
    ("# Title\n^", "prose", "prose belongs in a .mld.md file"),
    ("It isn't code\n^", "prose", "show"),
    ('shwo "x"\n^', "unknown-statement", "did you mean show?"),
    ("var @x =\n       ^\nfor @y in [1] => show @y", "missing-value", "no value after ="),
    ("exe @f() =\n         ^\nvar @y = 1", "missing-value", "no value after ="),
    ("@x =\n   ^\nshow 1", "missing-value", "no value after ="),
    ("policy @p =\n          ^\nshow 1", "missing-value", "no value after ="),
    ("var @x = \n       ^\nvar @y = 2", "missing-value", "no value after ="),
    ("var @x =\n       ^\nshow 1", "missing-value", "before the next statement"),
    ("var @x =\n       ^\nexe @f() = 1", "missing-value", "no value after ="),
    ("exe @f() = [\n  let @x =\n         ^\n  let @y = 1\n  => @y\n]", "missing-value", "no value after ="),
    ("if @x = 3 [ show 1 ]\n      ^", "assignment", "write == to compare"),
    ("var @x == 3\n       ^", "comparison", "write = to assign"),
    ("var y = 3\n    ^", "missing-at", "write @y"),
    ("exe f(a) = @a\n    ^", "missing-at", "write @f"),
    ("var @x = foo\n         ^", "missing-at", "write @foo for the variable"),
    ("var @x = @f(foo)\n            ^", "missing-at", '"foo" for the text'),
    ("exe @g(a) = @f(foo)\n               ^", "missing-at", '"foo" for the text'),
    ("exe @g(a) = a\n            ^", "missing-at", "write @a for the variable"),
    ("var @r = @f([let @x = 1 => @x])\n             ^^^", "block-in-list", "give the block a name first"),
    ("var @r = [[let @x = 1 => @x]]\n           ^^^", "block-in-list", "give the block a name first"),
    ("var @r = [@a, let @b = 1]\n              ^^^", "block-in-list", "give the block a name first"),
    ("for x in @xs => show @x\n    ^", "missing-at", "write @x"),
    ("for @x of @xs => show @x\n       ^", "habit", "write in"),
    ("var @y = @x | json\n              ^", "missing-at", "write | @json"),
    ('import { @a } form "x.mld"\n              ^', "unknown-word", "did you mean from?"),
    ("guard @g befor secret = when [ * => allow ]\n         ^", "unknown-word", "did you mean before?"),
    ("if @x { show 1 }\n      ^", "habit", "square brackets"),
    ("var @f = @x.map(y => y)\n                  ^", "habit", "no anonymous functions"),
    ("show @a @b\n        ^", "two-values", "only a single argument"),
    ('when @x [ 1 => "a", 2 => "b" ]\n                  ^', "when-comma", "remove the comma"),
    ("@x\n^^", "no-effect", "write show @x to print it"),
    ("run cmd { echo a && echo b }\n                 ^^", "shell-in-cmd", "use sh"),
    ("run cmd { echo a > b }\n                 ^", "shell-in-cmd", "it writes a file"),
    ("exe @f(a, a) = @a\n          ^", "duplicate-parameter", "a parameter twice"),
    ("if @x [\n  var @y = 1\n  ^\n]", "var-in-block", "use 'let' inside blocks"),
    ("var @x = @f(@y | @z)\n            ^^^^^^^", "pipe-in-argument", "let @piped"),
    ("when [\n  * => 1\n  none => 2\n  ^^^^\n]", "none-after-wildcard", "would never execute"),
    ("var secret pii @x = 1\n           ^^^", "label-comma", "write secret, pii"),
    ('import { * } from "x.mld"\n^', "import-wildcard", "as @name"),
    ("when @c [\n^\n  show 1\n]", "when-without-arrow", "=> before the block"),
    ("var @s = <a.md # one !# two>\n                    ^^", "section", "put a ; before !#"),
    ("when all: [@a @b] => show 1\n     ^^^", "when-modifier", "write when @a && @b"),
    ("run cmd { sleep 5 & }\n                  ^", "shell-in-cmd", "synchronously"),
    ("var @x = @y &&\n              ^", "missing-value", "no value after &&"),
    ("let @x = 1\n^", "let-at-top", "write var @x"),
    ("var @x = 1\n@x += 1\n^", "augment-at-top", "change @x in a block"),
    ("exe @f() = [\n  => 1\n  show 2\n  ^\n]", "unreachable", "return must be the last statement"),
    ("exe @f() = [\n  => 1\n  => 2\n  ^\n]", "unreachable", "multiple return statements"),
    ("loop(2) [\n  => 1\n  ^\n]", "return-in-loop", "write done @value"),
    ("when [ true => @x = 5 ]\n               ^", "assignment", "not allowed in when actions"),
    ('import { @a as b } from "x.mld"\n               ^', "missing-at", "write a as @b"),
    ('import { @a, @b as @a } from "x.mld"\n             ^', "import-collision", "Alias one of the imports"),
    ("for @x in [1] [\n  let @x = 2\n  ^\n]", "variable-redefinition", "the element of the loop"),
    ("for @x [1] => show @x\n       ^", "missing-word", "missing 'in' in for directive"),
    ("var @r = for @x in [1] @x\n                       ^", "missing-arrow", "missing '=>' in for expression"),
    ("for parallel 3 @x in [1] => show @x\n             ^", "syntax", "or parallel(3)"),
    ("loop() [ show 1 ]\n     ^", "missing-limit", "loop() requires a limit or endless"),
    ("loop 3 [ show 1 ]\n     ^", "habit", "missing '(' after loop keyword"),
    ("show 1 | while() @f\n               ^", "missing-limit", "a maximum iteration count"),
    ("show cmd { ls }\n^", "show-command", "write run cmd { ls }"),
    ("exe @f() = run js { return 1 }\n           ^", "run-in-exe", "write js { … }"),
    ("var @f(x) = 1\n      ^", "var-function", "write exe @f(…)"),
    ("exe @a.b(x) = 1\n      ^", "nested-function", "write exe @b"),
    ("var @o = { ..@a }\n           ^", "unexpected-character", "write ...@a"),
    ("import\n      ^", "missing-value", "missing content in import directive"),
    ("output @x to\n            ^", "missing-value", "missing target in output directive"),
    ("exe @f() = [ let @x = 1, => @x ]\n                       ^", "extra-comma", "not allowed in block statements"),
    ("output @x to @path\n             ^", "unquoted-target", 'write "@path"'),
    ("append @x to @dir/f.txt\n             ^", "unquoted-target", 'write "@dir/f.txt"'),
    ("exe @f()\n        ^", "missing-equals", "Expected '=' after parameters"),
    ("append @x\n         ^", "missing-word", 'missing "to" keyword in append directive'),
    ("for @x\n      ^", "syntax", "invalid for syntax"),
    ("env @c\nenv\n   ^", "missing-value", "env requires a block"),
    ("var @x = { a: 1 b: 2 }\n                ^^", "missing-comma", "separate entries with commas"),
]


def split_caret(script: str) -> tuple[str, int, int]:
    """The script without its caret line, and the line and column the caret stands under."""
    lines = script.split("\n")
    at = next(i for i, line in enumerate(lines) if line.strip() and set(line.strip()) == {"^"})
    return "\n".join(lines[:at] + lines[at + 1 :]), at, lines[at].index("^") + 1


def told(script: str, code: str, words: str) -> list[Diagnostic]:
    """What is said of a script, of which the first is the fault at its caret."""
    text, line, column = split_caret(script)
    found = check_source(Source(name="t.mld", text=text + "\n"))
    assert found, "nothing was found"
    first = found[0]
    assert first.code == code, first.render()
    assert first.span is not None
    assert (first.span.line, first.span.column) == (line, column), first.render()
    assert words in first.render()
    return found


@pytest.mark.parametrize(
    ("script", "code", "words"), FAULTS, ids=[f"{code}-{i}" for i, (_, code, _) in enumerate(FAULTS)]
)
def test_a_fault_has_place_code_and_next_step(script: str, code: str, words: str) -> None:
    first = told(script, code, words)[0]
    assert first.span is not None
    assert f"t.mld:{first.span.line}:{first.span.column}" in first.render()


def codes(text: str, mode: Mode = "strict") -> list[tuple[str, int]]:
    return [(d.code, d.span.line if d.span else 0) for d in check_source(Source(text=text), mode)]


def test_three_faults_give_three_errors() -> None:
    assert codes("var @a = (1\nexe @ok() = 1\nvar b = 2\nvar @c = 3\nshow @c @c\n") == [
        ("unclosed-bracket", 1),
        ("missing-at", 3),
        ("two-values", 5),
    ]


def test_prose_is_told_once_for_each_paragraph() -> None:
    assert codes("Some prose here\nand more of it\nand more\n\nshow 1\n\nAgain prose\n") == [("prose", 1), ("prose", 7)]


def test_a_fault_in_a_document_is_told_and_its_prose_is_not() -> None:
    assert codes("It isn't code\n/var x = 1\nMore text (with (brackets\n/show 1 2\n", "document") == [
        ("missing-at", 2),
        ("two-values", 4),
    ]


def test_the_same_fault_for_people_and_programs() -> None:
    (found,) = check_source(Source(name="t.mld", text="var x = 1\n"))
    message = "missing '@' before variable name in var directive: x"
    told = f"t.mld:1:5: error[missing-at]: {message}\n   1 | var x = 1\n     |     ^\n  hint: write @x"
    assert found.render() == told
    assert found.json() == {
        "code": "missing-at",
        "severity": "error",
        "message": message,
        "span": {"file": "t.mld", "line": 1, "column": 5, "endLine": 1, "endColumn": 6},
        "expected": [],
        "hint": "write @x",
        "related": [],
    }


def test_control_characters_of_a_script_do_not_reach_the_terminal() -> None:
    (found, *_) = check_source(Source(name="t.mld", text="var x = '\x1b[31m'\n"))
    assert "\x1b" not in found.render()


def test_every_code_has_a_page() -> None:
    pages = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
    sources = (Path(__file__).parents[2] / "interpreter").rglob("*.py")
    said = {code for path in sources for code in re.findall(r'code="([A-Za-z_-]+)"', path.read_text())}
    assert {"undefined-variable", "not-json"} <= said
    missing = {code for code in said | {code for _, code, _ in FAULTS} if f"\n## {code}\n" not in pages}
    assert missing == set()


def test_a_fault_in_a_fence_of_a_document_has_its_place_in_the_document() -> None:
    assert codes("# A\n\n```mlld-run\nvar x = 1\nshow `open\n```\n`text`\n", "document") == [
        ("missing-at", 4),
        ("unclosed-text", 5),
    ]

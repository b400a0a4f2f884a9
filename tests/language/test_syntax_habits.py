"""What people write who know another language: each gets the mlld for it. A caret in the script says what is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from interpreter.check import check_source
from interpreter.hints import nearest
from interpreter.hints_habits import ALSO_PROSE, BEFORE_VALUE, CONNECTIVES, SHELL, STATEMENTS, VALUES
from interpreter.source import Source
from tests.language.test_syntax_faults import codes, told

# Script, with the caret in a line of its own · code · a piece of message or hint.
HABITS = [
    ('console.log("hi");\n^', "habit", "show … to print"),
    ("x = 5\n^", "missing-at", "write var @x = …"),
    ("x += 5\n^", "missing-at", "write @x += …"),
    ("f(1)\n^", "missing-at", "write @f(…)"),
    ("$x = 5\n^", "unexpected-character", "write @x"),
    ("git status\n^", "habit", "run cmd { git status }"),
    ("else [ show 1 ]\n^", "habit", "behind the ] of its if"),
    ('from "x.mld" import { @a }\n^', "habit", 'import { @name } from "file.mld"'),
    ("run ls -la\n    ^", "bare-command", "write run cmd { ls -la }"),
    ("run cmd echo hi\n    ^", "bare-command", "write run cmd { echo hi }"),
    ("run shell { ls }\n    ^", "unknown-language", "write sh { … }"),
    ("exe @f() = javscript { return 1 }\n           ^", "unknown-language", "did you mean javascript?"),
    ("var @b = @x === 3\n            ^", "comparison", "=== is written =="),
    ("if @x !== 3 [ show 1 ]\n      ^", "comparison", "!== is written !="),
    ("@x++\n  ^", "habit", "write @x += 1"),
    ("var @x += 1\n       ^", "assignment", "@x += … alone"),
    ('var @x: string = "a"\n      ^', "habit", "names have no types"),
    ("var @x, @y = 1\n        ^", "habit", "one name is declared at a time"),
    ("var [@x, @y] = @z\n    ^", "habit", "@list[0]"),
    ("let {a} = @x\n    ^", "habit", "one name is declared at a time"),
    ("var @x.y = 1\n      ^", "habit", "{ ...@x, key: value }"),
    ("var @x[0] = 1\n      ^", "habit", "a part of a value cannot be assigned"),
    ("var @my name = 1\n        ^", "bad-name", "write @my_name"),
    ("var @1x = 1\n    ^", "unexpected-character", "must start with a letter"),
    ("var @ x = 1\n    ^", "unexpected-character", "write @x"),
    ("var @x = undefined\n         ^", "habit", "write null"),
    ("var @x = True\n         ^", "habit", "write true"),
    ("var @x = await @f()\n         ^", "habit", "calls wait by themselves"),
    ("var @x = typeof @y\n         ^", "habit", "@y | @typeof"),
    ("if not @x [ show 1 ]\n   ^", "habit", "write !@x"),
    ("if @x and @y [ show 1 ]\n      ^", "habit", "and is written &&"),
    ("if @x is 3 [ show 1 ]\n      ^", "habit", "write =="),
    ("if @x then [ show 1 ]\n      ^", "habit", "then is not written"),
    ("if @x: show 1\n     ^", "missing-arrow", "write => before one action"),
    ("if @x show 1\n      ^", "missing-arrow", "[ … ] around several"),
    ("if @x [ show 1 ] elif @y [ show 2 ]\n                 ^", "habit", "write else if"),
    ("if @x [ show 1 ] else show 2\n                      ^", "missing-block", "write else [ … ]"),
    ("if [ show 1 ]\n          ^", "missing-condition", "write if @condition"),
    ("if @x\n     ^", "missing-block", "a condition and a bracketed block"),
    ("while @x < 3 [ show 1 ]\n      ^", "habit", "loop(100) until"),
    ("for (let i = 0; i < 3; i++) { show 1 }\n     ^", "habit", "loop(10)"),
    ("for @i in 1..3 => show @i\n           ^", "unexpected-character", "there are no ranges"),
    ("foreach @x in @xs => show @x\n           ^", "habit", "write for @x in @xs"),
    ("for each @x in @xs => show @x\n    ^", "habit", "write for @x in @xs"),
    ("for @x in @xs if @x > 1 => show @x\n              ^", "habit", "if in a for is written when"),
    ("for @x => show 1\n       ^", "missing-word", "missing 'in' in for directive"),
    ("for 3 @x in @xs => show @x\n      ^", "habit", "for parallel(3)"),
    ("loop 10 [ show 1 ]\n     ^", "habit", "write loop(10)"),
    ("when @x [ 1: show 2 ]\n           ^", "habit", "a case is written with =>"),
    ("when @x [ 1 -> show 2 ]\n            ^", "habit", "-> is written =>"),
    ("when @x [ case 1 => show 2 ]\n          ^", "habit", "a case has no word before it"),
    ("when [ default => show 1 ]\n       ^", "habit", "default is written *"),
    ("var @f = (a, b) => @a\n           ^", "habit", "a function is exe @name(a, b)"),
    ("var @f = x => 1\n           ^", "habit", "no anonymous functions"),
    ("var @y = @xs.filter(@x => @x > 1)\n                       ^", "habit", "no anonymous functions"),
    ("[x for x in @xs]\n   ^", "habit", "write for @x in @xs => @x"),
    ("exe @f(a) { return 1 }\n          ^", "missing-equals", "Expected '=' after parameters, before {"),
    ("exe @f(a b) = @a\n         ^", "missing-comma", "a comma is missing before b"),
    ("exe @f() = { => 1 }\n           ^", "habit", "square brackets"),
    ("exe @f() = [\n  return @x\n  ^\n]", "habit", "write => value"),
    ("exe @f() = [ return 1 ]\n             ^", "habit", "write => value"),
    ('import @a from "x.mld"\n       ^', "habit", "write import { @a } from"),
    ('import * as x from "x.mld"\n       ^', "habit", "as @name"),
    ('import { @a } "x.mld"\n              ^', "missing-word", "missing 'from' keyword"),
    ("import { @a } from x.mld\n                   ^", "missing-quotes", 'write "x.mld"'),
    ("import { @a } from ./x.mld\n                   ^", "unexpected-character", 'write "./x.mld"'),
    ("export @a\n       ^", "habit", "write export { @a }"),
    ('output @x into "f.txt"\n          ^', "habit", "into is written to"),
    ('append @x "f.txt"\n          ^', "missing-word", 'missing "to" keyword in append directive'),
    ("guard @g before secret = [ * => allow ]\n                             ^", "missing-when", "write = when [ … ]"),
    ("guard @g = when [ * => allow ]\n         ^", "missing-filter", "before LABEL"),
    ("guard @g before secret = when [ * => permit ]\n                                     ^", "habit", "write allow"),
    ("policy @p { deny: [] }\n          ^", "missing-equals", "write policy … = …"),
    ("var @x = [1 2 3]\n            ^", "missing-comma", "write [1, 2, 3]"),
    ("var @x = { a: 1, b 2 }\n                   ^", "missing-colon", "behind b"),
    ('var @x = { "a" 1 }\n               ^', "missing-colon", "write key: value"),
    ("var @x = { a = 1 }\n             ^", "habit", "write a: …"),
    ("var @x = { a: 1; b: 2 }\n               ^", "semicolon", "separate them with commas"),
    ("var @x = @y ? 1\n               ^", "missing-colon", "@condition ? this : that"),
    ("var @x = 1 if @y else 2\n           ^", "habit", "if comes before what it chooses"),
    ("var @x = @y |> @upper\n            ^", "habit", "there is no |>"),
    ("var @x = @y->name\n           ^", "habit", "@x.name for a field"),
    ("var @x = @a <> @b\n            ^", "habit", "write !="),
    ("var @x = 2 ** 3\n           ^", "habit", "there is no **"),
    ("var @x = @a & @b\n            ^", "unexpected-character", "write && for and"),
    ("var @x = 1,5\n          ^", "extra-comma", "1.5 for a number"),
    ("var @x = 1_000\n         ^", "number", "1_000 is not a number"),
    ("var @x = 1.2.3\n            ^", "number", "a number has one point"),
    ("var @x = .5\n         ^", "unexpected-character", "write 0 before the point"),
    ('show "he said "hi""\n               ^', "unescaped-quote", 'write \\" for the quote'),
    ('var @x = f"a {b}"\n         ^', "habit", "fills in @name"),
    ('var @x = """a"""\n         ^', "habit", "stand in backticks"),
    ("var @x = foo.md\n         ^", "missing-quotes", "write <foo.md> to load"),
    ("var @x = ./foo.md\n         ^", "unexpected-character", "or <./foo.md>"),
    ("show ${x}\n     ^", "unexpected-character", "write @x"),
    ("show @{x}\n     ^", "unexpected-character", "without braces"),
    ("show 1 // no\n        ^", "unexpected-character", ">> begins a comment"),
    ('show "a", "b"\n        ^', "two-values", "join them in a template"),
    ("show\n    ^", "missing-value", "missing content in show directive"),
    ("@f 1\n   ^", "missing-parentheses", "write @f(…)"),
    ("@f(a: 1)\n    ^", "named-argument", "by their order"),
    ("@f(a=1)\n    ^", "named-argument", "by their order"),
    ("@f(1,,2)\n     ^", "extra-comma", "nothing before this comma"),
    ("if @x [\n  /show 1\n  ^^^^^\n]", "slash", "unexpected '/show' inside if block"),
    ("if @x [\n  let @y = 1\n  /show @y\n  ^^^^^\n]", "slash", "inside if block. Use 'show' without the slash"),
    ("when [\n  * => [\n    /let @y = 1\n    ^^^^\n  ]\n]", "slash", "inside when block"),
    ("exe @f() = [\n  /show 1\n  ^^^^^\n  => 2\n]", "slash", "inside exe block"),
    ("for @x in @xs => /show @x\n                 ^^^^^", "slash", "unexpected '/' in for loop action context"),
    ("when @x => /show 1\n           ^^^^^", "slash", "unexpected '/' in when action context"),
    ("var @r = /run { ls }\n         ^^^^", "slash", "write run …"),
    ("for @x in @xs [\n              ^\n  show @x\n\n/show 1", "unclosed-bracket", "unterminated block in for"),
    ("when @x any [\n        ^^^\n  1 => show 2\n]", "when-modifier", "the 'any' modifier has been removed"),
    ("needs sh, network\n      ^^", "missing-braces", "write needs { sh, network }"),
    ("env @c show 1\n       ^^^^", "missing-block", "env requires a block syntax with [ ], before show"),
    ("box @c show 1\n       ^^^^", "missing-block", "box requires a block, before show"),
    ("output @x stdout\n          ^^^^^^", "missing-word", "syntax error in output: missing 'to' keyword"),
    ("for parallel 3 @x in @xs => show @x\n             ^", "syntax", "The number must come BEFORE 'parallel'"),
    (
        'exe @f() = [\n  let @t = template "a.att"\n           ^\n]',
        "template-in-var",
        "only be used in exe definitions",
    ),
    ("exe @f() = [\n  var @y = 1\n  ^\n]", "var-in-block", "use 'let' instead of 'var' inside exe blocks"),
    ("- an item\n^", "prose", "prose belongs in a .mld.md file"),
    ("/* comment */\n^", "prose", ">> before a comment"),
    ("**bold**\n^", "prose", ".mld.md"),
    ('auth @a = { form: "env:X" }\n            ^', "config", "did you mean 'from'?"),
    ('env with { profil: "x" } [ show 1 ]\n           ^', "config", "did you mean 'profile'?"),
]


@pytest.mark.parametrize(
    ("script", "code", "words"), HABITS, ids=[f"{code}-{i}" for i, (_, code, _) in enumerate(HABITS)]
)
def test_a_habit_is_told_the_mlld_for_it(script: str, code: str, words: str) -> None:
    found = told(script, code, words)
    assert [other.code for other in found if other.severity == "error"] == [code], "one mistake, one error"


@pytest.mark.parametrize("word", sorted({*STATEMENTS, *ALSO_PROSE, *SHELL}))
def test_each_first_word_of_the_tables_is_told(word: str) -> None:
    (found, *_) = check_source(Source(text=f'{word} @x "y"\n'))
    assert found.code == "habit", found.render()
    assert found.hint


@pytest.mark.parametrize("word", sorted(CONNECTIVES))
def test_each_connective_of_the_table_is_told(word: str) -> None:
    (found, *_) = check_source(Source(text=f"var @x = @a {word} @b\n"))
    assert found.hint == f"write {CONNECTIVES[word]}"


@pytest.mark.parametrize("word", sorted(BEFORE_VALUE))
def test_each_word_before_a_value_is_told(word: str) -> None:
    (found, *_) = check_source(Source(text=f"var @x = {word} @y\n"))
    assert found.code == "habit", found.render()


@pytest.mark.parametrize("word", sorted(VALUES))
def test_each_word_for_a_value_is_told(word: str) -> None:
    (found, *_) = check_source(Source(text=f"var @x = {word}\n"))
    assert found.hint == f"write {VALUES[word]}"


@pytest.mark.parametrize(
    "line", ["use this file to begin", "from here on, prose", "error handling is next", "Type here"]
)
def test_a_sentence_that_begins_like_code_is_prose(line: str) -> None:
    assert codes(f"{line}\n") == [("prose", 1)]


@pytest.mark.parametrize(
    "text",
    [
        "var @x =\n  when [ * => 1 ]\nshow @x\n",
        "var @x =\n  for @y in [1] => @y\nshow @x\n",
        "var @x =\n[1, 2]\nshow @x\n",
        "exe @f() =\n  `text`\nshow @f()\n",
        "var @x = show 1\n",
    ],
)
def test_a_value_may_stand_on_the_next_line(text: str) -> None:
    assert codes(text) == []


def test_the_statement_after_a_missing_value_is_read_on_its_own() -> None:
    assert codes("var @x =\nvar b = 2\nexe @f() =\nshow @c @c\n") == [
        ("missing-value", 1),
        ("missing-at", 2),
        ("missing-value", 3),
        ("two-values", 4),
    ]


@pytest.mark.parametrize("word", ["if true [ => 1 ]", 'bail "why"', 'checkpoint "here"'])
def test_three_statements_may_keep_their_slash_in_a_function(word: str) -> None:
    assert codes(f"exe @f() = [\n  /{word}\n  => 2\n]\nshow @f()\n") == []
    assert codes(f"for @x in [1] [\n  /{word}\n]\n") == [("slash", 2)]


def test_a_short_name_is_no_misspelling_of_another() -> None:
    assert nearest("x", ["p", "fm"]) is None
    assert nearest("X", ["x"]) == "x"
    assert nearest("shwo", ["show"]) == "show"


def test_every_code_has_a_page() -> None:
    pages = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
    assert {code for _, code, _ in HABITS if f"\n## {code}\n" not in pages} == set()

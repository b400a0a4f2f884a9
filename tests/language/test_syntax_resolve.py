"""Static judging: what parses and still cannot be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from interpreter.check import check_source
from interpreter.evaluate.builtins import BUILTINS
from interpreter.evaluate.reserved import RESERVED
from interpreter.resolve import PREDEFINED
from interpreter.source import Source


def found(text: str) -> list[tuple[str, str, int]]:
    return [(d.code, d.severity, d.span.line if d.span else 0) for d in check_source(Source(name="t.mld", text=text))]


QUIET = [
    "for @x in [1] when @x > 0 => show @x",
    "exe @ready() = true\nfor @x in [1] when @ready() => show @x",
    "for @x in [1] when @mx.for.index > 0 => show @x",
    "when [\n  let @a = 1\n  @a == 1 => 1\n  let @b = 1\n  * => 3\n]",
    "exe @next() = js { return 1 }\nwhen [\n  @next() => 1\n  @next() => 2\n]",
    "show @mx.profile",
    "exe @f(now) = `@now`\nshow @f(1)",
    "var @x = 1\nshow @x",
    "exe @f(a) = [\n  let @b = @a\n  => @b\n]\nshow @f(1)",
    "exe @f() = @g()\nexe @g() = 1\nshow @f()",
    "for @k, @v in @input [ show `@k @v` ]",
    'import { a as @b } from "./x.mld"\nshow @b',
    'import "./x.mld" as @ns\nshow @ns.y',
    'import "./x.mld"\nshow @whatever',
    "show @x\nvar @x = 1",
    "when true => var @found = 1\nshow @found",
    "var @text = ::\n/for @item in @input\n- @item\n/end\n::",
    "show `me@example.com`",
    "show [1, 2] | @json",
    'files <@ws/> = [{ "a.md": "x" }]\nshow <@ws/a.md>',
    "exe net:w @send(x) = @x\nguard before net:w = when [ * => allow ]",
    "guard before op:cmd:git:push = when [ * => allow ]",
    "guard after src:mcp = when [ * => allow @output ]",
    "exe @f(a, b) = @a\nshow @f(...@input)",
    "needs { sh, node: [lodash@^4], cmd: [git] }",
    'profiles { full: { requires: { network, sh }, description: "all" }, low: { requires: { } } }',
    'var @allowed = ["sh"]\npolicy @p = { deny: @allowed }',
]


@pytest.mark.parametrize("text", QUIET)
def test_a_sound_script_is_left_alone(text: str) -> None:
    assert found(text + "\n") == []


LOUD = [
    ("var @name = 1\nshow @nmae", "unknown-name", 2, "did you mean @name?"),
    ("show `hello @who`", "unknown-name", 1, "@who is not defined here"),
    ("exe @f(a) = @b", "unknown-name", 1, "@b is not defined here"),
    ("exe js = { double }", "unknown-name", 1, "@double"),
    ("exe @f(a) = @a\nshow @f(1, 2)", "arguments", 2, "@f takes 1 argument, 2 are given"),
    ("var @x = 1\nvar @x = 2", "redefined", 2, "first declared here: t.mld:1:1"),
    ("guard before secrt = when [ * => allow ]", "filter-matches-nothing", 1, "did you mean secret?"),
    ("guard before op:shwo = when [ * => allow ]", "filter-matches-nothing", 1, "did you mean op:show?"),
    ("guard before mine = when [ * => allow ]", "filter-matches-nothing", 1, "nothing here has the label mine"),
    ("guard before @sned = when [ * => allow ]\nexe @send() = 1", "unknown-name", 1, "did you mean @send?"),
    ("var @now = 1", "reserved-name", 1, "choose another one"),
    ("for @input in [1] => show @input", "reserved-name", 1, "a name of the language"),
    ("show @mx.now", "unknown-field", 1, "write @now"),
    ("var @t = `{}` | @json.llm", "deprecated", 1, "write @parse.llm"),
    ("exe @f(a) = [\n  let @a = 2\n  => @a\n]", "redefined", 2, "a parameter of @f"),
    ("var @x = 1\nexe @f() = [\n  let @x = 2\n  => @x\n]", "redefined", 3, "declared at the top of the file"),
    ("var @ok = true\nfor @x in [1] when @ok => show @x", "static-condition", 2, "ask it once"),
    ("when [\n  * => 1\n  true => 2\n]", "unreachable-case", 3, "put * last"),
    ("var @x = 1\nwhen @x [\n  1 => 1\n  2 => 2\n  1 => 3\n]", "unreachable-case", 5, "remove one of them"),
    ("guard privileged @g before secret = when [ * => allow ]", "privileged-wildcard-allow", 1, "name what it allows"),
    ("sign @tempalte with sha256\nvar @template = 1", "unknown-name", 1, "did you mean @template?"),
]


@pytest.mark.parametrize(("text", "code", "line", "words"), LOUD)
def test_a_doubt_is_a_warning_with_the_nearest_name(text: str, code: str, line: int, words: str) -> None:
    (fault,) = check_source(Source(name="t.mld", text=text + "\n"))
    assert (fault.code, fault.severity, fault.span and fault.span.line) == (code, "warning", line), fault.render()
    assert words in fault.render()


@pytest.mark.parametrize(
    "text",
    [
        "needs { nodee: [lodash] }",
        "profiles { full: { require: { sh } } }",
        'policy @p = { defaults: { rules: ["no-secret-exfill"] } }',
        'policy @p = { denny: ["sh"] }',
    ],
)
def test_configuration_in_full_is_an_error_before_anything_runs(text: str) -> None:
    (fault,) = check_source(Source(name="t.mld", text=text + "\n"))
    assert fault.severity == "error"
    assert fault.span is not None
    assert fault.hint


def test_every_name_that_the_language_gives_is_known_here() -> None:
    assert set(BUILTINS) | set(RESERVED) <= PREDEFINED


def test_every_code_has_a_page() -> None:
    pages = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
    assert {code for _, code, _, _ in LOUD if f"\n## {code}\n" not in pages} == set()


@pytest.mark.parametrize("name", ["load", "let", "prose"])
def test_a_guard_that_nobody_asks_is_an_error(name: str) -> None:
    script = f"guard @g before op:{name} = when [ * => deny `no` ]\n"
    assert found(script) == [("filter-matches-nothing", "error", 1)]
    assert found(f"exe {name} @f() = 1\n{script}") == [], "a label of that name is a filter, too"
    assert found(f"hook @h before op:{name} = [ show 1 ]\n") == [], "hooks see more than guards"


def test_a_template_that_repeats_like_a_script_is_told_how() -> None:
    source = Source(name="t.att", text="Dear @name,\n@for @x in @xs\n- @x, for @end\n@end\n")
    told = check_source(source)
    assert [(d.code, d.span.line if d.span else 0) for d in told] == [
        ("template-statement", 2),
        ("template-statement", 4),
    ]
    assert "/for @x in @xs and /end" in (told[0].hint or "")

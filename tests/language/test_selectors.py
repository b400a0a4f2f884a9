"""Selecting from source code: `<api.ts { createUser, handle*, *fn, (helper), fn?? }>`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from interpreter import code_definitions
from interpreter.code_definitions import definitions
from tests.support.worlds import World, fine

SERVICE = """\
import { log } from "./log";
export const LIMIT = 3;
export function helper(): number { return LIMIT; }
// createUser is called by helper
export const createUser = (name: string) => { log(`${name}`); return helper(); };
export class UserService {
  constructor() {}
  find() { return helper(); }
}
export interface Config {}
type Id = string;
enum Role { Admin }
"""


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.write("src/service.ts", SERVICE)
    world.write("src/other.py", "class Other:\n    def helper(self):\n        return 1\n")
    world.write("src/node_modules/x.ts", "export class Foreign {}")
    world.write("src/notes.txt", "none")
    return world


async def names(world: World, selector: str, file: str = "src/service.ts") -> list[str]:
    script = f'var @found = <{file} {{ {selector} }}>\nfor @d in @found => show @d ? @d.name : "null"'
    return fine(await world.run(script))


@pytest.mark.parametrize(
    ("selector", "wanted"),
    [
        ("createUser", ["createUser"]),
        ("helper, nothing, Role", ["helper", "null", "Role"]),
        ("*User*", ["createUser", "UserService"]),
        ("help*", ["helper"]),
        ("?d", ["Id"]),
        ("*fn", ["helper", "find"]),
        ("*class", ["UserService"]),
        ("*var", ["LIMIT", "createUser"]),  # a function that is a value is a variable
        ("*type, *enum, *interface", ["Id", "Role", "Config"]),
        ("*struct", ["null"]),
        ("*", ["LIMIT", "helper", "createUser", "UserService", "Config", "Id", "Role"]),
        ("(helper)", ["find"]),
        ("(log)", ["null"]),
        ("(createUser)", ["null"]),  # a comment is no use
        ("(*var)", ["helper"]),
        ("UserService, find", ["UserService"]),  # it is in there
        ("find, UserService", ["UserService"]),
    ],
)
async def test_a_selector_selects(world: World, selector: str, wanted: list[str]) -> None:
    assert await names(world, selector) == wanted


@pytest.mark.parametrize(
    ("selector", "wanted"),
    [
        ("??", "Config, Id, LIMIT, Role, UserService, createUser, helper"),
        ("fn??", "find, helper"),
        ("class??", "UserService"),
        ("@kind??", "Config"),
    ],
)
async def test_names_are_listed(world: World, selector: str, wanted: str) -> None:
    script = f'var @kind = "interface"\nvar @n = <src/service.ts {{ {selector} }}>\nshow @n.join(", ")'
    assert fine(await world.run(script)) == [wanted]


async def test_a_definition_is_its_code_and_knows_its_place(world: World) -> None:
    done = await world.run("""
var @kind = "enum"
var @d = <src/service.ts { helper, *@kind }>
show @d
show `@d[1].type @d[1].line @d[1].mx.filename @d[1].mx.name`
show @d[0].mx.taint.includes("src:file")
var @list = <src/service.ts { *fn }> as "- <>.name (<>.line)"
show @list.join("; ")
""")
    assert fine(done) == [
        "export function helper(): number { return LIMIT; }", "", "enum Role { Admin }", "enum 12 service.ts Role", "true",
        "- helper (3); - find (8)",
    ]  # fmt: skip


async def test_a_glob_says_which_file(world: World) -> None:
    done = await world.run("""
for @f in <src/**/* { class?? }> => show `@f.file @f.relative @f.names`
for @d in <src/*.* { helper }> => show `@d.relative @d.type`
""")
    assert fine(done) == [
        'other.py ./src/other.py ["Other"]', 'service.ts ./src/service.ts ["UserService"]',
        "./src/other.py method", "./src/service.ts function",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("load", "message", "hint"),
    [
        ("src/service.ts { helper, fn?? }", "Cannot mix content selectors", "`{ fn?? }` alone"),
        ("src/service.ts { help?? }", "lists no names", "fn, var, class"),
        ("src/service.ts { (fn??) }", "lists no names", "fn, var, class"),
        ("src/service.ts { *@none }", "@none in a selector is not defined", "a kind: fn"),
        ("src/notes.txt { helper }", "notes.txt is no source code", "# Heading"),
    ],
)
async def test_a_wrong_selector_is_told(world: World, load: str, message: str, hint: str) -> None:
    done = await world.run(f"var @x = 1\nvar @d = <{load}>")
    assert done.error is not None
    assert message in done.error.message
    assert done.error.span is not None
    assert (done.error.span.line, done.error.span.column) == (2, 10)
    assert hint in (done.error.hint or "")


async def test_a_grammar_that_is_not_there_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_definitions, "_parsers", {})
    monkeypatch.setitem(sys.modules, "tree_sitter_typescript", None)
    done = await world.run("show <src/service.ts { helper }>")
    assert done.error is not None
    assert "tree-sitter-typescript" in done.error.message
    assert done.error.hint == "pip install 'mlld-sandbox[code]'"


SAMPLES = {
    "js": (
        "class K { m() {} }\nfunction* g() {}\nvar q = function () {}, r = 1;",
        "class K, method m, function g, variable q, variable r",
    ),
    "py": (
        "A: int = 1\n@dec\ndef f(): pass\nclass C:\n    x = 2\n    async def m(self): pass",
        "variable A, function f, class C, method m",
    ),
    "go": (
        "package p\nconst (\nX = 1\nY = 2\n)\nvar V, W int\ntype S struct{}\ntype I interface{}\n"
        "type T = string\nfunc F() {}\nfunc (s S) M() {}",
        "constant X, constant Y, variable V, variable W, struct S, interface I, type-alias T, function F, method M",
    ),
    "rs": (
        "const X: i32 = 1;\nstruct S {}\nenum E { A }\ntrait T { fn t(&self); }\nimpl S { fn new() {} }\n"
        "mod m { fn i() {} }\ntype A = i32;",
        "constant X, struct S, enum E, trait T, method t, method new, module m, function i, type-alias A",
    ),
    "java": (
        "class C { int x; C() {} int m() { return x; } }\ninterface I {}\nrecord R(int a) {}",
        "class C, variable x, constructor C, method m, interface I, class R",
    ),
    "rb": (
        "MAX = 3\nmodule M\nclass C\ndef m; end\nend\nend\ndef f; end",
        "constant MAX, module M, class C, method m, function f",
    ),
    "c": (
        "struct n { struct n *next; };\nenum e { A };\nint a = 0, b;\nint add(int x) { return x; }\nchar *name(void);",
        "struct n, enum e, variable a, variable b, function add, function name",
    ),
    "hpp": (
        "namespace ns { class A { A(); int f; }; template <class T> T id(T x) { return x; } }\n"
        "int A::m() { return 2; }",
        "module ns, class A, method A, function id, method A::m",
    ),
    "cs": (
        "namespace N { class C { public int P { get; set; } C() {} int M() { return 1; } } struct S {} }",
        "module N, class C, variable P, constructor C, method M, struct S",
    ),
    "sol": (
        "contract C { uint x; event E(); constructor() {} function f() public {} }\ninterface I {}",
        "class C, variable x, event E, constructor constructor, method f, interface I",
    ),
}


@pytest.mark.parametrize("suffix", SAMPLES)
def test_every_language_is_read(suffix: str) -> None:
    source, wanted = SAMPLES[suffix]
    assert ", ".join(f"{d.kind} {d.name}" for d in definitions(source, suffix)) == wanted


@pytest.mark.parametrize("suffix", SAMPLES)
def test_no_source_is_too_broken(suffix: str) -> None:
    source = SAMPLES[suffix][0]
    for broken in (source[:-7], "}{" + source, "(" * 5000, "\0\ufffd" + source, "class " * 2000):
        for found in definitions(broken, suffix):
            assert found.code
            assert found.end <= len(broken.encode())


def test_cannot_search_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_definitions, "MOST_BYTES", 100)
    assert definitions("a = 1", "py")
    with pytest.raises(ValueError, match="not searched"):
        definitions("a = 1\n" * 100, "py")

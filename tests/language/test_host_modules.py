"""`import … from node` and `from python`: functions of host modules, under the rules of `node { … }` and `py { … }`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.worlds import World, denied, fine

LIBRARY = """
exports.double = (x) => x * 2;
exports.greet = async ({ name }) => ({ hello: name });
exports.LIMITS = { low: 1, list: [1, 2] };
exports.Counter = class Counter {
  constructor(from) { this.count = from; }
  get next() { return this.count + 1; }
  add(n) { return this.count + n; }
};
exports.stream = async function* () { yield "a"; yield "b"; };
exports.emit = () => new (require("events"))();
exports.read = function (path, callback) { callback(null, path); };
exports.fail = () => { throw new RangeError("out of range"); };
exports._hidden = 1;
"""


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.write("node_modules/lib/index.js", LIBRARY)
    world.write(
        "node_modules/shout/index.mjs", "export const shout = (x) => x.toUpperCase();\nexport default (x) => x;\n"
    )
    world.write("node_modules/shout/package.json", '{"name": "shout", "type": "module", "exports": "./index.mjs"}')
    world.write(
        "helper.py", "LIMIT = 3\ndef join(a, b='-'): return a + b\nclass Box:\n    def __init__(self, n): self.n = n\n"
    )
    return world


@pytest.mark.parametrize(
    ("script", "wanted"),
    [
        ("import { basename } from node @path\nshow @basename(`/tmp/file.txt`)", ["file.txt"]),
        ("import { posix } from node @path\nshow @posix.dirname(`/tmp/file.txt`)", ["/tmp"]),
        ("import { double as @twice } from node @lib\nshow @twice(4)\nshow 5 | @twice", ["8", "10"]),
        ("import { greet } from node @lib\nvar @g = @greet({ name: `Ada` })\nshow @g.hello", ["Ada"]),
        ("import { LIMITS } from node @lib\nshow `@LIMITS.low @LIMITS.list`", ["1 [1,2]"]),
        ("import node @lib as @lib\nshow @lib.double(3)", ["6"]),
        ("import { stream } from node @lib\nshow @stream()", ["ab"]),
        ("import { shout } from node @shout\nshow @shout(`hi`)", ["HI"]),
        ("import { URL } from node @url\nexe @u = new @URL(`https://a.test/p?x=1`)\nshow `@u.hostname @u.pathname`", ["a.test /p"]),
        ("import { Counter } from node @lib\nvar @c = new @Counter(4)\nshow `@c.count @c.next`\nshow @c.add(10)", ["4 5", "14"]),
        ("import { posix } from node @path\nvar @b = new @posix.basename(`/tmp/a.txt`)\nshow @b(`.txt`)", ["a"]),
        ("import { sqrt, pi } from python @math\nshow `@sqrt(9) @pi`", ["3 3.141592653589793"]),
        ('import { join, LIMIT } from python @helper\nshow @join("a")\nshow @join("a", "b")\nshow @LIMIT', ["a-", "ab", "3"]),
    ],
)  # fmt: skip
async def test_a_name_of_a_host_module_is_a_function_or_a_value(world: World, script: str, wanted: list[str]) -> None:
    assert fine(await world.run(script)) == wanted


@pytest.mark.parametrize(
    ("script", "message", "hint"),
    [
        ("import { nope } from node @none-such", "Cannot import from node @none-such", "npm and pip packages"),
        (
            "import { doubel } from node @lib",
            "Import 'doubel' not found in module 'node @lib'",
            "did you mean 'double'?",
        ),
        ("import { _hidden } from node @lib", "Import '_hidden' not found", "it has: Counter"),
        ("import { nope } from python @none_such", "No module named 'none_such'", "`py` code"),
        ("import { emit } from node @lib\nvar @e = @emit()", "returns an EventEmitter and requires subscriptions", ""),
        ("import { fail } from node @lib\nvar @e = @fail()", "RangeError: out of range", ""),
    ],
)
async def test_what_cannot_be_imported_or_used_is_told(world: World, script: str, message: str, hint: str) -> None:
    done = await world.run(script)
    assert done.error is not None
    assert message in done.error.message
    assert hint in (done.error.hint or "")
    assert done.error.span is not None


async def test_a_callback_is_warned_about(world: World) -> None:
    done = await world.run('import { read, double } from node @lib\nshow "ok"')
    assert fine(done) == ["ok"]
    assert done.err.count("callback-style parameters") == 1
    assert "'read' uses" in done.err


@pytest.mark.parametrize(
    ("language", "import_"), [("node", "{ double } from node @lib"), ("py", "{ sqrt } from python @math")]
)
async def test_cannot_run_what_policy_denies(world: World, language: str, import_: str) -> None:
    deny = f'policy @p = {{ deny: ["{language}"] }}\n'
    assert "denied by policy" in denied(await world.run(f"{deny}import {import_}"))
    # A policy that comes later binds what was imported before.
    name = import_.split()[1]
    late = f"import {import_}\nshow @{name}(4)\n{deny}show @{name}(4)"
    assert "denied by policy" in denied(await world.run(late))
    assert len(fine(await world.run(f"import {import_}\nshow @{name}(4)"))) == 1


async def test_cannot_import_while_a_module_is_declared(world: World) -> None:
    world.module(
        "evil", "import { writeFileSync } from node @fs\nexe @mcpConfig() = { servers: [] }\nexport { @mcpConfig }\n"
    )
    done = await world.run("import { @mcpConfig } from @local/evil")
    assert done.error is not None
    assert done.error.code == "no-effects"


async def test_guards_and_labels_go_along(world: World) -> None:
    done = await world.run("""
import { double } from node @lib
var pii @n = 4
var @two = @double(@n)
show `@two.mx.labels @two.mx.taint`
""")
    assert fine(done) == ['["pii"] ["pii","src:node"]']
    guard = 'guard before @no for secret = when [ * => deny "no secrets in node" ]\n'
    script = "import {{ double }} from node @lib\nvar {} @n = 4\nvar @x = @double(@n)"
    assert "no secrets in node" in denied(await world.run(guard + script.format("secret")))
    fine(await world.run(guard + script.format("pii")))


async def test_a_block_runs_what_was_imported_outside(world: World) -> None:
    done = await world.run("import { double } from node @lib\nvar @r = env [ => @double(4) ]\nshow @r")
    assert fine(done) == ["8"]
    (session,) = done.sessions
    assert [command.kind for command in session.commands.seen] == ["node"]

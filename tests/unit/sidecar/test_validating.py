"""Arguments are held against schemas that servers wrote, in bounded time and without a network, or the call is refused."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from images.sidecar.admission import Admission
from images.sidecar.config import ServerRules, ToolShape
from images.sidecar.guarding import Guarding
from images.sidecar.seams import Call
from images.sidecar.validating import Misfit, Validating
from tests.unit.sidecar.sidecar_process import FakeServer, sidecar, text, tool
from tests.unit.sidecar.test_guarding import FakeModule, Said, deciding, loaded

NUMBER = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}, "required": ["n"]}


@asynccontextmanager
async def validating(seconds: float = 5.0) -> AsyncIterator[Validating]:
    made = Validating(seconds=seconds)
    try:
        yield made
    finally:
        await made.close()


async def said(made: Validating, schema: Any, value: Any, server: str = "one") -> str:
    """Why the value does not fit; empty if it does."""
    try:
        await made.check(server, orjson.dumps(schema), value)
    except Misfit as error:
        return str(error)
    return ""


async def test_a_misfit_names_the_path_and_what_was_expected() -> None:
    nested = {"properties": {"list": {"items": {"properties": {"a": {"enum": ["x", "y"]}}}}}}
    async with validating() as made:
        assert await said(made, NUMBER, {"n": 3}) == ""
        assert await said(made, NUMBER, {"n": 2}) == "arguments.n: the value is less than the minimum of 3"
        assert await said(made, NUMBER, {"n": "secret text"}) == 'arguments.n: the value is not of type "integer"'
        assert await said(made, NUMBER, {}) == 'arguments: "n" is a required property'
        assert (await said(made, nested, {"list": [{"a": "x"}, {"a": "z"}]})).startswith("arguments.list[1].a: ")


DRAFTS = [
    # The same words mean different things in different drafts: what `$schema` names decides, else it is 2020-12.
    ({"prefixItems": [{"type": "string"}]}, [1], False),
    ({"$schema": "http://json-schema.org/draft-07/schema#", "prefixItems": [{"type": "string"}]}, [1], True),
    ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "string"}]}, [1], False),
    ({"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 3, "exclusiveMinimum": True}, 3, False),
    ({"$schema": "https://json-schema.org/draft/2020-12/schema", "dependentRequired": {"a": ["b"]}}, {"a": 1}, False),
]


@pytest.mark.parametrize(("schema", "value", "fits"), DRAFTS)
async def test_the_draft_that_a_schema_names_is_the_one(schema: Any, value: Any, fits: bool) -> None:
    async with validating() as made:
        assert (await said(made, schema, value) == "") is fits


UNUSABLE = [
    {"type": "objct"},
    {"properties": {"a": {"pattern": "(?=a)b"}}},
    {"properties": {"a": {"pattern": "(a{1000}){1000}"}}},
    {"$ref": "#/$defs/absent"},
    {"$schema": "http://127.0.0.1:1/draft"},
    3,
    "text",
]


@pytest.mark.parametrize("schema", UNUSABLE)
async def test_a_schema_that_cannot_be_used_refuses_its_tool(schema: Any) -> None:
    async with validating() as made:
        assert (await said(made, schema, {"a": "b"})).startswith("its schema cannot be used")
        assert await said(made, NUMBER, {"n": 3}) == "", "the control: others are checked as before"


async def test_cannot_have_another_document_fetched(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text("true")
    asked = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(1)

        def accept() -> None:
            try:
                listener.accept()[0].close()
                asked.set()
            except TimeoutError:
                pass

        waiting = threading.Thread(target=accept)
        waiting.start()
        port = listener.getsockname()[1]
        references = (f"http://127.0.0.1:{port}/x", f"{(tmp_path / 'schema.json').as_uri()}", "http://localhost/x")
        async with validating() as made:
            for reference in references:
                for schema in ({"$ref": reference}, {"properties": {"a": {"$dynamicRef": reference}}}):
                    assert "cannot be used" in await said(made, schema, {"a": 1})
            assert await said(made, {"$schema": f"http://127.0.0.1:{port}/meta"}, {})
        waiting.join()
    assert not asked.is_set()


def explosion(depth: int) -> dict[str, Any]:
    """A schema of a few kilobytes that takes two to the power of `depth` steps."""
    definitions: dict[str, Any] = {"a0": {"not": {"const": 1}}}
    for i in range(depth):
        definitions[f"a{i + 1}"] = {"allOf": [{"$ref": f"#/$defs/a{i}"}, {"$ref": f"#/$defs/a{i}"}]}
    return {"$defs": definitions, "$ref": f"#/$defs/a{depth}"}


async def test_cannot_take_more_than_its_time_and_only_its_own_server_suffers() -> None:
    async with validating(seconds=0.5) as made:
        assert await said(made, explosion(3), {}) == "", "the control: the same with few steps is lawful"
        for depth in range(60, 63):
            began = time.monotonic()
            assert "takes more than 0.5 s" in await said(made, explosion(depth), {}, "evil")
            assert time.monotonic() - began < 20
            began = time.monotonic()
            assert await said(made, explosion(depth), {}, "evil"), "nobody waits for it twice"
            assert time.monotonic() - began < 0.4
        assert "take too long" in await said(made, NUMBER, {"n": 3}, "evil")
        assert await said(made, NUMBER, {"n": 3}, "good") == ""
        assert await said(made, NUMBER, {"n": 1}, "good")


async def test_a_hostile_pattern_is_linear() -> None:
    schema = {"properties": {"a": {"pattern": "^(a+)+$"}}}
    async with validating() as made:
        began = time.monotonic()
        assert "does not match" in await said(made, schema, {"a": "a" * 200_000 + "b"})
        assert time.monotonic() - began < 4


def deep(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"a": value}
    return value


async def test_depth_and_size_have_an_end() -> None:
    recursive = {"properties": {"a": {"$ref": "#"}}}
    async with validating() as made:
        assert await said(made, recursive, deep(50)) == ""
        for schema, value in (
            (recursive, deep(240)),
            ({"$ref": "#"}, {}),
            ({"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}, {}),
        ):
            await said(made, schema, value)  # whatever is said of it, it is said
        assert "more than anyone would read" in await said(made, {"description": "x" * 300_000}, {})
        assert await said(made, NUMBER, {"n": 3}) == ""


async def test_a_validator_that_dies_refuses_and_is_replaced() -> None:
    async with validating() as made:
        assert await said(made, NUMBER, {"n": 3}) == ""
        assert made._process is not None
        made._process.kill()
        await made._process.wait()
        assert "checking it failed" in await said(made, {"type": "object"}, {})
        assert await said(made, NUMBER, {"n": 3}) == ""
        assert await said(made, NUMBER, {"n": 1}) != ""


# --- in the sidecar


def call(**arguments: Any) -> Call:
    return Call(
        id=1, session="s", server="one", method="tools/call", name="echo", params={"name": "echo", "arguments": arguments}
    )  # fmt: skip


OWN = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 3}, "repo": {"type": "string", "minLength": 3}},
    "required": ["n", "repo"],
}


@asynccontextmanager
async def checked(shape: ToolShape | None = None, module: FakeModule | None = None) -> AsyncIterator[Guarding]:
    rules = ServerRules(validate=("echo",), shapes={"echo": shape} if shape else {})
    admission = Admission({"one": rules}, print)
    admission.describe("one", "tool", {"name": "echo", "inputSchema": OWN})
    guarding = Guarding(loaded(module), admission, print)
    assert guarding.active
    try:
        yield guarding
    finally:
        await guarding.close()


async def test_what_the_agent_sends_fits_what_it_was_shown_and_the_whole_what_the_server_has() -> None:
    async with checked(ToolShape(bind={"repo": "here"})) as judge:
        verdict = await judge.request(call(n=3))
        assert (verdict.kind, verdict.value["arguments"]) == ("transform", {"n": 3, "repo": "here"})
        refused = await judge.request(call(n=1))
        assert (refused.kind, refused.rule) == ("deny", "schema")
        assert refused.reason == "arguments.n: the value is less than the minimum of 3 (correct the call and try again)"
        unknown = await judge.request(call(n=3, other=1))
        assert (unknown.kind, unknown.rule) == ("deny", "schema"), "what was not shown is not there"
    async with checked(ToolShape(bind={"repo": "x"})) as judge:
        refused = await judge.request(call(n=3))
        assert "with what is bound or was changed by a guard: arguments.repo: " in refused.reason


async def test_what_a_guard_makes_of_a_call_is_checked_too() -> None:
    changing = FakeModule(deciding(Said(kind="transform", value={"n": 1, "repo": "here"})))
    async with checked(module=changing) as judge:
        assert (await judge.request(call(n=3, repo="here"))).rule == "schema"
        assert changing.asked, "the control: it was asked"


async def test_of_a_tool_that_was_never_listed_nothing_fits() -> None:
    admission = Admission({"one": ServerRules(validate="*")}, print)
    judge = Guarding(None, admission, print)
    assert (await judge.request(call(n=3))).kind == "deny"
    await judge.close()


async def test_a_tools_error_tells_the_agent(tmp_path: Path) -> None:
    fake = FakeServer(
        [tool("echo", n={"type": "integer"}), tool("free", n={"type": "integer"})], lambda name, a: text("ok")
    )
    async with sidecar(tmp_path, {"one": fake}, server_one={"validate": ["echo"]}) as s:
        agent = await s.agent.hello()
        await agent.tools()
        refused = (await agent.call("echo", n="three"))["result"]
        assert refused["isError"] is True
        assert 'arguments.n: the value is not of type "integer"' in refused["content"][0]["text"]
        assert (await agent.call("echo", n=3))["result"]["content"][0]["text"] == "ok"
        assert (await agent.call("free", n="three"))["result"]["content"][0]["text"] == "ok"
        assert fake.calls == [("echo", {"n": 3}), ("free", {"n": "three"})]
        decisions = [(event["name"], event["decision"], event["rule"]) for event in await s.until("call", 3)]
        assert decisions[0] == ("echo", "deny", "schema")


async def test_many_checks_at_once_keep_their_answers() -> None:
    async with validating() as made:
        found = await asyncio.gather(*(said(made, NUMBER, {"n": n % 6}) for n in range(300)))
        assert [bool(fault) for fault in found] == [n % 6 < 3 for n in range(300)]


def test_the_sidecar_itself_never_loads_it() -> None:
    code = "import sys, images.sidecar.__main__; print('jsonschema_rs' in sys.modules)"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "False"

"""Arguments are held against schemas that servers wrote, in bounded time and without a network, or the call is refused."""

from __future__ import annotations

import asyncio
import signal
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

from images.sidecar import validating as validating_module
from images.sidecar.admission import Admission
from images.sidecar.config import ServerRules, ToolShape
from images.sidecar.guarding import Guarding
from images.sidecar.seams import Call
from images.sidecar.validating import Misfit, Validating
from tests.support.waiting import PATIENCE, until
from tests.unit.sidecar.sidecar_process import FakeServer, sidecar, text, tool
from tests.unit.sidecar.test_guarding import FakeModule, Said, deciding, loaded

NUMBER = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}, "required": ["n"]}


@asynccontextmanager
async def validating(**seconds: float) -> AsyncIterator[Validating]:
    made = Validating(**seconds)
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


async def test_cannot_hold_up_the_checks_of_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validating_module, "_PATIENCE", PATIENCE)
    async with validating(at_most=2.0) as made:
        assert await said(made, explosion(3), {}) == "", "the control: the same with few steps is lawful"
        evil = asyncio.create_task(said(made, explosion(60), {}, "evil"))
        more = [asyncio.create_task(said(made, explosion(depth), {}, "evil")) for depth in range(61, 80)]
        await until(lambda: "evil" in made._slow_servers)
        at_work = await until(lambda: made._slow.process)
        at_work.send_signal(signal.SIGSTOP)  # its time does not go on, however long the others take
        for n in range(20):
            assert bool(await said(made, NUMBER, {"n": n % 6}, "good")) is (n % 6 < 3)
        assert not evil.done(), "they were answered while it is still at work"
        assert not any(task.done() for task in more)
        at_work.send_signal(signal.SIGCONT)
        assert "took too long" in await evil
        for task in more:
            task.cancel()


async def test_cannot_be_closed_by_a_busy_machine() -> None:
    """What counts is the time in which the validator was at work, and not the time that others took it."""
    async with validating(at_once=0.3, at_most=0.3) as made:
        assert await said(made, NUMBER, {"n": 3}) == ""
        assert made._all.process is not None
        made._all.process.send_signal(signal.SIGSTOP)
        slow = asyncio.create_task(said(made, NUMBER, {"n": 1}))
        await asyncio.sleep(0.8)
        assert not slow.done()
        made._all.process.send_signal(signal.SIGCONT)
        assert "minimum of 3" in await slow
        assert not made._slow_servers


async def test_a_schema_that_takes_too_long_is_closed_for_a_while_and_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(validating_module, "_BACK_OFF", 100.0)
    async with validating(at_once=0.05, at_most=0.1) as made:
        for _ in range(2):
            assert "took too long" in await said(made, explosion(60), {}, "evil")
        assert "it is tried again in" in await said(made, explosion(60), {}, "evil")
        assert await said(made, NUMBER, {"n": 3}, "evil") == "", "its other tools are not closed"
        assert await said(made, explosion(60), {}, "other") != "", "nor does it count for another server"
        for closed in made._closed.values():
            closed.until = 0.0
        assert "took too long" in await said(made, explosion(60), {}, "evil"), "it is tried again"
        (closed,) = (closed for (server, _), closed in made._closed.items() if server == "evil")
        assert closed.until > time.monotonic() + 100, "and is closed for longer"


async def test_who_gives_up_does_not_leave_an_answer_to_the_next() -> None:
    """A verdict that was meant for another call would let through what does not fit."""
    async with validating() as made:
        assert await said(made, NUMBER, {"n": 3}) == ""
        for n in range(60):
            given_up = asyncio.create_task(said(made, NUMBER, {"n": 3}))
            for _ in range(n % 7):
                await asyncio.sleep(0)
            given_up.cancel()
            assert "minimum" in await said(made, NUMBER, {"n": 1})


async def test_a_hostile_pattern_is_linear() -> None:
    schema = {"properties": {"a": {"pattern": "^(a+)+$"}}}
    async with validating() as made:
        # What takes long is told as that, by the validator's own processor time.
        assert "does not match" in await said(made, schema, {"a": "a" * 200_000 + "b"})


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
        assert await said(made, recursive, deep(50)) == "", "what one value did to it is not for the next"
        assert "more than anyone would read" in await said(made, {"description": "x" * 300_000}, {})
        assert await said(made, NUMBER, {"n": 3}) == ""


async def test_a_validator_that_dies_refuses_and_is_replaced() -> None:
    async with validating() as made:
        assert await said(made, NUMBER, {"n": 3}) == ""
        for server, lane in (("one", made._all), ("two", made._slow)):
            made._slow_servers.add("two")
            assert await said(made, NUMBER, {"n": 3}, server) == ""
            assert lane.process is not None
            lane.process.kill()
            await lane.process.wait()
        assert "could not be checked" in await said(made, NUMBER, {"n": 3}, "two")
        assert await said(made, NUMBER, {"n": 3}, "one") == "", "it has it done again beside the others"
        assert await said(made, NUMBER, {"n": 3}, "two") == ""
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

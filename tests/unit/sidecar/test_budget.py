"""What is held of others is bounded together: whoever holds most loses first, is told so, and nobody else pays for it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from images.sidecar import budget as budgets
from images.sidecar import jsonrpc
from images.sidecar.budget import Budget, Held
from images.sidecar.seams import Lifecycle
from runner.planner_options import SIDECAR_LIMITS
from tests.support.waiting import until
from tests.unit.sidecar.channel_world import Stdio
from tests.unit.sidecar.endpoint_world import Agent, FakeServer, Line, Message, Reply, World, parse_events, world
from tests.unit.sidecar.test_endpoint_eras import Stateless
from tests.unit.sidecar.test_endpoint_protocol import stream
from tests.unit.sidecar.test_narrowing import ruled
from tests.unit.sidecar.test_remembered import fresh

MIB = 1 << 20
BIG = "x" * MIB


def no_event(event: dict[str, Any]) -> None:
    raise AssertionError(event)


def holder(budget: Budget, account: str, log: list[str] | None = None) -> Held:
    def shed() -> None:
        if log is not None:
            log.append(account)
        held.hold(0)

    held = budget.open(account, shed)
    return held


def test_below_the_limit_nobody_loses_anything() -> None:
    budget = Budget(no_event, limit=100)
    a, b = holder(budget, "a"), holder(budget, "b")
    assert a.hold(60)
    assert b.hold(40)
    assert a.hold(10)
    assert b.hold(90)
    assert budget.total == 100
    a.release()
    b.release()
    assert budget.total == 0


def test_the_account_that_holds_most_loses_its_largest_part() -> None:
    events: list[dict[str, Any]] = []
    log: list[str] = []
    budget = Budget(events.append, limit=100)
    parts = [holder(budget, "many", log) for _ in range(10)]
    one = holder(budget, "one", log)
    for part in parts:
        assert part.hold(6)
    parts[3].hold(7)
    assert one.hold(40)
    assert log == ["many"], "together it holds more, though each of its parts is smaller"
    assert parts[3].size == 0
    assert one.size == 40
    assert events == [{"event": "shed", "member": "many", "bytes": 7, "times": 1}]


def test_whoever_asks_for_more_may_be_the_one_that_loses() -> None:
    budget = Budget(lambda event: None, limit=100)
    a, b = holder(budget, "a"), holder(budget, "b")
    assert b.hold(30)
    assert a.hold(60)
    assert not a.hold(80)
    assert (a.size, b.size, budget.total) == (0, 30, 30)


def test_who_cannot_give_up_now_is_passed_over() -> None:
    budget = Budget(lambda event: None, limit=100)
    busy = budget.open("busy", lambda: None)
    assert busy.hold(90)
    assert not holder(budget, "other").hold(20)
    assert budget.total == 90


def test_giving_up_may_let_go_of_others_and_take_more() -> None:
    """What is done to give up comes back to the budget: an answer that says so, a process that ends with all it has."""
    budget = Budget(lambda event: None, limit=100)
    small = holder(budget, "large")

    def shed() -> None:
        large.release()
        small.hold(5)

    large = budget.open("large", shed)
    assert small.hold(20)
    assert large.hold(70)
    assert holder(budget, "other").hold(30)
    assert (small.size, large.size, budget.total) == (5, 0, 35)


def test_cannot_flood_the_record_by_losing() -> None:
    events: list[dict[str, Any]] = []
    budget = Budget(events.append, limit=100)
    for _ in range(1000):
        holder(budget, "a").hold(101)
    assert len(events) < 3


def test_cannot_be_made_to_pay_for_somebody_else() -> None:
    """Whatever all do: who never holds more than an equal share loses nothing, and the sum stays within the limit."""
    chance = random.Random(7)
    budget = Budget(lambda event: None, limit=1000)
    log: list[str] = []
    accounts = [f"evil{n}" for n in range(9)]
    hostile = [holder(budget, account, log) for account in accounts for _ in range(20)]
    good = [holder(budget, "good", log) for _ in range(4)]
    for _ in range(20_000):
        chance.choice(hostile).hold(chance.choice((0, 10, 100, 400)))
        assert chance.choice(good).hold(chance.choice((0, 10, 25)))
        assert budget.total <= 1000
    assert "good" not in log
    assert len(set(log)) == 9


# ------------------------------------------------------------------------------------------------------- the endpoint


@asynccontextmanager
async def tight(tmp: Path, *servers: FakeServer, limit: int = 16 * MIB, **more: Any) -> AsyncIterator[World]:
    async with world(tmp, *servers, **more) as w:
        w.endpoint.budget.limit = limit
        yield w
        for _ in range(100):
            if w.endpoint.budget.total <= limit:
                break
            await asyncio.sleep(0.01)


def head_of(agent: Agent, length: int) -> bytes:
    lines = [f"{name}: {value}" for name, value in (agent.headers | {"Content-Type": "application/json"}).items()]
    return "\r\n".join(("POST /mcp HTTP/1.1", *lines, f"Content-Length: {length}", "\r\n")).encode()


class Halves(FakeServer):
    """A server that begins an answer and never ends it."""

    size = 3 * MIB

    async def _tools_call(self, line: Line, message: Message) -> Message | None:
        if message["params"]["name"] != "half":
            return {"content": [{"type": "text", "text": BIG}]}
        line.raw(b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"' % message["id"])
        line.raw(b"y" * self.size)
        return None


async def test_cannot_fill_memory_with_half_lines_of_many_processes(tmp_path: Path) -> None:
    evil, good = Halves("evil", ("half",)), Halves("good", ("whole",))
    async with tight(tmp_path, evil, good) as w:
        owners = [w.agent() for _ in range(12)]
        for owner in owners:
            await owner.open(capabilities={"roots": {}})  # each has processes of its own
        calls = [asyncio.create_task(owner.call("half")) for owner in owners]
        friend = w.agent()
        await friend.open()
        for _ in range(20):
            assert (await friend.call("whole")).text == BIG
        await until(lambda: any(call.done() for call in calls))
        await friend.settle()
        waiting = [call for call in calls if not call.done()]
        codes = {call.result().error["code"] for call in calls if call.done()}
        assert codes == {jsonrpc.CROWDED}
        assert len(waiting) >= 1, "the control: what there is room for is waited for"
        assert w.endpoint.budget.total <= 16 * MIB
        assert {event["member"] for event in w.gate.of("shed")} == {"evil"}
        for call in waiting:
            call.cancel()


async def test_a_line_that_there_was_no_room_for_ends_and_the_next_one_is_read(tmp_path: Path) -> None:
    class Late(Halves):
        async def _tools_call(self, line: Line, message: Message) -> Message | None:
            if message["params"]["name"] == "half":
                await super()._tools_call(line, message)
                line.raw(b'"}]}}\n')
                return None
            return {"content": [{"type": "text", "text": "fine"}]}

    late = Late("late", ("half", "other"))
    late.size = 6 * MIB
    async with tight(tmp_path, late, limit=4 * MIB) as w:
        agent = w.agent()
        await agent.open()
        refused = (await agent.call("half")).error
        assert refused["code"] == jsonrpc.CROWDED
        assert "ask for less" in refused["message"]
        assert (await agent.call("other")).text == "fine"
        assert len(late.lines) == 1, "its process lives on"


async def test_cannot_fill_memory_with_half_requests(tmp_path: Path) -> None:
    async with tight(tmp_path, Halves("good", ("whole",))) as w:
        friend = w.agent()
        await friend.open()
        path = str(tmp_path / "agents.sock")
        w.endpoint.listen_unix(path)
        halves = [await asyncio.open_unix_connection(path) for _ in range(16)]
        for _, writer in halves:
            writer.write(head_of(w.agent(), 4 * MIB) + b"y" * (3 * MIB))
        await until(lambda: w.gate.of("shed"))
        for _ in range(5):
            assert (await friend.call("whole", {"text": BIG})).text == BIG
        assert w.endpoint.budget.total <= 16 * MIB
        answers = []
        for reader, writer in halves:
            with contextlib.suppress(TimeoutError, OSError, asyncio.IncompleteReadError):
                async with asyncio.timeout(0.5):
                    status, got = await Agent.head(reader)
                    answers.append((status, json.loads(await reader.readexactly(int(got["content-length"])))))
            writer.close()
        assert answers
        assert {(status, body["error"]["code"]) for status, body in answers} == {(503, jsonrpc.CROWDED)}
        assert {event["member"] for event in w.gate.of("shed")} == {"agent"}


async def test_cannot_fill_memory_with_requests_that_wait(tmp_path: Path) -> None:
    """Sessions that send much to a server which does not answer: they lose, and not whoever asks little of it."""
    release = asyncio.Event()

    async def slow(line: Line, message: Message) -> Message:
        await release.wait()
        return {"content": []}

    mute = FakeServer("mute", ("slow",), handlers={"tools/call": slow})
    patient = Lifecycle(startup_timeout=20, call_timeout=20, max_concurrent=2)
    async with tight(tmp_path, mute, Halves("good", ("whole",)), lifecycle=patient) as w:
        evil, modern, friend = w.agent(), Stateless(w.port), w.agent()
        await evil.open()
        await friend.open()
        calls = [asyncio.create_task(evil.call("slow", {"a": BIG})) for _ in range(20)]
        calls += [
            asyncio.create_task(modern.ask("tools/call", {"name": "slow", "arguments": {"a": BIG}})) for _ in range(9)
        ]
        small = asyncio.create_task(friend.call("slow", {"a": "little"}))
        await until(lambda: sum(call.done() for call in calls) >= 20)
        assert {call.result().error["code"] for call in calls if call.done()} == {jsonrpc.CROWDED}
        assert (await friend.call("whole", {"text": BIG})).text == BIG
        assert not small.done()
        release.set()
        assert "result" in (await small).message
        kept = [call for call in await asyncio.gather(*calls) if "result" in call.message]
        assert kept, "the control: what there is room for is answered"
        await until(lambda: w.endpoint.budget.total < 4096)  # the lists


async def test_cannot_fill_memory_in_lines(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def slow(line: Line, message: Message) -> Message:
        await release.wait()
        return {"content": []}

    mute = FakeServer("mute", ("slow",), handlers={"tools/call": slow})
    async with tight(tmp_path, mute) as w:
        client = await Stdio.dial(w.agent())
        await client.open()
        calls = [asyncio.create_task(client.call("slow", {"a": BIG})) for _ in range(14)]
        await until(lambda: sum(call.done() for call in calls) >= 4)
        assert {call.result()["error"]["code"] for call in calls if call.done()} == {jsonrpc.CROWDED}
        release.set()
        assert any("result" in answer for answer in await asyncio.gather(*calls))
        half = await Stdio.dial(w.agent())
        half.writer.write(b'{"x":"' + b"y" * (3 * MIB))
        await until(lambda: w.endpoint.budget.total > 2 * MIB)
        w.endpoint.budget.limit = MIB
        half.writer.write(b"y" * MIB)
        await until(lambda: half.told)
        assert half.told[0]["error"]["code"] == jsonrpc.CROWDED
        await half.close()
        await client.close()


async def test_cannot_fill_memory_by_not_reading(tmp_path: Path) -> None:
    """Neither the connections of a session that reads nothing, nor the answers that others wait for."""
    async with tight(tmp_path, Halves("good", ("whole",))) as w:
        evil, friend = w.agent(), w.agent()
        await evil.open()
        await friend.open()
        path = str(tmp_path / "agents.sock")
        w.endpoint.listen_unix(path)
        writers = []
        for number in range(60):
            body = json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"name": "whole"}})
            _, writer = await asyncio.open_unix_connection(path, limit=1)
            writer.write(head_of(evil, len(body)) + body.encode())
            writers.append(writer)
        await until(lambda: w.gate.of("shed"))
        for _ in range(5):
            assert (await friend.call("whole")).text == BIG
        assert w.endpoint.budget.total <= 16 * MIB
        session = evil.headers["Mcp-Session-Id"]
        assert {event.get("session") for event in w.gate.of("shed")} == {session}
        for writer in writers:
            writer.transport.abort()


async def test_cannot_fill_memory_with_what_is_kept_for_those_who_come_back(tmp_path: Path) -> None:
    """Sessions in which nobody reads what servers say lose it, and a session to which little was said does not."""

    async def talk(line: Line, message: Message) -> Message:
        for _ in range(60):
            line.notify("notifications/message", {"level": "info", "data": "x" * 60_000})
        return {"content": []}

    talker = FakeServer("talker", ("talk",), {"tools": {}, "logging": {}}, handlers={"tools/call": talk})
    async with tight(tmp_path, talker, limit=8 * MIB) as w:
        friend = w.agent()
        await friend.open(capabilities={"roots": {}})  # a process of its own: it hears what is said to it alone
        reader, writer = await stream(friend)
        first = parse_events(await anext(friend.chunks(reader)))[0]["id"]
        writer.close()
        await friend.settle()
        talker.lines[0].notify("notifications/message", {"level": "info", "data": "for the friend"})
        evil = [w.agent() for _ in range(14)]
        for agent in evil:
            await agent.open()
        await evil[0].call("talk")
        assert {event["member"] for event in w.gate.of("shed")} == {"agent"}
        kept = {agent.headers["Mcp-Session-Id"] for agent in evil}
        assert {event["session"] for event in w.gate.of("shed")} <= kept
        assert 2 * MIB < w.endpoint.budget.total <= 8 * MIB
        reader, writer = await friend.send("GET", headers={"Accept": "text/event-stream", "Last-Event-ID": first})
        await friend.head(reader)
        assert "for the friend" in (await anext(friend.chunks(reader))).decode()
        writer.close()
        for agent in (friend, *evil):
            await agent.http("DELETE")
        assert w.endpoint.budget.total < 4096  # the lists


async def test_cannot_fill_memory_with_long_lists(tmp_path: Path) -> None:
    """A server with a long list for each cohort keeps what there is room for, and its neighbour all."""
    padding = "z" * 10_000

    class Long(FakeServer):
        async def _tools_list(self, line: Line, message: Message) -> Message:
            schema = {"type": "object", "description": padding}
            return {"tools": [{"name": f"{self.name}_{n}", "inputSchema": schema} for n in range(100)]}

    async with tight(tmp_path, Long("evil"), FakeServer("good", ("fine",))) as w:
        counts, notes = [], []
        for number in range(10):
            agent = w.agent()
            await agent.open(capabilities={"roots": {"n": number}})
            listed = (await agent.request("tools/list")).result
            assert "fine" in [tool["name"] for tool in listed["tools"]]
            counts.append(len(listed["tools"]) - 1)
            notes.append(listed["_meta"]["dev.mlld/servers"]["evil"].get("reason", ""))
        assert counts[0] == 100
        assert all("too" in note for count, note in zip(counts, notes, strict=True) if count < 100)
        assert w.endpoint.budget.total <= 16 * MIB
        assert {event["member"] for event in w.gate.of("shed")} == {"evil"}


Attack = Callable[[Line, Message], Awaitable[None]]


def line_of(result: bytes) -> Attack:
    async def send(line: Line, message: Message) -> None:
        line.raw(b'{"jsonrpc":"2.0","id":%d,"result":%s}\n' % (message["id"], result))

    return send


KEYS = b"{%s}" % b",".join(b'"%x":1' % n for n in range(600_000))
LISTS = b'{"content":[],"structuredContent":{"a":[%s]}}' % b",".join([b"[]"] * 1_200_000)
TEXT = b'{"content":[{"type":"text","text":"%s"}]}' % (b'a,[{\\",\\"' * 500_000)


@pytest.mark.parametrize(("result", "guarded", "told"), [
    (KEYS, False, "more than 200000 keys"),
    (LISTS, True, "more values than guards can look at"),
    (LISTS, False, ""),
    (TEXT, True, ""),
], ids=["keys", "values", "values that nobody reads", "a long text"])  # fmt: skip
async def test_cannot_blow_up_a_message_in_memory(tmp_path: Path, result: bytes, guarded: bool, told: str) -> None:
    """Ten megabytes of small values are hundreds as objects; where there are only bytes they are no more than that."""
    evil = FakeServer("evil", ("evil",), handlers={"tools/call": line_of(result)})
    async with world(tmp_path, evil) as w:
        if guarded:
            ruled(w, {}, "guard @g after op:mcp:evil:evil = when [ * => allow ]\nexe @mcpConfig() = { servers: [] }")
        agent = w.agent()
        await agent.open()
        answer: Reply = await agent.call("evil")
        failed = "error" in answer.message or answer.result.get("isError", False)
        assert failed is bool(told)
        assert told in answer.body.decode()


@pytest.mark.parametrize("tools", [
    b'{"tools":[%s]}' % b",".join([b"1"] * 600_000),
    b'{"tools":[{"name":"huge","inputSchema":{"type":"object","a":[%s]}},{"name":"echo","inputSchema":{"type":"object"}}]}'
    % b",".join([b"[]"] * 100_000),
], ids=["items", "a schema"])  # fmt: skip
async def test_cannot_blow_up_a_list_in_memory(tmp_path: Path, tools: bytes) -> None:
    evil = FakeServer("evil", handlers={"tools/list": line_of(tools)})
    async with world(tmp_path, evil, FakeServer("good", ("fine",))) as w:
        agent = w.agent()
        await agent.open()
        listed = await agent.tools()
        assert "fine" in listed
        assert "huge" not in listed


async def test_cannot_blow_up_a_request_in_memory(tmp_path: Path) -> None:
    async with world(fresh(tmp_path / "w"), FakeServer("good", ("fine",))) as w:
        agent = w.agent()
        await agent.open()
        many = {f"{n:x}": 1 for n in range(2000)}
        assert "more than 1024 members" in (await agent.request("tools/call", many)).error["message"]
        capabilities = {"experimental": {"x": "y" * 70_000}}
        about = {"protocolVersion": "2025-11-25", "capabilities": capabilities}
        assert "too large" in (await w.agent().request("initialize", about)).error["message"]
        modern = Stateless(w.port, capabilities)
        assert "too large" in (await modern.ask("tools/list")).error["message"]
        assert await agent.tools() == ["fine"]


def test_the_limit_leaves_room_in_the_container() -> None:
    assert SIDECAR_LIMITS.memory_bytes >= budgets.LIMIT * 4


def reachable() -> int:
    """Bytes in large pieces that objects of the sidecar refer to, whether or not anybody refers to these."""
    found: dict[int, int] = {}
    for thing in gc.get_objects():
        if str(type(thing).__module__).startswith("images.sidecar"):  # of some extensions it is no text
            referents = gc.get_referents(thing)
            for held in (*referents, *gc.get_referents(*(part for part in referents if isinstance(part, dict)))):
                if isinstance(held, bytes | bytearray | memoryview | Raw):
                    size = len(memoryview(held))
                    found[id(held)] = size if size > MIB // 2 else 0
    return sum(found.values())


async def test_cannot_leave_memory_behind(tmp_path: Path) -> None:
    """What was held of somebody is gone with them, not only when a collector runs, which counts objects and not their bytes."""
    release = asyncio.Event()

    async def slow(line: Line, message: Message) -> Message:
        await release.wait()
        return {"content": []}

    async with world(tmp_path, FakeServer("good", ("slow",), handlers={"tools/call": slow})) as w:
        agent = w.agent()
        await agent.open()
        path = str(tmp_path / "agents.sock")
        w.endpoint.listen_unix(path)
        gc.collect()
        gc.disable()
        try:
            leaving = [(await asyncio.open_unix_connection(path))[1] for _ in range(4)]
            for writer in leaving:
                writer.write(head_of(agent, 4 * MIB) + b"y" * (3 * MIB))
            await until(lambda: reachable() >= 12 * MIB)  # the control
            for writer in leaving:
                writer.transport.abort()
            await until(lambda: reachable() == 0)
            calls = [asyncio.create_task(agent.call("slow", {"a": BIG})) for _ in range(4)]
            await until(lambda: reachable() >= 4 * MIB)
            release.set()
            assert all("result" in answer.message for answer in await asyncio.gather(*calls))
            del calls
            await until(lambda: reachable() == 0)
        finally:
            gc.enable()

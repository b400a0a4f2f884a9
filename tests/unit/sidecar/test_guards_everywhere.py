"""Guards decide on every method that carries text, in both directions; what they keep back is counted."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import pytest

from images.sidecar.seams import GUARD_FAILURE, Call, Verdict
from tests.support.waiting import until
from tests.unit.sidecar.endpoint_world import FakeServer, Line, Message, World, world
from tests.unit.sidecar.test_endpoint_eras import ModernServer, Stateless, listen
from tests.unit.sidecar.test_endpoint_protocol import EVERYTHING, Library, Worker, begun, hear, stream
from tests.unit.sidecar.test_narrowing import opened, ruled

SEALED = """
guard @sealed after op:mcp:one:* = when [
  @output.includes("classified") => deny "classified text stays with the server"
  * => allow
]
exe @mcpConfig() = { servers: [] }
"""
TOLD = "classified text stays with the server"


def sealed(w: World, source: str = SEALED) -> None:
    ruled(w, {}, source)


async def test_cannot_fetch_around_a_guard_with_a_task(tmp_path: Path) -> None:
    """A guard on the tool decides on its result, whichever method brings it."""
    source = SEALED.replace("op:mcp:one:*", "op:mcp:one:work-one")

    class Sealed(Worker):
        async def _tasks_get(self, line: Line, message: Message) -> Message:
            return {"taskId": message["params"]["taskId"], "status": "working", "statusMessage": self.said}

        async def _tasks_list(self, line: Line, message: Message) -> Message:
            return {"tasks": [{"taskId": "1", "status": "working", "statusMessage": self.said}]}

        async def _tasks_result(self, line: Line, message: Message) -> Message:
            return {"content": [{"type": "text", "text": self.said}]}

        said = "classified"

    worker = Sealed("one", ("work-one",), EVERYTHING)
    async with world(tmp_path, worker) as w:
        sealed(w, source)
        agent, (task,) = await begun(w, worker)
        for method in ("tasks/result", "tasks/get"):
            refused = (await agent.request(method, {"taskId": task})).error
            assert TOLD in refused["message"]
        listed = (await agent.request("tasks/list")).result
        assert listed == {"tasks": [], "_meta": {"dev.mlld/withheld": 1}}
        assert w.gate.of("request")[-1]["withheld"] == 1
        worker.said = "fine"
        assert (await agent.request("tasks/result", {"taskId": task})).result["content"][0]["text"] == "fine"
        assert (await agent.request("tasks/get", {"taskId": task})).result["statusMessage"] == "fine"
        assert [t["taskId"] for t in (await agent.request("tasks/list")).result["tasks"]] == [task]
        reader, writer = await stream(agent)
        for text in ("classified", "fine"):
            worker.lines[0].notify(
                "notifications/tasks/status", {"taskId": "1", "status": "failed", "statusMessage": text}
            )
        told = await hear(agent, reader, "notifications/tasks/status")
        assert told["params"]["statusMessage"] == "fine"
        writer.close()


READ: list[tuple[str, Message, Message]] = [
    ("resources/read", {"uri": "one://shelf"}, {"contents": [{"uri": "one://shelf", "text": "TEXT"}]}),
    ("resources/read", {"uri": "one://shelf"}, {"contents": [{"uri": "one://shelf", "blob": "BLOB"}]}),
    ("prompts/get", {"name": "write"}, {"messages": [{"role": "user", "content": {"type": "text", "text": "TEXT"}}]}),
    ("prompts/get", {"name": "write"}, {"description": "TEXT", "messages": []}),
    (
        "tools/call",
        {"name": "echo"},
        {"content": [{"type": "resource_link", "uri": "x:", "name": "n", "title": "TEXT"}]},
    ),
    ("tools/call", {"name": "echo"}, {"content": [], "structuredContent": {"a": ["TEXT"]}}),
    (
        "completion/complete",
        {"ref": {"type": "ref/prompt", "name": "write"}, "argument": {"name": "a", "value": ""}},
        {"completion": {"values": ["TEXT"]}},
    ),
]


@pytest.mark.parametrize(("method", "params", "result"), READ)
async def test_cannot_read_past_a_guard_that_looks_for_a_word(
    tmp_path: Path, method: str, params: Message, result: Message
) -> None:
    said = "classified"

    async def answer(line: Line, message: Message) -> Message:
        text = json.dumps(result).replace("TEXT", said).replace("BLOB", base64.b64encode(said.encode()).decode())
        return dict(json.loads(text))

    server = Library("one", ("echo",), EVERYTHING, handlers={method: answer})
    async with world(tmp_path, server) as w:
        sealed(w)
        agent = await opened(w)
        refused = (await agent.request(method, params)).message
        assert TOLD in json.dumps(refused)
        assert base64.b64encode(b"classified").decode() not in json.dumps(refused)
        said = "fine"
        passed = (await agent.request(method, params)).result
        assert "error" not in passed
        assert not passed.get("isError")


async def test_a_guard_that_changes_a_text_changes_what_is_read(tmp_path: Path) -> None:
    source = """
guard @redact after op:mcp:one:* = when [
  @output.includes("one") => allow "redacted"
  * => allow
]
exe @mcpConfig() = { servers: [] }
"""
    async with world(tmp_path, Library("one", (), EVERYTHING)) as w:
        sealed(w, source)
        agent = await opened(w)
        read = (await agent.request("resources/read", {"uri": "one://book/1"})).result
        assert read["contents"] == [{"uri": "one://book/1", "mimeType": "text/plain", "text": "redacted"}]
        assert read["_meta"]["dev.mlld/withheld"] == 1
        got = (await agent.request("prompts/get", {"name": "write"})).result
        assert got["messages"] == [{"role": "user", "content": {"type": "text", "text": "redacted"}}]
        argument = {"ref": {"type": "ref/prompt", "name": "write"}, "argument": {"name": "a", "value": ""}}
        refused = (await agent.request("completion/complete", argument)).error
        assert "must be an object, or its JSON" in refused["message"]


async def test_entries_of_lists_are_judged_and_counted(tmp_path: Path) -> None:
    class Mixed(Library):
        async def _resources_list(self, line: Line, message: Message) -> Message:
            return {"resources": [{"uri": f"one://{n}", "name": n} for n in ("plain", "classified-a", "classified-b")]}

        async def _resources_templates_list(self, line: Line, message: Message) -> Message:
            return {"resourceTemplates": [{"uriTemplate": "one://classified/{id}", "name": "t"}]}

        async def _prompts_list(self, line: Line, message: Message) -> Message:
            return {"prompts": [{"name": "write"}, {"name": "x", "description": "classified"}]}

    async with world(tmp_path, Mixed("one", ("echo",), EVERYTHING)) as w:
        sealed(w)
        agent = await opened(w)
        for method, key, kept, withheld in (
            ("resources/list", "resources", ["plain"], 2),
            ("resources/templates/list", "resourceTemplates", [], 1),
            ("prompts/list", "prompts", ["write"], 1),
        ):
            listed = (await agent.request(method)).result
            assert [item["name"] for item in listed[key]] == kept
            assert listed["_meta"]["dev.mlld/withheld"] == withheld
            (told,) = [event for event in w.gate.of("request") if event["method"] == method]
            assert told["withheld"] == withheld
        assert (await agent.request("prompts/get", {"name": "x"})).error["message"].startswith("Unknown prompt")
        assert "withheld by guard @sealed" in w.gate.of("denied")[-1]["reason"]


async def test_log_messages_and_progress_are_judged_in_order(tmp_path: Path) -> None:
    judged = asyncio.Semaphore(0)

    async def talk(line: Line, message: Message) -> Message:
        token = message["params"]["_meta"]["progressToken"]
        for number, text in enumerate(("classified", "fine")):
            line.notify("notifications/progress", {"progressToken": token, "progress": number, "message": text})
            await judged.acquire()  # what comes before that is passed over
        return {"content": []}

    server = FakeServer("one", ("echo",), EVERYTHING, handlers={"tools/call": talk})
    async with world(tmp_path, server) as w:
        sealed(w)
        judge = w.gate.judge_result
        assert judge is not None

        async def judging(call: Call, raw: bytes) -> Verdict:
            verdict = await judge(call, raw)
            if call.method == "notifications/progress":
                judged.release()
            return verdict

        w.gate.judge_result = judging
        agent = await opened(w)
        await agent.tools()
        reader, writer = await stream(agent)
        for number in range(50):
            text = "classified" if number % 3 == 1 else f"line {number}"
            server.lines[0].notify("notifications/message", {"level": "error", "data": text})
        heard = [(await hear(agent, reader, "notifications/message"))["params"]["data"] for _ in range(33)]
        assert heard == [f"line {n}" for n in range(50) if n % 3 != 1][:33]
        assert {event["rule"] for event in w.gate.of("denied")} == {"guard @sealed (index.mld:2:1)"}
        reply = await agent.call("echo", meta={"progressToken": "t"})
        said = [m["params"].get("message") for m in reply.messages if m.get("method") == "notifications/progress"]
        assert said == ["fine"]
        writer.close()


async def test_subscriptions_are_judged_and_reach_only_the_owner(tmp_path: Path) -> None:
    source = """
guard @closed before op:mcp:one:resources/subscribe = when [
  @mx.args.arguments.uri.includes("book") => deny "no books"
  * => allow
]
exe @mcpConfig() = { servers: [] }
"""
    one, other = Library("one", (), EVERYTHING), Library("other", (), EVERYTHING)
    async with world(tmp_path, one, other) as w:
        sealed(w, source)
        agent = await opened(w)
        assert "no books" in (await agent.request("resources/subscribe", {"uri": "one://book/1"})).error["message"]
        assert (await agent.request("resources/subscribe", {"uri": "one://shelf"})).result == {}
        assert (await agent.request("resources/unsubscribe", {"uri": "one://book/secret-text"})).result == {}
        asked = [m["params"]["uri"] for s in (one, other) for m in s.seen if "subscribe" in str(m.get("method"))]
        assert asked == ["one://shelf"]


@pytest.mark.parametrize("kind", [Library, type("Modern", (ModernServer, Library), {})])
async def test_cannot_listen_to_what_is_hidden_or_tell_a_stranger_its_name(tmp_path: Path, kind: type[Library]) -> None:
    one, other = kind("one", (), EVERYTHING), kind("other", (), EVERYTHING)
    async with world(tmp_path, one, other) as w:
        w.gate.hidden.add(("one", "one://book/hidden"))
        agent = Stateless(w.port)
        await agent.ask("resources/list")
        wanted = ["one://shelf", "one://book/hidden", "nobody://secret-text"]
        reader, writer = await listen(w, agent, {"resourceSubscriptions": wanted})
        first = json.loads((await anext(agent.chunks(reader))).decode().partition("data: ")[2])
        assert first["params"]["notifications"] == {"resourceSubscriptions": ["one://shelf"]}
        await until(lambda: "one://shelf" in json.dumps(one.seen))
        for server in (one, other):
            assert "hidden" not in json.dumps(server.seen)
            assert "secret-text" not in json.dumps(server.seen)
        assert "one://shelf" not in json.dumps(other.seen)
        writer.close()


OUTBOUND = """
guard @inside after op:mcp:one:sampling/createMessage = when [
  @output.includes("classified") => deny "not to this server"
  * => allow
]
exe @mcpConfig() = { servers: [] }
"""


async def test_cannot_send_text_to_a_server_beside_the_guards(tmp_path: Path) -> None:
    """The answer to a question, the error instead of one, the message of a progress, the reason of a cancellation."""
    started = asyncio.Event()

    async def never(line: Line, message: Message) -> None:
        started.set()
        await asyncio.Event().wait()

    server = FakeServer("one", ("echo",), EVERYTHING, handlers={"tools/call": never})
    async with world(tmp_path, server) as w:
        sealed(w, OUTBOUND)
        agent = await opened(w, sampling={})
        await agent.tools()
        reader, writer = await stream(agent)
        line = server.lines[-1]
        said: Message
        for said in (
            {"result": {"role": "assistant", "model": "m", "content": {"type": "text", "text": "classified"}}},
            {"error": {"code": -1, "message": "classified"}},
        ):
            asking = asyncio.create_task(
                line.ask("sampling/createMessage", {"messages": [], "maxTokens": 1, "_meta": {"progressToken": "p"}})
            )
            asked = await hear(agent, reader, "sampling/createMessage")
            token = asked["params"]["_meta"]["progressToken"]
            await agent.notify(
                "notifications/progress", {"progressToken": token, "progress": 1, "message": "classified"}
            )
            await agent.post({"jsonrpc": "2.0", "id": asked["id"], **said})
            assert "error" in await asking
        call = asyncio.create_task(agent.request("tools/call", {"name": "echo"}, id="mine"))
        await started.wait()
        await agent.notify("notifications/cancelled", {"requestId": "mine", "reason": "classified"})
        await call
        await until(lambda: server.calls("notifications/cancelled"))
        assert [m["params"]["progress"] for m in server.calls("notifications/progress")] == [1, 1], "the control"
        assert "classified" not in json.dumps(server.seen)
        writer.close()


async def test_a_guard_that_fails_on_a_list_keeps_it_back_and_takes_its_time_once(tmp_path: Path) -> None:
    class Long(Library):
        async def _resources_list(self, line: Line, message: Message) -> Message:
            return {"resources": [{"uri": f"one://{n}", "name": str(n)} for n in range(500)]}

    asked: list[str] = []

    async def failing(call: Call, raw: bytes) -> Verdict:
        asked.append(call.name)
        return Verdict(kind="deny", rule=GUARD_FAILURE, reason="it did not decide within 5 s")

    async with world(tmp_path, Long("one", (), EVERYTHING)) as w:
        w.gate.active, w.gate.judge_result = True, failing
        agent = await opened(w)
        listed = (await agent.request("resources/list")).result
        assert listed["resources"] == []
        assert listed["_meta"]["dev.mlld/withheld"] == 500
        assert asked == ["one://0"]

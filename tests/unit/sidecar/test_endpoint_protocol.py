"""The rest of the protocol: resources, prompts, completion, levels, streams, tasks, roots; each through two servers."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from images.sidecar import process
from tests.support.waiting import PATIENCE, until
from tests.unit.sidecar.endpoint_world import Agent, FakeServer, Line, Message, World, parse_events, world

EVERYTHING: Message = {
    "tools": {"listChanged": True},
    "prompts": {},
    "resources": {"subscribe": True},
    "completions": {},
    "logging": {},
    "tasks": {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}},
}


class Library(FakeServer):
    """A server with resources, prompts and everything that goes with them."""

    async def _resources_list(self, line: Line, message: Message) -> Message:
        return {
            "resources": [{"uri": f"{self.name}://shelf", "name": "shelf"}, {"uri": "same://thing", "name": "same"}]
        }

    async def _resources_templates_list(self, line: Line, message: Message) -> Message:
        return {"resourceTemplates": [{"uriTemplate": f"{self.name}://book/{{id}}", "name": "book"}]}

    async def _resources_read(self, line: Line, message: Message) -> Message:
        return {"contents": [{"uri": message["params"]["uri"], "text": self.name}]}

    async def _resources_subscribe(self, line: Line, message: Message) -> Message:
        return {}

    _resources_unsubscribe = _logging_setLevel = _resources_subscribe

    async def _prompts_list(self, line: Line, message: Message) -> Message:
        return {"prompts": [{"name": "write"}, {"name": f"only-{self.name}"}]}

    async def _prompts_get(self, line: Line, message: Message) -> Message:
        said = f"{self.name} {message['params']['name']}"
        return {"messages": [{"role": "user", "content": {"type": "text", "text": said}}]}

    async def _completion_complete(self, line: Line, message: Message) -> Message:
        return {"completion": {"values": [self.name, json.dumps(message["params"]["ref"])]}}


def libraries() -> tuple[Library, Library]:
    return Library("a", (), EVERYTHING), Library("b", (), EVERYTHING)


async def test_resources_are_read_where_they_are(tmp_path: Path) -> None:
    async with world(tmp_path, *libraries()) as w:
        agent = w.agent()
        opened = await agent.open()
        assert opened.result["capabilities"]["resources"] == {"listChanged": True, "subscribe": True}
        listed = (await agent.request("resources/list")).result["resources"]
        assert [item["uri"] for item in listed] == ["a://shelf", "same://thing", "b://shelf"]
        templates = (await agent.request("resources/templates/list")).result["resourceTemplates"]
        assert [item["uriTemplate"] for item in templates] == ["a://book/{id}", "b://book/{id}"]
        for uri, owner in [("a://shelf", "a"), ("b://shelf", "b"), ("b://book/7", "b"), ("same://thing", "a")]:
            result = (await agent.request("resources/read", {"uri": uri})).result
            assert result["contents"][0] == {"uri": uri, "text": owner}
            assert result["_meta"]["dev.mlld/labels"][0] == "src:mcp"
        error = (await agent.request("resources/read", {"uri": "c://x"})).error
        assert (error["code"], error["data"]["uri"]) == (-32002, "c://x")


async def test_a_hidden_resource_is_not_there_by_any_way(tmp_path: Path) -> None:
    servers = libraries()
    async with world(tmp_path, *servers) as w:
        w.gate.hidden |= {("a", "a://shelf"), ("b", "b://book/7"), ("a", "only-a")}
        agent = w.agent()
        await agent.open()
        for uri in ("a://shelf", "b://book/7"):
            assert (await agent.request("resources/read", {"uri": uri})).error["code"] == -32002
            assert (await agent.request("resources/subscribe", {"uri": uri})).error["code"] == -32002
        assert (await agent.request("prompts/get", {"name": "only-a"})).error["message"] == "Unknown prompt: only-a"
        ref = {"type": "ref/prompt", "name": "only-a"}
        params = {"ref": ref, "argument": {"name": "x", "value": ""}}
        assert "error" in (await agent.request("completion/complete", params)).message
        assert not servers[0].calls("resources/read") + servers[0].calls("prompts/get")


async def test_prompts_and_completions_know_their_server(tmp_path: Path) -> None:
    async with world(tmp_path, *libraries()) as w:
        agent = w.agent()
        await agent.open()
        prompts = (await agent.request("prompts/list")).result["prompts"]
        assert sorted(item["name"] for item in prompts) == ["a__write", "b__write", "only-a", "only-b"]
        got = (await agent.request("prompts/get", {"name": "b__write"})).result["messages"][0]["content"]["text"]
        assert got == "b write"
        argument = {"name": "x", "value": "y"}
        ref = {"type": "ref/prompt", "name": "a__write"}
        values = (await agent.request("completion/complete", {"ref": ref, "argument": argument})).result["completion"]
        assert values["values"] == ["a", '{"type": "ref/prompt", "name": "write"}']
        ref = {"type": "ref/resource", "uri": "b://book/{id}"}
        values = (await agent.request("completion/complete", {"ref": ref, "argument": argument})).result["completion"]
        assert values["values"][0] == "b"


async def stream(agent: Agent) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await agent.send("GET", headers={"Accept": "text/event-stream"})
    assert (await agent.head(reader))[0] == 200
    return reader, writer


async def hear(agent: Agent, reader: asyncio.StreamReader, method: str) -> Message:
    async with asyncio.timeout(PATIENCE):
        async for chunk in agent.chunks(reader):
            for event in parse_events(chunk):
                if event.get("data"):
                    message: Message = json.loads(event["data"])
                    if message.get("method") == method:
                        return message
    raise AssertionError(f"no {method}")


async def test_subscribers_hear_and_servers_are_asked_once(tmp_path: Path) -> None:
    first, second = libraries()
    async with world(tmp_path, first, second) as w:
        one, two, deaf = w.agent(), w.agent(), w.agent()
        for agent in (one, two, deaf):
            await agent.open()
        streams = [await stream(agent) for agent in (one, two, deaf)]
        for agent in (one, two):
            assert (await agent.request("resources/subscribe", {"uri": "b://shelf"})).result == {}
        assert len(second.calls("resources/subscribe")) == 1
        second.lines[0].notify("notifications/resources/updated", {"uri": "b://shelf"})
        second.lines[0].notify("notifications/resources/updated", {"uri": "b://other"})
        for agent, (reader, _) in zip((one, two), streams, strict=False):
            told = await hear(agent, reader, "notifications/resources/updated")
            assert told["params"]["uri"] == "b://shelf"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(hear(deaf, streams[2][0], "notifications/resources/updated"), 0.1)
        await one.request("resources/unsubscribe", {"uri": "b://shelf"})
        assert not second.calls("resources/unsubscribe")
        await two.request("resources/unsubscribe", {"uri": "b://shelf"})
        assert len(second.calls("resources/unsubscribe")) == 1
        for _, writer in streams:
            writer.close()


async def test_each_session_hears_its_own_level(tmp_path: Path) -> None:
    first, second = libraries()
    async with world(tmp_path, first, second) as w:
        loud, quiet = w.agent(), w.agent()
        await loud.open()
        await quiet.open()
        assert (await quiet.request("logging/setLevel", {"level": "error"})).result == {}
        assert (await loud.request("logging/setLevel", {"level": "debug"})).result == {}
        assert (await loud.request("logging/setLevel", {"level": "shout"})).error["code"] == -32602
        assert [call["params"]["level"] for call in first.calls("logging/setLevel")] == ["error", "debug"]
        heard = [await stream(agent) for agent in (loud, quiet)]
        first.lines[0].notify("notifications/message", {"level": "info", "data": 1})
        first.lines[0].notify("notifications/message", {"level": "error", "data": 2})
        said = [
            (await hear(a, r, "notifications/message"))["params"]
            for a, (r, _) in zip((loud, quiet), heard, strict=True)
        ]
        assert [params["data"] for params in said] == [1, 2]
        for _, writer in heard:
            writer.close()


async def test_many_changes_are_told_once(tmp_path: Path) -> None:
    server = FakeServer("a", ("one",), EVERYTHING)
    async with world(tmp_path, server) as w:
        agent = w.agent()
        await agent.open()
        assert await agent.tools() == ["one"]
        reader, writer = await stream(agent)
        server.tools = ("two",)
        for _ in range(50):
            server.lines[0].notify("notifications/tools/list_changed", {})
        await hear(agent, reader, "notifications/tools/list_changed")
        assert await agent.tools() == ["two"]
        assert len(server.calls("tools/list")) <= 4
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(hear(agent, reader, "notifications/tools/list_changed"), 0.2)
        writer.close()


async def test_a_client_comes_back_for_what_it_missed(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def slow(line: Line, message: Message) -> Message:
        line.notify(
            "notifications/progress", {"progressToken": message["params"]["_meta"]["progressToken"], "progress": 1}
        )
        await release.wait()
        return {"content": [{"type": "text", "text": "late"}]}

    async with world(tmp_path, FakeServer("a", handlers={"tools/call": slow})) as w:
        agent = w.agent()
        await agent.open()
        params = {"name": "echo", "_meta": {"progressToken": "t"}}
        body = json.dumps({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}).encode()
        reader, writer = await agent.send("POST", body)
        await agent.head(reader)
        seen = parse_events(await anext(agent.chunks(reader)))
        assert seen[0]["data"] == ""
        writer.close()  # a connection that breaks cancels nothing
        release.set()
        await agent.settle()
        headers = {"Accept": "text/event-stream", "Last-Event-ID": seen[0]["id"]}
        again = await agent.http("GET", headers=headers)
        assert [m.get("method", "answer") for m in again.messages] == ["notifications/progress", "answer"]
        assert again.text == "late"
        for forged in ("9_1", "x", "_", "1_99999999999999999999"):
            assert (await agent.http("GET", headers=headers | {"Last-Event-ID": forged})).status == 404
        other = w.agent()
        await other.open()
        assert (await other.http("GET", headers=headers)).status == 404


async def test_roots_go_to_the_servers_of_that_client(tmp_path: Path) -> None:
    async def ask(line: Line, message: Message) -> Message:
        answer = await line.ask("roots/list", {})
        return {"content": [{"type": "text", "text": json.dumps(answer.get("result", answer.get("error")))}]}

    server = FakeServer("a", handlers={"tools/call": ask})
    async with world(tmp_path, server) as w:
        agent = w.agent()
        await agent.open(capabilities={"roots": {"listChanged": True}})
        call = asyncio.create_task(agent.call("echo"))
        await until(lambda: server.calls("tools/call"))
        await agent.settle()
        await agent.post({"jsonrpc": "2.0", "id": 1, "result": {"roots": [{"uri": "file:///w"}]}})
        reply = await call
        assert [m.get("method") for m in reply.messages] == ["roots/list", None]
        assert json.loads(reply.text) == {"roots": [{"uri": "file:///w"}]}
        await agent.notify("notifications/roots/list_changed")
        await until(lambda: server.calls("notifications/roots/list_changed"))
        await agent.settle()
        assert len(server.calls("notifications/roots/list_changed")) == 1


async def test_a_ping_is_answered_at_either_end(tmp_path: Path) -> None:
    async def ping(line: Line, message: Message) -> Message:
        return {"content": [{"type": "text", "text": json.dumps((await line.ask("ping", {}))["result"])}]}

    async with world(tmp_path, FakeServer("a", handlers={"tools/call": ping})) as w:
        agent = w.agent()
        await agent.open()
        assert (await agent.request("ping")).result == {}
        assert (await agent.call("echo")).text == "{}"


async def test_only_an_answer_that_takes_long_becomes_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(process, "monotonic", lambda: now)  # how long a call takes is said here, not by the machine
    release = asyncio.Event()

    async def wait(line: Line, message: Message) -> Message:
        if message["params"]["arguments"]["long"]:
            await release.wait()
        return {"content": []}

    server = FakeServer("a", handlers={"tools/call": wait})
    async with world(tmp_path, server) as w:
        agent = w.agent()
        await agent.open()
        body = {
            "jsonrpc": "2.0",
            "id": 99,
            "method": "tools/call",
            "params": {"name": "echo", "arguments": {"long": True}},
        }
        reader, writer = await agent.send("POST", json.dumps(body).encode())
        await until(lambda: server.calls("tools/call"))
        now += 1
        quick = [await agent.call("echo", {"long": False}) for _ in range(100)]
        _, headers = await agent.head(reader)  # at a tick of the clock, before there is an answer
        assert headers["content-type"] == "text/event-stream"
        quick += [await agent.call("echo", {"long": False}) for _ in range(100)]
        assert {reply.headers["content-type"] for reply in quick} == {"application/json"}
        release.set()
        writer.close()


async def test_one_get_stream_per_session(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("a")) as w:
        agent = w.agent()
        await agent.open()
        _, writer = await stream(agent)
        assert (await agent.http("GET", headers={"Accept": "text/event-stream"})).status == 409
        assert (await agent.http("GET", headers={"Accept": "application/json"})).status == 406
        assert (await agent.http("PUT")).status == 405
        writer.close()
        await agent.settle()
        _, writer = await stream(agent)
        assert (await agent.http("DELETE")).status == 200
        writer.close()


@pytest.mark.parametrize(
    ("asked", "given"),
    [("2024-11-05", "2024-11-05"), ("2025-06-18", "2025-06-18"), ("2025-11-25", "2025-11-25"), ("1999", "2025-11-25")],
)
async def test_versions_are_negotiated(tmp_path: Path, asked: str, given: str) -> None:
    async with world(
        tmp_path, FakeServer("a", instructions="Be kind."), FakeServer("b", instructions="Be quick.")
    ) as w:
        opened = (await w.agent().open(asked)).result
        assert opened["protocolVersion"] == given
        assert opened["instructions"] == "# a\n> Be kind.\n\n# b\n> Be quick."


class Worker(FakeServer):
    """A server that takes calls as tasks; every server of it uses the same ids."""

    done: asyncio.Event

    async def _tools_call(self, line: Line, message: Message) -> Message:
        if "task" not in message["params"]:
            return {"content": []}
        return {"task": {"taskId": "1", "status": "working", "ttl": 1000}}

    async def _tasks_get(self, line: Line, message: Message) -> Message:
        return {"taskId": message["params"]["taskId"], "status": "working", "from": self.name}

    async def _tasks_list(self, line: Line, message: Message) -> Message:
        return {"tasks": [{"taskId": "1", "status": "working"}, {"taskId": "of-somebody-else", "status": "working"}]}

    async def _tasks_result(self, line: Line, message: Message) -> Message:
        await self.done.wait()
        related = {"io.modelcontextprotocol/related-task": {"taskId": message["params"]["taskId"]}}
        return {"content": [{"type": "text", "text": self.name}], "_meta": related}

    async def _tasks_cancel(self, line: Line, message: Message) -> Message:
        return {"taskId": message["params"]["taskId"], "status": "cancelled"}


async def begun(w: World, *workers: Worker) -> tuple[Agent, list[str]]:
    """An agent with one task at each worker."""
    for worker in workers:
        worker.done = asyncio.Event()
    agent = w.agent()
    await agent.open()
    ids = []
    for worker in workers:
        params = {"name": f"work-{worker.name}", "arguments": {}, "task": {"ttl": 1000}}
        ids.append((await agent.request("tools/call", params)).result["task"]["taskId"])
    return agent, ids


async def test_tasks_have_ids_of_their_session(tmp_path: Path) -> None:
    one, two = (Worker(name, (f"work-{name}",), EVERYTHING) for name in ("one", "two"))
    async with world(tmp_path, one, two) as w:
        agent, ids = await begun(w, one, two)
        assert len(set(ids)) == 2
        for worker, task in zip((one, two), ids, strict=True):
            got = (await agent.request("tasks/get", {"taskId": task})).result
            assert (got["taskId"], got["from"]) == (task, worker.name)
        listed = (await agent.request("tasks/list")).result["tasks"]
        assert [task["taskId"] for task in listed] == ids
        waiting = asyncio.create_task(agent.request("tasks/result", {"taskId": ids[1]}))
        await until(lambda: two.calls("tasks/result"))
        two.done.set()
        result = (await waiting).result
        assert result["content"][0]["text"] == "two"
        assert result["_meta"]["io.modelcontextprotocol/related-task"] == {"taskId": ids[1]}
        assert result["_meta"]["dev.mlld/labels"] == ["src:mcp", "mcp:two:work-two"]
        assert (await agent.request("tasks/cancel", {"taskId": ids[0]})).result["status"] == "cancelled"


async def test_a_task_cannot_be_reached_from_elsewhere(tmp_path: Path) -> None:
    worker = Worker("one", ("work-one",), EVERYTHING)
    async with world(tmp_path, worker) as w:
        agent, (task,) = await begun(w, worker)
        other = w.agent()
        await other.open()
        for who, known in [(other, task), (agent, "1"), (agent, "of-somebody-else"), (other, "1")]:
            for method in ("tasks/get", "tasks/result", "tasks/cancel"):
                assert (await who.request(method, {"taskId": known})).error["code"] == -32602
        assert (await other.request("tasks/list")).result["tasks"] == []
        w.gate.hidden.add(("one", "work-one"))
        assert (await agent.request("tasks/get", {"taskId": task})).error["message"] == f"Unknown task: {task}"
        assert worker.calls("tasks/get") == []


async def test_a_tasks_status_is_told_to_its_session(tmp_path: Path) -> None:
    worker = Worker("one", ("work-one",), EVERYTHING)
    async with world(tmp_path, worker) as w:
        agent, (task,) = await begun(w, worker)
        reader, writer = await stream(agent)
        worker.lines[0].notify("notifications/tasks/status", {"taskId": "of-somebody-else", "status": "failed"})
        worker.lines[0].notify("notifications/tasks/status", {"taskId": "1", "status": "completed"})
        told = await hear(agent, reader, "notifications/tasks/status")
        assert told["params"] == {"taskId": task, "status": "completed"}
        writer.close()


async def test_the_get_stream_is_gone_on_with_where_it_ended(tmp_path: Path) -> None:
    server = FakeServer("a", capabilities={"tools": {"listChanged": True}, "logging": {}})
    async with world(tmp_path, server) as w:
        agent = w.agent()
        await agent.open()
        reader, writer = await stream(agent)
        primed = parse_events(await anext(agent.chunks(reader)))[0]
        assert primed["id"].startswith("0_")
        writer.close()
        await agent.settle()
        for number in range(3):  # nobody is connected
            server.lines[0].notify("notifications/message", {"level": "info", "data": number})
        await agent.settle()
        headers = {"Accept": "text/event-stream", "Last-Event-ID": primed["id"]}
        reader, writer = await agent.send("GET", headers=headers)
        await agent.head(reader)
        events: list[Message] = []
        while len(events) < 3:
            events += [event for event in parse_events(await anext(agent.chunks(reader))) if event.get("data")]
        assert [json.loads(event["data"])["params"]["data"] for event in events] == [0, 1, 2]
        writer.close()
        await agent.settle()
        reader, writer = await agent.send("GET", headers=headers | {"Last-Event-ID": events[1]["id"]})
        await agent.head(reader)
        (last,) = parse_events(await anext(agent.chunks(reader)))
        assert json.loads(last["data"])["params"]["data"] == 2, "only what comes after the event that it names"
        writer.close()


async def test_a_session_is_named_by_every_request_and_ends_once(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("a")) as w:
        agent = w.agent()
        opened = await agent.open()
        name = opened.headers["mcp-session-id"]
        assert len(name) == 32
        events = {"Accept": "text/event-stream"}
        for verb in ("GET", "DELETE"):
            assert (await agent.http(verb, headers=events | {"Mcp-Session-Id": ""})).status == 400
            assert (await agent.http(verb, headers=events | {"Mcp-Session-Id": name.upper() + "0"})).status == 404
            assert (await agent.http(verb, headers=events | {"MCP-Protocol-Version": "1999-01-01"})).status == 400
            stateless = await agent.http(verb, headers=events | {"MCP-Protocol-Version": "2026-07-28"})
            assert (stateless.status, stateless.headers["allow"]) == (405, "POST")
        without = await agent.http("POST", b'{"jsonrpc":"2.0","id":1,"method":"ping"}', {"MCP-Protocol-Version": ""})
        assert without.result == {}, "clients of 2025-03-26 and before know no such header"
        assert (await agent.http("DELETE")).status == 200
        for verb in ("GET", "DELETE"):
            assert (await agent.http(verb, headers=events)).status == 404
        assert (await agent.request("ping")).status == 404

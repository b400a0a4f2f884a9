"""What an agent has seen takes tools away from it: a policy's label rules, in lists, calls, answers and notifications."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from images.sidecar.admission import Admission
from images.sidecar.guarding import Guarding, Module, Narrowed
from interpreter import ModuleGuards
from interpreter.policy_parse import parse_policy
from tests.support.waiting import PATIENCE, until
from tests.unit.sidecar.endpoint_world import Agent, FakeServer, Line, Message, World, world
from tests.unit.sidecar.test_endpoint_eras import Stateless, listen
from tests.unit.sidecar.test_endpoint_protocol import EVERYTHING, Library, Worker, begun, hear, stream

NO_CREATE = {"labels": {"mcp:github:get_issue": {"deny": ["op:mcp:github:create_issue"]}}}
GITHUB = ("get_issue", "create_issue", "list_issues")
LISTED = "notifications/tools/list_changed"
SERVERS = """
exe @mcpConfig() = { servers: [
  { name: "github", command: "x", labels: { delete_repo: ["destructive"] } },
  { name: "mail", command: "x", labels: { send: ["exfil"] } }
] }
"""


def ruled(w: World, policy: Mapping[str, Any], source: str = SERVERS) -> None:
    """Has a module with that policy judge in the world, as the sidecar's process does."""
    composed = parse_policy(policy, name="p").json() if policy else {}
    files = {"index.mld": source, "module.yml": "name: m\ntype: environment\nentry: index.mld\n"}
    module = ModuleGuards.load(files, "index.mld", None, composed)
    loading: asyncio.Future[Module] = asyncio.get_running_loop().create_future()
    loading.set_result(module)
    guarding = Guarding(loading, Admission({}, w.gate.emit), w.gate.emit)
    w.gate.active = guarding.active
    w.gate.judge_request, w.gate.judge_result = guarding.request, guarding.result
    w.gate.narrowed = Narrowed(module, w.gate.emit)


@asynccontextmanager
async def github(tmp: Path, policy: Mapping[str, Any], *more: FakeServer, **kwargs: Any) -> AsyncIterator[World]:
    async with world(tmp, FakeServer("github", GITHUB, **kwargs), *more) as w:
        ruled(w, policy)
        yield w


async def opened(w: World, **capabilities: Any) -> Agent:
    agent = w.agent()
    await agent.open(capabilities=capabilities)
    return agent


async def test_a_tool_is_withdrawn_once_a_label_has_been_seen(tmp_path: Path) -> None:
    async with github(tmp_path, NO_CREATE) as w:
        agent = await opened(w)
        assert await agent.tools() == list(GITHUB)
        assert "isError" not in (await agent.call("create_issue")).result
        reader, writer = await stream(agent)
        await agent.call("list_issues")
        assert await agent.tools() == list(GITHUB), "another tool's results carry another label"
        await agent.call("get_issue")
        await hear(agent, reader, LISTED)
        listed = (await agent.request("tools/list")).result
        assert [tool["name"] for tool in listed["tools"]] == ["get_issue", "list_issues"]
        assert listed["_meta"]["dev.mlld/withheld"] == 1
        await agent.call("get_issue")
        with pytest.raises(TimeoutError):  # what has changed once does not change again
            await asyncio.wait_for(hear(agent, reader, LISTED), 0.2)
        writer.close()
        (event,) = w.gate.of("narrowed")
        assert event["labels"] == ["mcp:github:get_issue"]
        rule = "policy @p: labels.mcp:github:get_issue.deny"
        assert event["withdrawn"] == [{"kind": "tool", "name": "create_issue", "rule": rule}]
        lists = [event for event in w.gate.of("request") if event["method"] == "tools/list"]
        assert [event.get("withheld") for event in lists] == [None, None, 1]


async def test_cannot_call_what_was_withdrawn_and_is_told_why(tmp_path: Path) -> None:
    async with github(tmp_path, NO_CREATE) as w:
        agent = await opened(w)
        await agent.call("get_issue")
        refused = (await agent.call("create_issue")).result
        assert refused["isError"] is True
        told = refused["content"][0]["text"]
        assert "policy @p: labels.mcp:github:get_issue.deny" in told
        assert "Label 'mcp:github:get_issue' cannot flow to 'op:mcp:github:create_issue'" in told
        assert "go on without it" in told
        for spelt in ("createIssue", "CREATE_ISSUE", "github__create_issue"):
            assert (await agent.call(spelt)).result["isError"] is True
        assert (await agent.call("list_issues")).result["content"], "the control: the others are still there"


RULES: list[tuple[str, Mapping[str, Any], set[str]]] = [
    ("by what every result is", {"labels": {"src:mcp": {"deny": ["op:mcp:mail:send"]}}}, {"send"}),
    ("by any tool of a server", {"labels": {"mcp:github:*": {"deny": ["op:mcp:mail:send"]}}}, {"send"}),
    ("a server altogether", {"labels": {"mcp:github": {"deny": ["op:mcp:mail:*"]}}}, {"send", "read_mail"}),
    ("by the label of tools", {"labels": {"src:mcp": {"deny": ["destructive"]}}}, {"delete_repo"}),
    (
        "by a risk",
        {"labels": {"src:mcp": {"deny": ["risky"]}}, "operations": {"risky": ["destructive", "exfil"]}},
        {"delete_repo", "send"},
    ),
    (
        "by a rule of its own",
        {"defaults": {"rules": ["no-untrusted-destructive"], "unlabeled": "untrusted"}},
        {"delete_repo"},
    ),
    (
        "but for an exception",
        {"labels": {"src:mcp": {"deny": ["op:mcp:mail"], "allow": ["op:mcp:mail:send"]}}},
        {"read_mail"},
    ),
    ("only to where it may", {"labels": {"src:mcp": {"allow": ["op:mcp:github"]}}}, {"send", "read_mail"}),
]


@pytest.mark.parametrize(("policy", "gone"), [(policy, gone) for _, policy, gone in RULES], ids=[r[0] for r in RULES])
async def test_rules_name_tools_servers_labels_and_risks(
    tmp_path: Path, policy: Mapping[str, Any], gone: set[str]
) -> None:
    tools = ("get_issue", "delete_repo")
    async with world(tmp_path, FakeServer("github", tools), FakeServer("mail", ("send", "read_mail"))) as w:
        ruled(w, policy)
        agent = await opened(w)
        everything = set(await agent.tools())
        assert everything == {"get_issue", "delete_repo", "send", "read_mail"}
        await agent.call("get_issue")
        assert everything - set(await agent.tools()) == gone
        for name in everything:
            assert (await agent.call(name)).result.get("isError", False) is (name in gone), name


async def test_a_call_in_flight_may_finish_and_a_later_one_is_refused(tmp_path: Path) -> None:
    begun_, release = asyncio.Event(), asyncio.Event()

    async def slow(line: Line, message: Message) -> Message:
        if message["params"]["name"] == "create_issue":
            begun_.set()
            await release.wait()
        return {"content": [{"type": "text", "text": "done"}]}

    async with github(tmp_path, NO_CREATE, handlers={"tools/call": slow}) as w:
        agent = await opened(w)
        await agent.tools()
        early = [asyncio.create_task(agent.call("create_issue")) for _ in range(5)]
        await begun_.wait()
        await agent.call("get_issue")
        late = await asyncio.gather(*(agent.call("create_issue") for _ in range(20)))
        assert all(reply.result["isError"] for reply in late)
        release.set()
        assert [(await call).text for call in early] == ["done"] * 5


async def test_cannot_win_a_race_against_a_result(tmp_path: Path) -> None:
    """Each agent sends its write in the moment in which it has the result in hand; in flight beside it is all else."""
    async with github(tmp_path, NO_CREATE) as w:

        async def race() -> None:
            agent = await opened(w)
            noise = [asyncio.create_task(agent.call("list_issues")) for _ in range(4)]
            await agent.call("get_issue")
            assert (await agent.call("create_issue")).result["isError"] is True
            await asyncio.gather(*noise)

        await asyncio.gather(*(race() for _ in range(30)))
        server_calls = [e for e in w.gate.of("call") if e["name"] == "create_issue"]
        assert [e["decision"] for e in server_calls] == ["deny"] * 30


async def test_one_session_takes_nothing_from_another_unless_the_policy_is_run_wide(tmp_path: Path) -> None:
    for name, extra, kept in (("a", {}, True), ("b", {"defaults": {"taint": "run"}}, False)):
        (tmp_path / name).mkdir()
        async with github(tmp_path / name, {**NO_CREATE, **extra}) as w:
            reader_of_issues, other = await opened(w), await opened(w)
            await other.tools()
            events, writer = await stream(other)
            await reader_of_issues.call("get_issue")
            assert ("create_issue" in await other.tools()) is kept
            assert ("isError" not in (await other.call("create_issue")).result) is kept
            newcomer = await opened(w)
            assert ("create_issue" in await newcomer.tools()) is kept
            if not kept:
                await hear(other, events, LISTED)
            writer.close()


async def test_cannot_forget_by_asking_as_another_stateless_agent(tmp_path: Path) -> None:
    async with github(tmp_path, NO_CREATE) as w:
        first, second = Stateless(w.port), Stateless(w.port, {"sampling": {}})
        for agent in (first, second):
            listed = (await agent.ask("tools/list")).result["tools"]
            assert "create_issue" in [tool["name"] for tool in listed]
        events, writer = await listen(w, second, {"toolsListChanged": True})
        chunks = second.chunks(events)
        await anext(chunks)  # the acknowledgement
        await first.ask("tools/call", {"name": "get_issue", "arguments": {}})
        told = json.loads((await anext(chunks)).decode().partition("data: ")[2])
        assert told["method"] == LISTED
        writer.close()
        for agent in (first, second, Stateless(w.port, {"elicitation": {}})):
            listed = (await agent.ask("tools/list")).result["tools"]
            assert "create_issue" not in [tool["name"] for tool in listed]
            refused = (await agent.ask("tools/call", {"name": "create_issue", "arguments": {}})).result
            assert refused["isError"] is True


async def test_a_stateless_agent_answers_for_what_sessions_have_seen(tmp_path: Path) -> None:
    async with github(tmp_path, NO_CREATE) as w:
        await (await opened(w)).call("get_issue")
        listed = (await Stateless(w.port).ask("tools/list")).result["tools"]
        assert [tool["name"] for tool in listed] == ["get_issue", "list_issues"]


ANYTHING = {"labels": {"mcp:lib": {"deny": ["op:mcp:github:create_issue"]}}}


async def what_was_read(agent: Agent, line: Line, how: str) -> None:
    """Lets the agent get text of the server `lib` in one of the ways there are."""
    match how:
        case "resource":
            await agent.request("resources/read", {"uri": "lib://shelf"})
        case "resource of a template":
            await agent.request("resources/read", {"uri": "lib://book/1"})
        case "prompt":
            await agent.request("prompts/get", {"name": "only-lib"})
        case "completion":
            ref = {"type": "ref/prompt", "name": "only-lib"}
            await agent.request("completion/complete", {"ref": ref, "argument": {"name": "a", "value": ""}})
        case "log message":
            line.notify("notifications/message", {"level": "error", "data": "text"})
        case "question":
            await asyncio.wait_for(line.ask("sampling/createMessage", {"messages": [], "maxTokens": 1}), PATIENCE)
        case "error":
            await agent.request("prompts/get", {"name": "write"})


@pytest.mark.parametrize(
    "how",
    ["resource", "resource of a template", "prompt", "completion", "log message", "question", "error"],
)
async def test_whatever_a_server_says_is_seen(tmp_path: Path, how: str) -> None:
    async def failing(line: Line, message: Message) -> Message | None:
        if message["params"]["name"] == "only-lib":
            return {"messages": []}
        line.send({"id": message["id"], "error": {"code": -32000, "message": "text of the server"}})
        return None

    lib = Library("lib", (), EVERYTHING, handlers={"prompts/get": failing})
    async with github(tmp_path, ANYTHING, lib) as w:
        agent = await opened(w, sampling={})
        await agent.tools()
        for method in ("resources/list", "resources/templates/list", "prompts/list"):
            await agent.request(method)
        reader, writer = await stream(agent)
        answering = asyncio.create_task(answered(agent, reader)) if how == "question" else None
        assert "create_issue" in await agent.tools(), "a list of names has shown nothing that is labelled"
        await what_was_read(agent, lib.lines[-1], how)
        if answering:
            await answering
        else:
            await hear(agent, reader, LISTED)
        assert "create_issue" not in await agent.tools()
        assert (await agent.call("create_issue")).result["isError"] is True
        writer.close()


async def answered(agent: Agent, reader: asyncio.StreamReader, content: str = "yes") -> Message:
    """Answers the question that comes on the stream."""
    asked = await hear(agent, reader, "sampling/createMessage")
    said = {"role": "assistant", "model": "m", "content": {"type": "text", "text": content}}
    await agent.post({"jsonrpc": "2.0", "id": asked["id"], "result": said})
    return asked


async def test_progress_is_seen_before_its_result(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def slow(line: Line, message: Message) -> Message:
        token = message["params"].get("_meta", {}).get("progressToken")
        if token is not None:
            line.notify("notifications/progress", {"progressToken": token, "progress": 1, "message": "text"})
            await release.wait()
        return {"content": []}

    async with github(tmp_path, NO_CREATE, handlers={"tools/call": slow}) as w:
        agent = await opened(w)
        await agent.tools()
        reader, writer = await stream(agent)
        call = asyncio.create_task(agent.call("get_issue", meta={"progressToken": "t"}))
        await hear(agent, reader, LISTED)
        assert (await agent.call("create_issue")).result["isError"] is True
        release.set()
        await call
        writer.close()


async def test_a_log_message_has_the_labels_of_all_that_its_process_was_called_for(tmp_path: Path) -> None:
    """Two sessions share a process: what one asked of it may be in what it tells the other."""
    policy = {"labels": {"secret": {"deny": ["op:mcp:github:create_issue"]}}}
    vault = FakeServer("vault", ("open", "look"), {"tools": {}, "logging": {}})
    async with github(tmp_path, policy, vault) as w:
        w.gate.labels["vault", "open"] = ("secret",)
        one, two = await opened(w), await opened(w)
        await two.tools()
        reader, writer = await stream(two)
        vault.lines[0].notify("notifications/message", {"level": "error", "data": "nothing yet"})
        await hear(two, reader, "notifications/message")
        assert "create_issue" in await two.tools()
        await one.call("open")
        assert "create_issue" in await two.tools(), "the result went to the other session"
        vault.lines[0].notify("notifications/message", {"level": "error", "data": "what was in it"})
        await hear(two, reader, LISTED)
        assert "create_issue" not in await two.tools()
        writer.close()


async def test_entries_of_lists_with_labels_of_their_own_are_seen(tmp_path: Path) -> None:
    policy = {"labels": {"secret": {"deny": ["op:mcp:github:create_issue"]}}}
    async with github(tmp_path, policy, Library("lib", (), EVERYTHING)) as w:
        w.gate.labels["lib", "lib://shelf"] = w.gate.labels["github", "get_issue"] = ("secret",)
        agent = await opened(w)
        assert "create_issue" in await agent.tools()
        assert "create_issue" in await agent.tools(), "a tool's labels are those of its results"
        await agent.request("resources/list")
        assert "create_issue" not in await agent.tools()


async def test_prompts_and_resources_are_withdrawn_too(tmp_path: Path) -> None:
    policy = {"labels": {"mcp:github": {"deny": ["op:mcp:lib"]}}}
    async with github(tmp_path, policy, Library("lib", (), EVERYTHING)) as w:
        agent = await opened(w)
        methods = ("prompts/list", "resources/list", "resources/templates/list")
        before = [(await agent.request(method)).result for method in methods]
        assert all("dev.mlld/withheld" not in listed.get("_meta", {}) for listed in before)
        reader, writer = await stream(agent)
        await agent.call("list_issues")
        for group in ("prompts", "resources"):
            await hear(agent, reader, f"notifications/{group}/list_changed")
        for method, key, former in zip(methods, ("prompts", "resources", "resourceTemplates"), before, strict=True):
            now = (await agent.request(method)).result
            assert now[key] == []
            assert now["_meta"]["dev.mlld/withheld"] == len(former[key]) > 0
        for method, params in (
            ("resources/read", {"uri": "lib://shelf"}),
            ("resources/read", {"uri": "lib://book/2"}),
            ("prompts/get", {"name": "only-lib"}),
        ):
            assert "cannot flow to 'op:mcp:lib'" in (await agent.request(method, params)).error["message"]
        writer.close()


async def test_cannot_answer_a_server_what_it_may_not_be_told(tmp_path: Path) -> None:
    """An answer to a question is text of the agent's on its way to a server, like the arguments of a call."""
    policy = {"labels": {"mcp:github": {"deny": ["op:mcp:lib"]}}}
    lib = Library("lib", (), EVERYTHING)
    async with github(tmp_path, policy, lib) as w:
        agent = await opened(w, sampling={})
        await agent.request("prompts/list")
        reader, writer = await stream(agent)
        line = lib.lines[-1]
        first = asyncio.create_task(line.ask("sampling/createMessage", {"messages": [], "maxTokens": 1}))
        await answered(agent, reader, "before")
        assert (await first)["result"]["content"]["text"] == "before"
        second = asyncio.create_task(line.ask("sampling/createMessage", {"messages": [], "maxTokens": 1}))
        await agent.call("get_issue")
        await answered(agent, reader, "what the issue says")
        refused = await second
        assert "policy @p: labels.mcp:github.deny" in refused["error"]["message"]
        assert "what the issue says" not in json.dumps(lib.seen)
        assert [e["method"] for e in w.gate.of("denied")] == ["sampling/createMessage"]
        writer.close()


async def test_cannot_answer_a_call_that_was_withdrawn_meanwhile(tmp_path: Path) -> None:
    """A stateless agent's answer goes on with a call that was admitted before it had seen the issue."""
    policy = {"labels": {"mcp:github": {"deny": ["op:mcp:mail:send"]}}}
    asked: dict[str, Message] = {}

    async def asks(line: Line, message: Message) -> Message:
        asked["answer"] = await line.ask("elicitation/create", {"message": "what?", "requestedSchema": {}})
        return {"content": []}

    mail = FakeServer("mail", ("send",), handlers={"tools/call": asks})
    async with github(tmp_path, policy, mail) as w:
        agent = Stateless(w.port, {"elicitation": {"form": {}}})
        call = {"name": "send", "arguments": {}}
        wanted = (await agent.ask("tools/call", call)).result
        assert wanted["resultType"] == "input_required"
        await agent.ask("tools/call", {"name": "get_issue", "arguments": {}})
        (key,) = wanted["inputRequests"]
        answers = {key: {"action": "accept", "content": {"text": "what the issue says"}}}
        await agent.ask("tools/call", {**call, "inputResponses": answers, "requestState": wanted["requestState"]})
        assert "error" in asked["answer"]
        assert "what the issue says" not in json.dumps(mail.seen)


async def test_cannot_bring_text_to_a_closed_server_in_a_cancellation(tmp_path: Path) -> None:
    started = asyncio.Event()

    async def never(line: Line, message: Message) -> None:
        if message["params"]["name"] == "get_issue":
            line.result(message, {"content": []})
            return
        started.set()
        await asyncio.Event().wait()

    server = FakeServer("github", GITHUB, handlers={"tools/call": never})
    async with world(tmp_path, server) as w:
        ruled(w, NO_CREATE)
        agent = await opened(w)
        call = asyncio.create_task(agent.request("tools/call", {"name": "create_issue"}, id="mine"))
        await started.wait()
        await agent.call("get_issue")
        await agent.notify("notifications/cancelled", {"requestId": "mine", "reason": "what the issue says"})
        await call
        await until(lambda: server.calls("notifications/cancelled"))
        assert "what the issue says" not in json.dumps(server.seen)


async def test_what_a_privileged_guard_may_lift_is_left_to_it(tmp_path: Path) -> None:
    guard = "guard privileged @small before op:mcp:github:create_issue = when [ @mx.args.arguments.n < 3 => allow ]\n"
    for name, locked, listed in (("a", False, True), ("b", True, False)):
        (tmp_path / name).mkdir()
        async with world(tmp_path / name, FakeServer("github", GITHUB)) as w:
            ruled(w, {**NO_CREATE, "locked": locked}, guard + SERVERS)
            agent = await opened(w)
            await agent.call("get_issue")
            assert ("create_issue" in await agent.tools()) is listed
            assert ("isError" not in (await agent.call("create_issue", {"n": 2})).result) is listed
            assert (await agent.call("create_issue", {"n": 4})).result["isError"] is True


async def test_a_task_goes_on_although_its_tool_was_withdrawn(tmp_path: Path) -> None:
    worker = Worker("one", ("work-one",), EVERYTHING)
    async with github(tmp_path, {"labels": {"mcp:github": {"deny": ["op:mcp:one:work-one"]}}}, worker) as w:
        agent, (task,) = await begun(w, worker)
        await agent.call("get_issue")
        assert "work-one" not in await agent.tools()
        worker.done.set()
        assert (await agent.request("tasks/result", {"taskId": task})).result["content"][0]["text"] == "one"
        again = await agent.request("tools/call", {"name": "work-one", "arguments": {}, "task": {"ttl": 1}})
        assert again.result["isError"] is True


async def test_rules_that_cannot_be_asked_withdraw_everything(tmp_path: Path) -> None:
    class Broken:
        narrows = active = True
        run_wide = False

        def telling(self, labels: frozenset[str]) -> frozenset[str]:
            return labels

        def withdrawn(self, *asked: object) -> None:
            raise RuntimeError("broken")

    async with world(tmp_path, FakeServer("github", GITHUB)) as w:
        w.gate.narrowed = Narrowed(Broken(), w.gate.emit)
        agent = await opened(w)
        assert await agent.tools() == list(GITHUB)
        await agent.call("get_issue")
        assert await agent.tools() == []
        assert w.gate.of("error")[0]["error"] == "RuntimeError: broken"

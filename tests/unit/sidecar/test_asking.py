"""What servers ask of the agent is judged: sampling and elicitation, questions and answers, in every pair of eras."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from images.sidecar.seams import Call, Verdict
from tests.unit.sidecar.endpoint_world import FakeServer, Line, Message, World, world
from tests.unit.sidecar.test_endpoint_eras import ModernServer, Stateless


async def asks(line: Line, message: Message) -> Message:
    """A tool that asks the agent, and tells what it was told."""
    answer = await line.ask("sampling/createMessage", {"messages": [], "systemPrompt": "be kind"})
    return {"content": [{"type": "text", "text": json.dumps(answer.get("result") or answer["error"])}]}


async def wants(line: Line, message: Message) -> Message:
    """The same of a stateless server."""
    params = message["params"]
    if "inputResponses" not in params:
        asked = {"method": "sampling/createMessage", "params": {"messages": [], "systemPrompt": "be kind"}}
        return {"resultType": "input_required", "inputRequests": {"q": asked}, "requestState": "theirs"}
    text = json.dumps(params["inputResponses"]["q"])
    return {"resultType": "complete", "content": [{"type": "text", "text": text}]}


Judge = Callable[[Call], Awaitable[Verdict]]


def judging(w: World, question: Verdict | None = None, answer: Verdict | None = None) -> list[tuple[str, Any]]:
    """Guards that have something to say about sampling only; what they saw of it."""
    seen: list[tuple[str, Any]] = []
    allow = Verdict(kind="allow")

    async def request(call: Call) -> Verdict:
        if call.method != "sampling/createMessage":
            return allow
        seen.append((call.server, dict(call.params)))
        return question or allow

    async def result(call: Call, raw: bytes) -> Verdict:
        if call.method != "sampling/createMessage":
            return allow
        seen.append((call.server, json.loads(raw)))
        return answer or allow

    w.gate.active, w.gate.judge_request, w.gate.judge_result = True, request, result
    return seen


def told(message: Message) -> str:
    return str(message["result"]["content"][0]["text"] if "result" in message else message["error"])


async def with_a_session(w: World) -> tuple[list[Any], str]:
    """What an agent with a session was asked, and what its call gave."""
    agent = w.agent()
    await agent.open(capabilities={"sampling": {}})
    body = json.dumps({"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {"name": "echo"}}).encode()
    reader, writer = await agent.send("POST", body)
    _, headers = await agent.head(reader)
    asked: list[Any] = []
    text = ""
    if "content-length" in headers:
        text = told(json.loads(await reader.readexactly(int(headers["content-length"]))))
    else:
        async for chunk in agent.chunks(reader):
            for message in (json.loads(line[6:]) for line in chunk.decode().split("\n") if line.startswith("data: {")):
                if "method" in message:
                    asked.append(message["params"])
                    await agent.post({"jsonrpc": "2.0", "id": message["id"], "result": {"model": "m"}})
                else:
                    text = message.get("result", {"content": [{"text": str(message.get("error"))}]})["content"][0][
                        "text"
                    ]
    writer.close()
    return asked, text


async def without_one(w: World) -> tuple[list[Any], str]:
    """The same of a stateless agent."""
    agent = Stateless(w.port, {"sampling": {}})
    params: Message = {"name": "echo"}
    asked = []
    while True:
        result = (await agent.ask("tools/call", params)).result
        if result["resultType"] == "complete":
            return asked, result["content"][0]["text"]
        ((key, question),) = result["inputRequests"].items()
        asked.append(question["params"])
        answers = {key: {"model": "m"}}
        params = {"name": "echo", "requestState": result["requestState"], "inputResponses": answers}


PAIRS = [
    pytest.param(FakeServer, asks, with_a_session, id="old server, agent with a session"),
    pytest.param(FakeServer, asks, without_one, id="old server, stateless agent"),
    pytest.param(ModernServer, wants, with_a_session, id="stateless server, agent with a session"),
]
Talk = Callable[[World], Awaitable[tuple[list[Any], str]]]
DENIED = Verdict(kind="deny", rule="guard @x", reason="no sampling here")


@pytest.mark.parametrize(("make", "handler", "talk"), PAIRS)
async def test_guards_see_the_question_and_the_answer(tmp_path: Path, make: Any, handler: Any, talk: Talk) -> None:
    async with world(tmp_path, make("a", handlers={"tools/call": handler})) as w:
        seen = judging(w)
        asked, text = await talk(w)
        assert [question["systemPrompt"] for question in asked] == ["be kind"]
        assert json.loads(text) == {"model": "m"}
        assert [server for server, _ in seen] == ["a", "a"]
        assert seen[0][1]["systemPrompt"] == "be kind"
        assert seen[1][1] == {"model": "m"}


@pytest.mark.parametrize(("make", "handler", "talk"), PAIRS)
async def test_cannot_ask_what_a_guard_denies(tmp_path: Path, make: Any, handler: Any, talk: Talk) -> None:
    async with world(tmp_path, make("a", handlers={"tools/call": handler})) as w:
        judging(w, question=DENIED)
        asked, text = await talk(w)
        assert asked == []
        assert "no sampling here" in text
        assert [(event["rule"], event["method"]) for event in w.gate.of("denied")] == [
            ("guard @x", "sampling/createMessage")
        ]


@pytest.mark.parametrize(("make", "handler", "talk"), PAIRS)
async def test_cannot_get_an_answer_that_a_guard_denies(tmp_path: Path, make: Any, handler: Any, talk: Talk) -> None:
    async with world(tmp_path, make("a", handlers={"tools/call": handler})) as w:
        judging(w, answer=DENIED)
        asked, text = await talk(w)
        assert len(asked) == 1
        assert "no sampling here" in text
        assert "model" not in text


@pytest.mark.parametrize(("make", "handler", "talk"), PAIRS)
async def test_guards_change_questions_and_answers(tmp_path: Path, make: Any, handler: Any, talk: Talk) -> None:
    question = Verdict(kind="transform", value={"messages": [], "systemPrompt": "be careful"})
    answer = Verdict(kind="transform", value={"model": "other"})
    async with world(tmp_path, make("a", handlers={"tools/call": handler})) as w:
        judging(w, question, answer)
        asked, text = await talk(w)
        assert [question["systemPrompt"] for question in asked] == ["be careful"]
        assert json.loads(text) == {"model": "other"}


ASKED = {"server", "method", "decision", "rule", "labels", "bytesIn", "bytesOut", "ms", "isError"}


@pytest.mark.parametrize(
    ("judged", "outcome"),
    [
        ({}, ("allow", None, False)),
        ({"question": DENIED}, ("deny", "guard @x", True)),
        ({"answer": DENIED}, ("deny", "guard @x", True)),
    ],
)
@pytest.mark.parametrize(("make", "handler", "talk"), PAIRS)
async def test_cannot_ask_unseen(
    tmp_path: Path, make: Any, handler: Any, talk: Talk, judged: dict[str, Verdict], outcome: tuple[Any, ...]
) -> None:
    async with world(tmp_path, make("a", handlers={"tools/call": handler})) as w:
        judging(w, **judged)
        await talk(w)
        (event,) = w.gate.of("asked")
        assert event.keys() >= ASKED
        assert (event["server"], event["method"]) == ("a", "sampling/createMessage")
        assert (event["decision"], event["rule"], event["isError"]) == outcome
        assert "src:mcp" in event["labels"]
        assert event["bytesIn"] > 20


async def test_what_nobody_offers_is_told_too(tmp_path: Path) -> None:
    async with world(tmp_path, FakeServer("a", handlers={"tools/call": asks})) as w:
        agent = w.agent()
        await agent.open()
        assert "-32601" in (await agent.call("echo")).text
        (event,) = w.gate.of("asked")
        assert (event["decision"], event["rule"], event["error"]) == ("deny", "not offered", -32601)


async def test_a_server_that_dies_before_its_answer_leaves_nothing_behind(tmp_path: Path) -> None:
    async def dies(line: Line, message: Message) -> None:
        line.send({"id": "q", "method": "sampling/createMessage", "params": {}})
        await line.writer.drain()
        line.writer.close()

    async with world(tmp_path, FakeServer("a", handlers={"tools/call": dies})) as w:
        agent = w.agent()
        await agent.open(capabilities={"sampling": {}})
        await agent.call("echo")
        assert all(not cohort.waiting for cohort in w.endpoint.cohorts())

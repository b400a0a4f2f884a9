"""Every method over every way, in both directions: it goes through, or it does not exist there and says so.

`docs/mcp-coverage.md` shows the same as tables; a test holds the two together.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from images.sidecar import remote
from tests.support.waiting import PATIENCE
from tests.unit.sidecar.crossings import META, WAYS, Crossing, crossing
from tests.unit.sidecar.endpoint_world import Line, Message

Case = Callable[[Crossing], Awaitable[None]]
ROWS: dict[str, Case] = {}
ABSENT: dict[tuple[str, str], Case] = {}
SESSIONS = tuple(way for way in WAYS if not way.endswith("2026"))
STATELESS = tuple(way for way in WAYS if way.endswith("2026"))


def row(*names: str, absent: tuple[str, ...] = (), then: Case | None = None) -> Callable[[Case], Case]:
    """A method, what shows that it goes through, and where it does not exist and what shows that (`then`, or an error
    for its request)."""

    def add(case: Case) -> Case:
        for name in names:
            ROWS[name] = case
            for way in absent:
                ABSENT[name, way] = then or unknown(name)
        return case

    return add


def unknown(method: str) -> Case:
    async def check(x: Crossing) -> None:
        await x.open()
        params = {"uri": "full://shelf", "level": "info", "taskId": "1", "protocolVersion": "2025-11-25"}
        assert (await x.client.request(method, params))["error"]["code"] == -32601

    return check


def unheard(method: str, **params: Any) -> Case:
    """What the agent says does not reach the server."""

    async def check(x: Crossing) -> None:
        await x.open(roots={})
        await x.client.notify(method, params)
        await x.result("tools/call", name="work")
        assert x.server.calls(method) == []

    return check


def untold(method: str, **params: Any) -> Case:
    """What the server says does not reach the agent."""

    async def say(line: Line, message: Message) -> Message:
        line.notify(method, params)
        return {"content": []}

    async def check(x: Crossing) -> None:
        x.server.handlers["tools/call"] = say
        await x.open()
        await x.result("tools/call", name="work")
        await x.client.tools()
        assert [m for m in x.client.told if m.get("method") == method] == []

    return check


# ----------------------------------------------------------------------------------------------- requests of the agent


@row("initialize", absent=STATELESS)
async def initialize(x: Crossing) -> None:
    opened = await x.open()
    assert opened["protocolVersion"] == "2025-11-25"
    assert {"tools", "prompts", "resources", "logging", "completions", "tasks"} <= opened["capabilities"].keys()


@row("server/discover", absent=SESSIONS)
async def discover(x: Crossing) -> None:
    opened = await x.open()
    assert opened["supportedVersions"] == ["2026-07-28"]


@row("ping", absent=STATELESS)
async def ping(x: Crossing) -> None:
    await x.open()
    assert await x.result("ping") == {}


@row("tools/list")
async def tools_list(x: Crossing) -> None:
    await x.open()
    assert [tool["name"] for tool in (await x.result("tools/list"))["tools"]] == ["work"]


@row("tools/call")
async def tools_call(x: Crossing) -> None:
    await x.open()
    result = await x.result("tools/call", name="work", arguments={"é": [1, None]})
    assert result["content"] == []
    assert "src:mcp" in result["_meta"]["dev.mlld/labels"]
    assert x.server.calls("tools/call")[0]["params"]["arguments"] == {"é": [1, None]}


@row("prompts/list")
async def prompts_list(x: Crossing) -> None:
    await x.open()
    assert {p["name"] for p in (await x.result("prompts/list"))["prompts"]} == {"write", "only-full"}


@row("prompts/get")
async def prompts_get(x: Crossing) -> None:
    await x.open()
    said = (await x.result("prompts/get", name="write"))["messages"][0]["content"]["text"]
    assert said == "full write"


@row("resources/list")
async def resources_list(x: Crossing) -> None:
    await x.open()
    assert len((await x.result("resources/list"))["resources"]) == 2


@row("resources/templates/list")
async def templates_list(x: Crossing) -> None:
    await x.open()
    assert len((await x.result("resources/templates/list"))["resourceTemplates"]) == 1


@row("resources/read")
async def resources_read(x: Crossing) -> None:
    await x.open()
    assert (await x.result("resources/read", uri="full://shelf"))["contents"][0]["text"] == "full"


@row("resources/subscribe", "resources/unsubscribe", absent=STATELESS)
async def subscribe(x: Crossing) -> None:
    await x.open()
    await x.result("resources/subscribe", uri="full://shelf")
    await x.result("resources/unsubscribe", uri="full://shelf")
    seen = [(await x.told(f"resources/{verb}"))["params"]["uri"] for verb in ("subscribe", "unsubscribe")]
    assert seen == ["full://shelf", "full://shelf"]


@row("subscriptions/listen", absent=SESSIONS)
async def listen(x: Crossing) -> None:
    await x.open()
    begun = x.client.begin("subscriptions/listen", {"notifications": {"toolsListChanged": True}}, id="ear")
    told = await x.client.hears("notifications/subscriptions/acknowledged")
    assert told["params"]["_meta"][META + "subscriptionId"] == "ear"
    begun.cancel()


@row("completion/complete")
async def complete(x: Crossing) -> None:
    await x.open()
    argument = {"name": "a", "value": "b"}
    found = await x.result("completion/complete", ref={"type": "ref/prompt", "name": "write"}, argument=argument)
    assert found["completion"]["values"][0] == "full"


@row("logging/setLevel", absent=STATELESS)
async def set_level(x: Crossing) -> None:
    await x.open()
    await x.result("logging/setLevel", level="error")
    assert (await x.told("logging/setLevel"))["params"]["level"] == "error"


@row("tasks/get", "tasks/list", "tasks/result", "tasks/cancel", absent=STATELESS)
async def tasks(x: Crossing) -> None:
    await x.open()
    task = (await x.result("tools/call", name="work", arguments={}, task={"ttl": 1000}))["task"]["taskId"]
    assert (await x.result("tasks/get", taskId=task))["taskId"] == task
    assert [t["taskId"] for t in (await x.result("tasks/list"))["tasks"]] == [task]
    assert (await x.result("tasks/result", taskId=task))["content"][0]["text"] == "full"
    assert (await x.result("tasks/cancel", taskId=task))["status"] == "cancelled"


# ------------------------------------------------------------------------------------------ notifications of the agent


@row("notifications/cancelled",
     absent=("http 2026", "to http 2026"), then=unheard("notifications/cancelled", requestId="mine"))  # fmt: skip
async def cancelled(x: Crossing) -> None:
    begun = asyncio.Event()

    async def never(line: Line, message: Message) -> None:
        begun.set()
        await asyncio.Event().wait()

    x.server.handlers["tools/call"] = never
    await x.open()
    call = x.client.begin("tools/call", {"name": "work"}, id="mine")
    await begun.wait()
    await x.client.notify("notifications/cancelled", {"requestId": "mine"})
    sent = await x.told("notifications/cancelled")
    assert sent["params"]["requestId"] == x.server.calls("tools/call")[0]["id"]
    call.cancel()


@row("notifications/progress of the agent", absent=STATELESS, then=unheard("notifications/progress", progressToken=1))
async def agents_progress(x: Crossing) -> None:
    async def ask(line: Line, message: Message) -> Message:
        asked = await line.ask("roots/list", {"_meta": {"progressToken": "theirs"}})
        return {"content": [{"type": "text", "text": json.dumps(asked["result"])}]}

    x.server.handlers["tools/call"] = ask
    await x.open(roots={})
    call = x.client.begin("tools/call", {"name": "work"})
    question = await x.client.asked.get()
    token = question["params"]["_meta"]["progressToken"]
    await x.client.notify("notifications/progress", {"progressToken": token, "progress": 1})
    assert (await x.told("notifications/progress"))["params"] == {"progressToken": "theirs", "progress": 1}
    await x.client.say({"jsonrpc": "2.0", "id": question["id"], "result": {"roots": []}})
    await call


@row("notifications/roots/list_changed", absent=STATELESS, then=unheard("notifications/roots/list_changed"))
async def roots_changed(x: Crossing) -> None:
    await x.open(roots={"listChanged": True})
    await x.client.notify("notifications/roots/list_changed")
    await x.told("notifications/roots/list_changed")


# ---------------------------------------------------------------------------------------------- requests of the server


def asking(method: str, params: Message, answer: Message, capability: Message) -> Case:
    async def handler(line: Line, message: Message) -> Message:
        asked = await line.ask(method, params)
        return {"content": [{"type": "text", "text": json.dumps(asked["result"])}]}

    async def check(x: Crossing) -> None:
        x.server.handlers["tools/call"] = handler
        await x.open(**capability)
        question, result = await x.asked(answer)
        assert (question["method"], question["params"]) == (method, params)
        assert json.loads(result["content"][0]["text"]) == answer

    return check


FORM = {"message": "sure?", "requestedSchema": {"type": "object", "properties": {}}}
URL = {"mode": "url", "message": "log in", "url": "https://example.com/", "elicitationId": "e"}
row("sampling/createMessage")(
    asking(
        "sampling/createMessage",
        {"messages": [], "maxTokens": 1},
        {"role": "assistant", "model": "m"},
        {"sampling": {}},
    )
)
row("elicitation/create, form")(asking("elicitation/create", FORM, {"action": "accept"}, {"elicitation": {}}))
row("elicitation/create, url")(
    asking("elicitation/create", URL, {"action": "accept"}, {"elicitation": {"form": {}, "url": {}}})
)
row("roots/list")(asking("roots/list", {}, {"roots": [{"uri": "file:///x"}]}, {"roots": {}}))


# ----------------------------------------------------------------------------------------- notifications of the server


@row("notifications/progress of the server")
async def servers_progress(x: Crossing) -> None:
    async def progressing(line: Line, message: Message) -> Message:
        token = message["params"]["_meta"]["progressToken"]
        line.notify("notifications/progress", {"progressToken": token, "progress": 1})
        return {"content": []}

    x.server.handlers["tools/call"] = progressing
    await x.open()
    await x.result("tools/call", name="work", _meta={"progressToken": "mine"})
    assert (await x.client.hears("notifications/progress"))["params"] == {"progressToken": "mine", "progress": 1}


@row("notifications/message")
async def logged(x: Crossing) -> None:
    async def log(line: Line, message: Message) -> Message:
        line.notify("notifications/message", {"level": "error", "data": "hm"})
        return {"content": []}

    x.server.handlers["tools/call"] = log
    await x.open()
    await x.result("tools/call", name="work", _meta={META + "logLevel": "info"} if x.modern else {})
    assert (await x.client.hears("notifications/message"))["params"]["data"] == "hm"


async def at_last(x: Crossing, method: str, params: Message) -> Message:
    """What the client hears of what the server says again and again: a subscription is on its way for a while."""
    hearing = asyncio.create_task(x.client.hears(method))
    while not hearing.done():
        x.server.lines[-1].notify(method, params)
        await asyncio.wait([hearing], timeout=0.1)
    return hearing.result()


def changed(kind: str, flag: str, listed: str) -> Case:
    async def check(x: Crossing) -> None:
        await x.open()
        await x.result(listed)
        if x.modern:
            x.client.begin("subscriptions/listen", {"notifications": {flag: True}}, id="ear").add_done_callback(_over)
            await x.client.hears("notifications/subscriptions/acknowledged")
        await at_last(x, f"notifications/{kind}/list_changed", {})

    return check


def _over(task: asyncio.Task[Message]) -> None:
    """It is cancelled with the client: nothing is to be said of that."""


row("notifications/tools/list_changed")(changed("tools", "toolsListChanged", "tools/list"))
row("notifications/prompts/list_changed")(changed("prompts", "promptsListChanged", "prompts/list"))
row("notifications/resources/list_changed")(changed("resources", "resourcesListChanged", "resources/list"))


@row("notifications/resources/updated")
async def updated(x: Crossing) -> None:
    await x.open()
    if x.modern:
        x.client.begin(
            "subscriptions/listen", {"notifications": {"resourceSubscriptions": ["full://shelf"]}}, id="ear"
        ).add_done_callback(_over)
        await x.client.hears("notifications/subscriptions/acknowledged")
    else:
        await x.result("resources/subscribe", uri="full://shelf")
    told = await at_last(x, "notifications/resources/updated", {"uri": "full://shelf"})
    assert told["params"]["uri"] == "full://shelf"


@row(
    "notifications/tasks/status",
    absent=STATELESS,
    then=untold("notifications/tasks/status", taskId="1", status="failed"),
)
async def task_status(x: Crossing) -> None:
    await x.open()
    task = (await x.result("tools/call", name="work", arguments={}, task={"ttl": 1000}))["task"]["taskId"]
    x.server.lines[-1].notify("notifications/tasks/status", {"taskId": "1", "status": "completed"})
    assert (await x.client.hears("notifications/tasks/status"))["params"] == {"taskId": task, "status": "completed"}


@row("notifications/cancelled of the server",
     absent=STATELESS, then=untold("notifications/cancelled", requestId="ask-1"))  # fmt: skip
async def withdrawn(x: Crossing) -> None:
    async def ask(line: Line, message: Message) -> Message:
        asked = asyncio.ensure_future(line.ask("roots/list", {}))
        await asyncio.sleep(0.1)
        line.notify("notifications/cancelled", {"requestId": "ask-1"})
        asked.cancel()
        return {"content": []}

    x.server.handlers["tools/call"] = ask
    await x.open(roots={})
    call = x.client.begin("tools/call", {"name": "work"})
    question = await x.client.asked.get()
    assert (await x.client.hears("notifications/cancelled"))["params"]["requestId"] == question["id"]
    await call


@row("notifications/elicitation/complete",
     absent=STATELESS, then=untold("notifications/elicitation/complete", elicitationId="e"))  # fmt: skip
async def elicited(x: Crossing) -> None:
    async def say(line: Line, message: Message) -> Message:
        line.notify("notifications/elicitation/complete", {"elicitationId": "e"})
        return {"content": []}

    x.server.handlers["tools/call"] = say
    await x.open(elicitation={"url": {}})
    await x.result("tools/call", name="work")
    assert (await x.client.hears("notifications/elicitation/complete"))["params"] == {"elicitationId": "e"}


# ------------------------------------------------------------------------------------------------------------ the cells


CELLS = [(name, way) for name in ROWS for way in WAYS]


@pytest.mark.parametrize(("name", "way"), [cell for cell in CELLS if cell not in ABSENT])
async def test_it_goes_through(tmp_path: Path, name: str, way: str) -> None:
    async with asyncio.timeout(PATIENCE), crossing(tmp_path, way) as x:
        await ROWS[name](x)


@pytest.mark.parametrize(("name", "way"), [cell for cell in CELLS if cell in ABSENT])
async def test_it_does_not_exist_there(tmp_path: Path, name: str, way: str) -> None:
    async with asyncio.timeout(PATIENCE), crossing(tmp_path, way) as x:
        await ABSENT[name, way](x)


async def test_nothing_waits_for_a_stream_that_the_older_transport_has_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_STREAM_SECONDS", 3600.0)
    async with asyncio.timeout(PATIENCE), crossing(tmp_path, "to sse") as x:
        await x.open()
        for _ in range(5):
            await x.result("tools/call", name="work")

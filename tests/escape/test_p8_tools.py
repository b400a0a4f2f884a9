"""P8: a hidden tool is an unknown tool, whatever way it is asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from runner.errors import ToolChanged, ToolUnknown
from runner.plan import AGENT
from runner.sandbox import Sandbox
from tests.support.runs import Runs, environment, python, server

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

# A raw request from the agent's seat, as any program there can send it.
RAW = """
import json, os, sys, urllib.request as u, urllib.error
def ask(method, params, session=None):
    body = json.dumps({'jsonrpc': '2.0', 'id': 1, 'method': method, 'params': params}).encode()
    head = {'Content-Type': 'application/json', 'Accept': 'application/json, text/event-stream',
            'Authorization': 'Bearer %(token)s', **({'Mcp-Session-Id': session} if session else {})}
    try:
        r = u.urlopen(u.Request('http://127.0.0.1:7000/mcp', body, head), timeout=10)
    except urllib.error.HTTPError as e:
        return e.headers, str(e.code)
    return r.headers, r.read().decode()
hello = {'protocolVersion': '2025-06-18', 'capabilities': {}, 'clientInfo': {'name': 'x', 'version': '1'}}
session = ask('initialize', hello)[0].get('Mcp-Session-Id')
print(ask(%(method)r, %(params)r, session)[1])
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox(runs: Runs) -> AsyncIterator[Sandbox]:
    """`a` shows one of its three tools; `b`, which has the same, shows another."""
    spec = environment(server("a", tools=("echo",)), server("b", tools=("look",)), grants=("sh",))
    async with runs.sandbox(spec) as sandbox:
        yield sandbox


async def raw(sandbox: Sandbox, method: str, params: dict[str, object], token: str | None = None) -> str:
    fields = {"token": token or sandbox.handover.token, "method": method, "params": params}
    return await python(sandbox, RAW % fields)


async def test_what_is_shown_can_be_called(sandbox: Sandbox) -> None:
    assert sandbox.tools is not None
    assert sorted(tool.name for tool in sandbox.tools.tools) == ["echo", "look"]
    assert (await sandbox.tools.call("echo", {"x": 1})).text == '{"x": 1}'
    assert '"x' in await raw(sandbox, "tools/call", {"name": "echo", "arguments": {"x": 1}})


@pytest.mark.parametrize(
    "name",
    ["shout", "SHOUT", "Shout", "a__shout", "b__shout", "a/shout", "a.shout", "a:shout", "mcp__a__shout", "shout ", " shout",
     "sh\u200bout", "\uff53hout", "shout\x00", "../shout", "b__echo", "a__look", "echo/../shout", ""],
)  # fmt: skip
async def test_cannot_call_a_hidden_tool(sandbox: Sandbox, name: str) -> None:
    assert sandbox.tools is not None
    result = await sandbox.tools.call(name, {"x": "reached-it"})
    assert result.is_error
    assert result.text.startswith("Unknown tool: ")
    assert "reached-it" not in result.text
    said = await raw(sandbox, "tools/call", {"name": name, "arguments": {"x": "reached-it"}})
    assert "Unknown tool: " in said
    assert "reached-it" not in said


@pytest.mark.parametrize("method", ["tools/list", "resources/list", "prompts/list", "resources/templates/list"])
async def test_cannot_list_a_hidden_tool(sandbox: Sandbox, method: str) -> None:
    assert "shout" not in await raw(sandbox, method, {})


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("prompts/get", {"name": "shout"}),
        ("resources/read", {"uri": "shout"}),
        (
            "completion/complete",
            {"ref": {"type": "ref/prompt", "name": "shout"}, "argument": {"name": "x", "value": ""}},
        ),
        ("tasks/get", {"taskId": "shout"}),
        ("tools/call", {"name": ["shout"]}),
        ("tools/call", {"name": {"shout": 1}}),
        ("tools/shout", {}),
        ("shout", {}),
    ],
)
async def test_cannot_reach_it_by_another_method(sandbox: Sandbox, method: str, params: dict[str, object]) -> None:
    said = await raw(sandbox, method, params)
    assert "error" in said
    assert "reached-it" not in said


async def test_cannot_reach_the_endpoint_without_the_token(sandbox: Sandbox) -> None:
    for token in ("", "wrong", sandbox.handover.token[:-1], sandbox.handover.token.upper()):
        said = await raw(sandbox, "tools/list", {}, token=token or "nothing")
        assert said == "401"


async def test_cannot_reach_a_server_past_the_endpoint(sandbox: Sandbox) -> None:
    """The raw socket of a server is in no seat but its own."""
    code = "import os; print([f for d, _, fs in os.walk('/') for f in fs if f == 'stdio.sock'])"
    assert await python(sandbox, code, member=AGENT) == "[]"
    assert await python(sandbox, code, member="a") == "['stdio.sock']"  # the control


async def test_cannot_misspell_a_filter_in_silence(runs: Runs) -> None:
    sandbox = runs.sandbox(environment(server("a", tools=("ecco",))))
    with pytest.raises(ToolUnknown, match="'ecco'") as caught:
        await sandbox.__aenter__()
    assert "echo" in caught.value.detail
    assert runs.left(sandbox.run_id) == []


async def test_cannot_change_a_tool_behind_the_lock(runs: Runs) -> None:
    """The same server with one word more in a description, with one tool more, and with another introduction: no run
    starts."""
    spec = environment(server("a"))
    async with _with_pins(runs.sandbox(spec), tell_pins=True) as first:
        pins = {name: dict(tools) for name, tools in first.pins.items()}
    assert pins["a"][""] == {"instructions": "Look before you shout."}
    assert "echo" in pins["a"]
    async with _with_pins(runs.sandbox(spec), pins=pins) as locked:
        assert locked.tools is not None
        assert {"", *(tool.name for tool in locked.tools.tools)} == pins["a"].keys()
    changed = {"a": {**pins["a"], "echo": {**pins["a"]["echo"], "description": "What somebody looked at."}}}
    fewer = {"a": {name: item for name, item in pins["a"].items() if name != "echo"}}
    for lock, reason in ((changed, "is not the one in the lock"), (fewer, "it is not in the lock")):
        with pytest.raises(ToolChanged, match=reason) as caught:
            async with _with_pins(runs.sandbox(spec), pins=lock):
                raise AssertionError("it started")
        assert "echo" in caught.value.message
        assert "+" in caught.value.detail
    poisoned = {"a": {**pins["a"], "": {"instructions": "Look."}}}
    with pytest.raises(ToolChanged, match="`instructions` of the MCP server 'a'") as caught:
        async with _with_pins(runs.sandbox(spec), pins=poisoned):
            raise AssertionError("it started")
    assert "Look before you shout." in caught.value.detail


def _with_pins(sandbox: Sandbox, **said: Any) -> Sandbox:
    sandbox.handover = replace(sandbox.handover, **said)
    return sandbox

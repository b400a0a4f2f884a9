"""The door of a running sandbox: its user's commands get in, nobody else does, and nothing of it is left."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping, Sequence

import pytest

from interpreter.ports import ToolInfo, ToolResult
from runner.errors import SandboxFailure
from runner.host import door as module
from runner.host.door import Door, knock
from runner.record import new_name


class Tools:
    """Two tools: one answers, one fails."""

    tools: Sequence[ToolInfo] = tuple(
        ToolInfo(server="s", name=name, description="", input_schema={"properties": {"n": {}}})
        for name in ("echo", "fail")
    )

    async def call(self, tool: str, arguments: Mapping[str, object]) -> ToolResult:
        return ToolResult(text=json.dumps(dict(arguments)), is_error=tool == "fail")

    async def close(self) -> None: ...


async def talk(run: str, *messages: dict[str, object]) -> list[dict[str, object]]:
    """Connect, say these, and read until the door is closed."""
    end = await asyncio.to_thread(knock, run)
    reader, writer = await asyncio.open_unix_connection(sock=end)
    for message in messages:
        writer.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
    writer.write_eof()
    answers = [json.loads(line) for line in (await reader.read()).splitlines()]
    writer.close()
    return answers


OPENING = {
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}


def call(number: int, tool: str) -> dict[str, object]:
    return {"id": number, "method": "tools/call", "params": {"name": tool, "arguments": {"n": number}}}


async def test_a_command_of_the_same_user_gets_the_tools() -> None:
    run = new_name()
    door = Door(run, Tools())
    await door.open()
    answers = await talk(run, OPENING, {"method": "notifications/initialized"}, call(1, "echo"), call(2, "fail"))
    by_id = {answer["id"]: answer["result"] for answer in answers}
    assert by_id[1]["content"][0]["text"] == '{"n": 1}'  # type: ignore[index]
    assert by_id[2]["isError"] is True  # type: ignore[index]
    await door.close()
    with pytest.raises(SandboxFailure, match="it has ended"):
        knock(run)


async def test_closing_sees_everybody_out() -> None:
    run = new_name()
    door = Door(run, Tools())
    await door.open()
    reader, writer = await asyncio.open_unix_connection(sock=await asyncio.to_thread(knock, run))
    writer.write(json.dumps({"jsonrpc": "2.0", **OPENING}).encode() + b"\n")
    await reader.readline()
    await asyncio.wait_for(door.close(), 5)
    assert await reader.read() == b""
    writer.close()


async def test_cannot_get_in_as_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_name()
    door = Door(run, Tools())
    await door.open()
    monkeypatch.setattr(module, "is_ours", lambda _: False)
    reader, writer = await asyncio.open_unix_connection(module.address(run))
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    with pytest.raises(SandboxFailure, match="somebody else pretends"):
        await asyncio.to_thread(knock, run)
    await asyncio.sleep(0.2)  # the door has to take note of its guest, or the loop ends with a half-open socket
    await door.close()


def test_who_calls_is_asked_of_the_kernel() -> None:
    ours, other = socket.socketpair()
    with ours, other:
        assert module.is_ours(ours)

"""The stdio transport of served tools."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path

from interpreter.mcp import Answer, Server, Tool
from runner.host.serving import serve_lines


def server() -> Server:
    async def call(arguments: Mapping[str, object]) -> Answer:
        return Answer(text=json.dumps(dict(arguments)))

    tool = Tool(name="echo", description="", schema={"type": "object", "properties": {"n": {}}}, call=call)
    return Server(name="t", version="1", tools=[tool])


def lines(*messages: dict[str, object]) -> bytes:
    return b"".join(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n" for message in messages)


OPENING = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}


async def test_calls_are_answered_also_after_the_client_closed_its_end() -> None:
    calls = [
        {"id": n, "method": "tools/call", "params": {"name": "echo", "arguments": {"n": n}}} for n in range(1, 101)
    ]
    source = io.BytesIO(
        lines({"id": 0, "method": "initialize", "params": OPENING}, {"method": "notifications/initialized"}, *calls)
    )
    sink = io.BytesIO()
    await serve_lines(server(), source, sink)
    answers = {m["id"]: m for m in map(json.loads, sink.getvalue().splitlines())}
    assert sorted(answers) == list(range(101))
    assert all(json.loads(answers[n]["result"]["content"][0]["text"]) == {"n": n} for n in range(1, 101))


async def test_a_client_that_is_gone_ends_it_quietly(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as sink:
        await serve_lines(server(), io.BytesIO(lines({"id": 0, "method": "initialize", "params": OPENING})), sink)

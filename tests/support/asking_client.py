"""What the official client does with `asking_server` through whatever is between them: everything that MCP has for both."""

from __future__ import annotations

import json
from typing import Any

import anyio
import mcp_types as types
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

MEGABYTE = "é\n" * 350_000
"""A megabyte and a little as JSON, with what must be escaped."""


async def use_everything(program: StdioServerParameters, mode: str) -> dict[str, Any]:
    """Lists, calls, is asked, hears progress, cancels, and moves a megabyte there and back; what came of it."""
    progress: list[tuple[float, float | None, str | None]] = []

    async def sample(context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
        return types.CreateMessageResult(
            role="assistant", content=types.TextContent(type="text", text="that one"), model="m"
        )

    async def elicit(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"sure": True})

    async def progressed(done: float, total: float | None, message: str | None) -> None:
        progress.append((done, total, message))

    async with Client(
        stdio_client(program), mode=mode, sampling_callback=sample, elicitation_callback=elicit
    ) as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        asked = await client.call_tool("ask_user", {}, progress_callback=progressed)
        echoed = await client.call_tool("echo_text", {"text": MEGABYTE})
        with anyio.move_on_after(1.5) as scope:
            await client.call_tool("wait", {})
        counted = await client.call_tool("count_cancelled", {})
    return {
        "tools": tools,
        "asked": json.loads(_text(asked)),
        "progress": progress,
        "megabyte": _text(echoed) == MEGABYTE,
        "gave up": scope.cancelled_caught,
        "cancelled": _text(counted),
    }


def _text(result: types.CallToolResult) -> str:
    return "".join(getattr(item, "text", "") for item in result.content)


EVERYTHING = {
    "tools": ["echo_text", "ask_user", "wait", "count_cancelled"],
    "asked": {"sampled": "that one", "sure": True},
    "progress": [(1.0, 2.0, "asking")],
    "megabyte": True,
    "gave up": True,
    "cancelled": "1",
}
"""What must come of it."""

"""What the suite drives as a client: the official client as the agent, the endpoint behind it, the suite's own server far.

    python -m tests.conformance.client URL

The suite looks at what reaches its server, so it looks at the endpoint's side towards remote servers. The agent does what
any would: it lists the tools and calls each one, or those that the suite names, and accepts what it is asked.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from typing import Any

import mcp
import mcp_types as types

from images.sidecar.endpoint import Endpoint
from images.sidecar.seams import EndpointSpec, ServerSpec
from tests.bench.endpoint import Permissive

STATELESS = "2026-07-28"
EXAMPLES: dict[str, Any] = {"number": 5, "integer": 5, "boolean": True, "object": {}, "array": [], "null": None}


async def dial(server: str, host: str, port: int) -> socket.socket:
    """Reaches the suite's server: there is no fence here."""
    info = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    sock = socket.socket(info[0][0])
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, info[0][4])
    return sock


async def accept(context: Any, params: Any) -> types.ElicitResult:
    """Fills in the defaults of a form, and says yes to the rest."""
    properties = getattr(params, "requested_schema", {}).get("properties", {})
    content = {k: v.get("default", EXAMPLES.get(v.get("type"), "x")) for k, v in properties.items()}
    return types.ElicitResult(action="accept", content=content)


async def sample(context: Any, params: Any) -> types.CreateMessageResult:
    content = types.TextContent(type="text", text="")
    return types.CreateMessageResult(role="assistant", content=content, model="none")


async def roots(context: Any) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[])


def required(schema: dict[str, Any]) -> dict[str, Any]:
    """Arguments that a schema asks for at least."""
    properties = schema.get("properties", {})
    return {name: EXAMPLES.get(properties.get(name, {}).get("type"), "x") for name in schema.get("required", [])}


async def main(url: str) -> None:
    gate = Permissive()
    endpoint = Endpoint(
        EndpointSpec(servers=(ServerSpec(name="far", transport="http", url=url),)), gate, gate, gate, dial
    )
    port = endpoint.listen_tcp()
    revision = os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION", STATELESS)
    mode = STATELESS if revision == STATELESS else "legacy"
    client = mcp.Client(
        f"http://127.0.0.1:{port}/mcp",
        mode=mode,
        elicitation_callback=accept,
        sampling_callback=sample,
        list_roots_callback=roots,
    )
    async with client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        named = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}")).get("toolCalls")
        focal = tools.get("json_schema_2020_12_tool")
        if named is not None:
            calls = [(call["name"], call.get("arguments") or {}) for call in named if call["name"] in tools]
        elif focal is not None:
            calls = [("json_schema_echo", {"schema": focal.input_schema})]
        else:
            calls = [(name, required(tool.input_schema)) for name, tool in tools.items()]
        for name, arguments in calls:
            try:
                await client.call_tool(name, arguments)
            except mcp.MCPError as e:
                print(f"{name}: {e}", file=sys.stderr)
    await endpoint.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

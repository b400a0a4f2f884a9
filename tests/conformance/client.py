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
from urllib.parse import parse_qsl, urlsplit

import mcp
import mcp_types as types

from images.sidecar.authorizer import Authorizer
from images.sidecar.endpoint import Endpoint
from images.sidecar.httpclient import HttpClient
from images.sidecar.seams import EndpointSpec, IdentityProvider, OAuth, ServerSpec
from tests.bench.endpoint import Permissive

STATELESS = "2026-07-28"
METADATA = "https://conformance-test.local/client-metadata.json"
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


class Browser:
    """The person of the suite: opens what it is given, and is sent back at once."""

    redirect_uri = "http://localhost:3000/callback"

    async def ask(self, url: str) -> dict[str, str]:
        async with await HttpClient("far", url, {}, dial, 1 << 16).request("GET", {}) as response:
            return dict(parse_qsl(urlsplit(response.headers["location"]).query))


def declared(said: dict[str, Any]) -> OAuth:
    """What a declaration would say, from what the suite does."""
    known = {"issuer": said.get("issuer"), "client_id": said.get("client_id", "")}
    secret = said.get("client_secret", "")
    match os.environ.get("MCP_CONFORMANCE_SCENARIO", ""):
        case "auth/client-credentials-basic":
            return OAuth(grant="client_credentials", client_secret=secret, **known)
        case "auth/client-credentials-jwt":
            key, algorithm = said["private_key_pem"], said["signing_algorithm"]
            return OAuth(grant="client_credentials", private_key=key, algorithm=algorithm, **known)
        case "auth/wif-jwt-bearer":
            return OAuth(grant="jwt_bearer", assertion=said["valid_jwt"], **known)
        case "auth/enterprise-managed-authorization":
            place, client = said["idp_token_endpoint"], said["idp_client_id"]
            provider = IdentityProvider(token_endpoint=place, client_id=client, id_token=said["idp_id_token"])
            return OAuth(grant="identity_assertion", client_secret=secret, provider=provider, **known)
        case _:
            return OAuth(grant="authorization_code", client_secret=secret, client_metadata=METADATA, **known)


async def main(url: str) -> None:
    gate = Permissive()
    said = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
    oauth = declared(said) if os.environ.get("MCP_CONFORMANCE_SCENARIO", "").startswith("auth/") else None
    spec = ServerSpec(name="far", transport="http", url=url, oauth=oauth)

    def authorize(server: ServerSpec) -> Authorizer:
        return Authorizer(server, dial, gate, consent=Browser())

    endpoint = Endpoint(EndpointSpec(servers=(spec,)), gate, gate, gate, dial, authorize)
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
        named = said.get("toolCalls")
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

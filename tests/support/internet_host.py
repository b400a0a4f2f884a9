"""A host of the small internet: a name server, a web server and a TLS server in one process, standard library only.
`tools.example` is an MCP server that wants tokens, and `auth.example` gives one for `the-secret`.

Runs in a container as `python3 internet_host.py ADDRESS`, and writes one JSON line for each thing that it was asked.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import ssl
import struct
import sys
from typing import Any

GATEWAY = "172.17.0.1"
CERTIFICATE = "/world/server.pem"


class Names:
    """What each name leads to; a list of lists is one answer after the other."""

    def __init__(self, here: str) -> None:
        self.answers: dict[str, list[list[str]]] = {
            "granted.example": [[here]],
            "www.wild.example": [[here]],
            "server-only.example": [[here]],
            "denied.wild.example": [[here]],
            "not-granted.example": [[here]],
            "tools.example": [[here]],
            "auth.example": [[here]],
            "loopback.wild.example": [["127.0.0.1"]],
            "private.wild.example": [["10.0.0.1"]],
            "gateway.wild.example": [[GATEWAY]],
            "metadata.wild.example": [["169.254.169.254"]],
            "mapped.wild.example": [["::ffff:127.0.0.1"]],
            "mixed.wild.example": [[here, "10.0.0.1"]],
            "rebind.wild.example": [[here], ["127.0.0.1"]],
        }
        self.asked: dict[str, int] = {}

    def reply(self, query: bytes) -> bytes:
        labels, offset = [], 12
        while query[offset]:
            labels.append(query[offset + 1 : offset + 1 + query[offset]].decode())
            offset += 1 + query[offset]
        name, kind = ".".join(labels).lower(), struct.unpack_from("!H", query, offset + 1)[0]
        say("dns", name=name, kind=kind)
        rounds = self.answers.get(name)
        if rounds is None:
            return query[:2] + struct.pack("!5H", 0x8183, 1, 0, 0, 0) + query[12:]
        turn = self.asked.get(name, 0)
        if kind == 1:
            self.asked[name] = turn + 1
        addresses = [ipaddress.ip_address(text) for text in rounds[min(turn, len(rounds) - 1)]]
        found = [address.packed for address in addresses if (address.version == 4) == (kind == 1)]
        records = b"".join(b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 0, len(data)) + data for data in found)
        return query[:2] + struct.pack("!5H", 0x8180, 1, len(found), 0, 0) + query[12:] + records


def say(what: str, **more: Any) -> None:
    print(json.dumps({"asked": what, **more}), flush=True)


class Datagrams(asyncio.DatagramProtocol):
    """The name server."""

    def __init__(self, names: Names) -> None:
        self.names = names

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(self.names.reply(data), addr)


METADATA = {
    "/.well-known/oauth-protected-resource/mcp": {
        "resource": "https://tools.example/mcp", "authorization_servers": ["https://auth.example"],
    },
    "/.well-known/oauth-authorization-server": {
        "issuer": "https://auth.example", "token_endpoint": "https://auth.example/token",
        "authorization_endpoint": "https://auth.example/authorize", "response_types_supported": ["code"],
        "grant_types_supported": ["client_credentials"], "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["client_secret_post"],
    },
}  # fmt: skip


def remote(path: str, head: str, body: str) -> tuple[str, Any]:
    """Status and JSON of what the two say."""
    if path in METADATA:
        return "200 OK", METADATA[path]
    if path == "/token":
        if "client_secret=the-secret" not in body or "grant_type=client_credentials" not in body:
            return "401 Unauthorized", {"error": "invalid_client"}
        return "200 OK", {"access_token": "the-token", "token_type": "Bearer", "expires_in": 3600}
    if path != "/mcp" or "authorization: bearer the-token\r\n" not in head:
        return "401 Unauthorized", {}
    message = json.loads(body or "{}")
    results = {
        "initialize": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {}},
        "tools/list": {"tools": [{"name": "far", "inputSchema": {"type": "object"}}]},
        "tools/call": {"content": [{"type": "text", "text": "it is there"}]},
    }
    if message.get("method") not in results:
        return "405 Method Not Allowed" if not message else "202 Accepted", None
    return "200 OK", {"jsonrpc": "2.0", "id": message["id"], "result": results[message["method"]]}


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, head: str) -> None:
    length = head.partition("content-length: ")[2].partition("\r\n")[0]
    status, value = remote(path, head, (await reader.readexactly(int(length or "0"))).decode())
    data = b"" if value is None else json.dumps(value).encode()
    lines = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    writer.write(lines.encode() + b"\r\n" + data)
    await writer.drain()
    writer.close()


async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    path = head.split(b" ", 2)[1].decode()
    host = head.lower().partition(b"host: ")[2].partition(b"\r\n")[0].decode()
    port = writer.get_extra_info("sockname")[1]
    say("web", host=host, path=path, port=port)
    if host in ("tools.example", "auth.example"):
        await answer(reader, writer, path, head.decode().lower())
        return
    extra = b"Location: http://not-granted.example/\r\n" if path == "/redirect" else b""
    status = b"302 Found" if path == "/redirect" else b"200 OK"
    writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n" + extra + b"\r\nhello")
    await writer.drain()
    await asyncio.sleep(0.2)
    rest = await asyncio.wait_for(reader.read(65536), 1) if port == 80 and not reader.at_eof() else b""
    if rest:
        say("more", data=rest.decode("latin-1"))
    writer.close()


async def main(here: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    await asyncio.start_server(web, here, 80)
    await asyncio.start_server(web, here, 443, ssl=context)
    await asyncio.start_server(web, here, 8080)
    names = Names(here)
    await asyncio.get_running_loop().create_datagram_endpoint(lambda: Datagrams(names), local_addr=(here, 53))
    say("ready")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

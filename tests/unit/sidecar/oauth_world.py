"""A remote server that wants tokens and the authorization server that gives them, on loopback, as good or bad as a test says.

They are two origins: `127.0.0.1` for the one and `localhost` for the other. `answers` replaces what a path answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from images.sidecar.authorizer import Authorized, Authorizer
from images.sidecar.seams import OAuth, ServerSpec

Json = dict[str, Any]
INITIALIZE = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode()


@dataclass
class Request:
    """What came."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode()))

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


@dataclass
class Response:
    """What goes back: JSON unless `raw` says otherwise."""

    value: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None


Handler = Callable[[Request], Response | None]


class Site:
    """One HTTP server. `answers`: by path; None as an answer means silence."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.base = ""
        """Its URL, where that is not the loopback's."""
        self.seen: list[Request] = []
        self.answers: dict[str, Handler] = {}
        self._tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def url(self) -> str:
        return self.base or f"http://{self.name}:{self.port}"

    def paths(self) -> list[str]:
        return [request.path for request in self.seen]

    @asynccontextmanager
    async def serving(
        self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
    ) -> AsyncIterator[Site]:
        server = await asyncio.start_server(self._accept, host, port, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task, writer in self._tasks.items():
                task.cancel()
                writer.close()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks[asyncio.get_running_loop().create_task(self._serve(reader, writer))] = writer

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            method, target, _ = first.split()
            headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            request = Request(method, target, headers, body)
            self.seen.append(request)
            handler = self.answers.get(request.path)
            response = handler(request) if handler else Response({"error": "not_found"}, 404)
            if response is None:
                await asyncio.sleep(60)
                return
            data = json.dumps(response.value).encode() if response.raw is None else response.raw
            head = {"Content-Type": "application/json", "Content-Length": str(len(data)), **response.headers}
            said = "".join(f"{name}: {value}\r\n" for name, value in head.items())
            writer.write(f"HTTP/1.1 {response.status} X\r\n{said}\r\n".encode() + data)
            await writer.drain()
            writer.close()


class Kept:
    """`authorizer.Custody`."""

    def __init__(self) -> None:
        self.events: list[Json] = []
        self.hidden: set[str] = set()
        self.credentials: list[Json] = []

    def emit(self, event: Json) -> None:
        self.events.append(event)

    def hide(self, *secrets: str) -> None:
        self.hidden |= {secret for secret in secrets if secret}

    def keep(self, server: str, credential: Json) -> None:
        self.credentials.append(credential)


class Person:
    """`oauth_grants.Consent`: follows the link and comes back with what it leads to."""

    redirect_uri = "http://127.0.0.1:7/callback"

    def __init__(self, world: OAuthWorld) -> None:
        self._world = world
        self.asked: list[dict[str, str]] = []

    async def ask(self, url: str) -> dict[str, str]:
        query = dict(parse_qsl(urlsplit(url).query))
        self.asked.append(query)
        return {"code": "the-code", "state": query["state"], "iss": self._world.authority.url} | self._world.redirect


class OAuthWorld:
    """`resource` takes tokens that `authority` gave; `world.token` is the one of now."""

    def __init__(self) -> None:
        self.resource, self.authority = Site("127.0.0.1"), Site("localhost")
        self.issued = 0
        self.lifetime: int | None = 3600
        self.valid: set[str] = set()
        self.redirect: dict[str, str] = {}
        self.challenge = ""
        self.metadata: Json = {}
        self.custody, self.person = Kept(), Person(self)
        self.dialled: list[str] = []
        self.now = 1_800_000_000.0
        self.resource.answers = {
            "/mcp": self.mcp,
            "/.well-known/oauth-protected-resource/mcp": lambda _: Response(
                {"resource": f"{self.resource.url}/mcp", "authorization_servers": [self.authority.url]}
            ),
        }
        self.authority.answers = {
            "/.well-known/oauth-authorization-server": lambda _: Response(self._metadata()),
            "/token": self._token,
            "/register": lambda _: Response({"client_id": "made-here"}, 201),
        }

    def _metadata(self) -> Json:
        url = self.authority.url
        places = {f"{name}_endpoint": f"{url}/{path}" for name, path in PLACES.items()}
        return {"issuer": url, **places, "code_challenge_methods_supported": ["S256"],
                "token_endpoint_auth_methods_supported": ["none", "client_secret_basic"], **self.metadata}  # fmt: skip

    def mcp(self, request: Request) -> Response:
        if request.headers.get("authorization", "").removeprefix("Bearer ") in self.valid:
            return served(request)
        where = f'resource_metadata="{self.resource.url}/.well-known/oauth-protected-resource/mcp"'
        return Response({}, 401, {"WWW-Authenticate": f"Bearer {self.challenge or where}"})

    def _token(self, request: Request) -> Response:
        self.issued += 1
        token = f"access-token-{self.issued}"
        self.valid = {token}
        answer: Json = {"access_token": token, "token_type": "Bearer", "refresh_token": f"refresh-token-{self.issued}"}
        return Response(answer if self.lifetime is None else {**answer, "expires_in": self.lifetime})

    async def dial(self, server: str, host: str, port: int) -> socket.socket:
        """Everything on loopback, and says what was wanted."""
        self.dialled.append(f"{host}:{port}")
        sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        return sock

    def spec(self, **oauth: Any) -> ServerSpec:
        declared = OAuth(
            **{"grant": "client_credentials", "client_id": "me", "client_secret": "client-secret-1"} | oauth
        )
        return ServerSpec(name="far", transport="http", url=f"{self.resource.url}/mcp", oauth=declared)

    def authorizer(self, *, person: bool = False, dial: Any = None, **oauth: Any) -> Authorizer:
        consent = self.person if person else None
        return Authorizer(self.spec(**oauth), dial or self.dial, self.custody, consent=consent, clock=lambda: self.now)

    def client(self, authorizer: Authorizer) -> Authorized:
        return Authorized("far", f"{self.resource.url}/mcp", self.dial, 1 << 20, authorizer)

    async def ask(self, authorizer: Authorizer) -> int:
        """One request of MCP; the status of its answer."""
        async with await self.client(authorizer).request("POST", {"Accept": "application/json"}, INITIALIZE) as answer:
            return answer.status

    def token_requests(self) -> list[dict[str, str]]:
        return [request.form for request in self.authority.seen if request.path == "/token"]


def served(request: Request) -> Response:
    """A very small MCP server."""
    message = json.loads(request.body or b"{}")
    info = {"name": "far", "version": "1"}
    results: dict[str, Json] = {
        "initialize": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info},
        "tools/list": {"tools": [{"name": "there", "inputSchema": {"type": "object"}}]},
        "tools/call": {"content": [{"type": "text", "text": "it is there"}]},
        "ping": {},
    }
    if message.get("method") not in results:
        return Response(raw=b"", status=202)
    return Response({"jsonrpc": "2.0", "id": message["id"], "result": results[message["method"]]})


PLACES = {"token": "token", "authorization": "authorize", "registration": "register"}


@asynccontextmanager
async def oauth_world() -> AsyncIterator[OAuthWorld]:
    world = OAuthWorld()
    async with world.resource.serving(), world.authority.serving():
        yield world

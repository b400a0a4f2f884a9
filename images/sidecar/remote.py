"""A remote server over streamable HTTP, or over the older HTTP+SSE, behind the face of a wire."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import msgspec

from images.sidecar import jsonrpc
from images.sidecar.budget import Budget
from images.sidecar.handshake import META, MODERN
from images.sidecar.httpclient import Address, HttpClient, HttpError, Response
from images.sidecar.jsonrpc import Incoming, Malformed, RawMap
from images.sidecar.mirror import mirrored
from images.sidecar.seams import Dial, ServerSpec
from images.sidecar.trace import PARENT, STATE, of_meta
from images.sidecar.wire import Reader

if TYPE_CHECKING:
    from images.sidecar.authorizer import Authorizer

_ACCEPT = "application/json, text/event-stream"
_NAMED_BY = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_STREAM_SECONDS = 1.0
_RETRY_SECONDS, _RETRY_MOST, _RESUMES = 1.0, 10.0, 100


class Remote:
    """One session with a remote server. Implements `process.Transport`."""

    def __init__(self, reader: Reader, client: HttpClient) -> None:
        self._reader, self._client = reader, client
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._by_id: dict[bytes, asyncio.Task[None]] = {}
        self._session: dict[str, str] = {}
        """Headers that say which session, once there is one."""
        self._schemas: dict[str, bytes] = {}
        """Schemas of tools that want arguments mirrored in headers."""
        self._stream_open: asyncio.Event | None = None
        """Set once the stream for what belongs to no request is open, or refused."""
        self.closed = False

    def send(self, message: bytes) -> None:
        incoming = jsonrpc.split_request(message)
        spelt = bytes(incoming.id) if incoming.method is not None else b""
        if incoming.method == "notifications/cancelled" and self._stateless:
            # In the stateless era a request is given up by closing its connection.
            task = self._by_id.pop(bytes(jsonrpc.members(incoming.params).get("requestId", b"")), None)
            if task is not None:
                task.cancel()
            return
        task = self._work(self._post_in_turn(message, incoming), spelt)
        if spelt:
            self._by_id[spelt] = task
            task.add_done_callback(lambda done: self._by_id.pop(spelt, None))

    @property
    def _stateless(self) -> bool:
        return not self._session

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        for task in list(self._tasks):
            task.cancel()
        if self._session:
            farewell = self._loop.create_task(self._farewell())
            self._tasks.add(farewell)
            farewell.add_done_callback(self._tasks.discard)
        self._reader.on_closed()

    async def ended(self) -> None:
        """Waits until nothing of it is left."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.sleep(0)  # the transports close in the loop's next turn

    async def _farewell(self) -> None:
        """Ends the session; a server that does not care for that is none of our business."""
        with contextlib.suppress(HttpError, TimeoutError):
            async with asyncio.timeout(2), await self._client.request("DELETE", self._session):
                pass

    def _work(self, work: Coroutine[Any, Any, None], spelt_id: bytes = b"") -> asyncio.Task[None]:
        async def guarded() -> None:
            try:
                await work
            except (HttpError, Malformed) as e:
                if spelt_id:
                    self._failed(spelt_id, str(e))

        task = self._loop.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _failed(self, spelt_id: bytes, reason: str) -> None:
        self._hear(jsonrpc.failure(spelt_id, jsonrpc.SERVER_LOST, f"the remote server failed: {reason}"))

    def _hear(self, message: bytes) -> None:
        if not self.closed:
            self._reader.on_line(memoryview(message))

    # --- streamable HTTP

    async def _post_in_turn(self, message: bytes, incoming: Incoming) -> None:
        """Requests wait until the stream is there: what a server asks before that would be lost."""
        if incoming.method == "notifications/initialized":
            self._stream_open = asyncio.Event()
        elif self._stream_open is not None and not self._stream_open.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stream_open.wait(), _STREAM_SECONDS)
        try:
            await self._post(message, incoming)
        except HttpError:
            if self._stream_open is not None:
                self._stream_open.set()
            raise

    async def _post(self, message: bytes, incoming: Incoming) -> None:
        headers = {"Content-Type": "application/json", "Accept": _ACCEPT, **self._session}
        headers |= self._mirror(incoming) | traced_headers(incoming)
        spelt = bytes(incoming.id) if incoming.method is not None else b""
        async with await self._client.request("POST", headers, message) as response:
            if incoming.method == "initialize" and response.status == 200:
                session = response.headers.get("mcp-session-id")
                self._session = {"Mcp-Session-Id": session} if session else {}
            if response.status == 404 and "Mcp-Session-Id" in self._session:
                self.close()  # the session is over there: a new one begins with the next request
            elif response.kind == "text/event-stream" and response.status == 200:
                await self._stream(response, incoming, spelt)
            else:
                await self._whole(response, incoming, spelt)
        if incoming.method == "notifications/initialized":
            self._work(self._listen())

    async def _whole(self, response: Response, incoming: Incoming, spelt_id: bytes) -> None:
        body = await response.body()
        if response.kind == "application/json" and body:
            answer = jsonrpc.split_request(body)
            if response.status != 200 and bytes(answer.id) in (b"", b"null") and bytes(answer.error):
                body = b'{"jsonrpc":"2.0","id":%s,"error":%s}' % (spelt_id or b"null", bytes(answer.error))
            self._learn(incoming, body)
            self._hear(body)
        elif spelt_id:
            hint = (
                ": it wants another credential than it got (`auth` of the server)"
                if response.status in (401, 403)
                else ""
            )
            self._failed(spelt_id, f"HTTP {response.status}{hint}")

    async def _stream(self, response: Response, incoming: Incoming, spelt_id: bytes) -> None:
        """Messages until the answer has come; a stream that ends before that is gone on with where it ended."""
        last, retry = await self._events(response, incoming, spelt_id)
        for _ in range(_RESUMES):
            if spelt_id not in self._by_id or not spelt_id:
                return
            if not last:
                raise HttpError("its stream ended before the answer")
            if spelt_id.isdigit():
                self._reader.on_paused(int(spelt_id))
            await asyncio.sleep(retry)
            headers = {"Accept": "text/event-stream", "Last-Event-ID": last, **self._session}
            async with await self._client.request("GET", headers) as again:
                if again.status != 200:
                    raise HttpError(f"its stream cannot be gone on with: HTTP {again.status}")
                newer, retry = await self._events(again, incoming, spelt_id)
                last = newer or last
        raise HttpError("its stream ended again and again")

    async def _events(self, response: Response, request: Incoming, spelt_id: bytes) -> tuple[str, float]:
        """Hears a stream; its last event id, and how long to wait before coming back."""
        last, retry = "", _RETRY_SECONDS
        async for event in response.events():
            last = event.get("id", last)
            if event.get("retry", "").isdecimal():
                retry = min(int(event["retry"]) / 1000, _RETRY_MOST)
            if event.get("event", "message") == "message" and event.get("data"):
                message = event["data"].encode()
                answers = jsonrpc.split_request(message)
                if answers.method is None and bytes(answers.id) == spelt_id:
                    self._by_id.pop(spelt_id, None)
                    self._learn(request, message)
                self._hear(message)
        return last, retry

    async def _listen(self) -> None:
        """The stream for what belongs to no request; a server need not have one."""
        last, retry = "", _RETRY_SECONDS
        opened = self._stream_open or asyncio.Event()
        while not self.closed:
            headers = {"Accept": "text/event-stream", **self._session, **({"Last-Event-ID": last} if last else {})}
            try:
                response = await self._client.request("GET", headers)
            finally:
                opened.set()
            async with response:
                if response.status != 200 or response.kind != "text/event-stream":
                    return
                newer, retry = await self._events(response, Incoming(), b"")
                last = newer or last
            await asyncio.sleep(retry)

    # --- the stateless era

    def _mirror(self, incoming: Incoming) -> dict[str, str]:
        """The headers that repeat the body: all of them in the stateless era, the version alone in a session."""
        fields = jsonrpc.members(incoming.params) if bytes(incoming.params)[:1] == b"{" else {}
        meta = jsonrpc.members(fields.get("_meta", b""))
        if META + "protocolVersion" not in meta:
            return {}
        method = incoming.method or ""
        headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
        if method in _NAMED_BY:
            name = jsonrpc.text(fields, _NAMED_BY[method])
            headers["Mcp-Name"] = shown(name)
            if method == "tools/call" and name in self._schemas:
                arguments = json.loads(bytes(fields.get("arguments", b"{}")))
                marks = mirrored(self._schemas[name], arguments)
                headers |= {f"Mcp-Param-{mark}": shown(value) for mark, value in marks.items()}
        return headers

    def _learn(self, incoming: Incoming, body: bytes) -> None:
        """Keeps the schemas that say which arguments to mirror, and the version of a new session."""
        try:
            result: RawMap = jsonrpc.members(jsonrpc.split_request(body).result)
            if incoming.method == "initialize" and "protocolVersion" in result:
                self._session["MCP-Protocol-Version"] = jsonrpc.text(result, "protocolVersion")
            elif incoming.method == "tools/list" and b"x-mcp-header" in body:
                tools = msgspec.json.decode(result["tools"], type=list[RawMap])
                self._schemas |= {jsonrpc.text(tool, "name"): bytes(tool["inputSchema"]) for tool in tools}
        except (Malformed, KeyError, msgspec.DecodeError):
            return


class OldRemote(Remote):
    """The HTTP+SSE transport of 2024-11-05: one stream for everything that comes, and a place to post to."""

    def __init__(self, reader: Reader, client: HttpClient) -> None:
        super().__init__(reader, client)
        self._place: asyncio.Future[str] = self._loop.create_future()
        self._work(self._receive())

    async def _receive(self) -> None:
        try:
            async with await self._client.request("GET", {"Accept": "text/event-stream"}) as response:
                if response.status != 200 or response.kind != "text/event-stream":
                    raise HttpError(f"it has no event stream: HTTP {response.status}")
                async for event in response.events():
                    if event.get("event") == "endpoint":
                        self._found(event.get("data", ""))
                    elif event.get("data"):
                        self._hear(event["data"].encode())
        except HttpError as e:
            if not self._place.done():
                self._place.set_exception(e)
                self._place.exception()
            if waiting := self._tasks - {asyncio.current_task()}:
                await asyncio.wait(waiting, timeout=1.0)  # each tells its request why
        finally:
            self.close()

    def _found(self, place: str) -> None:
        """Where to post: at the same origin, or a server could have us post to another."""
        ours = self._client.address
        url = urljoin(f"{ours.scheme}://{ours.authority}{ours.target}", place)
        there = Address.of(url)
        if (there.scheme, there.host, there.port) != (ours.scheme, ours.host, ours.port):
            raise HttpError("it wants its messages at another origin")
        if not self._place.done():
            parts = urlsplit(url)
            self._place.set_result(parts.path + (f"?{parts.query}" if parts.query else ""))

    @property
    def _stateless(self) -> bool:
        """The session is the stream, and no header names it."""
        return False

    async def _post_in_turn(self, message: bytes, incoming: Incoming) -> None:
        """There is one stream, and it is open: nothing has to wait for another."""
        await self._post(message, incoming)

    async def _post(self, message: bytes, incoming: Incoming) -> None:
        target = await self._place
        headers = {"Content-Type": "application/json"}
        async with await self._client.request("POST", headers, message, target) as response:
            if response.status >= 400:
                raise HttpError(f"HTTP {response.status}")

    async def _farewell(self) -> None:
        """There is no session to end: the stream was it."""


def traced_headers(incoming: Incoming) -> dict[str, str]:
    """The trace of a message as headers: HTTP's own instrumentation looks there, and knows nothing of `_meta`."""
    if f'"{PARENT}"'.encode() not in bytes(incoming.params):
        return {}
    meta = jsonrpc.members(jsonrpc.members(incoming.params).get("_meta", b""))
    trace = of_meta(meta)
    if trace is None:
        return {}
    return {PARENT: trace.parent(trace.span_id, 0)} | ({STATE: trace.state} if trace.state else {})


def shown(value: str) -> str:
    """A text as a header can carry it."""
    plain = value.isascii() and value.isprintable() and value == value.strip() and not value.startswith("=?")
    return value if plain else f"=?base64?{base64.b64encode(value.encode()).decode()}?="


def reach(
    reader: Reader, spec: ServerSpec, url: str, dial: Dial, limit: int, authorizer: Authorizer | None, budget: Budget
) -> Remote:
    """The transport that a server's declaration asks for. Raises ValueError for a URL that is none."""
    try:
        if authorizer is None:
            client = HttpClient(spec.name, url, spec.headers, dial, limit, budget)
        else:
            from images.sidecar.authorizer import Authorized

            client = Authorized(spec.name, url, dial, limit, authorizer, budget)
    except HttpError as e:
        raise ValueError(str(e)) from e
    return OldRemote(reader, client) if spec.transport == "sse" else Remote(reader, client)

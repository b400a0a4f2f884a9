"""An HTTP/1.1 client for remote servers: one request per connection, bounded, no redirects, no decoding of anything.

A remote server is as little trusted as one in a container: what it sends is held to the limits of every other message.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from functools import cache
from typing import NamedTuple
from urllib.parse import urlsplit

from images.sidecar import openssl
from images.sidecar.budget import NO_ROOM, NOTABLE, Budget, Held
from images.sidecar.reading import ConfigError
from images.sidecar.seams import Dial

_MAX_HEAD = 32 << 10
_MAX_LINE = 64 << 10
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: .*)?")


class HttpError(Exception):
    """The server cannot be reached, or does not speak HTTP; the text says which."""


class Address(NamedTuple):
    """Where a URL leads."""

    scheme: str
    host: str
    port: int
    target: str

    @classmethod
    def of(cls, url: str) -> Address:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise HttpError(f"{url} is no http(s) URL")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return cls(parts.scheme, parts.hostname, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))

    @property
    def authority(self) -> str:
        default = 443 if self.scheme == "https" else 80
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == default else f"{host}:{self.port}"


class Response:
    """An answer whose body is still to be read. Use: as an async context manager."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        limit: int,
        budget: Budget | None = None,
        account: str = "",
    ) -> None:
        self._reader, self._writer, self._limit = reader, writer, limit
        self._held: Held | None = budget.open(account, self._shed) if budget is not None else None
        self.status = 0
        self.headers: dict[str, str] = {}

    async def __aenter__(self) -> Response:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()
        if self._held is not None:
            self._held.release()

    def _shed(self) -> None:
        """There is no room for what comes of it."""
        held, self._held = self._held, None
        if held is not None:
            held.release()
        self._reader.set_exception(HttpError(NO_ROOM))
        self._writer.transport.abort()

    def _holds(self, size: int) -> None:
        """Says how much of the answer is kept. Raises HttpError if that is too much."""
        if size > NOTABLE and self._held is not None and not self._held.hold(size):
            raise HttpError(NO_ROOM)

    @property
    def kind(self) -> str:
        """The content type without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    async def read_head(self) -> None:
        while True:
            try:
                block = await self._reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError) as e:
                raise HttpError(f"it sent no HTTP answer ({type(e).__name__})") from e
            first, *lines = block[:-4].split(b"\r\n")
            status = _STATUS.fullmatch(first)
            if status is None or len(block) > _MAX_HEAD:
                raise HttpError("it sent no HTTP answer")
            if not status[1].startswith(b"1"):
                break
        self.status = int(status[1])
        for line in lines:
            name, _, value = line.decode("latin-1").partition(":")
            name, value = name.strip().lower(), value.strip()
            self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value  # RFC 9110 §5.3

    async def body(self) -> bytes:
        """The whole body, up to the limit."""
        parts, size = [], 0
        async for part in self.parts():
            size += len(part)
            if size > self._limit:
                raise HttpError(f"its answer is over the limit of {self._limit} bytes")
            self._holds(size)
            parts.append(part)
        return b"".join(parts)

    async def parts(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        try:
            if "chunked" in self.headers.get("transfer-encoding", "").lower():
                while size := int((await self._reader.readline()).partition(b";")[0], 16):
                    yield await self._read(size)
                    await self._reader.readexactly(2)
            elif "content-length" in self.headers:
                if length := int(self.headers["content-length"]):
                    yield await self._read(length)
            else:
                while part := await self._reader.read(_MAX_LINE):
                    yield part
        except (asyncio.IncompleteReadError, ValueError, OSError) as e:
            raise HttpError("its answer ended too early") from e

    async def _read(self, size: int) -> bytes:
        if size < 0 or size > self._limit:
            raise HttpError(f"its answer is over the limit of {self._limit} bytes")
        self._holds(size)
        return await self._reader.readexactly(size)

    async def events(self) -> AsyncIterator[dict[str, str]]:
        """The events of an SSE body, each with the fields it has."""
        event: dict[str, str] = {}
        rest, size = b"", 0
        async for part in self.parts():
            *lines, rest = re.split(rb"\r\n|\n|\r(?=[^\n])", rest + part)
            size += len(part)
            for line in lines:
                if line:
                    name, _, value = line.decode("utf-8", "replace").partition(":")
                    value = value.removeprefix(" ")
                    event[name] = f"{event[name]}\n{value}" if name == "data" and "data" in event else value
                elif event:
                    yield event
                    event, size = {}, 0
            self._holds(size)
            if size > self._limit:
                raise HttpError(f"an event is over the limit of {self._limit} bytes")


@cache
def _trust() -> ssl.SSLContext:
    """The certificate authorities, for all clients: reading them takes longer than many requests, and everybody waits."""
    openssl.provide()
    return ssl.create_default_context()


def trust(authorities: str) -> None:
    """Has all clients trust these certificates (PEM) beside those of the system. Errors: `ConfigError`."""
    try:
        _trust().load_verify_locations(cadata=authorities)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"config.caBundle must be certificates: {error}") from None


class HttpClient:
    """Requests to one origin, dialled by the rules of the server that it stands for."""

    def __init__(
        self,
        server: str,
        url: str,
        headers: Mapping[str, str],
        dial: Dial,
        limit: int,
        budget: Budget | None = None,
    ) -> None:
        self.address = Address.of(url)
        self._server, self._headers, self._dial, self._limit, self._budget = server, headers, dial, limit, budget
        self._tls = _trust() if self.address.scheme == "https" else None

    async def request(
        self, method: str, headers: Mapping[str, str], body: bytes = b"", target: str | None = None
    ) -> Response:
        """Sends a request; the response once its head is there."""
        address = self.address
        try:
            sock = await self._dial(self._server, address.host, address.port)
            reader, writer = await asyncio.open_connection(
                sock=sock, ssl=self._tls, server_hostname=address.host if self._tls else None, limit=_MAX_LINE
            )
        except PermissionError as e:
            raise HttpError(f"{address.authority} was refused: {e}") from e
        except (OSError, ssl.SSLError) as e:
            raise HttpError(f"{address.authority} cannot be reached: {e}") from e
        lines = [f"{method} {target or address.target} HTTP/1.1", f"Host: {address.authority}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in {**headers, **self._headers}.items()]
        if method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        response = Response(reader, writer, self._limit, self._budget, self._server)
        try:
            writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
            await response.read_head()
        except BaseException:
            writer.transport.abort()
            raise
        return response

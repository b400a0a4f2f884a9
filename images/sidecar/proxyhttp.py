"""What a member may say to the egress gate: HTTP/1.1 proxy requests, read strictly and written anew. No decisions.

Whatever two parsers could understand differently is refused: bare CR or LF, folded or repeated framing headers, a
length beside chunks, spaces before a colon, a Host that is not the target's. Bodies are unpacked here and packed again,
so the far side sees exactly the one request that was judged.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from typing import Literal

from msgspec import Struct

from images.sidecar.rules import Address, BadHost, parse_host

LARGEST_HEAD = 32 * 1024
MOST_HEADERS = 100
PIECE = 64 * 1024

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(r"[\x21-\x7e]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")
_LENGTH = re.compile(r"[0-9]{1,18}")
_HOP_BY_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade"),
        *("proxy-authorization", "proxy-authenticate", "transfer-encoding", "content-length"),
    }
)

Headers = tuple[tuple[str, str], ...]
Framing = int | Literal["chunked", "close"]
"""How a body ends: after so many bytes, with the last chunk, or with the connection."""


class BadMessage(ValueError):
    """A message that is not well-formed, or that could be understood in two ways."""


class Connect(Struct, frozen=True, kw_only=True):
    """`CONNECT host:port`: a tunnel."""

    host: str | Address
    port: int


class Forward(Struct, frozen=True, kw_only=True):
    """`GET http://host:port/path`: one request to be sent on."""

    method: str
    host: str | Address
    port: int
    path: str
    headers: Headers
    framing: Framing
    old: bool
    """The client speaks HTTP/1.0 and understands no chunks."""

    def encode(self) -> bytes:
        """The head as the far side gets it."""
        host = f"[{self.host}]" if not isinstance(self.host, str) and self.host.version == 6 else str(self.host)
        port = "" if self.port == 80 else f":{self.port}"
        return _encode(
            f"{self.method} {self.path} HTTP/1.1",
            (("Host", f"{host}{port}"), *self.headers, *_framing_headers(self.framing), ("Connection", "close")),
        )


class Response(Struct, frozen=True, kw_only=True):
    """The head of an answer."""

    status: int
    reason: str
    headers: Headers
    framing: Framing

    @property
    def interim(self) -> bool:
        return self.status < 200

    def encode(self, *, chunks: bool) -> bytes:
        """The head as the client gets it; without chunks the body ends with the connection."""
        framing = "close" if self.framing == "chunked" and not chunks else self.framing
        close = () if self.interim else (*_framing_headers(framing), ("Connection", "close"))
        return _encode(f"HTTP/1.1 {self.status} {self.reason}", (*self.headers, *close))


def _framing_headers(framing: Framing) -> Headers:
    match framing:
        case "chunked":
            return (("Transfer-Encoding", "chunked"),)
        case "close" | -1:
            return ()
        case int():
            return (("Content-Length", str(framing)),)


NO_BODY: Framing = -1
"""No body and no word about one, as in a GET."""


def _encode(first: str, headers: Iterable[tuple[str, str]]) -> bytes:
    return "\r\n".join((first, *(f"{name}: {value}" for name, value in headers), "", "")).encode("latin-1")


async def read_head(reader: asyncio.StreamReader) -> bytes | None:
    """The bytes up to the empty line; None if the peer closed before it said anything."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise BadMessage(f"the head is longer than {LARGEST_HEAD // 1024} KiB") from None
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise BadMessage("the head ends in the middle") from None
        return None


def _split(head: bytes) -> tuple[str, Headers]:
    if len(head) > LARGEST_HEAD:
        raise BadMessage(f"the head is longer than {LARGEST_HEAD // 1024} KiB")
    text = head[:-4].decode("latin-1")
    lines = text.split("\r\n")
    if any(c in line for line in lines for c in "\r\n\0"):
        raise BadMessage("the head holds a bare CR, LF or NUL")
    if len(lines) > MOST_HEADERS + 1:
        raise BadMessage(f"the head has more than {MOST_HEADERS} headers")
    headers = []
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        value = value.strip(" \t")
        if not colon or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise BadMessage("a header line is malformed")
        headers.append((name, value))
    return lines[0], tuple(headers)


def _all(headers: Headers, wanted: str) -> list[str]:
    return [value for name, value in headers if name.lower() == wanted]


def _framing(headers: Headers, absent: Framing) -> Framing:
    lengths, codings = _all(headers, "content-length"), _all(headers, "transfer-encoding")
    if codings:
        if lengths:
            raise BadMessage("the head has both Content-Length and Transfer-Encoding")
        if [coding.lower() for coding in codings] != ["chunked"]:
            raise BadMessage("the only Transfer-Encoding is chunked")
        return "chunked"
    if not lengths:
        return absent
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        raise BadMessage("Content-Length is not one number")
    return int(lengths[0])


def _end_to_end(headers: Headers) -> Headers:
    """The headers that travel on: without those of this connection and those that it names."""
    named = {token.strip().lower() for value in _all(headers, "connection") for token in value.split(",")}
    return tuple((name, value) for name, value in headers if name.lower() not in _HOP_BY_HOP | named | {"host"})


def _authority(text: str, default_port: int | None) -> tuple[str | Address, int]:
    if "@" in text:
        raise BadMessage("the target holds a user name")
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text, "" if default_port is None else str(default_port)
    if not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) < 65_536:
        raise BadMessage("the target has no port from 1 to 65535")
    try:
        return parse_host(host), int(port)
    except BadHost as error:
        raise BadMessage(str(error)) from None


def parse_request(head: bytes) -> Connect | Forward:
    """The request in a head: one of the two forms that a proxy is asked in."""
    first, headers = _split(head)
    parts = first.split(" ")
    if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]) or not _TARGET.fullmatch(parts[1]):
        raise BadMessage("the request line is malformed")
    method, target, version = parts
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        raise BadMessage("the version is not HTTP/1.1")
    hosts = _all(headers, "host")
    if len(hosts) > 1 or (not hosts and version == "HTTP/1.1"):
        raise BadMessage("there is not exactly one Host header")
    framing = _framing(headers, absent=NO_BODY)
    if framing == "chunked" and version == "HTTP/1.0":
        raise BadMessage("HTTP/1.0 has no chunks")
    if method == "CONNECT":
        if framing not in (NO_BODY, 0):
            raise BadMessage("a CONNECT has no body")
        host, port = _authority(target, None)
        _same_host(hosts, host, port)
        return Connect(host=host, port=port)
    scheme, separator, rest = target.partition("://")
    if not separator:
        raise BadMessage("this is the sandbox's proxy: the target must be a whole URL (http://host/path) or CONNECT")
    if scheme.lower() != "http":
        raise BadMessage("only http:// is sent on as it is: use CONNECT for TLS")
    end = min((rest.index(c) for c in "/?#" if c in rest), default=len(rest))
    authority, path = rest[:end], rest[end:]
    if "#" in path:
        raise BadMessage("the target holds a fragment")
    host, port = _authority(authority, 80)
    _same_host(hosts, host, port)
    return Forward(
        method=method,
        host=host,
        port=port,
        path=path if path.startswith("/") else f"/{path}",
        headers=_end_to_end(headers),
        framing=framing,
        old=version == "HTTP/1.0",
    )


def _same_host(hosts: list[str], host: str | Address, port: int) -> None:
    """Servers route by Host, so it must be what was judged; a Host without a port is taken for any."""
    for text in hosts:
        if _authority(text, port) != (host, port):
            raise BadMessage("the Host header is not the host of the target")


def parse_response(head: bytes, *, method: str) -> Response:
    """The head of the far side's answer to `method`."""
    first, headers = _split(head)
    version, _, rest = first.partition(" ")
    status, _, reason = rest.partition(" ")
    if version not in ("HTTP/1.1", "HTTP/1.0") or not re.fullmatch(r"[1-9][0-9]{2}", status):
        raise BadMessage("the status line is malformed")
    code = int(status)
    if code == 101:
        raise BadMessage("the host wants to change the protocol")
    framing = _framing(headers, absent="close")
    if code < 200 or code in (204, 304):
        framing = NO_BODY
    kept = _end_to_end(headers)
    if method == "HEAD" and code >= 200:
        # The length of the body which a GET would have: said on, but nothing follows.
        kept += tuple(("Content-Length", value) for value in _all(headers, "content-length"))
        framing = NO_BODY
    return Response(status=code, reason=reason, headers=kept, framing=framing)


async def read_body(reader: asyncio.StreamReader, framing: Framing) -> AsyncIterator[bytes]:
    """The pieces of a body, unpacked; raises BadMessage if it ends early."""
    match framing:
        case "close":
            while piece := await reader.read(PIECE):
                yield piece
        case "chunked":
            while size := await _chunk_size(reader):
                async for piece in _exactly(reader, size):
                    yield piece
                if await reader.readexactly(2) != b"\r\n":
                    raise BadMessage("a chunk is longer than it says")
            while (line := await reader.readuntil(b"\r\n")) != b"\r\n":  # trailers are dropped
                if b"\0" in line or len(line) > LARGEST_HEAD:
                    raise BadMessage("a trailer is malformed")
        case int():
            async for piece in _exactly(reader, framing):
                yield piece


async def _exactly(reader: asyncio.StreamReader, size: int) -> AsyncIterator[bytes]:
    while size > 0:
        piece = await reader.read(min(size, PIECE))
        if not piece:
            raise BadMessage("the body ends in the middle")
        size -= len(piece)
        yield piece


async def _chunk_size(reader: asyncio.StreamReader) -> int:
    line = await reader.readuntil(b"\r\n")
    size = line[:-2].partition(b";")[0].rstrip(b" \t")
    if not _CHUNK_SIZE.fullmatch(size) or len(line) > 1024:
        raise BadMessage("a chunk's size is malformed")
    return int(size, 16)


def pack(piece: bytes, *, chunks: bool) -> bytes:
    """A piece of a body as it is written."""
    return b"%x\r\n%b\r\n" % (len(piece), piece) if chunks else piece


LAST_CHUNK = b"0\r\n\r\n"

"""HTTP/1.1 as strict as a fence needs it: parsing request heads and bodies, and nothing of what they mean.

Whatever two readers could understand differently is refused instead of repaired: both length headers at once, folded
headers, a length that is not digits, a repeated header that has one value, bare line feeds.
"""

from __future__ import annotations

import re

import msgspec

MAX_HEAD = 16 << 10
_MAX_HEADERS = 64
_MAX_CHUNK_LINE = 256

_REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) (/[!-~]{0,4096}) HTTP/1\.([01])")
# A value holds no control character but the tab, so a bare CR, LF or NUL is no header at all.
_NAME, _VALUE = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+", rb"(?:[!-~\x80-\xff](?:[ \t!-~\x80-\xff]*[!-~\x80-\xff])?)?"
_HEADER = re.compile(rb"(%s):[ \t]*(%s)[ \t]*" % (_NAME, _VALUE))
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[\t -~]*)?")
_JOINED = frozenset((b"accept", b"accept-encoding", b"accept-language", b"cache-control", b"connection", b"via"))

REASONS = {
    200: b"OK", 202: b"Accepted", 204: b"No Content", 400: b"Bad Request", 401: b"Unauthorized", 403: b"Forbidden",
    404: b"Not Found", 405: b"Method Not Allowed", 406: b"Not Acceptable", 408: b"Request Timeout", 409: b"Conflict",
    413: b"Content Too Large", 415: b"Unsupported Media Type", 417: b"Expectation Failed",
    431: b"Request Header Fields Too Large", 501: b"Not Implemented", 503: b"Service Unavailable",
}  # fmt: skip


class BadRequest(Exception):
    """A request that is refused before anybody looks at what it wants; the connection ends with the answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Head(msgspec.Struct, frozen=True, eq=False):
    """The request line and the headers, names in lower case. Equal only to itself: what was learnt of it can be kept."""

    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    length: int
    chunked: bool
    keep_alive: bool
    json_body: bool
    """Whether the body says that it is JSON."""
    takes_stream: bool
    """Whether the answer may be an event stream."""
    prefers_stream: bool
    """Whether it had better be one: the client named that first."""
    plain: bool
    """Whether the body follows as it is, with a length, and without being asked for."""

    def get(self, name: bytes) -> bytes:
        """A header's value; empty if it was not sent."""
        return self.headers.get(name, b"")

    def wants(self, protocol: bytes) -> bool:
        """Whether the client would rather speak this protocol from here on (RFC 9110 §7.8)."""
        asked = self.get(b"upgrade").lower() == protocol and not self.length and not self.chunked
        return asked and b"upgrade" in self.get(b"connection").lower() and self.keep_alive


def parse_head(block: bytes) -> Head:
    """The head of a request: the bytes up to, not with, the empty line."""
    first, *lines = block.split(b"\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        raise BadRequest(400, "Malformed request line")
    if len(lines) > _MAX_HEADERS:
        raise BadRequest(431, f"More than {_MAX_HEADERS} headers")
    headers: dict[bytes, bytes] = {}
    for text in lines:
        field = _HEADER.fullmatch(text)
        if field is None:
            raise BadRequest(400, "Malformed header line")
        name, value = field[1].lower(), field[2]
        if name in headers:
            if name not in _JOINED:
                raise BadRequest(400, f"Repeated header {name.decode()}")
            value = headers[name] + b", " + value
        headers[name] = value
    version_1_1 = line[3] == b"1"
    if version_1_1 and b"host" not in headers:
        raise BadRequest(400, "Host is missing")
    length, chunked = _framing(headers, version_1_1)
    if headers.get(b"expect", b"100-continue").lower() != b"100-continue":
        raise BadRequest(417, "Unknown expectation")
    connection = headers.get(b"connection", b"").lower()
    keep = b"close" not in connection if version_1_1 else b"keep-alive" in connection
    is_json = headers.get(b"content-type", b"").partition(b";")[0].strip().lower() == b"application/json"
    accept = headers.get(b"accept", b"")
    stream, whole = accept.find(b"text/event-stream"), accept.find(b"application/json")
    takes = stream >= 0 or b"*/*" in accept
    prefers = stream >= 0 and not 0 <= whole < stream
    plain = not chunked and b"expect" not in headers
    return Head(line[1], line[2], headers, length, chunked, keep, is_json, takes, prefers, plain)


def _framing(headers: dict[bytes, bytes], version_1_1: bool) -> tuple[int, bool]:
    """How long the body is. Two answers to that are request smuggling (RFC 9112 §6.3), so they are none."""
    coding, length = headers.get(b"transfer-encoding"), headers.get(b"content-length")
    if coding is not None:
        if length is not None:
            raise BadRequest(400, "Both Content-Length and Transfer-Encoding")
        if coding.lower() != b"chunked" or not version_1_1:
            raise BadRequest(501, "Unknown transfer coding")
        return 0, True
    if length is None:
        return 0, False
    if not length.isdigit() or len(length) > 12:
        raise BadRequest(400, "Malformed Content-Length")
    return int(length), False


class ChunkedBody:
    """The body of a chunked request as it comes in. Bounded by the body limit, trailers refused."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._body = bytearray()
        self._need = -1
        """Bytes that are missing of the present chunk with its line end; -1 before a size line."""

    def __len__(self) -> int:
        """Bytes that are here so far."""
        return len(self._body)

    def feed(self, data: bytearray) -> bytes | None:
        """Consumes what it can from the front of `data`; the whole body once it is complete."""
        while True:
            if self._need < 0:
                end = data.find(b"\r\n")
                if end < 0:
                    if len(data) > _MAX_CHUNK_LINE:
                        raise BadRequest(400, "Malformed chunk")
                    return None
                size = _CHUNK.fullmatch(bytes(data[:end]))
                if size is None:
                    raise BadRequest(400, "Malformed chunk")
                self._need = int(size[1], 16)
                if len(self._body) + self._need > self._limit:
                    raise BadRequest(413, f"The body is over the limit of {self._limit} bytes")
                del data[: end + 2]
            if len(data) < self._need + 2:
                return None
            if data[self._need : self._need + 2] != b"\r\n":
                raise BadRequest(400, "Malformed chunk")
            self._body += data[: self._need]
            last = not self._need
            del data[: self._need + 2]
            self._need = -1
            if last:
                return bytes(self._body)


def json_head(length: int) -> bytes:
    """`response_head` of the answer that nearly all are."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % length


def response_head(status: int, length: int, content_type: bytes, extra: bytes = b"") -> bytes:
    """The head of a whole answer. `extra` holds complete header lines."""
    kind = b"Content-Type: %s\r\n" % content_type if content_type else b""
    return b"HTTP/1.1 %d %s\r\n%sContent-Length: %d\r\n%s\r\n" % (status, REASONS[status], kind, length, extra)


def switch_head(protocol: bytes) -> bytes:
    """The answer after which another protocol is spoken (RFC 9110 §7.8)."""
    return b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n" % protocol


def stream_head(extra: bytes = b"") -> bytes:
    """The head of an SSE answer, which goes on in chunks."""
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache, no-transform\r\n"
        b"X-Accel-Buffering: no\r\nTransfer-Encoding: chunked\r\n%s\r\n" % extra
    )

"""JSON-RPC envelopes: split into raw parts in one pass, never rebuilt from a model.

What a message means is in a few keys of its envelope; everything below them stays the bytes that came. The envelope
itself is always written anew, so that a key given twice or an id that was smuggled in never reaches the other side.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
TIMED_OUT = -32001
SERVER_LOST = -32003
CROWDED = -32004
CANCELLED = -32800
RESOURCE_NOT_FOUND = -32002

OURS = "dev.mlld/"
"""Prefix of the `_meta` keys that only the sidecar writes: a peer's are dropped at this hop."""

MAX_BATCH = 64
_CR, _LF = b"\r\n"  # looked for as numbers: `b"\n" in message` takes ten times as long where it is short
_CHECKED = 128 << 10
# What an object costs is for its keys to say and not for its bytes: ten megabytes of small ones are two hundred in memory.
_MOST_MEMBERS, _MOST_KEYS, _UNCOUNTED = 1024, 200_000, 2 << 20
_MOST_VALUES = 500_000
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)

RawMap = dict[str, Raw]

_raw_map = msgspec.json.Decoder(RawMap)
_parts = msgspec.json.Decoder(list[Raw])
_text = msgspec.json.Decoder(str)
encode = msgspec.json.Encoder().encode
decode = msgspec.json.decode


class Malformed(Exception):
    """The bytes are not a JSON-RPC message; `code` is the error that says so."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Batched(Malformed):
    """The bytes are an array: one message to revisions that know batches, an error to all others."""

    def __init__(self) -> None:
        super().__init__(INVALID_REQUEST, "No batches in this revision: send one message at a time")


class Incoming(msgspec.Struct):
    """A message from an agent or from a server over HTTP. Ids are kept as they were spelt."""

    id: Raw = Raw(b"")
    method: str | None = None
    params: Raw = Raw(b"")
    result: Raw = Raw(b"")
    error: Raw = Raw(b"")


class FromServer(msgspec.Struct):
    """A message from a server: the result is split at its first level, whose values stay bytes of the read buffer."""

    id: int | str | None = None
    method: str | None = None
    params: Raw = Raw(b"")
    result: RawMap | None = None
    error: Raw = Raw(b"")


class ErrorObject(msgspec.Struct):
    """The error of a reply."""

    code: int = INTERNAL_ERROR
    message: str = ""
    data: Raw = Raw(b"")


_incoming = msgspec.json.Decoder(Incoming)
_from_server = msgspec.json.Decoder(FromServer)
_error = msgspec.json.Decoder(ErrorObject)


def split_request(body: bytes) -> Incoming:
    """The one message of an HTTP body. UTF-8 is checked as a whole: what follows copies parts without looking."""
    try:
        body.decode()
        message = _incoming.decode(body)
    except UnicodeDecodeError:
        raise Malformed(PARSE_ERROR, "Parse error: the body is not UTF-8") from None
    except msgspec.ValidationError as e:
        if body.lstrip()[:1] == b"[":
            raise Batched from None
        raise Malformed(INVALID_REQUEST, f"Invalid request: {e}") from None
    except (msgspec.DecodeError, RecursionError) as e:
        raise Malformed(PARSE_ERROR, f"Parse error: {e}") from None
    if message.method is None and not bytes(message.result) and not bytes(message.error):
        raise Malformed(INVALID_REQUEST, "Invalid request: neither a method nor a result")
    spelt = bytes(message.id)
    if spelt and not is_id(spelt) and (message.method is not None or spelt != b"null"):
        raise Malformed(INVALID_REQUEST, "Invalid request: an id is a string or an integer")
    return message


def split_batch(body: bytes) -> list[Incoming | Malformed]:
    """The messages of a batch (JSON-RPC 2.0 §6), each by itself: one that is none does not cost the others their answers.

    Raises Malformed if it is empty, or has more messages than may be worked on at once.
    """
    if countless(body):
        raise Malformed(INVALID_REQUEST, f"A batch has 1 to {MAX_BATCH} messages")
    try:
        parts = _parts.decode(body)
    except (msgspec.DecodeError, RecursionError) as e:
        raise Malformed(PARSE_ERROR, f"Parse error: {e}") from None
    if not 0 < len(parts) <= MAX_BATCH:
        raise Malformed(INVALID_REQUEST, f"A batch has 1 to {MAX_BATCH} messages")
    return [_split_apart(bytes(part)) for part in parts]


def _split_apart(part: bytes) -> Incoming | Malformed:
    try:
        message = split_request(part)
    except Malformed as e:
        return e
    if message.method == "initialize":
        return Malformed(INVALID_REQUEST, "initialize cannot be part of a batch")
    return message


def split_reply(line: memoryview | bytes) -> FromServer:
    """A server's line, checked to be JSON, and up to a size to be UTF-8. Its parts point into `line`.

    Beyond that size the check would cost more than everything else. Whatever keeps or reads the text checks it there;
    an answer that goes straight to the one call which asked for it harms nobody else.
    """
    try:
        if len(line) <= _CHECKED:
            str(line, "utf-8")
        elif len(line) > _UNCOUNTED and bytes(line).count(b'":') > _MOST_KEYS:
            raise Malformed(PARSE_ERROR, f"it has more than {_MOST_KEYS} keys")
        message = _from_server.decode(line)
    except UnicodeDecodeError:
        raise Malformed(PARSE_ERROR, "not UTF-8") from None
    except (msgspec.DecodeError, RecursionError) as e:
        raise Malformed(PARSE_ERROR, str(e)) from None
    if message.result is not None and len(message.result) > _MOST_MEMBERS:
        raise Malformed(PARSE_ERROR, f"its result has more than {_MOST_MEMBERS} members")
    return message


def countless(data: bytes) -> bool:
    """Whether a JSON text has more values than anybody should make objects of: `[[],[],…` takes twenty times its size."""
    return len(data) > _MOST_VALUES and _marks(data) > _MOST_VALUES and _marks(_STRING.sub(b"", data)) > _MOST_VALUES


def _marks(data: bytes) -> int:
    return data.count(b",") + data.count(b"[") + data.count(b"{")


def is_id(spelt: bytes) -> bool:
    """Whether the bytes spell an id that JSON-RPC allows here (the JSON itself was checked before)."""
    return spelt.isdigit() or spelt[:1] == b'"' or spelt.removeprefix(b"-").isdigit()


def members(part: Raw | bytes) -> RawMap:
    """The first level of an object; a key given twice keeps its last value. Absent is empty."""
    try:
        fields = _raw_map.decode(part)
    except (msgspec.DecodeError, UnicodeDecodeError):
        if not bytes(part):
            return {}
        raise Malformed(INVALID_PARAMS, "Invalid params: an object is expected") from None
    if len(fields) > _MOST_MEMBERS:
        raise Malformed(INVALID_PARAMS, f"Invalid params: an object has more than {_MOST_MEMBERS} members")
    return fields


def text(fields: Mapping[str, Raw], key: str) -> str:
    """A member that must be a string."""
    try:
        return _text.decode(fields[key])
    except KeyError:
        raise Malformed(INVALID_PARAMS, f"Invalid params: `{key}` is missing") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Malformed(INVALID_PARAMS, f"Invalid params: `{key}` must be a string") from None


def error_of(part: Raw) -> ErrorObject:
    """The error of a reply, whatever a careless server put there."""
    try:
        return _error.decode(part)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ErrorObject(message="the server sent an error that is not an error object", data=part)


def request(number: int, method: str, params: bytes) -> bytes:
    """A request, without a line end."""
    if not params:
        return b'{"jsonrpc":"2.0","id":%d,"method":%s}' % (number, encode(method))
    return b'{"jsonrpc":"2.0","id":%d,"method":%s,"params":%s}' % (number, encode(method), params)


def notification(method: str, params: bytes = b"") -> bytes:
    """A notification, without a line end."""
    tail = b',"params":%s}' % params if params else b"}"
    return b'{"jsonrpc":"2.0","method":%s%s' % (encode(method), tail)


def success(spelt_id: bytes, result: bytes) -> bytes:
    """A reply with a result."""
    return b'{"jsonrpc":"2.0","id":%s,"result":%s}' % (spelt_id, result)


def failure(spelt_id: bytes, code: int, message: str, data: Any = None) -> bytes:
    """A reply with an error; `data` may be a Raw."""
    error: dict[str, Any] = {"code": code, "message": message}
    if data is not None and not (isinstance(data, Raw) and not bytes(data)):
        error["data"] = data
    return b'{"jsonrpc":"2.0","id":%s,"error":%s}' % (spelt_id or b"null", encode(error))


def foreign_meta(meta: Raw | None) -> bytes:
    """The members of a server's `_meta` without braces, our own names dropped."""
    if meta is None:
        return b""
    try:
        kept = {key: value for key, value in members(meta).items() if not key.startswith(OURS)}
    except Malformed:
        return b""
    return encode(kept)[1:-1]


def as_text(message: bytes) -> bytes:
    """The message with whatever in it is no UTF-8 replaced: where other messages follow, it must not break those."""
    try:
        str(message, "utf-8")
    except UnicodeDecodeError:
        return message.decode(errors="replace").encode()
    return message


def one_line(message: bytes) -> bytes:
    """The message without line ends: JSON allows them between tokens, where they would end a line or an SSE field."""
    if _CR in message or _LF in message:
        return message.replace(b"\r", b" ").replace(b"\n", b" ")
    return message

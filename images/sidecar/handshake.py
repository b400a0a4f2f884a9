"""How a connection to a server is opened in either era, and what the server says of itself then."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from images.sidecar import jsonrpc
from images.sidecar.process import Process, ServerError

LEGACY = "2025-11-25"
MODERN = "2026-07-28"
CLIENT = {"name": "mlld-sandbox", "version": "1"}
META = "io.modelcontextprotocol/"
UNSUPPORTED_VERSION = -32022
LONGEST_INSTRUCTIONS = 16 << 10
"""Characters of one server: those of all servers come into the agent's context together."""
LONGEST_CAPABILITIES, _DEEPEST_CAPABILITIES = 64 << 10, 32
"""Bytes and levels of either side's."""
_DISCOVER_SECONDS = 3.0
"""An older server may not even answer what it does not know."""


def envelope(capabilities: bytes) -> bytes:
    """The `_meta` of a request that the sidecar itself makes in the stateless era."""
    return b'{"%sprotocolVersion":"%s","%sclientCapabilities":%s,"%sclientInfo":%s}' % (
        META.encode(), MODERN.encode(), META.encode(), capabilities, META.encode(), jsonrpc.encode(CLIENT),
    )  # fmt: skip


async def greet(process: Process, capabilities: bytes, seconds: float, *, modern: bool) -> None:
    """Opens the connection, in the stateless era first if `modern`, else in the era of handshakes. Raises ServerError."""
    if modern:
        if not await _discover(process, capabilities, min(_DISCOVER_SECONDS, seconds)):
            await _initialize(process, capabilities, seconds)
        return
    try:
        await _initialize(process, capabilities, seconds)
    except ServerError as e:
        if e.code == jsonrpc.TIMED_OUT or process.closed or not await _discover(process, capabilities, seconds):
            raise


async def _discover(process: Process, capabilities: bytes, seconds: float) -> bool:
    """False if the server does not know the stateless era."""
    params = b'{"_meta":%s}' % envelope(capabilities)
    try:
        try:
            result = await process.ask("server/discover", params, seconds)
        except ServerError as e:
            if e.code != UNSUPPORTED_VERSION or MODERN not in str(jsonrpc.encode(e.data)):
                raise
            result = await process.ask("server/discover", params, seconds)  # refused once, and yet it is offered
        process.modern = MODERN in json.loads(result.get("supportedVersions", b"[]"))
    except (ServerError, ValueError, TypeError, RecursionError):
        return False
    if process.modern:
        _learn(process, result)
    return process.modern


async def _initialize(process: Process, capabilities: bytes, seconds: float) -> None:
    head = b'{"protocolVersion":"%s","capabilities":%s' % (LEGACY.encode(), capabilities)
    result = await process.ask("initialize", b'%s,"clientInfo":%s}' % (head, jsonrpc.encode(CLIENT)), seconds)
    _learn(process, result)
    process.notify("notifications/initialized")


def _learn(process: Process, result: dict[str, bytes]) -> None:
    raw = result.get("capabilities", b"{}")
    try:
        capabilities = msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ServerError(jsonrpc.INTERNAL_ERROR, "its capabilities are not an object") from None
    if len(raw) > LONGEST_CAPABILITIES or not _flat(capabilities, _DEEPEST_CAPABILITIES):
        # They come together with those of all others: one that cannot be encoded again would cost everybody the session.
        raise ServerError(jsonrpc.INTERNAL_ERROR, "its capabilities are too large or too deep")
    process.capabilities = capabilities
    process.instructions = _cut(result.get("instructions", b'""'))


def _cut(raw: bytes) -> str:
    """The text of `instructions` with a mark where it was too long; empty if it is no text."""
    try:
        said = json.loads(raw)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(said, str):
        return ""
    text = said.encode("utf-8", "replace").decode()  # half a surrogate pair could not be sent to anybody
    more = len(text) - LONGEST_INSTRUCTIONS
    return text if more <= 0 else f"{text[:LONGEST_INSTRUCTIONS]}\n[cut: {more} more characters]"


def _flat(value: Any, levels: int) -> bool:
    """Whether a JSON value has no more than so many levels."""
    within = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_flat(part, levels - 1) for part in within)

"""Headers that mirror the body (2026-07-28), so that a proxy can route by them: they must say the same, or be refused.

A header and a body that differ are how a request is shown to one reader as something else than to the next.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from images.sidecar import jsonrpc
from images.sidecar.jsonrpc import Malformed, RawMap

HEADER_MISMATCH = -32020
_NAMED_BY = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_WRAPPED = re.compile(r"=\?base64\?(.*)\?=", re.IGNORECASE)
_DECIMAL = re.compile(r"-?[0-9]{1,40}(\.0{1,40})?")
_PARAM = b"mcp-param-"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_DEEP = 16


def check_head(headers: Mapping[bytes, bytes], method: str, version: str, fields: RawMap) -> None:
    """Version, method and name of the headers against those of the body."""
    if headers.get(b"mcp-protocol-version", b"").decode("latin-1") != version:
        raise Malformed(HEADER_MISMATCH, "MCP-Protocol-Version is not the protocol version of the request's _meta")
    if headers.get(b"mcp-method", b"").decode("latin-1") != method:
        raise Malformed(HEADER_MISMATCH, "Mcp-Method is not the method of the request")
    key = _NAMED_BY.get(method)
    if key is not None and key in fields:
        value = jsonrpc.text(fields, key)
        if b"mcp-name" not in headers or unwrapped(headers[b"mcp-name"]) != value:
            raise Malformed(HEADER_MISMATCH, f"Mcp-Name is not the `{key}` of the request")


def check_params(headers: Mapping[bytes, bytes], schema: bytes, arguments: bytes) -> None:
    """The arguments that a tool's schema wants mirrored, against their headers."""
    try:
        marked = _marks(schema)
        given = json.loads(arguments) if arguments else {}
    except (ValueError, RecursionError):
        return  # no schema to hold the headers against
    for path, name, kind in marked:
        spelt = headers.get(_PARAM + name.lower().encode())
        value = _at(given, path)
        shown = _shown(value)
        where = f"Mcp-Param-{name} and the argument `{'.'.join(path)}`"
        if (spelt is None) != (shown is None):
            raise Malformed(HEADER_MISMATCH, f"{where} must be given together")
        if spelt is not None and shown is not None and not _same(unwrapped(spelt), shown, value, kind):
            raise Malformed(HEADER_MISMATCH, f"{where} differ")


def mirrored(schema: bytes, arguments: Any) -> dict[str, str]:
    """The headers, without their prefix, that a call with these arguments has to carry."""
    try:
        found = {name: _shown(_at(arguments, path)) for path, name, _ in _marks(schema)}
    except (ValueError, RecursionError):
        return {}
    return {name: value for name, value in found.items() if value is not None}


def _marks(schema: bytes) -> list[tuple[tuple[str, ...], str, Any]]:
    """What a schema wants mirrored; nothing if its names are no header names, or one is there twice."""
    marked = list(_marked(json.loads(schema), (), 0))
    names = [name.lower() for _, name, _ in marked]
    return marked if len(set(names)) == len(names) and all(map(_TOKEN.fullmatch, names)) else []


def unwrapped(spelt: bytes) -> str | None:
    """A header's value; base64 in its wrapping is how text that is no header value is sent. None if that is broken."""
    value = spelt.decode("latin-1")
    wrapped = _WRAPPED.fullmatch(value)
    if wrapped is None:
        return value
    try:
        return base64.b64decode(wrapped[1], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def _marked(schema: Any, path: tuple[str, ...], depth: int) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """Where in the arguments `x-mcp-header` stands, the header's name, and the declared type."""
    properties = schema.get("properties") if isinstance(schema, dict) and depth < _DEEP else None
    if not isinstance(properties, dict):
        return
    for key, inner in properties.items():
        if isinstance(inner, dict):
            name = inner.get("x-mcp-header")
            if isinstance(name, str):
                yield (*path, key), name, inner.get("type")
            yield from _marked(inner, (*path, key), depth + 1)


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _shown(value: Any) -> str | None:
    """A value as a header shows it; None if it has no such form and so no header."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return json.dumps(value)
    return value if isinstance(value, str) else None


def _same(spelt: str | None, shown: str, value: Any, kind: Any) -> bool:
    if spelt == shown:
        return True
    whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
    return (
        kind == "integer"
        and whole
        and spelt is not None
        and bool(_DECIMAL.fullmatch(spelt))
        and int(spelt.partition(".")[0]) == int(value)
    )

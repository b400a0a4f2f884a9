"""What an item of a list must be like for a strict client to take the list: one bad item of one server must not cost the
agent the tools of all. Checked, never rebuilt: keys that nobody knows yet go through as they are."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from images.sidecar.seams import Kind

_Object = dict[str, Any]


class _Icon(Struct):
    src: str
    mimeType: str | None = None
    sizes: list[str] | None = None
    theme: str | None = None


class _Item(Struct):
    name: str
    title: str | None = None
    description: str | None = None
    icons: list[_Icon] | None = None
    meta: _Object | None = msgspec.field(name="_meta", default=None)


class _Input(Struct):
    type: Literal["object"]
    properties: dict[str, Any] | None = None
    required: list[str] | None = None


class _Hints(Struct):
    title: str | None = None
    readOnlyHint: bool | None = None
    destructiveHint: bool | None = None
    idempotentHint: bool | None = None
    openWorldHint: bool | None = None


class _Execution(Struct):
    taskSupport: Literal["forbidden", "optional", "required"] | None = None


class _AnyTool(_Item, kw_only=True):
    inputSchema: _Input
    annotations: _Hints | None = None
    execution: _Execution | None = None


class _Tool(_AnyTool, kw_only=True):
    outputSchema: _Object | None = None


class _HandshakeTool(_AnyTool, kw_only=True):
    outputSchema: _Input | None = None  # any schema only since 2026-07-28


class _Argument(Struct):
    name: str
    title: str | None = None
    description: str | None = None
    required: bool | None = None


class _Prompt(_Item):
    arguments: list[_Argument] | None = None


class _Annotations(Struct):
    audience: list[Literal["user", "assistant"]] | None = None
    priority: float | None = None
    lastModified: str | None = None


class _Resource(_Item, kw_only=True):
    uri: str
    mimeType: str | None = None
    size: int | None = None
    annotations: _Annotations | None = None


class _Template(_Item, kw_only=True):
    uriTemplate: str
    mimeType: str | None = None
    annotations: _Annotations | None = None


_DECODERS: dict[Kind, msgspec.json.Decoder[Any]] = {
    "tool": msgspec.json.Decoder(_Tool),
    "prompt": msgspec.json.Decoder(_Prompt),
    "resource": msgspec.json.Decoder(_Resource),
    "template": msgspec.json.Decoder(_Template),
}
_handshake_tool = msgspec.json.Decoder(_HandshakeTool)


def fault(kind: Kind, item: bytes, *, modern: bool) -> str | None:
    """What is wrong with an item; None if a strict client takes it."""
    decoder = _handshake_tool if kind == "tool" and not modern else _DECODERS[kind]
    try:
        decoder.decode(item)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        return str(e)
    return None

"""What servers offered in an earlier run: shown at once, so that a server is woken by its first use and not by the start.

The runner keeps it under a digest of the server's definition and hands it over with the configuration; what servers tell
in this run goes back to it in the record's stream. Nothing of it is believed: it passes the same admission and the same
pins as a server's own list, it pins nothing itself, and before anything in it is used the server has to say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from images.sidecar.reading import Reader
from images.sidecar.seams import Kind, ServerSpec

KINDS: tuple[Kind, ...] = ("tool", "prompt", "resource", "template")
_ASKS = ("elicitation", "roots", "sampling")
_LONGEST = 1 << 20
_MOST_TOLD = 16


class Offers(Struct, frozen=True, kw_only=True):
    """What a server said it can do, and its lists as they were sent, in one situation."""

    capabilities: Mapping[str, Any] = {}
    instructions: str = ""
    lists: Mapping[Kind, list[bytes]] = {}


def situation(capabilities: bytes, *, modern: bool) -> str:
    """What of a client a server's lists may depend on: the era, and what the client can be asked for."""
    offered = msgspec.json.decode(capabilities)
    return ",".join(("stateless" if modern else "handshake", *(name for name in _ASKS if name in offered)))


def read(reader: Reader) -> Mapping[str, Offers] | None:
    """`remembered` of a server in the configuration, by situation; None where nothing is to be kept."""
    if not reader.given:
        return None
    return {name: _offers(item) for name, item in reader.members()}


def _offers(reader: Reader) -> Offers:
    reader.keys("capabilities", "instructions", "lists")
    lists = reader.get("lists")
    lists.keys(*KINDS)
    return Offers(
        capabilities={name: item.value for name, item in reader.get("capabilities").members()},
        instructions=reader.get("instructions").string(at_least=0),
        lists={kind: [_item(i) for i in lists.get(kind).items()] for kind in KINDS if lists.get(kind).given},
    )


def _item(reader: Reader) -> bytes:
    """As the server spelt it, or it would seem to be another one when the server says it again."""
    try:
        item = reader.string().encode()
        msgspec.json.decode(item, type=dict)
    except (UnicodeEncodeError, msgspec.DecodeError):
        raise reader.error("must be the text of a JSON object") from None
    return item


class Lock(Protocol):
    def contradicts(self, server: str, offers: Offers) -> str | None:
        """What of these the lock holds otherwise; None where nothing."""
        ...


def agreed(server: ServerSpec, lock: Lock, emit: Callable[[dict[str, Any]], None]) -> ServerSpec:
    """The server, remembered as far as it agrees with the lock. A lock is newer than what contradicts it, which would
    otherwise refuse a run whose server is the very one that was locked: it is forgotten, and the server has to say it."""
    if not server.remembered:
        return server
    kept = {}
    for where, offers in server.remembered.items():
        if (what := lock.contradicts(server.name, offers)) is None:
            kept[where] = offers
        else:
            emit({"event": "forgotten", "server": server.name, "situation": where, "what": what})
    return replace(server, remembered=kept)


class Told:
    """Tells the runner what one server offers, bounded: a server that changes without end is not worth remembering."""

    def __init__(self, server: str, emit: Callable[[dict[str, Any]], None]) -> None:
        self._server, self._emit = server, emit
        self._left = _MOST_TOLD

    def tell(self, where: str, kind: Kind, items: list[bytes], capabilities: Mapping[str, Any], words: str) -> None:
        """One list, whole; not if it is too long, or holds what is no JSON object in UTF-8."""
        if self._left <= 0 or sum(map(len, items)) > _LONGEST:
            return
        try:
            for item in items:
                msgspec.json.decode(item, type=dict)
            spelt = [item.decode() for item in items]
        except (UnicodeDecodeError, msgspec.DecodeError):
            return
        self._left -= 1
        told = {"situation": where, "kind": kind, "items": spelt, "capabilities": capabilities, "instructions": words}
        self._emit({"event": "offers", "server": self._server, **told})

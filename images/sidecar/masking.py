"""Known secret values, blotted out of whatever is written down, in each spelling that JSON gives them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import orjson

MASK = "••••"
# A shorter value would blot out half of every line, and is no secret.
SHORTEST_SECRET = 6
# A result is JSON in a string of JSON, and the line is JSON again.
NESTING = 3
_BLOT = b"\0"
_BLOTS = re.compile("\0+")


def _spellings(value: str) -> set[str]:
    level = {value, quote(value, safe="")}
    known = set(level)
    for _ in range(NESTING):
        level = {json.dumps(text, ensure_ascii=ascii_only)[1:-1] for text in level for ascii_only in (True, False)}
        known |= level
    return known


class Masker:
    """The known secrets, ready to be looked for."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = {spelling for secret in secrets if len(secret) >= SHORTEST_SECRET for spelling in _spellings(secret)}
        # The longest first: a secret that holds another one must go whole.
        self._texts = sorted(known, key=len, reverse=True)
        self._needles = [text.encode("utf-8", "surrogatepass") for text in self._texts]
        self._longest = max(map(len, self._needles), default=0)

    def found_in(self, data: bytes) -> bool:
        """Whether the bytes hold a secret: the quick look that nearly every line passes."""
        return any(map(data.__contains__, self._needles))

    def head(self, data: bytes, limit: int) -> str:
        """The first `limit` bytes as text; a secret that the cut would divide is blotted out whole."""
        window = data[: limit + self._longest]
        if not self.found_in(window):
            return window[:limit].decode("utf-8", "replace")
        for needle in self._needles:
            window = window.replace(needle, _BLOT * len(needle))
        return _BLOTS.sub(MASK, window[:limit].decode("utf-8", "replace"))

    def clean(self, value: Any) -> Any:
        """A JSON value without secrets, in keys and numbers too."""
        match value:
            case str():
                for text in self._texts:
                    value = value.replace(text, MASK)
                return value
            case dict():
                return {self.clean(key): self.clean(item) for key, item in value.items()}
            case list():
                return [self.clean(item) for item in value]
            case bool() | None:
                return value
            case _:
                return MASK if self.found_in(orjson.dumps(value)) else value

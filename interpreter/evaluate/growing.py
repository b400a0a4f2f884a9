"""`+=` in a loop: what is added to a list, a text or an object waits, and is put together when somebody reads the name.

A value never changes once it was made, so each `+=` that made a new one would copy all that is there already, and a loop
that gathers a thousand elements would copy half a million. What waits is put together at the latest when it is as much
as the value itself: each element is copied a bounded number of times, and nothing is held for long.
"""

from __future__ import annotations

from interpreter import values_text as vt
from interpreter.errors import LimitReached
from interpreter.labels import joined
from interpreter.values import Value, array, record

FEW = 64
"""So many additions wait in any case: putting together has a cost of its own."""


def can_grow(value: Value, extra: Value) -> bool:
    """Is this a list, a text, or an object to which an object is added?"""
    return isinstance(value.data, list | str) or (isinstance(value.data, dict) and isinstance(extra.data, dict))


def written(extra: Value) -> str:
    """What a text grows by: nothing for null, and the elements of an array line by line."""
    if extra.data is None:
        return ""
    return "\n".join(vt.text(item) for item in extra.items()) if isinstance(extra.data, list) else vt.text(extra)


class Growing:
    """A value and what waits to be added. `size` counts characters of a text, elements or keys of the others."""

    __slots__ = ("pieces", "size", "value")

    def __init__(self, value: Value) -> None:
        self.value = value
        self.pieces: list[Value] = []
        self.size = len(value.data)

    def add(self, extra: Value) -> bool:
        """Errors: `LimitReached`. True: so much waits that it should be put together."""
        if isinstance(self.value.data, str):
            extra = Value(written(extra), extra.labels)
        self.size += len(extra.data) if isinstance(extra.data, list | dict | str) else 1
        if isinstance(self.value.data, str):
            if self.size > vt.MAX_TEXT:
                raise LimitReached("the text is too long")
        elif self.size > vt.MAX_NODES:
            raise LimitReached("the array has too many elements")
        self.pieces.append(extra)
        return len(self.pieces) > FEW and self.size > 2 * len(self.value.data)

    def settled(self) -> Value:
        """All of it as one value. Labels are joined once, not per piece."""
        old, pieces = self.value, self.pieces
        labels = joined([old.labels, *(piece.labels for piece in pieces)])
        if isinstance(old.data, str):
            return Value("".join([old.data, *(piece.data for piece in pieces)]), labels)
        if isinstance(old.data, dict):
            merged = {key: old.item(item) for key, item in old.data.items()}
            for piece in pieces:
                merged.update((key, piece.item(item)) for key, item in piece.data.items())
            return record(merged, old.own)
        items = list(old.data)
        for piece in pieces:
            if isinstance(piece.data, list):
                items += (array(list(piece.items())) if piece.own else piece).data
            else:
                items.append(piece.data if not piece.labels and piece.meta is None else piece)
        return Value(items, old.own, labels=labels)

"""What a script computes with: data, and beside it the labels that say where the data came from.

A `Value` is immutable. Its `data` is what JSON knows (None, bool, int, float, str, list, dict) or an object that a script can only
hand around (a function, a workspace). Items of a list or a dict are either raw data or Values of their own: parsed JSON stays raw,
however large, and `[@secret, 1]` keeps the labels of its first item apart. Hence two sets of labels:

* `own` holds for the whole and for everything taken out of it (`var secret @xs`, the output of a command);
* `labels` is `own` joined with those of the items: what flows when the whole value is used.

Both are shared objects. Making, joining and passing values copies no data and no labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from interpreter.labels import NONE, Labels, joined


class Value:
    """Data with its labels. `meta` is what `.mx` knows beyond labels: the raw text, the file, the loop's key and index."""

    __slots__ = ("data", "labels", "meta", "own")

    data: Any
    labels: Labels
    own: Labels
    meta: Mapping[str, Any] | None

    def __init__(
        self, data: Any, own: Labels = NONE, *, labels: Labels | None = None, meta: Mapping[str, Any] | None = None
    ) -> None:
        self.data = data
        self.own = own
        self.labels = own if labels is None else labels
        self.meta = meta

    def __repr__(self) -> str:
        return f"Value({self.data!r}, {self.labels.taint})" if self.labels else f"Value({self.data!r})"

    def with_labels(self, extra: Labels) -> Value:
        """The same data, carrying more."""
        if extra is NONE or (extra is self.own and extra is self.labels):
            return self
        own, labels = self.own | extra, self.labels | extra
        if own is self.own and labels is self.labels:
            return self
        return Value(self.data, own, labels=labels, meta=self.meta)

    def relabelled(self, change: Callable[[Labels], Labels]) -> Value:
        """The same data with both sets of labels changed: what a privileged guard does."""
        data = self.data
        if isinstance(data, list):
            data = [item.relabelled(change) if isinstance(item, Value) else item for item in data]
        elif isinstance(data, dict):
            data = {key: item.relabelled(change) if isinstance(item, Value) else item for key, item in data.items()}
        return Value(data, change(self.own), labels=change(self.labels), meta=self.meta)

    def with_meta(self, **entries: Any) -> Value:
        return Value(self.data, self.own, labels=self.labels, meta={**(self.meta or {}), **entries})

    def without_meta(self) -> Value:
        return Value(self.data, self.own, labels=self.labels) if self.meta else self

    def item(self, inner: Any) -> Value:
        """One of the items of this value, as a value: it carries what the whole carries."""
        return inner.with_labels(self.own) if isinstance(inner, Value) else Value(inner, self.own)

    def items(self) -> Iterator[Value]:
        return (self.item(inner) for inner in self.data)

    @property
    def text(self) -> str | None:
        """The raw text from which structured data was read."""
        return self.meta.get("text") if self.meta else None


NULL = Value(None)
TRUE = Value(True)
FALSE = Value(False)


class Undefined:
    """What a missing variable or field gives where the language is tolerant: it becomes null in data and nothing in `show`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "undefined"

    def __bool__(self) -> bool:
        return False


UNDEFINED = Undefined()
_EMPTY_IS_FALSE = (int, float, list, dict, Undefined)


def nothing(labels: Labels = NONE) -> Value:
    """What a function gives whose body gives nothing: null in data, no text at all in a template."""
    return Value(None, labels, meta={"text": ""})


def boolean(truth: bool, labels: Labels = NONE) -> Value:
    if labels is NONE:
        return TRUE if truth else FALSE
    return Value(truth, labels)


def inner(value: Value) -> Any:
    """A value as an item of a collection: raw when it carries nothing of its own."""
    return value.data if value.labels is NONE and value.meta is None else value


def array(values: Iterable[Value], own: Labels = NONE) -> Value:
    """A list whose items keep their own labels, while the whole carries all of them."""
    members = list(values)
    if len(members) == 1 and own is NONE:
        return Value([inner(members[0])], labels=members[0].labels)
    labels = joined([own, *(v.labels for v in members if v.labels is not NONE)])
    return Value([inner(v) for v in members], own, labels=labels)


def record(entries: Mapping[str, Value], own: Labels = NONE) -> Value:
    labels = joined([own, *(v.labels for v in entries.values() if v.labels is not NONE)])
    return Value({key: inner(v) for key, v in entries.items()}, own, labels=labels)


def is_plain_text(value: Value) -> bool:
    return isinstance(value.data, str)


def number(x: int | float) -> int | float:
    """A number as scripts have it: whole numbers are ints as far as a double holds them exactly."""
    if isinstance(x, float):
        return int(x) if x.is_integer() and abs(x) < 2**53 else x
    if isinstance(x, bool) or abs(x) < 2**53:
        return x
    return float(x) if x.bit_length() < 1024 else math.copysign(math.inf, x)


def truthy(value: Value | Any) -> bool:
    """Falsy: null, false, 0, NaN, [], {}, "", "0", and "false" and "NaN" in any case."""
    data = value.data if isinstance(value, Value) else value
    if data is True or data is False or data is None:
        return data is True
    if isinstance(data, str):
        return data != "" and data != "0" and (len(data) > 5 or data.lower() not in ("false", "nan"))
    if isinstance(data, float) and math.isnan(data):
        return False
    if isinstance(data, _EMPTY_IS_FALSE):
        return bool(data)
    return True


def type_name(data: Any) -> str:
    """The name under which `@typeof` and error messages speak of it."""
    if isinstance(data, Value):
        data = data.data
    if data is None or data is UNDEFINED:
        return "null" if data is None else "undefined"
    if isinstance(data, bool):
        return "boolean"
    if isinstance(data, int | float):
        return "number"
    for kind, name in ((str, "string"), (list, "array"), (dict, "object")):
        if isinstance(data, kind):
            return name
    return str(getattr(data, "kind", "object"))


def strip(data: Any) -> Any:
    """The data under a value or item, one level."""
    return data.data if isinstance(data, Value) else data


def sequence_labels(values: Sequence[Value]) -> Labels:
    """Labels of several values used together."""
    if not values:
        return NONE
    if len(values) == 1:
        return values[0].labels
    return joined(v.labels for v in values)

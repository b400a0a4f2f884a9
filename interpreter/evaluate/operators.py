"""What the operators compute, on values alone: arithmetic, order, equality, tolerant comparison."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from interpreter import values_text as vt
from interpreter.errors import EvaluationError
from interpreter.values import Undefined, Value, boolean, number


class Pattern:
    """A regular expression as a value: only methods of strings look inside."""

    kind = "regex"
    __slots__ = ("flags", "source")

    def __init__(self, source: str, flags: str) -> None:
        self.source, self.flags = source, flags

    def describe(self) -> str:
        return f"/{self.source}/{self.flags}"


def apply_operator(operator: str, left: Value, right: Value) -> Value:
    labels = left.labels | right.labels
    if operator in ("==", "!="):
        return boolean(equal(left, right) == (operator == "=="), labels)
    if operator in ("~=", "!~="):
        return boolean(tolerant(left, right) == (operator == "~="), labels)
    if operator in ORDERINGS:
        return boolean(compare(operator, left.data, right.data), labels)
    result = arithmetic(operator, left.data, right.data)
    if result != result and operator == "+" and isinstance(left.data, str) and isinstance(right.data, str):
        raise EvaluationError(
            "String concatenation with + is not supported. Use template strings instead.",
            hint="a template joins texts: `@first @second`",
        )
    return Value(result, labels)


def to_number(data: Any) -> int | float:
    """The number that something stands for; NaN when it stands for none."""
    if type(data) is int or type(data) is float:
        return data
    if isinstance(data, Value):
        data = data.data
    if isinstance(data, bool):
        return int(data)
    if isinstance(data, int | float):
        return data
    if data is None:
        return 0
    if isinstance(data, str):
        source = data.strip()
        if not source:
            return 0
        try:
            return number(int(source)) if source.lstrip("+-").isdigit() else number(float(source.replace("_", "x")))
        except ValueError:
            if source[:2].lower() in ("0x", "0b", "0o"):
                try:
                    return int(source, 0)
                except ValueError:
                    return math.nan
            return math.nan
    return math.nan


def arithmetic(operator: str, left: Any, right: Any) -> int | float:
    a, b = to_number(left), to_number(right)
    try:
        if operator == "+":
            return number(a + b)
        if operator == "-":
            return number(a - b)
        if operator == "*":
            return number(a * b)
        if b == 0:
            return math.nan if operator == "%" or a == 0 or a != a else math.copysign(math.inf, a)
        if operator == "/":
            return number(a // b) if isinstance(a, int) and isinstance(b, int) and a % b == 0 else number(a / b)
        return number(math.fmod(a, b))
    except (OverflowError, ValueError):
        return math.nan


ORDERINGS: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
}


def compare(operator: str, left: Any, right: Any) -> bool:
    if isinstance(left, str) and isinstance(right, str):
        a, b = to_number(left), to_number(right)
        if a != a or b != b or not left.strip() or not right.strip():
            return ORDERINGS[operator](left, right)
        return ORDERINGS[operator](a, b)
    return ORDERINGS[operator](to_number(left), to_number(right))


def equal(left: Value, right: Value) -> bool:
    """`==`: equal data, in arrays item by item; a number or boolean equals its text, null equals a missing value."""
    a, b = left.data, right.data
    if isinstance(a, Undefined):
        a = None
    if isinstance(b, Undefined):
        b = None
    if a is None or b is None:
        return a is b
    if isinstance(a, bool) or isinstance(b, bool):
        if isinstance(a, bool) and isinstance(b, bool):
            return a is b
        if isinstance(a, str) or isinstance(b, str):
            return vt.scalar_text(a) == vt.scalar_text(b)
        return False
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b
    if isinstance(a, str) and isinstance(b, str):
        return a == b
    if (isinstance(a, int | float) and isinstance(b, str)) or (isinstance(a, str) and isinstance(b, int | float)):
        return to_number(a) == to_number(b)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(equal, left.items(), right.items()))
    if isinstance(a, dict) and isinstance(b, dict):
        return bool(vt.to_plain(left) == vt.to_plain(right))
    if isinstance(a, list | dict) and isinstance(b, str):
        return vt.text(left) == b
    if isinstance(b, list | dict) and isinstance(a, str):
        return vt.text(right) == a
    return a is b


def tolerant(left: Value, right: Value) -> bool:
    """`~=`: the left side comes from a model; order, wrapping and representation do not matter, a subset will do."""
    return _tolerant(vt.to_plain(left), vt.to_plain(right))


def _nothing(x: Any) -> bool:
    return x is None or x == [] or (isinstance(x, str) and x.strip().lower() == "null")


def _members(x: Any, other: Any) -> list[Any] | None:
    """What is compared without its order: a list, or the parts of a text between commas, unless the other side is a list
    that has the text as it is. None for all else.
    """
    if not isinstance(x, str):
        return x if isinstance(x, list) else None
    text = x.strip()
    if "," not in text or (isinstance(other, list) and x in other):
        return [text]
    return [part.strip() for part in text.split(",") if part.strip()]


def _tolerant(a: Any, b: Any) -> bool:
    if _nothing(a) or _nothing(b):
        return _nothing(a) and _nothing(b)
    if isinstance(a, dict) and isinstance(b, dict):
        return all(key in b and _tolerant(value, b[key]) for key, value in a.items())
    mine, theirs = _members(a, b), _members(b, a)
    if mine is None and theirs is None:
        return _same(a, b)
    wanted = [b] if theirs is None else list(theirs)
    given = [a] if mine is None else mine
    if (mine is None or theirs is None) and len(given) != len(wanted):
        return False  # a number is no part of a list of several
    if not given:
        return not wanted
    for item in given:
        found = next((at for at, one in enumerate(wanted) if _same(item, one)), None)
        if found is None:
            return False
        del wanted[found]  # each is there for one: what was allowed once does not come twice
    return True


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict | list) and isinstance(b, dict | list):
        return _tolerant(a, b)
    if isinstance(a, str) and isinstance(b, str):
        return a.strip() == b.strip()
    if type(a) is type(b):
        return bool(a == b)
    x, y = vt.scalar_text(a), vt.scalar_text(b)
    if x is None or y is None:
        return False
    if x.strip() == y.strip():
        return True
    p, q = to_number(x), to_number(y)
    return p == q

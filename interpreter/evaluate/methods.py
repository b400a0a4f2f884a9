"""Methods of text, arrays and objects: `@text.trim()`, `@items.join(", ")`, `@x.isArray()`.

A method gives new data with the labels of its target and of its arguments; elements taken out of an array keep what they carried.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from interpreter import values_text as vt
from interpreter.errors import EvaluationError, LimitReached
from interpreter.labels import NONE
from interpreter.values import UNDEFINED, Undefined, Value, array, boolean, record, sequence_labels, type_name

from .metadata import Quantified
from .operators import Pattern, equal, to_number

Arguments = list[Value]
Method = Callable[[Value, Arguments], Value]
# A pattern and a text of somebody else may need exponential time together.
REGEX_SECONDS = 2.0


def call_method(target: Value, name: str, arguments: Arguments) -> Value:
    """The value of `target.name(arguments)`. Errors: `EvaluationError` naming the methods that there are."""
    method = find_method(target, name)
    if method is None:
        told = f"Cannot call .{name}() on {type_name(target)}" if name in KNOWN else f"Method not found: {name}"
        raise EvaluationError(told, code="unknown-method", hint=suggestion(target, name))
    result = method(target, arguments)
    extra = sequence_labels(arguments) if arguments else NONE
    return result.with_labels(extra) if extra is not NONE else result


def is_method(target: Value, name: str) -> bool:
    """Is there a method of this name, for this value or for others?"""
    return name in KNOWN or find_method(target, name) is not None


def of_spelling(target: Value, name: str) -> Method | None:
    """A method of the text that flows through a pipeline as data: a stage may still ask `@input.startsWith("{")`."""
    text = (target.meta.get("spelt") or target.text) if target.meta is not None else None
    method = TEXT.get(name)
    if text is None or method is None:
        return None
    return lambda held, arguments: method(Value(text, held.labels), arguments)


def find_method(target: Value, name: str) -> Method | None:
    data = target.data
    found = ANY.get(name)
    if found is not None:
        return found
    if isinstance(data, str):
        return TEXT.get(name)
    if isinstance(data, list):
        found = ARRAY.get(name) or (TEXT.get(name) if target.meta and "file" in target.meta else None)
        return found or of_spelling(target, name)
    if isinstance(data, dict):
        return OBJECT.get(name) or of_spelling(target, name)  # a JSON file is data; so are the methods of its text
    if isinstance(data, Quantified):
        return QUANTIFIED.get(name)
    if isinstance(data, int | float) and not isinstance(data, bool):
        return NUMBER.get(name) or TEXT.get(name)
    return TEXT.get(name) if isinstance(data, bool) else None


def suggestion(target: Value, name: str) -> str:
    table = TEXT if isinstance(target.data, str) else ARRAY if isinstance(target.data, list) else OBJECT
    close = difflib.get_close_matches(name, [*table, *ANY], n=1)
    if close:
        return f"did you mean .{close[0]}()?"
    return f"there are: {', '.join(sorted([*table, *ANY]))}"


def _argument(arguments: Arguments, index: int, default: Any = None) -> Any:
    return arguments[index].data if index < len(arguments) else default


def _text_argument(arguments: Arguments, index: int, default: str = "") -> str:
    return vt.text(arguments[index]) if index < len(arguments) else default


def _integer(arguments: Arguments, index: int, default: int | None) -> int | None:
    data = _argument(arguments, index)
    if data is None:
        return default
    found = to_number(data)
    if found != found:
        raise EvaluationError(f"a whole number was expected, got {type_name(data)}")
    return int(found)


# ── Text ────────────────────────────────────────────────────────────────────────────────────────────


def _compiled(pattern: Pattern) -> Any:
    import regex  # type: ignore[import-untyped]  # the one engine with a time limit

    flags = regex.V0
    for letter, flag in (("i", regex.I), ("m", regex.M), ("s", regex.S)):
        if letter in pattern.flags:
            flags |= flag
    try:
        return regex.compile(regex.sub(r"\(\?<(?=[A-Za-z_])", "(?P<", pattern.source), flags)
    except regex.error as error:
        raise EvaluationError(f"the regular expression {pattern.describe()} is not valid: {error}") from None


def _within_time(search: Callable[[], Any]) -> Any:
    try:
        return search()
    except TimeoutError:
        raise LimitReached(
            f"the regular expression took longer than {REGEX_SECONDS:g} s",
            hint="avoid nested repetition such as `(a+)+`",
        ) from None


def _pattern(arguments: Arguments) -> Pattern | None:
    data = _argument(arguments, 0)
    return data if isinstance(data, Pattern) else None


def _replacement(template: str) -> Callable[[Any], str]:
    """`$1`, `$&` and `$<name>` as in JavaScript."""

    def expand(match: Any) -> str:
        out, at = [], 0
        while (dollar := template.find("$", at)) >= 0:
            out.append(template[at:dollar])
            rest = template[dollar + 1 :]
            if rest[:1] == "&":
                out.append(match.group(0))
                at = dollar + 2
            elif rest[:1] == "$":
                out.append("$")
                at = dollar + 2
            elif rest[:1].isdigit() and 0 < int(rest[0]) <= len(match.groups()):
                out.append(match.group(int(rest[0])) or "")
                at = dollar + 2
            elif rest[:1] == "<" and ">" in rest and rest[1 : rest.index(">")] in match.groupdict():
                out.append(match.group(rest[1 : rest.index(">")]) or "")
                at = dollar + 2 + rest.index(">")
            else:
                out.append("$")
                at = dollar + 1
        out.append(template[at:])
        return "".join(out)

    return expand


def _replace(target: Value, arguments: Arguments) -> Value:
    source, new, pattern = vt.text(target), _text_argument(arguments, 1), _pattern(arguments)
    if pattern is None:
        return Value(source.replace(_text_argument(arguments, 0), new, 1), target.labels)
    compiled = _compiled(pattern)
    count = 0 if "g" in pattern.flags else 1
    return Value(
        _within_time(lambda: compiled.sub(_replacement(new), source, count=count, timeout=REGEX_SECONDS)), target.labels
    )


def _replace_all(target: Value, arguments: Arguments) -> Value:
    source = vt.text(target)
    first = _argument(arguments, 0)
    if isinstance(first, dict):
        for old, new in first.items():
            source = _bounded(source.replace(old, vt.text(new)) if old else source)
        return Value(source, target.labels)
    pattern = _pattern(arguments)
    if pattern is not None:
        compiled, new = _compiled(pattern), _text_argument(arguments, 1)
        return Value(
            _within_time(lambda: compiled.sub(_replacement(new), source, timeout=REGEX_SECONDS)), target.labels
        )
    old = _text_argument(arguments, 0)
    return Value(_bounded(source.replace(old, _text_argument(arguments, 1))), target.labels)


def _bounded(text: str) -> str:
    if len(text) > vt.MAX_TEXT:
        raise LimitReached(f"the text would be longer than {vt.MAX_TEXT // 2**20} MiB")
    return text


def _match(target: Value, arguments: Arguments) -> Value:
    source, pattern = vt.text(target), _pattern(arguments)
    if pattern is None:
        pattern = Pattern(_text_argument(arguments, 0), "")
    compiled = _compiled(pattern)
    if "g" in pattern.flags:
        every = _within_time(lambda: [m.group(0) for m in compiled.finditer(source, timeout=REGEX_SECONDS)])
        return Value(every or None, target.labels)
    found = _within_time(lambda: compiled.search(source, timeout=REGEX_SECONDS))
    return Value([found.group(0), *found.groups()] if found else None, target.labels)


def _split(target: Value, arguments: Arguments) -> Value:
    source, pattern = vt.text(target), _pattern(arguments)
    if pattern is not None:
        compiled = _compiled(pattern)
        parts = _within_time(lambda: compiled.split(source, timeout=REGEX_SECONDS))
    else:
        separator = _text_argument(arguments, 0)
        parts = source.split(separator) if separator else list(source)
    limit = _integer(arguments, 1, None)
    return Value(parts if limit is None else parts[:limit], target.labels)


def _repeat(target: Value, arguments: Arguments) -> Value:
    source, count = vt.text(target), _integer(arguments, 0, 1) or 0
    if count < 0:
        raise EvaluationError(".repeat() wants a number that is not negative")
    if len(source) * count > vt.MAX_TEXT:
        raise LimitReached(f"the text would be longer than {vt.MAX_TEXT // 2**20} MiB")
    return Value(source * count, target.labels)


def _pad(target: Value, arguments: Arguments, *, start: bool) -> Value:
    source, width = vt.text(target), _integer(arguments, 0, 0) or 0
    if width > vt.MAX_TEXT:
        raise LimitReached(f"the text would be longer than {vt.MAX_TEXT // 2**20} MiB")
    fill = _text_argument(arguments, 1, " ") or " "
    missing = max(0, width - len(source))
    padding = (fill * (missing // len(fill) + 1))[:missing]
    return Value(padding + source if start else source + padding, target.labels)


def _substring(target: Value, arguments: Arguments) -> Value:
    source = vt.text(target)
    start = max(0, _integer(arguments, 0, 0) or 0)
    stop = _integer(arguments, 1, len(source))
    stop = max(0, len(source) if stop is None else stop)
    return Value(source[min(start, stop) : max(start, stop)], target.labels)


def _substr(target: Value, arguments: Arguments) -> Value:
    source = vt.text(target)
    start = _integer(arguments, 0, 0) or 0
    start = max(0, len(source) + start) if start < 0 else start
    count = _integer(arguments, 1, None)
    return Value(source[start:] if count is None else source[start : start + max(0, count)], target.labels)


def _text_method(operation: Callable[[str], Any]) -> Method:
    return lambda target, arguments: Value(operation(vt.text(target)), target.labels)


def _with_text(operation: Callable[[str, str], Any]) -> Method:
    return lambda target, arguments: Value(operation(vt.text(target), _text_argument(arguments, 0)), target.labels)


def _text_slice(target: Value, arguments: Arguments) -> Value:
    return Value(vt.text(target)[_integer(arguments, 0, 0) : _integer(arguments, 1, None)], target.labels)


TEXT: dict[str, Method] = {
    "length": _text_method(len),
    "includes": _with_text(lambda s, x: x in s),
    "indexOf": _with_text(lambda s, x: s.find(x)),
    "lastIndexOf": _with_text(lambda s, x: s.rfind(x)),
    "startsWith": _with_text(lambda s, x: s.startswith(x)),
    "endsWith": _with_text(lambda s, x: s.endswith(x)),
    "concat": lambda t, a: Value(_bounded(vt.text(t) + "".join(map(vt.text, a))), t.labels),
    "toLowerCase": _text_method(str.lower),
    "toUpperCase": _text_method(str.upper),
    "trim": _text_method(str.strip),
    "trimStart": _text_method(str.lstrip),
    "trimEnd": _text_method(str.rstrip),
    "toString": _text_method(str),
    "charAt": lambda t, a: Value(vt.text(t)[_integer(a, 0, 0) or 0 :][:1], t.labels),
    "at": lambda t, a: Value((vt.text(t)[_integer(a, 0, 0) or 0 :] or [None])[0], t.labels),
    "split": _split,
    "slice": _text_slice,
    "substring": _substring,
    "substr": _substr,
    "replace": _replace,
    "replaceAll": _replace_all,
    "match": _match,
    "repeat": _repeat,
    "padStart": lambda t, a: _pad(t, a, start=True),
    "padEnd": lambda t, a: _pad(t, a, start=False),
}

NUMBER: dict[str, Method] = {
    "toFixed": lambda t, a: Value(f"{t.data:.{max(0, min(_integer(a, 0, 0) or 0, 100))}f}", t.labels),
    "toString": lambda t, a: Value(vt.number_text(t.data), t.labels),
}

# ── Arrays ──────────────────────────────────────────────────────────────────────────────────────────


def _position(target: Value, arguments: Arguments) -> int:
    """Where an array has something: numbers are no texts here, unlike with `==`; objects and arrays are told by what is in them."""
    wanted = arguments[0] if arguments else Value(UNDEFINED)
    for index, item in enumerate(target.data):
        data = item.data if isinstance(item, Value) else item
        if data is wanted.data or (type_name(data) == type_name(wanted.data) and equal(target.item(item), wanted)):
            return index
    return -1


def _slice(target: Value, arguments: Arguments) -> Value:
    return array(
        (target.item(i) for i in target.data[_integer(arguments, 0, 0) : _integer(arguments, 1, None)]), target.own
    )


def _concat(target: Value, arguments: Arguments) -> Value:
    members = list(target.items())
    for argument in arguments:
        members.extend(argument.items() if isinstance(argument.data, list) else [argument])
    return array(members, target.own)


def _flat(items: list[Value], depth: int) -> list[Value]:
    flat: list[Value] = []
    for item in items:
        if isinstance(item.data, list) and depth > 0:
            flat.extend(_flat(list(item.items()), min(depth - 1, 100)))
        else:
            flat.append(item)
    return flat


def sort(target: Value) -> Value:
    """An array in the order of the texts of its items, numbers too: 10 stands before 9. Objects have one text here."""
    return array(
        sorted(target.items(), key=lambda v: "[object Object]" if isinstance(v.data, dict) else vt.text(v)), target.own
    )


def _at(target: Value, arguments: Arguments) -> Value:
    index = _integer(arguments, 0, 0) or 0
    return target.item(target.data[index]) if -len(target.data) <= index < len(target.data) else Value(None, target.own)


def _join(target: Value, arguments: Arguments) -> Value:
    separator = _text_argument(arguments, 0, ",")
    parts, size = [], 0
    for item in target.data:
        data = item.data if isinstance(item, Value) else item
        part = "" if data is None or isinstance(data, Undefined) else vt.text(item)
        size += len(part) + len(separator)
        if size > vt.MAX_TEXT:
            raise LimitReached(f"the text would be longer than {vt.MAX_TEXT // 2**20} MiB")
        parts.append(part)
    return Value(separator.join(parts), target.labels)


ARRAY: dict[str, Method] = {
    "length": lambda t, a: Value(len(t.data), t.own),
    "includes": lambda t, a: boolean(_position(t, a) >= 0, t.labels),
    "indexOf": lambda t, a: Value(_position(t, a), t.labels),
    "join": _join,
    "slice": _slice,
    "concat": _concat,
    "reverse": lambda t, a: array(list(t.items())[::-1], t.own),
    "sort": lambda t, a: sort(t),
    "flat": lambda t, a: array(_flat(list(t.items()), _integer(a, 0, 1) or 0), t.own),
    "at": _at,
    "toString": lambda t, a: Value(vt.text(t), t.labels),
}

# ── Objects, everything, and several inputs at once ─────────────────────────────────────────────────


def _keys(target: Value, arguments: Arguments) -> Value:
    return Value(list(target.data), target.own)


OBJECT: dict[str, Method] = {
    "keys": _keys,
    "values": lambda t, a: array((t.item(i) for i in t.data.values()), t.own),
    "entries": lambda t, a: array((array((Value(k), t.item(i))) for k, i in t.data.items()), t.own),
    "includes": lambda t, a: boolean(_text_argument(a, 0) in t.data, t.own),
    "has": lambda t, a: boolean(_text_argument(a, 0) in t.data, t.own),
    "length": lambda t, a: Value(len(t.data), t.own),
    "toString": lambda t, a: Value(vt.text(t), t.labels),
}


def _is(kinds: type | tuple[type, ...], *, not_bool: bool = False) -> Method:
    return lambda t, a: boolean(isinstance(t.data, kinds) and not (not_bool and isinstance(t.data, bool)))


ANY: dict[str, Method] = {
    "isArray": _is(list),
    "isObject": _is(dict),
    "isString": _is(str),
    "isNumber": _is((int, float), not_bool=True),
    "isBoolean": _is(bool),
    "isNull": lambda t, a: boolean(t.data is None),
    "isDefined": lambda t, a: boolean(t.data is not None and not isinstance(t.data, Undefined)),
}


TYPE_CHECKS = frozenset(ANY)
"""What may be asked about anything, also about what is not there: that is of no type, and not null either."""


def _quantified(name: str) -> Method:
    def judge(target: Value, arguments: Arguments) -> Value:
        return boolean(target.data.judge(lambda value: bool(call_method(value, name, arguments).data)))

    return judge


KNOWN = frozenset([*TEXT, *NUMBER, *ARRAY, *OBJECT, *ANY])
"""Methods of any kind of value."""
QUANTIFIED: dict[str, Method] = {name: _quantified(name) for name in ("includes", "startsWith", "endsWith", "match")}


def pick(source: Value, keys: list[str]) -> Value:
    """An object with only these keys."""
    return record({key: source.item(source.data[key]) for key in keys if key in source.data}, source.own)

"""Functions that only guards have: `@prefixWith`, `@tagValue`, and questions about what is judged, `@opHas("net:w")`.

A function of the same name that the script defines comes before them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from interpreter import nodes as n
from interpreter import values_text as vt
from interpreter.values import NULL, Value, sequence_labels

from .core import Env
from .functions import Arguments, BuiltIn


def _first(value: Value) -> Value:
    """The value itself, or the first of all inputs of an operation."""
    return next(iter(value.items()), Value("")) if isinstance(value.data, list) else value


def _given(arguments: Arguments, at: int) -> Value:
    return arguments[at] if at < len(arguments) else NULL


async def _prefix_with(env: Env, arguments: Arguments) -> Value:
    label, value = _given(arguments, 0), _first(_given(arguments, 1))
    return Value(f"{vt.text(label)}:{vt.text(value)}", sequence_labels([label, value]))


async def _tag_value(env: Env, arguments: Arguments) -> Value:
    timing, output, given = _given(arguments, 0), _first(_given(arguments, 1)), _first(_given(arguments, 2))
    value = given if output.data is None else output
    when = "before" if timing.data == "before" else "after"
    return Value(f"{when}:{vt.text(value)}", value.labels)


def _said(arguments: Arguments) -> list[str]:
    said = _given(arguments, 0)
    return [vt.text(each).lower() for each in (said.items() if isinstance(said.data, list) else [said])]


def _labels(env: Env) -> set[str]:
    return {str(label).lower() for label in env.mx["op"]["labels"]}


async def _op_is(env: Env, arguments: Arguments) -> Value:
    op = env.mx["op"]
    kinds = (
        (op["type"],) if op["subtype"] == op["name"] else (op["type"], op["subtype"])
    )  # the name of a function is no kind
    known = {*(str(kind).lower() for kind in kinds), *_labels(env)}
    known |= {label.split(":")[1] for label in known if label.startswith("op:")}
    return Value(any(each.removeprefix("op:") in known or each in known for each in _said(arguments)[:1]))


async def _op_has(env: Env, arguments: Arguments) -> Value:
    return Value(not _labels(env).isdisjoint(_said(arguments)))


async def _op_has_all(env: Env, arguments: Arguments) -> Value:
    said = _said(arguments)
    return Value(bool(said) and _labels(env).issuperset(said))


async def _input_has(env: Env, arguments: Arguments) -> Value:
    return Value(any(str(label).lower() in _said(arguments)[:1] for label in (*env.mx["labels"], *env.mx["taint"])))


def _helper(name: str, parameters: tuple[str, ...], call: Callable[[Env, Arguments], Awaitable[Value]]) -> Value:
    return Value(BuiltIn(name=name, call=call, parameters=parameters))


HELPERS: dict[str, Value] = {
    "prefixWith": _helper("prefixWith", ("label", "value"), _prefix_with),
    "tagValue": _helper("tagValue", ("timing", "output", "input"), _tag_value),
    "opIs": _helper("opIs", ("type",), _op_is),
    "opHas": _helper("opHas", ("label",), _op_has),
    "opHasAny": _helper("opHasAny", ("labels",), _op_has),
    "opHasAll": _helper("opHasAll", ("labels",), _op_has_all),
    "inputHas": _helper("inputHas", ("label",), _input_has),
}


def helpers_of(body: n.Node) -> tuple[str, ...]:
    """The helpers that the body of a guard names."""

    def named(node: n.Node) -> Iterable[str]:
        if isinstance(node, n.Variable):
            yield node.name
        for child in node.children():
            yield from named(child)

    return tuple(HELPERS.keys() & set(named(body)))


def offered(helpers: tuple[str, ...], env: Env) -> dict[str, Any]:
    """Those of them that the script does not define itself."""
    return {name: HELPERS[name] for name in helpers if env.scope.find(name) is None}

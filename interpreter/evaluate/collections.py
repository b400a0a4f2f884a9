"""`var tools @t = { … }`: functions and tools of servers, with parameters bound, hidden or made optional (semantics §10)."""

from __future__ import annotations

from typing import Any

from interpreter import nodes as n
from interpreter import values_text as vt
from interpreter.errors import EvaluationError
from interpreter.hints import did_you_mean
from interpreter.values import Value, record, type_name

from .core import Env, evaluate
from .functions import CALLABLES, Function

KEYS = ("mlld", "mcp", "bind", "expose", "optional", "labels", "description")


async def tools_variable(node: n.Var, env: Env) -> Value:
    if node.mcp:
        from .mcp_imports import dynamic_tools

        return await dynamic_tools(node, env)
    value = await evaluate(node.value, env)
    if not isinstance(value.data, dict):
        raise EvaluationError(
            f"Tool collections must be object literals or dynamic MCP sources, got {type_name(value)}", span=node.span
        )
    entries: dict[str, Value] = {}
    for name, item in value.data.items():
        entries[name] = check_entry(name, value.item(item), env, node)
    return record(entries, value.own).with_meta(tools=True)


def check_entry(name: str, entry: Value, env: Env, node: n.Var) -> Value:
    """One entry: `@fn`, or an object with `mlld` or `mcp`. Errors name the entry and what is wrong with it."""
    if isinstance(entry.data, CALLABLES):
        return record({"mlld": entry})
    if not isinstance(entry.data, dict):
        raise EvaluationError(f"Tool '{name}' must be an object or a function, got {type_name(entry)}", span=node.span)
    if unknown := next((key for key in entry.data if key not in KEYS), None):
        # A misspelled `expose` would show every parameter, a misspelled `bind` would leave one to the caller.
        raise EvaluationError(
            f"Tool '{name}' has no key '{unknown}'", span=node.span, code="config",
            hint=did_you_mean(unknown, KEYS) or f"the keys are {', '.join(KEYS)}",
        )  # fmt: skip
    if not isinstance(_plain(entry, "description") or "", str):
        raise EvaluationError(f"Tool '{name}' description must be a string", span=node.span)
    if not isinstance(_plain(entry, "bind") or {}, dict):
        raise EvaluationError(
            f"Tool '{name}' bind must be an object", span=node.span, hint="bind: { parameter: value }"
        )
    for key in ("expose", "optional", "labels"):
        said = _plain(entry, key)
        if said is not None and not (isinstance(said, list) and all(isinstance(one, str) for one in said)):
            raise EvaluationError(f"Tool '{name}' {key} must be an array of strings", span=node.span)
    if "mcp" in entry.data:
        return entry
    if "mlld" not in entry.data:
        raise EvaluationError(
            f"Tool '{name}' is missing 'mlld' reference", span=node.span, hint=f"{name}: {{ mlld: @function }}"
        )
    function = entry.item(entry.data["mlld"])
    if isinstance(function.data, str):
        found = env.scope.find(function.data.lstrip("@"))
        function = found if found is not None else function
    if not isinstance(function.data, CALLABLES):
        raise EvaluationError(f"Tool '{name}' references non-executable '{vt.text(function)}'", span=node.span)
    parameters = function.data.names
    check_parameters(name, entry, parameters, function, node)
    return record({**{k: entry.item(v) for k, v in entry.data.items()}, "mlld": function}, entry.own)


def check_parameters(name: str, entry: Value, parameters: tuple[str, ...], function: Value, node: n.Var) -> None:
    bind = _plain(entry, "bind") or {}
    expose = _plain(entry, "expose")
    optional = _plain(entry, "optional") or []
    said = f"@{function.data.name}"
    if unknown := [key for key in bind if key not in parameters]:
        raise EvaluationError(
            f"Tool '{name}' bind keys must match parameters of '{said}': {', '.join(unknown)}", span=node.span
        )
    if expose is not None:
        if unknown := [key for key in expose if key not in parameters]:
            raise EvaluationError(
                f"Tool '{name}' expose values must match parameters of '{said}': {', '.join(unknown)}", span=node.span
            )
        if both := [key for key in expose if key in bind]:
            raise EvaluationError(
                f"Tool '{name}' expose values cannot include bound parameters: {', '.join(both)}", span=node.span
            )
        if extra := [key for key in optional if key not in expose]:
            raise EvaluationError(
                f"Tool '{name}' optional values must be a subset of expose: {', '.join(extra)}", span=node.span
            )
        needed = parameters
        if isinstance(function.data, Function):
            needed = tuple(each.name for each in function.data.parameters if each.default is None)
        if left := [key for key in needed if key not in expose and key not in bind]:
            raise EvaluationError(
                f"Tool '{name}' bind and expose must cover required parameters: {', '.join(left)}", span=node.span,
                hint="nobody could give what is left out: bind it, or give it a default",
            )  # fmt: skip
    elif optional:
        raise EvaluationError(f"Tool '{name}' optional values require expose to be set", span=node.span)


def _plain(entry: Value, key: str) -> Any:
    return vt.to_plain(entry.data[key]) if key in entry.data else None


def function_labels(tools: Value) -> dict[Any, tuple[str, ...]]:
    """Function → the labels that its entries in a tool collection give it."""
    found: dict[Any, tuple[str, ...]] = {}
    for item in tools.data.values() if isinstance(tools.data, dict) else ():
        entry = item if isinstance(item, Value) else Value(item)
        if isinstance(entry.data, dict) and "mlld" in entry.data and (labels := _plain(entry, "labels")):
            function = entry.item(entry.data["mlld"]).data
            if isinstance(function, CALLABLES):
                found[function] = tuple(dict.fromkeys((*found.get(function, ()), *labels)))
    return found


def visible(entry: Value) -> tuple[list[str], list[str], dict[str, Any]]:
    """The parameters that a caller sees, those of them that it must give, and what is bound."""
    function = entry.item(entry.data["mlld"]).data
    bind = {k: entry.item(entry.data["bind"]).item(v) for k, v in (_items(entry, "bind")).items()}
    expose = _plain(entry, "expose")
    shown = [p for p in (expose if expose is not None else function.names) if p not in bind]
    optional = _plain(entry, "optional") or []
    defaults = (
        {p.name for p in function.parameters if p.default is not None} if isinstance(function, Function) else set()
    )
    return shown, [p for p in shown if p not in optional and p not in defaults], bind


def _items(entry: Value, key: str) -> dict[str, Any]:
    held = entry.data.get(key)
    data = held.data if isinstance(held, Value) else held
    return data if isinstance(data, dict) else {}

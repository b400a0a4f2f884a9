"""Calling tools of MCP servers: arguments by name or position, coercion to the schema, labels of the answer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from interpreter import events, operations
from interpreter import values_text as vt
from interpreter.errors import Denied, EvaluationError
from interpreter.labels import Labels, ToolUse, from_flat, joined
from interpreter.names import camel, same_name
from interpreter.operations import Request, perform
from interpreter.policy_subjects import Operation
from interpreter.ports import Denial, ToolConnection, ToolInfo
from interpreter.source import Span
from interpreter.values import Undefined, Value, record

from .core import Env
from .functions import ToolFunction

if TYPE_CHECKING:
    from .boxes import BoxState


def tool_function(tool: ToolInfo, connection: ToolConnection, spec: str) -> ToolFunction:
    """A tool as a function: required parameters first, in the order of the schema."""
    properties = tool.input_schema.get("properties")
    names = list(properties) if isinstance(properties, Mapping) else []
    demanded = tool.input_schema.get("required")
    required = [str(r) for r in demanded if r in names] if isinstance(demanded, list | tuple) else []

    async def connect() -> ToolConnection:
        return connection

    return ToolFunction(
        name=camel(tool.name), tool=tool.name, server=tool.server, spec=spec, connect=connect,
        parameters=(*required, *(name for name in names if name not in required)), required=tuple(required),
        schema=properties if isinstance(properties, Mapping) else {}, description=tool.description,
    )  # fmt: skip


def sandbox_tools(connection: ToolConnection, state: BoxState) -> dict[str, Value]:
    """The tools that a block may use, as names: under `@alias` where the server has one."""
    spec = state.spec
    aliases = {server.name: server.alias for server in spec.mcp.servers if server.alias}
    names: dict[str, Value] = {}
    grouped: dict[str, dict[str, Value]] = {}
    for tool in connection.tools:
        if spec.tools != "*" and not any(same_name(tool.name, wanted) for wanted in spec.tools):
            continue
        function = Value(tool_function(tool, connection, tool.server))
        if tool.server in aliases:
            grouped.setdefault(aliases[tool.server] or tool.server, {})[camel(tool.name)] = function
        else:
            names[camel(tool.name)] = function
    names.update((alias, record(members)) for alias, members in grouped.items())
    return names


def named(function: ToolFunction, arguments: list[Value], by_name: list[str | None] | None) -> dict[str, Value]:
    """The arguments under the names of the parameters."""
    parameters = function.parameters
    if len(arguments) == 1 and isinstance(arguments[0].data, dict) and arguments[0].data:
        given = arguments[0]
        if all(key in parameters for key in given.data):
            return {key: given.item(item) for key, item in given.data.items()}
    result: dict[str, Value] = {}
    rest: list[Value] = []
    for index, value in enumerate(arguments):
        name = by_name[index] if by_name is not None and index < len(by_name) else None
        match = next((p for p in parameters if name is not None and same_name(p, name)), None)
        if match is not None and match not in result and len(arguments) > 1:
            result[match] = value
        else:
            rest.append(value)
    free = [p for p in parameters if p not in result]
    if len(rest) > len(free):
        raise EvaluationError(
            f"tool '{function.tool}' takes {len(parameters)} arguments ({', '.join(parameters) or 'none'}), got {len(arguments)}",
            code="arity",
        )
    result.update(zip(free, rest, strict=False))
    return result


def schema_type(schema: Any) -> tuple[str, bool]:
    """The type that a parameter wants, and whether null will do."""
    if not isinstance(schema, Mapping):
        return "string", False
    kind = schema.get("type")
    if isinstance(kind, str):
        return kind, False
    if isinstance(kind, list):
        return next((k for k in kind if k != "null"), "string"), "null" in kind
    for key in ("anyOf", "oneOf"):
        options = schema.get(key)
        if isinstance(options, list):
            kinds = [o.get("type") for o in options if isinstance(o, Mapping)]
            return next((k for k in kinds if isinstance(k, str) and k != "null"), "string"), "null" in kinds
    return "any", False


_DROP = object()


def coerce(value: Value, schema: Any, required: bool) -> Any:
    """A value in the type of the schema; what cannot be meant is left out."""
    kind, nullable = schema_type(schema)
    data = None if isinstance(value.data, Undefined) else value.data
    if data is None:
        return _DROP
    if kind == "string":
        return data if isinstance(data, str) else vt.text(value)
    if isinstance(data, str):
        text = data.strip()
        if text.lower() == "null":
            return _DROP
        if kind == "array":
            return _array(text)
        if text == "" and (nullable or not required):
            return _DROP
        if kind == "integer" and (match := re.match(r"[+-]?\d+", text)):
            return int(match.group())
        if kind == "number":
            try:
                return float(text) if not text.lstrip("+-").isdigit() else int(text)
            except ValueError:
                return data
        if kind == "boolean" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if kind == "object":
            parsed = vt.parse_loosely(text)
            return parsed if isinstance(parsed, dict) else data
        return data
    if kind == "array" and not isinstance(data, list):
        return [vt.to_plain(value)]
    if kind == "integer" and isinstance(data, float):
        return int(data)
    return vt.to_plain(value)


def _array(text: str) -> Any:
    if not text:
        return []
    if text.startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            return [text]
    return [part.strip() for part in text.split(",")] if "," in text else [text]


async def call_tool_function(
    function: ToolFunction, arguments: list[Value], env: Env, span: Span, by_name: list[str | None] | None
) -> Value:
    given = named(function, arguments, by_name)
    missing = [name for name in function.required if name not in given]
    if missing:
        raise EvaluationError(
            f"tool '{function.tool}' requires {', '.join(missing)}", span=span, code="arity",
            hint=f"@{function.name}({', '.join(function.parameters)})",
        )  # fmt: skip
    if env.box is not None:
        refuse_by_scope(function, env, span)
    names = tuple(given)
    operation = Operation(
        kind="mcp", name=function.name, server=function.server, tool=function.tool, labels=function.labels,
        inputs=tuple(v.labels for v in given.values()), parameters=names,
    )  # fmt: skip

    async def run(inputs: tuple[Value, ...]) -> Value:
        plain: dict[str, Any] = {}
        for name, value in zip(names, inputs, strict=True):
            coerced = coerce(value, function.schema.get(name), name in function.required)
            if coerced is not _DROP:
                plain[name] = coerced
        began = env.ports.clock.monotonic()
        connection = await function.connect()
        result = await operations.call_tool(connection, function.tool, plain)
        use = ToolUse(name=function.tool, arguments=tuple(plain), audit=result.audit)
        own = Labels.of(*function.labels, automatic=("src:mcp",), sources=(f"mcp:{function.tool}",))
        labels = joined((*(v.labels for v in inputs), own, from_flat(result.labels))).used(use)
        env.run.tool_calls.append({"name": function.tool, "args": list(plain), "ok": not result.is_error})
        env.ports.output.event(events.ToolCalled(
            server=function.server, tool=function.tool, arguments=tuple(plain), is_error=result.is_error,
            seconds=env.ports.clock.monotonic() - began, labels=labels.taint,
        ))  # fmt: skip
        if result.denied is not None:
            masked = Denial(rule=result.denied.rule, reason=env.run.mask(result.denied.reason))
            raise operations.ToolDenied(function.tool, masked, span)
        if result.is_error:
            raise EvaluationError(
                env.run.mask(result.text) or f"MCP tool '{function.tool}' failed", span=span, code="tool-error"
            )
        meta = {"structured": Value(result.structured, labels)} if result.structured is not None else None
        return Value(result.text, labels, meta=meta)

    return await perform(Request(operation=operation, inputs=tuple(given.values()), span=span), env, run)


def refuse_by_scope(function: ToolFunction, env: Env, span: Span) -> None:
    """`tools` and `mcps` of the block bind tools that were imported outside it as well."""
    spec = env.box.spec
    if spec.servers_allowed != "*" and not any(
        name in (function.server, function.spec) for name in spec.servers_allowed
    ):
        raise Denied(
            f"MCP server '{function.spec}' denied by env.mcps",
            rule="env.mcps",
            span=span,
            hint="add it to `mcps` of the block",
        )
    denied = any(same_name(function.tool, name) for name in spec.tools_denied)
    if denied or (spec.tools != "*" and not any(same_name(function.tool, name) for name in spec.tools)):
        raise Denied(
            f"MCP tool '{function.name}' denied by env.tools",
            rule="env.tools",
            span=span,
            hint="add it to `tools` of the block",
        )

"""`import tools … from mcp "SPEC"` and `var tools @t = mcp @spec`: a server is opened once per run and closed with it."""

from __future__ import annotations

from interpreter import nodes as n
from interpreter import operations
from interpreter import values_text as vt
from interpreter.errors import ImportFault, MlldError
from interpreter.names import camel, same_name
from interpreter.ports import ToolConnection
from interpreter.values import Value, record

from .core import Env, absent, evaluate
from .mcp_calls import tool_function
from .templates import text_of_parts

LIMIT = 16


async def open_server(spec: str, env: Env, node: n.Node) -> ToolConnection:
    """The connection to a server of the host, shared by everything in the run that names the same spec."""
    if env.ports.tools is None:
        raise absent("an MCP server", node.span, env)
    key = f"mcp\0{spec}"
    known = env.run.modules.get(key)
    if known is not None:
        return known  # type: ignore[no-any-return]
    if sum(1 for name in env.run.modules if name.startswith("mcp\0")) >= LIMIT:
        raise ImportFault(f"more than {LIMIT} MCP servers in one script", span=node.span)
    try:
        connection = await operations.open_tools(env.ports, spec)
    except OSError as error:
        raise ImportFault(f"the MCP server '{spec}' cannot be started: {error}", span=node.span, code="mcp") from None
    env.run.modules[key] = connection
    env.run.closers.append(connection.close)
    return connection


async def tools_of(spec: str, env: Env, node: n.Node) -> dict[str, Value]:
    """The tools of a server as functions, by their camelCase names. Errors: two tools with one name."""
    connection = await open_server(spec, env, node)
    found: dict[str, Value] = {}
    original: dict[str, str] = {}
    for tool in connection.tools:
        name = camel(tool.name)
        if name in found:
            raise ImportFault(
                f"MCP tool name collision - '{original[name]}' and '{tool.name}' both map to '@{name}' in '{spec}'",
                span=node.span, code="IMPORT_NAME_CONFLICT",
            )  # fmt: skip
        original[name] = tool.name
        found[name] = Value(tool_function(tool, connection, spec))
    return found


async def import_tools(node: n.Import, env: Env) -> None:
    from .imports import bind

    spec_value = await text_of_parts(node.origin.parts, env)
    spec = vt.text(spec_value).strip()
    if not spec:
        raise ImportFault(
            "the MCP server has no specification",
            span=node.span,
            hint='import tools { @echo } from mcp "npx -y server"',
        )
    if not node.what and not node.everything and node.alias is None:
        raise ImportFault(
            'MCP tool imports require an alias. Use: import tools from mcp "server" as @name', span=node.span
        )
    offered = await tools_of(spec, env, node)
    if node.alias is not None and not node.what:
        bind(node.alias, record(offered), spec, node, env)
        return
    for item in node.what:
        match = item.name if item.name in offered else next((k for k in offered if same_name(k, item.name)), None)
        if match is None:
            raise ImportFault(
                f"Import '{item.name}' not found in MCP server '{spec}'", span=item.span, code="IMPORT_EXPORT_MISSING",
                hint=f"it has: {', '.join(sorted(offered)) or 'no tools'}",
            )  # fmt: skip
        bind(item.alias or match, offered[match], spec, node, env)
    if node.everything:
        for name, value in offered.items():
            bind(name, value, spec, node, env)


async def dynamic_tools(node: n.Var, env: Env) -> Value:
    spec = vt.text(await evaluate(node.value, env)).strip()
    try:
        return record(await tools_of(spec, env, node))
    except MlldError as error:
        if error.span is None:
            error.span = node.span
        raise

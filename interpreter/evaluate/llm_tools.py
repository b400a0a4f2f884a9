"""`@mx.llm`: what a call of an `exe llm` says about the tools of its model, `@ask("…", { tools: ["Read"] })`.

`native` and `allowed` are names with commas between, as agents take them on their command lines; `hasTools` is true as soon as
the configuration has `tools`, also for an empty list: then the model gets none. A call that does not say gets no `@mx.llm`.
"""

from __future__ import annotations

from typing import Any

from interpreter import values_text as vt
from interpreter.errors import Denied, EvaluationError
from interpreter.labels import Labels
from interpreter.source import Span
from interpreter.values import Value

from .core import Env
from .functions import CALLABLES

PREFIX = "mcp__mlld_tools__"  # of a function that is a tool, in the names that agents use for tools of servers


class ToolsOfModel:
    """The fields of `@mx.llm`."""

    kind = "object"
    __slots__ = ("fields", "functions")

    def __init__(self, native: list[str], functions: list[str], *, boxed: bool) -> None:
        allowed = [*(PREFIX + name for name in functions), *native]
        self.functions = functions
        self.fields: dict[str, Any] = {
            "config": "", "allowed": ",".join(allowed), "native": ",".join(native), "inBox": boxed, "hasTools": True,
        }  # fmt: skip

    def get_field(self, name: str, env: Env, own: Labels) -> Value | None:
        if name == "config" and self.functions:
            # An empty path would have the agent start without the tools that it was promised.
            raise EvaluationError(
                f"functions as tools of a model are served by an environment: {', '.join(self.functions)}",
                code="llm-tools",
                hint="put them into a module, and name it in the @mcpConfig of the environment that the agent runs in",
            )
        return Value(self.fields[name]) if name in self.fields else None

    def describe(self) -> Any:
        return dict(self.fields)


def tools_of_call(arguments: tuple[Value, ...], env: Env, span: Span | None) -> Value | None:
    """The tools that the second argument of a call names; None if it does not say. Errors: what is no tool, and what the block
    around does not have."""
    config = arguments[1] if len(arguments) > 1 else None
    if config is None or not isinstance(config.data, dict) or "tools" not in config.data:
        return None
    tools = config.item(config.data["tools"])
    if not isinstance(tools.data, list):
        return None
    native: dict[str, None] = {}
    functions: dict[str, None] = {}
    for tool in tools.items():
        if isinstance(tool.data, str):
            if name := tool.data.strip():
                native[name] = None
        elif isinstance(tool.data, CALLABLES):
            functions[tool.data.name] = None
        else:
            raise EvaluationError(
                f"Unsupported tool entry: {vt.text(tool)}", span=span, code="llm-tools",
                hint='tools are names and functions: ["Read", @search]',
            )  # fmt: skip
    if both := [name for name in functions if name in native]:
        raise EvaluationError(
            f"Tool name collisions detected: '{both[0]}' is a function and a name", span=span, code="llm-tools"
        )
    if env.box is not None and (outside := [name for name in native if not env.box.offers(name)]):
        raise Denied(
            f"the environment around has no tool {', '.join(outside)}", rule="env.tools", span=span,
            hint="add it to the `tools` of the block, or leave it out",
        )  # fmt: skip
    return Value(ToolsOfModel(list(native), list(functions), boxed=env.box is not None))

"""Things that can be called: functions of a script, built-in ones, tools of MCP servers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from interpreter import nodes as n
from interpreter.labels import NONE, Labels
from interpreter.source import NOWHERE, Span
from interpreter.values import Value

if TYPE_CHECKING:
    from .core import Env


@dataclass(frozen=True, kw_only=True, eq=False)
class Function:
    """An `exe`: its body with the place it was declared in (`env`), whose names and module it sees when it runs."""

    kind = "executable"

    name: str
    parameters: tuple[n.Parameter, ...]
    body: n.Node
    env: Env
    labels: tuple[str, ...] = ()
    options: n.Object | None = None
    using: n.Using | None = None
    description: str | None = None
    span: Span = NOWHERE
    taint: Labels = NONE  # of what every result carries: the file of an imported module

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.parameters)

    @cached_property
    def result_labels(self) -> Labels:
        """What an executable is labelled with, its results are labelled with."""
        return Labels.of(*(label for label in self.labels if label != "recursive"))

    def describe(self) -> str:
        return f"<function({', '.join(self.names)})>"

    def shown(self) -> str:
        return f"[executable: {self.name}]"

    def displayed(self) -> str:
        return f"[executable: {self.name}]"

    def get_field(self, name: str, env: Env, own: Labels) -> Value | None:
        if name == "type":
            return Value("executable")
        if name == "name":
            return Value(self.name)
        return None


Arguments = list[Value]


@dataclass(frozen=True, kw_only=True, eq=False)
class BuiltIn:
    """A function of the language itself. `variants` are `@parse.llm` and the like."""

    kind = "executable"

    name: str
    call: Callable[[Env, Arguments], Awaitable[Value]]
    parameters: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    variants: Mapping[str, BuiltIn] = field(default_factory=lambda: MappingProxyType({}))
    ask: Callable[[Env, n.Node | None], Awaitable[Value]] | None = None
    """In place of `call`, with its argument as it is written: `@exists(@maybe.missing)` must not fail."""

    @property
    def names(self) -> tuple[str, ...]:
        return self.parameters

    def describe(self) -> str:
        return f"<function({', '.join(self.parameters)})>"

    def shown(self) -> str:
        return self.describe()

    def displayed(self) -> str:
        return f"[executable: {self.name}]"

    def get_field(self, name: str, env: Env, own: Labels) -> Value | None:
        variant = self.variants.get(name)
        return None if variant is None else Value(variant)


@dataclass(frozen=True, kw_only=True, eq=False)
class ToolFunction:
    """A tool of an MCP server as a function: parameters in schema order, required ones first."""

    kind = "executable"

    name: str
    tool: str
    server: str
    spec: str
    connect: Callable[[], Awaitable[Any]]  # gives the open ToolConnection
    parameters: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    schema: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    description: str = ""
    labels: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return self.parameters

    def describe(self) -> str:
        return f"<function({', '.join(self.parameters)})>"

    def shown(self) -> str:
        return self.describe()

    def displayed(self) -> str:
        return f"[executable: {self.name}]"


Callable_ = Function | BuiltIn | ToolFunction
CALLABLES = (Function, BuiltIn, ToolFunction)


async def settled(value: Value, env: Env, span: Span, *, ready: bool = False) -> Value:
    """A value where data is needed: a function of the script that is only named there means what it gives, as in
    `` `It is @today` ``. `ready`: only if it can do without arguments; any other stays a function, to be called later.
    """
    function = value.data
    if not isinstance(function, Function) or (ready and any(p.default is None for p in function.parameters)):
        return value
    from .calls import call_function

    return (await call_function(function, [], env, span)).with_labels(value.labels)

"""`import { basename } from node @path`, `import { sqrt } from python @math`: modules of the languages that bodies are
written in.

An imported function is an `exe` whose body is code of that language: policy, guards, labels and the env block around
bind it like any other. Each call is a process of its own, so nothing lives from one to the next; an object made with
`new` is what its class and its arguments make of it each time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from interpreter import nodes as n
from interpreter import values_text as vt
from interpreter.errors import CommandFailed, ImportFault
from interpreter.labels import Labels, joined
from interpreter.source import Span
from interpreter.values import Undefined, Value, record

from .commands import run_node
from .core import Env, absent
from .functions import Function
from .host_programs import PARAMETERS, program
from .scope import Scope

_NAME = re.compile(r"@?[A-Za-z0-9_][\w.-]*(?:/[\w.-]+)*")


@dataclass(frozen=True, kw_only=True)
class HostModule:
    """A module by name, and where the search for it begins."""

    language: Literal["node", "py"]
    name: str
    directory: str | None
    env: Env  # whose script imported it; without its variables, since the code must not see them

    def step(self, do: str, path: list[str], bound: list[Any], origin: dict[str, Any] | None) -> str:
        return program(
            self.language,
            {"of": self.name, "path": path, "from": origin, "do": do, "bound": bound, "dir": self.directory},
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class HostFunction(Function):
    """A function or class of such a module. `bound`: arguments that it has already; `origin`: the class and arguments of
    the object that it is a method of.
    """

    home: HostModule
    path: tuple[str, ...]
    is_class: bool = False
    members: dict[str, Value] = field(default_factory=dict)
    bound: tuple[Any, ...] = ()

    async def construct(self, arguments: list[Value], env: Env, span: Span) -> Value:
        """`new @Class(…)`: the object's fields, with its methods as functions; of a plain function, itself with these
        arguments given.
        """
        bound = [
            *self.bound,
            *(vt.to_plain(argument) for argument in arguments if not isinstance(argument.data, Undefined)),
        ]
        labels = joined((self.taint, *(argument.labels for argument in arguments)))
        if not self.is_class:
            return Value(function(self.home, self.path, self.span, bound=bound, labels=labels))
        text = self.home.step("construct", list(self.path), bound, None)
        told = await _asked(self.home, text, env, span)
        origin = {"path": list(self.path), "bound": bound}
        return _offered(told, self.home, (), span, origin=origin, labels=labels | told.labels)

    def get_field(self, name: str, env: Env, own: Labels) -> Value | None:
        return self.members.get(name) or super().get_field(name, env, own)


def function(
    home: HostModule, path: tuple[str, ...], span: Span, *, bound: list[Any] | None = None, is_class: bool = False,
    members: dict[str, Value] | None = None, origin: dict[str, Any] | None = None, labels: Labels | None = None,
) -> HostFunction:  # fmt: skip
    """The function at a path of a module, as something that scripts can call."""
    names = [f"a{index}" for index in range(PARAMETERS)]
    text = home.step("call", list(path), bound or [], origin)
    if home.language == "py":
        # A body of Python has its parameters by name; those that were not given are None at the end.
        text = f"args = [{', '.join(names)}]\nwhile args and args[-1] is None: args.pop()\n{text}"
    return HostFunction(
        name=path[-1] if path else home.name, parameters=tuple(n.Parameter(name=name, span=span) for name in names),
        body=n.Code(language=home.language, text=text, span=span), env=home.env, span=span, home=home, path=path,
        is_class=is_class, members=members or {}, bound=tuple(bound or ()), taint=labels or Labels(),
    )  # fmt: skip


async def _asked(home: HostModule, text: str, env: Env, span: Span) -> Value:
    """What a program says about something in a module."""
    head = "args = []\n" if home.language == "py" else ""
    place = env.copy(scope=Scope(None), mx={})
    return await run_node(n.Code(language=home.language, text=head + text, span=span), place)


def _offered(
    told: Value, home: HostModule, path: tuple[str, ...], span: Span, *, origin: dict[str, Any] | None = None,
    labels: Labels,
) -> Value:  # fmt: skip
    """A description as a value: functions, records of what objects hold, plain data."""
    plain = vt.to_plain(told)
    return _value(plain if isinstance(plain, dict) else {"k": "value", "v": plain}, home, path, span, origin, labels)


def _value(
    told: dict[str, Any], home: HostModule, path: tuple[str, ...], span: Span, origin: Any, labels: Labels
) -> Value:
    inner = {
        name: _value(each, home, (*path, name), span, origin, labels) for name, each in (told.get("has") or {}).items()
    }
    if told["k"] == "value":
        return Value(told["v"], labels)
    if told["k"] == "object":
        return record(inner, labels)
    made = function(home, path, span, is_class=told["new"], members=inner, origin=origin, labels=labels)
    return Value(made)


async def import_host(node: n.Import, env: Env) -> None:
    """The import of a module. Errors: it is not there, or has no such name."""
    from .imports import bind, choose_names

    language: Literal["node", "py"] = "node" if node.origin.form == "node" else "py"
    name = (node.origin.name or "").removeprefix("@")
    if _NAME.fullmatch(name) is None or ".." in name:
        raise ImportFault(
            f"'{name}' is no name of a module", span=node.span, hint="import { basename } from node @path"
        )
    if env.ports.commands is None:
        raise absent(f"`import … from {node.origin.form}`", node.span, env)
    directory = None if env.box is not None else str(env.module.directory.absolute())
    home = HostModule(
        language=language,
        name=name,
        directory=directory,
        env=env.copy(scope=Scope(None), mx={}, calls=None, box=None, depth=0),
    )
    source = f"{node.origin.form} @{name}"
    try:
        told = await _asked(home, home.step("describe", [], [], None), env, node.span)
    except CommandFailed as error:
        raise ImportFault(
            f"Cannot import from {source}: {_reason(error.stderr)}", span=node.span, code="IMPORT_NOT_FOUND",
            hint=f"it is looked for as `{language}` code of this file would; npm and pip packages must be installed there",
        ) from None  # fmt: skip
    offered = _offered(told, home, (), node.span, labels=told.labels)
    if isinstance(offered.data, HostFunction):
        members = {**offered.data.members, "default": offered}
    else:
        members = (
            {key: offered.item(item) for key, item in offered.data.items()} if isinstance(offered.data, dict) else {}
        )
    if node.alias is not None and not node.what and isinstance(offered.data, HostFunction):
        bind(node.alias, offered, source, node, env)
        return

    def missing(item: n.ImportName) -> ImportFault:
        import difflib

        close = difflib.get_close_matches(item.name, members, n=1)
        return ImportFault(
            f"Import '{item.name}' not found in module '{source}'", span=item.span, code="IMPORT_EXPORT_MISSING",
            hint=f"did you mean '{close[0]}'?" if close else f"it has: {', '.join(sorted(members)[:30]) or 'nothing'}",
        )  # fmt: skip

    choose_names(node, members, source, env, missing)
    _warn(node, vt.to_plain(told), env)


def _warn(node: n.Import, told: Any, env: Env) -> None:
    held = told.get("has", {}) if isinstance(told, dict) else {}
    for item in node.what:
        if held.get(item.name, {}).get("warn"):
            env.ports.output.stderr(
                f"Warning: '{item.name}' uses callback-style parameters. Prefer promise-based APIs when available.\n"
            )


def _reason(stderr: str) -> str:
    """The line of a trace that says what is wrong."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    said = [line for line in lines if re.match(r"(?:\w*Error|Error \[\w+\])\b", line)]
    return (said or lines or ["it says nothing"])[0 if said else -1]

"""The walk over the tree: what a running script is (`Run`), where it stands (`Env`), and which function evaluates
which node.

`evaluate(node, env)` looks the type of the node up in one table and awaits the function found there; every file beside
this one registers the nodes of its noun with `@handles(…)`. A node that nobody registered is a diagnostic, never a
traceback.

`Env` is immutable but for its scope: entering a call, a loop or an env block makes a copy with other fields. Whatever
belongs to a dynamic extent (the profile, the ports, the guards in force, `@mx.for`) is a field, so that it is right
again after the extent, also after an error and in parallel branches.

Leaving a block early (`=>`, `done`, `skip`, `retry` …) is an exception below `Signal`; the construct that it belongs
to catches it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from interpreter import nodes as n
from interpreter.errors import CheckFault, Diagnostic, EvaluationError, LimitReached
from interpreter.operations_output import Document
from interpreter.ports import Ports, ScriptEngine
from interpreter.values import NULL, Value

from .scope import Scope

if TYPE_CHECKING:
    from interpreter.operations_output import Document
    from interpreter.source import Span

    from .authority import Authority
    from .modules import Module


class Signal(BaseException):
    """A way out of a block that is no error."""

    def __init__(self, value: Value | None = None) -> None:
        super().__init__()
        self.value = value


class Returned(Signal):
    """`=> value`."""


class LoopDone(Signal):
    """`done value`."""


class LoopContinue(Signal):
    """`continue value`."""


class Skipped(Signal):
    """`skip`: the element at hand is left out."""


class RetryAsked(Signal):
    """`retry hint` outside a guard: the stage before is to be asked again."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of one evaluation. What is only declared (a module, `@mcpConfig`, a guard) gets tight ones: see
    `DECLARING`.
    """

    steps: int | None = None
    seconds: float | None = None
    recursion: int = 64
    depth: int = 700
    iterations: int = 1_000_000
    endless: bool = True
    """May a `loop` without a limit go on for ever? `iterations` is the bound where it may not."""


REDACTED = "[REDACTED]"  # stands where a secret stood
DECLARING = Limits(steps=500_000, seconds=10.0, iterations=100_000, endless=False)
_TURN = 511  # a mask: so many steps are a turn of the loop


@dataclass(kw_only=True)
class Run:
    """One script while it runs: what all its modules, calls and branches share."""

    root: Path
    document: Document
    limits: Limits = Limits()
    variables: dict[str, Value] = field(default_factory=dict)  # @payload, @state and the like
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))  # mlld-config.json
    home: Path | None = None  # of the user
    modules: dict[str, Any] = field(default_factory=dict)
    pins: dict[Path, Any] = field(default_factory=dict)  # what the lock says about files of the cache
    secrets: set[str] = field(default_factory=set)  # masked wherever something is shown
    engines: list[ScriptEngine] = field(default_factory=list)  # none or one: made at first use
    steps: int = 0
    deadline: float | None = None
    closers: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    written: dict[Path, Any] = field(default_factory=dict)  # labels of files that this run wrote
    exported: dict[str, Value] = field(default_factory=dict)  # `output … to env`: variables of the commands to come
    templates: dict[Path, n.Template] = field(default_factory=dict)
    loading: list[str] = field(default_factory=list)  # modules on the way, outermost first
    directory: Path = field(default_factory=Path)  # where commands start
    quiet: bool = False
    checkpoints: set[str] = field(default_factory=set)  # their names, as far as the run has come
    # Reads what earlier runs kept, once a model is called or a checkpoint is reached; a script without either pays nothing.
    begin_checkpoints: Callable[[], Any] | None = None
    strict_profiles: bool = False
    profile: str | None = None  # `--profile`
    provider: str | None = None  # `--provider`
    # A script is read for its guards and policies alone: what it does, and what depends on that, is left out.
    declare_only: bool = False
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)  # of the parallel loop or stage that ended last

    def __post_init__(self) -> None:
        if self.limits.seconds is not None and self.deadline is None:
            self.deadline = time.monotonic() + self.limits.seconds

    def judging(self) -> Run:
        """The same run for one judgement, whose steps and time are its own."""
        new = object.__new__(Run)
        new.__dict__ = vars(self).copy()
        new.limits, new.steps, new.deadline = DECLARING, 0, None
        new.__post_init__()
        return new

    def check(self, span: Span | None) -> None:
        """Called every few steps: an evaluation that is only a declaration must end by itself."""
        if self.limits.steps is not None and self.steps > self.limits.steps:
            raise LimitReached(
                f"the evaluation did not end within {self.limits.steps:,} steps",
                span=span,
                hint="what is only declared must be quick: no endless loops at the top of a module, in @mcpConfig or in a guard",
            )
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise LimitReached(f"the evaluation did not end within {self.limits.seconds:g} seconds", span=span)

    def mask(self, text: str) -> str:
        """The text without the secrets that were handed to commands."""
        for secret in self.secrets:
            if secret in text:
                text = text.replace(secret, REDACTED)
        return text


Ambient = Mapping[str, Any]


class Env:
    """Where the evaluation stands. Copies are cheap; nobody changes a field after it was made."""

    __slots__ = ("authority", "box", "calls", "depth", "module", "mx", "ports", "run", "scope", "stack", "top")

    def __init__(
        self,
        *,
        run: Run,
        module: Module,
        scope: Scope,
        ports: Ports,
        authority: Authority,
        mx: Ambient = MappingProxyType({}),
        box: Any = None,
        calls: Any = None,
        depth: int = 0,
        top: bool = False,
    ) -> None:
        self.run = run
        self.module = module
        self.scope = scope
        self.ports = ports
        self.authority = authority
        self.mx = mx  # @mx.for, @mx.try, @mx.guard …
        self.box = box  # the env block around, if any
        self.calls = calls  # (function, env it was called in) chain
        self.depth = depth
        self.top = top  # at the top of a file: `=>` ends the script

    def copy(self, **changes: Any) -> Env:
        new = object.__new__(Env)
        new.run, new.module, new.scope = self.run, self.module, self.scope
        new.ports, new.authority, new.mx = self.ports, self.authority, self.mx
        new.box, new.calls, new.depth, new.top = self.box, self.calls, self.depth, self.top
        for name, value in changes.items():
            setattr(new, name, value)
        return new

    def block(
        self, names: dict[str, Value] | None = None, *, barrier: bool = False, apart: bool = False, **ambient: Any
    ) -> Env:
        """The inside of a block: a scope of its own, and ambient values if given."""
        new = self.copy(scope=Scope(self.scope, names, barrier=barrier, apart=apart))
        if ambient:
            new.mx = {**self.mx, **ambient}
        return new

    def ambient(self, **entries: Any) -> Env:
        return self.copy(mx={**self.mx, **entries})


Handler = Callable[[Any, Env], Awaitable[Value]]
HANDLERS: dict[type[n.Node], Handler] = {}
H = TypeVar("H", bound=Handler)


def handles(*types: type[n.Node]) -> Callable[[H], H]:
    """Registers the function that evaluates these nodes."""

    def register(function: H) -> H:
        for kind in types:
            assert kind not in HANDLERS, f"{kind.__name__} has two evaluators"
            HANDLERS[kind] = function
        return function

    return register


async def evaluate(node: n.Node, env: Env) -> Value:
    """The value of a node; statements give null."""
    handler = HANDLERS.get(type(node)) or late_handler(node)
    run = env.run
    run.steps += 1
    if not run.steps & 127:
        run.check(node.span)
        if run.limits.steps is not None and not run.steps & _TURN:
            # A guard judges beside everything else in its process: a busy one lets the others in every few
            # milliseconds, and whoever waits for it with a time limit can end it here.
            await asyncio.sleep(0)
    return await handler(node, env)


# Nouns of which most scripts have none: their files are read when the first of their nodes is met.
LATE: dict[type[n.Node], str] = {
    n.Box: "boxes", n.New: "boxes", n.File: "workspaces", n.Files: "workspaces", n.Guard: "guarding", n.Allow: "guarding",
    n.Deny: "guarding", n.EnvDecision: "guarding", n.Import: "imports", n.Hook: "hooks", n.Checkpoint: "checkpointing",
    n.Prose: "prose", n.Loop: "repeating", n.While: "repeating", n.Sign: "signing", n.Verify: "signing",
}  # fmt: skip


def late_handler(node: n.Node) -> Handler:
    home = LATE.get(type(node))
    if home is not None:
        import_module(f"{__package__}.{home}")
    handler = HANDLERS.get(type(node))
    if handler is None:
        raise unsupported(node)
    return handler


def unsupported(node: n.Node, what: str | None = None) -> CheckFault:
    name = what or f"`{type(node).__name__}` here"
    return CheckFault(
        [
            Diagnostic(
                code="unsupported",
                message=f"{name} is not supported by this interpreter",
                span=node.span,
                hint="docs/differences.md lists what is left out and why",
            )
        ]
    )


def absent(power: str, span: Span | None, env: Env) -> EvaluationError:
    """An attempt to use a power which was not given."""
    return EvaluationError(
        f"{power} cannot be used here: this code is evaluated without effects",
        span=span,
        code="no-effects",
        hint="modules, @mcpConfig and guards only declare; move the call into a function such as @spawn",
    )


async def optional(node: n.Node | None, env: Env) -> Value:
    return NULL if node is None else await evaluate(node, env)


def at(error: Any, span: Span) -> Any:
    """The error with a place, if it has none yet."""
    if error.span is None:
        error.span = span
    return error

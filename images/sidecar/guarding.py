"""Guards and policy of the module, asked about every request and result: each on its own, in bounded time, failing closed.

The module is judged in the interpreter, which is imported only if there is a module with something to say. Beside it,
this is where the parameters that a tool collection binds are put into calls, before any guard looks at them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Literal, Protocol

import orjson
from msgspec import structs

from images.sidecar import jsonrpc
from images.sidecar.config import ModuleConfig, ToolShape
from images.sidecar.eager import Done, begin
from images.sidecar.joint import outcome
from images.sidecar.seams import GUARD_FAILURE, Call, Narrows, Verdict
from images.sidecar.shapes import Schemas, filled
from images.sidecar.validating import Misfit, Validating

GUARD_SECONDS = 5.0

# What of a request is the guard's business; the rest is the protocol's.
_ARGUMENTS = {"tools/call": "arguments", "prompts/get": "arguments"}


class Judgement(Protocol):
    """What the interpreter says: `interpreter.guards.Verdict`."""

    @property
    def kind(self) -> Literal["allow", "deny", "retry", "transform"]: ...
    @property
    def value(self) -> Any: ...
    @property
    def rule(self) -> str | None: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def labels(self) -> frozenset[str]: ...


class Module(Protocol):
    """The guards and the policy of one module: `interpreter.ModuleGuards`."""

    @property
    def active(self) -> bool: ...

    def judge(
        self,
        direction: Literal["request", "result"],
        method: str,
        server: str,
        name: str,
        value: Any,
        labels: frozenset[str],
    ) -> Coroutine[Any, Any, Judgement]: ...

    def watches(self, method: str, server: str, name: str, labels: frozenset[str]) -> bool: ...

    @property
    def narrows(self) -> bool: ...
    @property
    def run_wide(self) -> bool: ...
    def telling(self, labels: frozenset[str]) -> frozenset[str]: ...
    def withdrawn(self, method: str, server: str, name: str, telling: frozenset[str]) -> Judgement | None: ...


class Shapes(Protocol):
    """Who knows the shapes of tools: `admission.Admission`."""

    @property
    def shaped(self) -> bool: ...
    def shape(self, server: str, tool: str) -> ToolShape | None: ...
    def schemas(self, server: str, tool: str) -> Schemas | None: ...


class GuardingFailed(RuntimeError):
    """The module's guards cannot be loaded, so nothing may be served."""


def load(module: ModuleConfig) -> Module:
    """The module's guards, read in the interpreter; GuardingFailed if they cannot be."""
    try:
        # Imported here and not above: a run without a module never pays for the interpreter.
        from interpreter import ModuleGuards

        return ModuleGuards.load(module.files, module.entry, module.profile, module.policy)
    except Exception as error:
        raise GuardingFailed(f"the guards of {module.name} cannot be loaded: {error}") from error


class Guarding:
    """Implements the endpoint's seam. Verdicts are values: no state is shared between two of them."""

    def __init__(
        self,
        module: asyncio.Future[Module] | None,
        shapes: Shapes,
        emit: Callable[[dict[str, Any]], None],
        *,
        seconds: float = GUARD_SECONDS,
    ) -> None:
        self._loading = module
        self._loaded: Module | None = None
        self._shapes = shapes
        self._emit = emit
        self._seconds = seconds
        self._validating = Validating()

    @property
    def active(self) -> bool:
        """Until the module is loaded it is taken to have something to say."""
        if self._loading is None:
            return self._shapes.shaped
        module = self._module
        return module is None or module.active or self._shapes.shaped

    @property
    def _module(self) -> Module | None:
        """The module, once it is loaded."""
        if self._loaded is None and self._loading is not None and self._loading.done():
            self._loaded = None if self._loading.exception() is not None else self._loading.result()
        return self._loaded

    async def narrows(self) -> Narrows | None:
        """What the module's policy takes away by labels."""
        if self._loading is None:
            return None
        module = await outcome(self._loading)
        return Narrowed(module, self._emit) if module.narrows else None

    async def request(self, call: Call) -> Verdict:
        """Judges a request: what the agent sent by the schema that it was told, then, with what is bound in it, by the
        guards, then by the server's own schema, if anything was changed."""
        params = dict(call.params)
        key = _ARGUMENTS.get(call.method)
        is_tool = call.method == "tools/call"
        shape = self._shapes.shape(call.server, call.name) if is_tool else None
        schemas = self._shapes.schemas(call.server, call.name) if is_tool else None
        try:
            if schemas is not None:
                await asyncio.sleep(0)  # from here on in a task, which a check has to be
                await self._validating.check(call.server, schemas.shown, _arguments(params))
            if shape is not None:
                params["arguments"] = filled(_arguments(params), shape)
        except Misfit as error:
            return Verdict(kind="deny", rule="schema", reason=f"{error} (correct the call and try again)")
        except ValueError as error:
            return Verdict(kind="deny", rule="bound parameters", reason=str(error))
        bound = orjson.dumps(params) if shape is not None else b""  # as it is before a guard has it in its hands
        verdict = await self._judge("request", call, params.get(key, {}) if key else params)
        if verdict.kind == "transform":
            verdict = structs.replace(verdict, value=params | {key: verdict.value} if key else verdict.value)
        elif verdict.kind == "allow" and shape is not None:
            verdict = structs.replace(verdict, kind="transform", value=orjson.loads(bound))
        if schemas is not None and verdict.kind == "transform":
            try:
                await self._validating.check(call.server, schemas.own, _arguments(verdict.value))
            except Misfit as error:
                reason = f"with what is bound or was changed by a guard: {error} (no other call would help)"
                return Verdict(kind="deny", rule="schema", reason=reason)
        return verdict

    async def close(self) -> None:
        """Ends what checks arguments."""
        await self._validating.close()

    def watches(self, call: Call) -> bool:
        """Whether a guard may look at the result. Where that cannot be said, one does."""
        if self._loading is None:
            return False
        module = self._module
        if module is None:
            return True
        try:
            return module.active and module.watches(call.method, call.server, call.name, call.labels)
        except Exception:
            return True

    async def result(self, call: Call, raw: bytes) -> Verdict:
        """Judges a result."""
        if not self.watches(call):
            return Verdict(kind="allow")
        if jsonrpc.countless(raw):
            return Verdict(kind="deny", rule="unreadable", reason="the result has more values than guards can look at")
        try:
            value = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            return Verdict(kind="deny", rule="unreadable", reason=f"the result is not JSON: {error}")
        return await self._judge("result", call, value)

    async def _judge(self, direction: Literal["request", "result"], call: Call, value: Any) -> Verdict:
        if self._loading is None:
            return Verdict(kind="allow")
        try:
            # Apart: a caller that gives up must not take the module from all others.
            module = self._module
            if module is None:
                module = await outcome(self._loading)
            if not module.active:
                return Verdict(kind="allow")
            # A judgement that never waits needs no clock: nothing could end it. One that takes long waits now and then.
            begun = begin(module.judge(direction, call.method, call.server, call.name, value, call.labels))
            if isinstance(begun, Done):
                return _verdict(begun.value)
            await asyncio.sleep(0)  # from here on in a task, as a clock wants it
            async with asyncio.timeout(self._seconds):
                return _verdict(await begun)
        except TimeoutError:
            reason = f"a guard did not decide within {self._seconds:g} s, which is a denial"
        except Exception as error:
            # Whatever went wrong in a guard, it did not say yes.
            reason = "a guard failed, which is a denial"
            self._emit(
                {"event": "error", "where": "guard", "call": call.id, "error": f"{type(error).__name__}: {error}"}
            )
        return Verdict(kind="deny", rule=GUARD_FAILURE, reason=reason)


class Narrowed:
    """Implements the endpoint's seam over a module. What cannot be found out is withdrawn."""

    def __init__(self, module: Module, emit: Callable[[dict[str, Any]], None]) -> None:
        self._module, self._emit = module, emit
        self.run_wide = module.run_wide

    def telling(self, labels: frozenset[str]) -> frozenset[str]:
        """All of them, if the module cannot tell."""
        try:
            return self._module.telling(labels)
        except Exception as error:
            self._failed(error)
            return labels

    def withdrawn(self, method: str, server: str, name: str, telling: frozenset[str]) -> str | None:
        """The rule, as a denial names it."""
        try:
            said = self._module.withdrawn(method, server, name, telling)
        except Exception as error:
            self._failed(error)
            return GUARD_FAILURE
        return None if said is None else said.rule or "policy"

    def _failed(self, error: Exception) -> None:
        self._emit({"event": "error", "where": "narrowing", "error": f"{type(error).__name__}: {error}"})


def _arguments(params: dict[str, Any]) -> dict[str, Any]:
    arguments = params.get("arguments") or {}
    if not isinstance(arguments, dict):
        raise ValueError("the arguments must be an object: call again with named parameters")
    return arguments


def _verdict(said: Judgement) -> Verdict:
    """The interpreter's verdict in the endpoint's words. Anything that is not a clear yes is a no."""
    match said.kind:
        case "allow":
            return Verdict(kind="allow", rule=said.rule, reason=said.reason or "", labels=said.labels)
        case "transform":
            return Verdict(
                kind="transform", value=said.value, rule=said.rule, reason=said.reason or "", labels=said.labels
            )
        case "retry":
            reason = f"{said.reason or 'try again in another way'} (change the call accordingly and try again)"
            return Verdict(kind="deny", rule=said.rule, reason=reason, labels=said.labels)
        case "deny":
            return Verdict(kind="deny", rule=said.rule, reason=said.reason or "no reason was given", labels=said.labels)
    return Verdict(kind="deny", rule=GUARD_FAILURE, reason="a guard gave no verdict, which is a denial")

"""`hook @name before|after FILTER = …`: watches operations, may change what flows, never stops anything.

A hook that fails is a warning. Inside a hook no hook and no guard is asked; policy judges its effects as any others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from interpreter import nodes as n
from interpreter import values_text as vt
from interpreter.errors import EvaluationError, MlldError
from interpreter.guards import canonical
from interpreter.names import same_name
from interpreter.operations import Request
from interpreter.policy import under
from interpreter.values import NULL, UNDEFINED, Undefined, Value, array

from .blocks import action_value, gives_value
from .control import choose
from .core import Env, Returned, evaluate, handles
from .guarding import Unwatched, about


@dataclass(frozen=True, eq=False)
class Hook:
    """A declared hook with the place it was declared in."""

    node: n.Hook
    env: Env

    @property
    def timing(self) -> str:
        return self.node.timing

    def concerns(self, request: Request) -> bool:
        operation, wanted = request.operation, self.node.filter
        if wanted.kind == "function":
            return bool(operation.name) and operation.kind == "exe" and same_name(wanted.name, operation.name)
        if wanted.kind == "operation" and operation.kind.startswith("for"):
            return wanted.name == operation.kind  # `op:for` is the loop, not each of its rounds
        if wanted.kind == "operation":
            names = [*operation.operation_labels, f"op:{operation.directive}", f"op:{operation.kind}"]
            names += [f"op:{label}" for label in operation.labels]
            spellings = {f"op:{wanted.name}", f"op:{canonical(wanted.name)}"}
            return any(under(each, name) for each in spellings for name in names)
        labels = (*operation.labels, *operation.incoming.taint)
        return any(under(wanted.name, label) for label in labels)

    async def run(
        self,
        request: Request,
        inputs: tuple[Value, ...],
        output: Value | None,
        place: Any,
        errors: list[dict[str, Any]],
        *,
        denied: bool = False,
    ) -> Value | None:
        """What the hook gives back: a value takes the place of what it watched. Its own failures are warnings."""
        given = inputs[0] if len(inputs) == 1 else array(inputs)
        if self.node.filter.pattern is not None and not await self._fits(given):
            return None
        shown = output if output is not None else given
        around = {name: place.mx[name] for name in ("for", "loop", "while", "try", "checkpoint") if name in place.mx}
        if denied:
            around["denied"] = True
        mx = {**around, "op": about(request.operation), "input": given, "output": shown, "hook": {"name": self.node.name},
              "hooks": {"errors": list(errors)}}  # fmt: skip
        authority = Unwatched(place.authority.policy)
        inside = self.env.copy(ports=place.ports, run=place.run, box=place.box, authority=authority, calls=None)
        inside = inside.block({"input": given, "output": shown})
        inside.mx = mx
        try:
            value = await self._answer(inside)
        except Returned as returned:
            value = returned.value or NULL
        except MlldError as error:
            errors.append({"hook": self.node.name, "message": place.run.mask(error.message)})
            place.ports.output.stderr(f"[Hook Warning] @{self.node.name or 'hook'} failed: {error.message}\n")
            return None
        return None if isinstance(value.data, Undefined) else value.with_labels(shown.labels)

    async def _answer(self, env: Env) -> Value:
        """What the body gives; undefined for one that only does something."""
        body: n.Node = self.node.body
        if isinstance(body, n.When):
            chosen = await choose(body, env)
            if chosen is None or chosen.body is None:
                return Value(UNDEFINED)
            body, env = chosen.body, chosen.env
        value = await action_value(body, env)
        return value if gives_value(body) else Value(UNDEFINED)

    async def _fits(self, given: Value) -> bool:
        assert self.node.filter.pattern is not None
        prefix = vt.text(await evaluate(self.node.filter.pattern, self.env))
        first = given.data[0] if isinstance(given.data, list) and given.data else given
        return vt.text(first).startswith(prefix)


@handles(n.Hook)
async def hook(node: n.Hook, env: Env) -> Value:
    """Declares a hook: from here on it watches."""
    if any(h.node.name == node.name and node.name is not None for h in env.module.hooks):
        raise EvaluationError(
            f"Hook with name {node.name} already exists", span=node.span, code="hook", hint="give this one another name"
        )
    env.module.hooks.append(Hook(node, env))
    env.module.version += 1
    return NULL

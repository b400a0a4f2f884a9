"""Names: which value a name has, from the innermost block outwards."""

from __future__ import annotations

from interpreter.errors import EvaluationError
from interpreter.source import Span
from interpreter.values import Value

from .growing import Growing


def reserved_name(name: str, span: Span) -> EvaluationError:
    """The error of a declaration that takes a name of the language."""
    told = (
        "reserved for the execution context" if name == "mx" else "already reserved by the system or a resolver prefix"
    )
    return EvaluationError(
        f"Cannot create variable '@{name}': this name is {told}", span=span,
        code="reserved-name", hint=f"choose another one, such as @my_{name}",
    )  # fmt: skip


class Scope:
    """The names of one block, function call or file; what is not here is looked for in `parent`.

    `apart` marks the scope of one call or one round of a loop: a `var` in it stays there, since the next one makes its
    own. `barrier` marks the scope of one iteration of a parallel `for`: names beyond it can be read but not assigned,
    since two iterations would race for them. A `sealed` one keeps the values it has: judgements that run side by side read
    the same module, and none may leave a mark there that another one meets.
    """

    __slots__ = ("apart", "barrier", "growing", "names", "parent", "sealed")

    def __init__(
        self, parent: Scope | None = None, names: dict[str, Value] | None = None, *, barrier: bool = False,
        apart: bool = False,
    ) -> None:  # fmt: skip
        self.parent = parent
        self.names: dict[str, Value] = {} if names is None else names
        self.apart = apart
        self.barrier = barrier
        self.sealed = False
        self.growing: dict[str, Growing] | None = None  # of some names, what `+=` added since they were read

    def find(self, name: str) -> Value | None:
        scope: Scope | None = self
        while scope is not None:
            found = scope.names.get(name)
            if found is not None:
                return found if scope.growing is None else scope.settled(name, found)
            scope = scope.parent
        return None

    def peek(self, name: str) -> Value | None:
        """The value of a name without what `+=` added since it was read last: its type is the same."""
        scope: Scope | None = self
        while scope is not None:
            found = scope.names.get(name)
            if found is not None:
                return found
            scope = scope.parent
        return None

    def settled(self, name: str, found: Value) -> Value:
        """The value of a name of this scope with all that was added."""
        growing = self.growing.pop(name, None) if self.growing else None
        if growing is not None:
            found = self.names[name] = growing.settled()
        return found

    def nearest_apart(self) -> Scope | None:
        """The scope of the call or round in which this one is; None at the top of a file."""
        scope: Scope | None = self
        while scope is not None and not scope.apart:
            scope = scope.parent
        return scope

    def define(self, name: str, value: Value) -> None:
        self.names[name] = value
        if self.growing:
            self.growing.pop(name, None)

    def assign(self, name: str, value: Value) -> bool:
        """Give a new value to a name where it was defined. False: nobody defined it."""
        scope = self._to_change(name)
        if scope is not None:
            scope.define(name, value)
        return scope is not None

    def grow(self, name: str, extra: Value) -> bool:
        """Add to the value of a name where it was defined. False: nobody defined it. Errors: `LimitReached`."""
        scope = self._to_change(name)
        if scope is None:
            return False
        if scope.growing is None:
            scope.growing = {}
        growing = scope.growing.get(name)
        if growing is None:
            growing = scope.growing[name] = Growing(scope.names[name])
        if growing.add(extra):
            scope.settled(name, growing.value)
        return True

    def _to_change(self, name: str) -> Scope | None:
        """The scope in which a name was defined. Errors: `EvaluationError` if it cannot be changed from here."""
        scope: Scope | None = self
        crossed = False
        while scope is not None:
            if name in scope.names:
                if scope.sealed:
                    raise EvaluationError(
                        f"@{name} belongs to the module, and a guard cannot change it.",
                        code="guard-write",
                        hint="each call is judged by itself: keep what a guard works out in `let`",
                    )
                if crossed:
                    raise EvaluationError(
                        f"Parallel for block cannot mutate outer variable @{name}.",
                        code="parallel-write",
                        hint="collect results: `let @all = for parallel @x in @xs => …`",
                    )
                return scope
            crossed = crossed or scope.barrier
            scope = scope.parent
        return None

    def visible(self) -> list[str]:
        """Every name that can be used here, nearest first: for "did you mean"."""
        seen: dict[str, None] = {}
        scope: Scope | None = self
        while scope is not None:
            seen.update(dict.fromkeys(scope.names))
            scope = scope.parent
        return list(seen)

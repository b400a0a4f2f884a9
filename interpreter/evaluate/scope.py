"""Names: which value a name has, from the innermost block outwards."""

from __future__ import annotations

from interpreter.errors import EvaluationError
from interpreter.values import Value


class Scope:
    """The names of one block, function call or file; what is not here is looked for in `parent`.

    `barrier` marks the scope of one iteration of a parallel `for`: names beyond it can be read but not assigned, since
    two iterations would race for them. A `sealed` one keeps the values it has: judgements that run side by side read
    the same module, and none may leave a mark there that another one meets.
    """

    __slots__ = ("barrier", "names", "parent", "sealed")

    def __init__(
        self, parent: Scope | None = None, names: dict[str, Value] | None = None, *, barrier: bool = False
    ) -> None:
        self.parent = parent
        self.names: dict[str, Value] = {} if names is None else names
        self.barrier = barrier
        self.sealed = False

    def find(self, name: str) -> Value | None:
        scope: Scope | None = self
        while scope is not None:
            found = scope.names.get(name)
            if found is not None:
                return found
            scope = scope.parent
        return None

    def define(self, name: str, value: Value) -> None:
        self.names[name] = value

    def assign(self, name: str, value: Value) -> bool:
        """Give a new value to a name where it was defined. False: nobody defined it."""
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
                scope.names[name] = value
                return True
            crossed = crossed or scope.barrier
            scope = scope.parent
        return False

    def visible(self) -> list[str]:
        """Every name that can be used here, nearest first: for "did you mean"."""
        seen: dict[str, None] = {}
        scope: Scope | None = self
        while scope is not None:
            seen.update(dict.fromkeys(scope.names))
            scope = scope.parent
        return list(seen)

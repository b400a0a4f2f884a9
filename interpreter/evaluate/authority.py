"""What binds an operation: the policies, guards and hooks of every module in whose name it happens.

The script that runs is always one of them; a function of an imported module adds that module for as long as it runs. So a module's
policy binds its own functions entirely and nobody else's, and the caller's binds everything that is done on the caller's behalf.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interpreter.guards import NO_GUARDS, Guards
from interpreter.policy import NO_POLICY, Policy
from interpreter.policy_shown import shown

if TYPE_CHECKING:
    from .modules import Module


class Authority:
    """The modules that answer for what happens, outermost first."""

    __slots__ = ("_guard_key", "_guards", "_key", "_policy", "extra", "modules")

    def __init__(self, modules: tuple[Module, ...], extra: Policy = NO_POLICY) -> None:
        self.modules = modules
        self.extra = extra  # of `with { policy: @p }`
        self._key: tuple[int, ...] | None = None
        self._policy = NO_POLICY
        self._guard_key: tuple[int, ...] | None = None
        self._guards = NO_GUARDS

    def joined_by(self, module: Module) -> Authority:
        return self if module in self.modules else Authority((*self.modules, module), self.extra)

    def narrowed(self, policy: Policy) -> Authority:
        return Authority(self.modules, self.extra | policy)

    @property
    def policy(self) -> Policy:
        """The composition; recomputed when a module has declared another."""
        key = tuple(module.version for module in self.modules)
        if key != self._key:
            composed = self.extra
            for module in self.modules:
                composed = composed | module.policy
            self._policy, self._key = composed, key
        return self._policy

    @property
    def guards(self) -> Guards:
        key = tuple(module.version for module in self.modules)
        if key != self._guard_key:
            self._guards, self._guard_key = NO_GUARDS, key
            for module in self.modules:
                self._guards = self._guards | module.guards
        return self._guards

    @property
    def hooks(self) -> list[Any]:
        if len(self.modules) == 1:
            return self.modules[0].hooks
        return [hook for module in self.modules for hook in module.hooks]

    def describe_policies(self) -> dict[str, Any]:
        """`@mx.policy`."""
        return shown(self.policy)

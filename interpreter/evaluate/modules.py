"""A module: one file while it is evaluated, and what it offers afterwards."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interpreter import nodes as n
from interpreter.declarations import AuthDecl, Needs, Profile, ProfileChoice
from interpreter.guards import NO_GUARDS, Guard, Guards
from interpreter.labels import NONE, Labels
from interpreter.policy import NO_POLICY, Policy
from interpreter.values import Value

from .scope import Scope

if TYPE_CHECKING:
    from interpreter.source import Span


@dataclass(kw_only=True, eq=False)
class Module:
    """A file with its names, declarations and exports. It fills while its statements run."""

    path: Path | None  # None: a text without a file
    name: str  # as people know it: `@local/x`, or the path relative to the project
    directory: Path
    document: n.Document | None = None
    scope: Scope = field(default_factory=Scope)
    frontmatter: Any = None
    exports: dict[str, str] | None = None  # exported name → own name; None: nothing was said
    export_spans: dict[str, Span] = field(default_factory=dict)
    imported: dict[str, str] = field(default_factory=dict)  # name → where from
    defined: dict[str, Span] = field(default_factory=dict)
    policy: Policy = NO_POLICY
    guards: Guards = NO_GUARDS
    own_guards: dict[str, Guard] = field(default_factory=dict)  # by name: what an importer can ask for
    hooks: list[Any] = field(default_factory=list)
    auth: dict[str, AuthDecl] = field(default_factory=dict)
    needs: list[Needs] = field(default_factory=list)
    profiles: list[Profile] = field(default_factory=list)
    ahead: set[str] = field(default_factory=set)  # functions that data above their definition named
    written: dict[str, n.Node] = field(default_factory=dict)  # the expression of each `var`, for places in messages
    export_everything: bool = False
    chosen: ProfileChoice | None = None
    shadows: dict[str, dict[str, Value]] = field(default_factory=dict)
    modules_used: dict[str, Module] = field(default_factory=dict)
    result: Value | None = None  # of a `=>` at its top
    taint: Labels = NONE  # of what its functions return when they are called from elsewhere
    version: int = 0  # grows with every policy that is declared
    is_environment: bool = False
    left_out: set[str] = field(default_factory=set)  # names that could not be had when it was read for its guards alone
    texts: dict[Path, str] = field(default_factory=dict)  # of the files that it read while it was declared
    root: Path | None = None  # of an environment module: nothing outside belongs to it

    @property
    def profile_name(self) -> str | None:
        return self.chosen.profile.name if self.chosen is not None else None

    def elsewhere(self, directory: Path) -> Module:
        """The same module for a file in another directory: relative paths of a template start where the template is."""
        if directory == self.directory:
            return self
        other = copy.copy(self)
        other.directory = directory
        return other

    def declare_policy(self, policy: Policy) -> None:
        self.policy = self.policy | policy
        self.version += 1

    def declare_guard(self, guard: Guard) -> None:
        self.guards = self.guards | guard
        self.version += 1
        if guard.name:
            self.own_guards[guard.name] = guard

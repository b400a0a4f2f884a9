"""Labels: what is known about a value, carried beside it wherever it goes.

A value has *declared* labels (`var secret @k`), *automatic* ones (`src:mcp`, `dir:/tmp`), a trail of *sources*
(`mcp:list_issues`) and a lineage of *tools*. `Labels` is immutable and shared: joining two values that carry the same
labels, which is almost every join of a script, returns one of the two and allocates nothing. Each part is a dict used
as an ordered set that nobody changes after it was made, so that scripts print labels in the order in which they came.

Three rules cannot be talked around: `untrusted` displaces `trusted` whenever they meet, a protected label leaves a
value only by the hand of a privileged guard, and labels only ever grow otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

# A label is words joined by colons: `pii`, `net:w`, `src:mcp`, `dir:/etc`.
LABEL = re.compile(r"[A-Za-z_][\w-]*(?::[^\s:,\"']+)*\Z")

_Set = Mapping[str, None]
_EMPTY: _Set = MappingProxyType({})
_NO_TOOLS: Mapping[ToolUse, None] = MappingProxyType({})


class LabelConflict(ValueError):
    """Labels that exclude each other were declared together."""


class ProtectedLabel(ValueError):
    """Somebody without privilege tried to remove a protected label."""


def is_protected(label: str) -> bool:
    """Protected labels record where a value came from or what it must not do: removing one needs a privileged guard."""
    return label in {"secret", "untrusted"} or label.startswith("src:")


@dataclass(frozen=True, slots=True)
class ToolUse:
    """One call in the lineage of a value."""

    name: str
    arguments: tuple[str, ...] = ()  # their names: values may be secret
    audit: str = ""  # reference into the record

    def json(self) -> dict[str, object]:
        args = {"args": list(self.arguments)} if self.arguments else {}
        return {"name": self.name, **args, "auditRef": self.audit}


@dataclass(frozen=True, slots=True)
class Labels:
    """Everything known about one value; compare with `==`, join with `|`."""

    _declared: _Set = field(default_factory=lambda: _EMPTY)
    _automatic: _Set = field(default_factory=lambda: _EMPTY)
    _sources: _Set = field(default_factory=lambda: _EMPTY)
    _tools: Mapping[ToolUse, None] = field(default_factory=lambda: _NO_TOOLS)

    @classmethod
    def of(cls, *declared: str, automatic: Iterable[str] = (), sources: Iterable[str] = ()) -> Labels:
        """Labels as a script or a port states them. Errors: `LabelConflict` for trusted and untrusted together."""
        if {"trusted", "untrusted"} <= set(declared):
            raise LabelConflict("a value cannot be declared both trusted and untrusted")
        if not declared and not automatic and not sources:
            return NONE
        return cls(_ordered(declared), _ordered(automatic), _ordered(sources))

    @property
    def labels(self) -> tuple[str, ...]:
        """`.mx.labels`: what was declared."""
        return tuple(self._declared)

    @property
    def taint(self) -> tuple[str, ...]:
        """`.mx.taint`: what was declared and what is automatic."""
        return tuple(_join(self._declared, self._automatic))

    @property
    def sources(self) -> tuple[str, ...]:
        """`.mx.sources`: the trail."""
        return tuple(self._sources)

    @property
    def marks(self) -> tuple[str, ...]:
        """Everything that rules and filters are matched against: the taint, and of the trail the tools of servers that it
        came through (`mcp:github:get_issue`)."""
        through = [source for source in self._sources if source.startswith("mcp:")]
        return (*self.taint, *through) if through else self.taint

    @property
    def tools(self) -> tuple[ToolUse, ...]:
        """`.mx.tools`: the lineage."""
        return tuple(self._tools)

    def __contains__(self, label: object) -> bool:
        return label in self._declared or label in self._automatic

    def __bool__(self) -> bool:
        return bool(self._declared or self._automatic or self._sources or self._tools)

    def __hash__(self) -> int:
        return hash((frozenset(self._declared), frozenset(self._automatic)))

    def __or__(self, other: Labels) -> Labels:
        """The labels of a value made from two others."""
        if other is self or other is NONE:
            return self
        if self is NONE:
            return other
        key = (id(self), id(other))
        known = _JOINS.get(key)
        if known is not None and known[0] is self and known[1] is other:
            return known[2]
        if len(_JOINS) >= _MOST_JOINS:
            _JOINS.clear()
        result = self._joined_with(other)
        _JOINS[key] = (self, other, result)
        return result

    def _joined_with(self, other: Labels) -> Labels:
        declared = _exclude(_join(self._declared, other._declared))
        automatic = _join(self._automatic, other._automatic)
        sources = _join(self._sources, other._sources)
        tools = self._tools if other._tools.keys() <= self._tools.keys() else {**self._tools, **other._tools}
        for whole in (self, other):
            if (
                declared is whole._declared
                and automatic is whole._automatic
                and sources is whole._sources
                and tools is whole._tools
            ):
                return whole
        return Labels(declared, automatic, sources, tools)

    def declare(self, *labels: str) -> Labels:
        """With declared labels added; `trusted` on an untrusted value changes nothing, since labels only grow."""
        return self | Labels.of(*labels)

    def used(self, tool: ToolUse) -> Labels:
        """With one call added to the lineage."""
        return self | Labels(_tools={tool: None})

    def without(self, *labels: str, privileged: bool) -> Labels:
        """With labels taken away, which only guards do. Errors: `ProtectedLabel`; nothing is removed then."""
        held = [label for label in labels if label in self]
        protected = [label for label in held if is_protected(label)]
        if protected and not privileged:
            raise ProtectedLabel(f"label '{protected[0]}' is protected: only a privileged guard can remove it")
        if not held:
            return self
        gone = set(held)
        return Labels(
            {label: None for label in self._declared if label not in gone},
            {label: None for label in self._automatic if label not in gone},
            self._sources,
            self._tools,
        )

    def trust(self, *, privileged: bool) -> Labels:
        """Declared `trusted`, displacing `untrusted`: the one way up, for privileged guards. Errors:
        `ProtectedLabel`.
        """
        return self.without("untrusted", privileged=privileged).declare("trusted")

    def json(self) -> dict[str, object]:
        """The shape of `.mx` in scripts, events and the record."""
        return {
            "labels": list(self.labels),
            "taint": list(self.taint),
            "sources": list(self.sources),
            "tools": [tool.json() for tool in self._tools],
        }


NONE = Labels()
# A script joins the same few objects over and over: by identity, with the two kept so that no id is taken by another.
_JOINS: dict[tuple[int, int], tuple[Labels, Labels, Labels]] = {}
_MOST_JOINS = 4096


def from_flat(names: Iterable[str]) -> Labels:
    """The labels of a flat list, as a sidecar or a record has it: declared, automatic and sources by their spelling."""
    declared: list[str] = []
    automatic: list[str] = []
    sources: list[str] = []
    for name in names:
        kind = automatic if name.startswith(("src:", "dir:")) else sources if name.startswith("mcp:") else declared
        kind.append(name)
    if "untrusted" in declared:
        declared = [name for name in declared if name != "trusted"]
    return Labels.of(*declared, automatic=automatic, sources=sources)


def joined(many: Iterable[Labels]) -> Labels:
    """The labels of a collection: the join of its members in one pass, which shares when they are alike."""
    distinct: dict[int, Labels] = {}
    for labels in many:
        if labels is not NONE:
            distinct.setdefault(id(labels), labels)
    if len(distinct) < 2:
        return next(iter(distinct.values()), NONE)
    if len(distinct) == 2:
        first, second = distinct.values()
        return first | second
    # One pass over all members: joining them pairwise would copy a long lineage once for each.
    declared: dict[str, None] = {}
    automatic: dict[str, None] = {}
    sources: dict[str, None] = {}
    tools: dict[ToolUse, None] = {}
    for labels in distinct.values():
        declared.update(labels._declared)
        automatic.update(labels._automatic)
        sources.update(labels._sources)
        tools.update(labels._tools)
    return Labels(_exclude(declared), automatic, sources, tools)


def _ordered(labels: Iterable[str]) -> _Set:
    return dict.fromkeys(labels) or _EMPTY


def _join(left: _Set, right: _Set) -> _Set:
    if not right or right is left or right.keys() <= left.keys():
        return left
    return right if left.keys() <= right.keys() and len(left) < len(right) else {**left, **right}


def _exclude(declared: _Set) -> _Set:
    if "untrusted" in declared and "trusted" in declared:
        return {label: None for label in declared if label != "trusted"}
    return declared

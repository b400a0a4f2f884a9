"""Which names exist for the agent: one decision for lists and calls, so that a hidden tool is an unknown tool.

A server's `tools` is `"*"` or a list. A list is closed: it names tools (in MCP, camelCase or snake_case spelling), and
with `prompt:NAME`, `resource:URI` or `resource:PREFIX*` anything else that shall be there; what it does not name does
not exist, also not as a resource or a prompt, which are other ways to the same server.

Bound parameters vanish from a tool's schema here and are put into the call in `shapes`. A tool whose description or
schema is not the one in the lock, or changes while the run lasts, is not the tool that somebody looked at: it vanishes
too, and so does one that the lock of its server does not hold.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import unquote

import msgspec
import orjson

from images.sidecar.config import ServerRules, ToolShape
from images.sidecar.remembered import Offers
from images.sidecar.seams import Allowed, Hidden, Kind
from images.sidecar.shapes import Schemas, reshaped

_CAMEL_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SEPARATOR = re.compile(r"[/\\]")
_OTHER = re.compile(r"[^a-z0-9]+")
_BEFORE_DIGIT = re.compile(r"_(?=[0-9])")
MOST_TOLD = 1000
MOST_PINNED = 8 << 20
"""Bytes that are remembered of the tools which one unlocked server has shown."""
MOST_REMEMBERED = 10_000
_LONGEST_DIFF, _OBJECTS = 4096, 256
_MOST_HIDDEN, _LONGEST_NAME = 100, 128
# What an agent acts on; a server may count or date what it likes in `_meta`.
_PINNED = ("title", "description", "inputSchema", "outputSchema", "annotations", "instructions")
ITSELF = ""
"""The name under which a server's own `instructions` are pinned: no tool can have it."""


def spelling(name: str) -> str:
    """The one form of a tool's name: `listIssues`, `list-issues` and `list_issues` are one tool, and so are `tool_9` and
    `tool9`, which scripts spell alike.
    """
    # The interpreter has the same rule (`names.same_name`); it is not imported into a sidecar that has no guards to run.
    form = _OTHER.sub("_", _CAMEL_HUMP.sub("_", name.removeprefix("@")).lower()).strip("_")
    return _BEFORE_DIGIT.sub("", form)


class Filter:
    """What was said about one server, taken apart once."""

    def __init__(self, rules: ServerRules) -> None:
        self._all = rules.tools == "*"
        self._tools: dict[str, str] = {}
        self._exact: set[str] = set()
        self._prefixes: tuple[str, ...] = ()
        self._decided: dict[tuple[Kind, str], Allowed | Hidden] = {}
        for entry in () if rules.tools == "*" else rules.tools:
            if not entry.startswith(("prompt:", "resource:")):
                self._tools[spelling(entry)] = entry
            elif entry.endswith("*"):
                self._prefixes += (entry[:-1],)
            else:
                self._exact.add(entry)
        self._only = None if rules.only == "*" else {spelling(name) for name in rules.only}
        self._withheld = {spelling(name) for name in rules.withheld}
        self._labels = rules.labels
        self._shapes = {spelling(name): shape for name, shape in rules.shapes.items()}
        self._validated = "*" if rules.validate == "*" else {spelling(name) for name in rules.validate}

    @property
    def closed(self) -> bool:
        """Whether nothing of the server can exist for the agent."""
        return self._only == set() or not (self._all or self._tools or self._exact or self._prefixes)

    def shape(self, tool: str) -> ToolShape | None:
        """How a tool is shown and called, if it is shaped at all."""
        return self._shapes.get(spelling(tool)) if self._shapes else None

    def validates(self, tool: str) -> bool:
        """Whether the tool's arguments are held against its schema."""
        return self._validated == "*" or (bool(self._validated) and spelling(tool) in self._validated)

    def admit(self, kind: Kind, name: str) -> Allowed | Hidden:
        known = self._decided.get((kind, name))
        if known is None:
            known = self._decide(kind, name)
            if len(self._decided) < MOST_REMEMBERED:
                self._decided[kind, name] = known
        return known

    def _decide(self, kind: Kind, name: str) -> Allowed | Hidden:
        if self._only is not None and kind != "task" and (kind != "tool" or spelling(name) not in self._only):
            # A list of tools is closed here, too: what it does not name does not exist in any form.
            return Hidden(f"the environment's `tools` does not name the {kind} {name}")
        if kind == "tool" and spelling(name) in self._withheld:
            return Hidden(f"policy withholds the tool {name}", ruled=True)
        match kind:
            case "tool":
                if self._all or spelling(name) in self._tools:
                    return Allowed(labels=self._labelled(kind, name))
            case "task":
                # A task is the answer to a call that was admitted, and belongs to its session.
                return Allowed()
            case "prompt" | "resource":
                if self._all or self._named(f"{kind}:{name}"):
                    return Allowed(labels=self._labelled(kind, name))
            case "template":
                # What a template can spell must be inside what was named, whatever is put into it.
                fixed = name.partition("{")[0]
                if self._all or f"resource:{fixed}".startswith(self._prefixes):
                    return Allowed(labels=self._labelled("resource", fixed))
        return Hidden(f"the server's `tools` does not name the {kind} {name}")

    def _labelled(self, kind: Kind, name: str) -> tuple[str, ...]:
        """The labels that are declared for a name: a tool's for itself or a pattern (`read_*`), those of prompts and
        resources as `tools` spells them."""
        found: dict[str, None] = {}
        for entry, labels in self._labels.items():
            if entry.startswith(("prompt:", "resource:")):
                full = f"{kind}:{name}"
                hit = full == entry or (entry.endswith("*") and full.startswith(entry[:-1]))
            else:
                hit = kind == "tool" and (spelling(entry) == spelling(name) or fnmatchcase(name, entry))
            if hit:
                found.update(dict.fromkeys(labels))
        return tuple(found)

    def _named(self, name: str) -> bool:
        if name in self._exact:
            return True
        return name.startswith(self._prefixes) and not _climbs(name)

    def missing(self, names: Sequence[str]) -> dict[str, str | None]:
        """Entries that name no tool of the server, each with the name that it may have meant."""
        has = {spelling(name): name for name in names}
        if self._tools.keys() <= has.keys():
            return {}
        import difflib  # most filters are right

        near = {form: difflib.get_close_matches(form, has, 1) for form in self._tools if form not in has}
        return {self._tools[form]: has[found[0]] if found else None for form, found in near.items()}


def _climbs(name: str) -> bool:
    """Whether some server could read `..` in it: `a/../b` is spelt below `a/` and lies beside it."""
    for _ in range(4):
        if ".." in _SEPARATOR.split(name):
            return True
        name, former = unquote(name), name
        if name == former:
            return False
    return True


class Admission:
    """Decides about the names of all servers of a run. A server that is not configured has no names."""

    def __init__(
        self, rules: Mapping[str, ServerRules], emit: Callable[[dict[str, Any]], None], *, tell_pins: bool = False
    ) -> None:
        self._shaped = any(of_server.shapes or of_server.validate for of_server in rules.values())
        self._schemas: dict[tuple[str, str], Schemas] = {}
        self._filters = {server: Filter(of_server) for server, of_server in rules.items()}
        self._locked = {server for server, of_server in rules.items() if of_server.pins is not None}
        self._pins = {
            (server, tool): pinned(item)
            for server, of_server in rules.items()
            for tool, item in (of_server.pins or {}).items()
            if isinstance(item, dict)
        }
        self._tell_pins = tell_pins
        self._seen: dict[str, int] = {}
        self._told: set[tuple[str, str]] = set()
        self._emit = emit

    def admit(self, server: str, kind: Kind, name: str) -> Allowed | Hidden:
        """Whether the name exists, and the labels of its results."""
        found = self._filters.get(server)
        return found.admit(kind, name) if found is not None else Hidden(f"{server} is no server of this run")

    def shapes(self, server: str) -> bool:
        """Every list is looked at: a tool may have changed."""
        return server in self._filters

    def shape(self, server: str, tool: str) -> ToolShape | None:
        """The shape of a tool, which its calls must have too."""
        found = self._filters.get(server)
        return found.shape(tool) if found is not None else None

    @property
    def shaped(self) -> bool:
        """Whether any tool of the run has a shape, or arguments that are checked."""
        return self._shaped

    def schemas(self, server: str, tool: str) -> Schemas | None:
        """What the arguments of a tool are held against; None if they are not. Of a tool that nobody has listed, nothing
        fits."""
        found = self._filters.get(server)
        if found is None or not found.validates(tool):
            return None
        return self._schemas.get((server, tool), Schemas(shown=b"false", own=b"false"))

    def describe(
        self, server: str, kind: Kind, item: dict[str, Any], *, remembered: bool = False
    ) -> dict[str, Any] | Hidden:
        """A tool as the agent sees it; the same object if nothing is to be changed."""
        if kind != "tool":
            return item
        name = str(item.get("name"))
        if (changed := self._changed(server, name, item, remembered=remembered)) is not None:
            return changed
        shape = self.shape(server, name)
        try:
            shown = item if shape is None else reshaped(item, shape)
        except ValueError as error:
            self._tell_once(server, name, {"event": "error", "where": "admission", "error": str(error)})
            return Hidden(str(error))
        if server in self._filters and self._filters[server].validates(name):
            own = msgspec.json.encode(item.get("inputSchema"))
            self._schemas[server, name] = Schemas(
                shown=own if shown is item else msgspec.json.encode(shown.get("inputSchema")), own=own
            )
        return shown

    def listed(self, server: str, names: Sequence[str]) -> str | None:
        """Told after a server's tools were listed: what the filter names and the server lacks. The record gets the
        names that there are; the agent does not, for most of them are hidden."""
        if self._tell_pins:
            held = {tool: orjson.Fragment(item) for (of, tool), item in self._pins.items() if of == server}
            self._emit({"event": "pins", "server": server, "tools": held})
        self._tell_hidden(server, names)
        missing = self._filters[server].missing(names) if server in self._filters else {}
        if not missing:
            return None
        meant = ", ".join(
            f"{entry!r} (did you mean {near!r}?)" if near else repr(entry) for entry, near in missing.items()
        )
        error = f"{server}: `tools` names {meant}, and the server has {', '.join(sorted(names)[:50]) or 'no tools'}"
        self._tell_once(server, error, {"event": "error", "where": "admission", "kind": "unknown-tool", "error": error})
        return f"`tools` names {', '.join(map(repr, missing))}, which the server does not have"

    def _tell_hidden(self, server: str, names: Sequence[str]) -> None:
        """The record gets the tools that the agent is not to know of, and why; `mlld sandbox tools` shows them."""
        verdicts = {name: self.admit(server, "tool", name) for name in names if name.isprintable()}
        hidden = {name[:_LONGEST_NAME]: v.reason for name, v in verdicts.items() if isinstance(v, Hidden)}
        if hidden:
            shown = dict(sorted(hidden.items())[:_MOST_HIDDEN])
            digest = hashlib.sha256(orjson.dumps(shown)).hexdigest()
            self._tell_once(server, digest, {"event": "list", "hidden": shown, "total": len(hidden)})

    def introduce(self, server: str, text: str, *, remembered: bool = False) -> Hidden | None:
        """Why what a server says of itself must not reach the agent; None if it may. One that says nothing is pinned, too."""
        found = self._filters.get(server)
        if found is None or found.closed:
            return Hidden(f"no tool of {server} exists for the agent, so neither does what it says of itself")
        if text:
            return self._changed(server, ITSELF, {"instructions": text}, remembered=remembered)
        if not remembered and server not in self._locked:
            self._pins.setdefault((server, ITSELF), pinned({}))
        return None

    def contradicts(self, server: str, offers: Offers) -> str | None:
        """What of a server's words in an earlier run its lock holds otherwise or not at all; None where they agree."""
        if server not in self._locked:
            return None
        for item in map(msgspec.json.decode, offers.lists.get("tool", ())):
            name = str(item.get("name"))
            admitted = isinstance(self.admit(server, "tool", name), Allowed)
            if admitted and self._pins.get((server, name)) != pinned(item):
                return f"the tool {name}"
        said = {"instructions": offers.instructions} if offers.instructions else {}
        if said and not self._filters[server].closed and self._pins.get((server, ITSELF)) != pinned(said):
            return "what it says of itself"
        return None

    def _changed(self, server: str, name: str, item: dict[str, Any], *, remembered: bool) -> Hidden | None:
        now = pinned(item)
        where = "the lock" if server in self._locked else "what was first seen in this run"
        former = self._pins.get((server, name))
        if former is None and server not in self._locked:
            if remembered:
                return None  # the server has not said it in this run: it is shown, and nothing is measured by it
            # What is not remembered could change unseen, so it is not shown.
            seen = self._seen[server] = self._seen.get(server, 0) + len(name) + len(now) + _OBJECTS
            if seen > MOST_PINNED:
                return Hidden(f"{server} has shown more different tools than a run remembers")
            former = self._pins[server, name] = now
        if former == now:
            return None
        other = "instructions are not those" if name == ITSELF else "description or schema is not the one"
        reason = f"it is not in {where}" if former is None else f"its {other} in {where}"
        kind, called = ("instructions", "instructions") if name == ITSELF else ("tool", name)
        event = {"event": "denied", "kind": kind, "name": called, "rule": "pin", "reason": reason}
        digest = hashlib.sha256(now).hexdigest()
        self._tell_once(server, f"{name} {digest}", event | {"diff": _difference(former or b"{}", now)})
        return Hidden(reason, ruled=True)

    def _tell_once(self, server: str, what: str, event: dict[str, Any]) -> None:
        # Lists are made again and again; a hostile server must not fill the record with one fact.
        if (server, what) not in self._told and len(self._told) < MOST_TOLD:
            self._told.add((server, what))
            self._emit(event | {"server": server})


def pinned(item: Mapping[str, Any]) -> bytes:
    """What of a tool must stay as it is, in one spelling."""
    found = {key: item[key] for key in _PINNED if item.get(key) is not None}
    # By msgspec, for orjson refuses integers over 64 bits, which JSON allows, and one tool would cost everybody the list.
    return msgspec.json.encode(found, order="sorted")


def _difference(former: bytes, now: bytes) -> str:
    """The change as a person reads it, cut to what a record holds."""
    import difflib  # most tools stay as they are

    before, after = (
        orjson.dumps(orjson.loads(text), option=orjson.OPT_INDENT_2).decode().splitlines()[:500]
        for text in (former, now)
    )
    return "\n".join(difflib.unified_diff(before, after, "pinned", "now", n=1, lineterm=""))[:_LONGEST_DIFF]

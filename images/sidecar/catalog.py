"""What all servers of a cohort offer, merged: which name leads where, and the lists as the agent gets them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from images.sidecar import jsonrpc
from images.sidecar.asking import Asking
from images.sidecar.items import fault
from images.sidecar.joint import outcome
from images.sidecar.jsonrpc import OURS, RawMap
from images.sidecar.member import LISTS, Member
from images.sidecar.process import Events, ServerError
from images.sidecar.seams import GUARD_FAILURE, Admission, Allowed, Hidden, Kind

PAGE = 1_000
MAX_NAME = 64
_NAMED_BY: dict[Kind, str] = {"tool": "name", "prompt": "name", "resource": "uri", "template": "uriTemplate"}
_RENAMED = frozenset(("tool", "prompt"))
_FAULTS_TOLD = 5
_COALESCE_SECONDS, _COALESCE_MAX, _QUIET_SECONDS = 0.02, 2.0, 5.0
_RETRY_SECONDS = 2.0
_MAX_SERVER_NAME, _MAX_URI = 256, 8192


class Entry(msgspec.Struct, frozen=True, eq=False):
    """One thing that can be used: where it is and what its results are labelled with."""

    member: Member
    name: str
    """In the server's own spelling."""
    labels: tuple[str, ...]
    taint: frozenset[str]
    """The same labels, for what grows by them."""
    mark: bytes
    """The labels as a member of a result's `_meta`."""
    schema: bytes = b""
    """A tool's input schema, if it wants arguments mirrored in headers."""

    @property
    def declared(self) -> tuple[str, ...]:
        """Its labels without those that say where it is from."""
        return self.labels[2:]


class Listing(msgspec.Struct, frozen=True, eq=False):
    """One merged list."""

    index: dict[str, Entry]
    items: Sequence[bytes]
    """As they are shown, in the order of the index."""
    pages: Sequence[bytes]
    """Each the members of a result, without braces: `"tools":[…]`."""
    labels: frozenset[str]
    """Of the entries themselves. Those of a tool are of its results."""
    withheld: int
    """How many a rule of the policy or the lock keeps out of it."""
    notes: dict[str, str]
    """Servers that are missing or not complete, and why."""
    missing: bool
    """Whether a server could not be asked."""
    made: float
    hidden: dict[str, tuple[str, str]]
    """Names that a server has and the agent has not: the server, and why. For the record only."""
    views: dict[frozenset[str], Any] = {}
    """What is left of it for agents that have seen such labels."""

    def shown(self, name: str) -> bytes | None:
        """The item of that name as it is shown."""
        return next((item for key, item in zip(self.index, self.items, strict=True) if key == name), None)


class _Item(msgspec.Struct):
    name: str = ""
    uri: str = ""
    uriTemplate: str = ""
    inputSchema: msgspec.Raw = msgspec.Raw(b"")


_item = msgspec.json.Decoder(_Item)


class _LeftOut(msgspec.Struct):
    """What of a server's list the agent does not get."""

    faults: list[str]
    """Names of what is not as the protocol says, with what is wrong."""
    hidden: dict[str, tuple[str, str]]
    """Of all servers: see `Listing`."""
    withheld: int = 0
    """How many a rule or the lock keeps back."""

    def hide(self, name: str, member: Member, why: Hidden) -> None:
        self.hidden.setdefault(name, (member.name, why.reason))
        self.withheld += why.ruled


def entry_of(member: Member, kind: Kind, name: str, allowed: Allowed, schema: bytes = b"") -> Entry:
    """The entry of something that was admitted."""
    labels = ("src:mcp", f"mcp:{member.name}:{name}", *allowed.labels)
    mark = b'"%slabels":%s' % (OURS.encode(), jsonrpc.encode(labels))
    return Entry(member, name, labels, frozenset(labels), mark, schema)


def qualified(prefix: str, name: str) -> str:
    """A name that tells two servers apart. Too long ones keep their head and get a hash that never changes."""
    full = f"{prefix}__{name}"
    return full if len(full) <= MAX_NAME else f"{full[: MAX_NAME - 9]}_{hashlib.sha256(full.encode()).hexdigest()[:8]}"


def printable(name: str, kind: Kind) -> bool:
    """Whether a name may be shown: an escape sequence in it could draw over what a person reads."""
    return 0 < len(name) <= (_MAX_SERVER_NAME if kind in _RENAMED else _MAX_URI) and name.isprintable()


class Catalog:
    """The merged lists of some members. Once made, a list is always there: it is replaced when its successor is
    complete, so a server that is slow to tell what changed holds up nobody's calls."""

    def __init__(
        self,
        members: Sequence[Member],
        admission: Admission,
        asking: Asking,
        events: Events,
        on_replaced: Callable[[Kind], None],
        *,
        modern: bool,
    ) -> None:
        self._modern = modern
        self._members, self._admission, self._events, self._on_replaced = members, admission, events, on_replaced
        self._asking = asking
        self._loop = asyncio.get_running_loop()
        self._listings: dict[Kind, Listing] = {}
        self._building: dict[Kind, asyncio.Task[Listing]] = {}
        self._dirty: set[Kind] = set()
        self._pauses: dict[Kind, float] = {}
        self._templates: list[tuple[list[str], Entry]] = []

    def known(self, kind: Kind) -> Listing | None:
        """The list, if it was ever made."""
        return self._listings.get(kind)

    def changed(self, member: Member, kind: Kind) -> None:
        """A server says that its list is another one now. `on_replaced` follows; many changes at once make one."""
        member.changed(kind)
        self._dirty.add(kind)
        if kind in self._listings and kind not in self._building:
            self._build(kind)

    async def renew(self) -> None:
        """Makes every list anew from what is known now; those that are not what they were are told."""
        for kind, former in list(self._listings.items()):
            if (await self._make(kind)).pages != former.pages:
                self._on_replaced(kind)

    async def listing(self, kind: Kind) -> Listing:
        """The list, asked from all servers at once the first time. Servers that fail are in its notes."""
        found = self._listings.get(kind)
        if found is None:
            return await outcome(self._building.get(kind) or self._build(kind))
        if found.missing and kind not in self._building and self._loop.time() - found.made > _RETRY_SECONDS:
            self._dirty.add(kind)
            self._build(kind)
        return found

    def _build(self, kind: Kind) -> asyncio.Task[Listing]:
        task = self._building[kind] = self._loop.create_task(self._gather(kind))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _gather(self, kind: Kind) -> Listing:
        former = self._listings.get(kind)
        try:
            if former is not None:
                await asyncio.sleep(self._pause(kind, former))
            self._dirty.discard(kind)
            listing = await self._make(kind)
        finally:
            self._building.pop(kind, None)
        if former is not None and (not former.missing or former.pages != listing.pages):
            self._on_replaced(kind)
        if kind in self._dirty:
            # Whoever waits gets this list: a server that changes without end must not keep it from them.
            self._build(kind)
        return listing

    async def _make(self, kind: Kind) -> Listing:
        gathered = await asyncio.gather(*(self._items(member, kind) for member in self._members))
        listing = self._merge(kind, gathered)
        if kind != "tool" and self._asking.active:
            listing = await self._judged(kind, listing)
        self._listings[kind] = listing
        if kind == "template":
            self._templates = [(literals(uri), entry) for uri, entry in listing.index.items()]
        return listing

    def _pause(self, kind: Kind, former: Listing) -> float:
        """Seconds in which more changes make one: twice as many each time that a change follows a list so soon, for a
        server that does nothing but change must not keep the sidecar busy with it."""
        soon = self._loop.time() - former.made < _QUIET_SECONDS
        pause = min(self._pauses.get(kind, 0.0) * 2, _COALESCE_MAX) if soon else 0.0
        self._pauses[kind] = pause = max(pause, _COALESCE_SECONDS)
        return pause

    async def _items(self, member: Member, kind: Kind) -> list[bytes] | None:
        try:
            return await member.items(kind, self._events)
        except ServerError as e:
            member.trouble = member.trouble or str(e)
            return None

    def _merge(self, kind: Kind, gathered: Sequence[list[bytes] | None]) -> Listing:
        offers: dict[str, list[tuple[Entry, bytes]]] = {}
        notes: dict[str, str] = {}
        hidden: dict[str, tuple[str, str]] = {}
        missing, withheld = False, 0
        for member, items in zip(self._members, gathered, strict=True):
            missing |= items is None
            seen: set[str] = set()
            left = _LeftOut([], hidden)
            for item in items or ():
                offer = self._offer(member, kind, item, left)
                if offer is not None and offer[0].name not in seen:
                    seen.add(offer[0].name)
                    offers.setdefault(offer[0].name, []).append(offer)
            note = (
                self._admission.listed(member.name, names_of(items)) if kind == "tool" and items is not None else None
            )
            withheld += left.withheld
            faults = ", ".join(left.faults[:_FAULTS_TOLD])
            bad = f"left out, as not what the protocol says: {faults}" if faults else None
            if note or bad or member.trouble:
                notes[member.name] = "; ".join(filter(None, (member.trouble, note, bad)))
        index: dict[str, Entry] = {}
        shown: dict[str, bytes] = {}
        for name, same in offers.items():
            for entry, item in same if kind in _RENAMED else same[:1]:
                public = name
                if len(same) > 1 and kind in _RENAMED:
                    public = qualified(entry.member.upstream.prefix, name)
                    if public in offers or public in index:
                        digest = hashlib.sha256(f"{entry.member.name}\0{name}".encode()).hexdigest()[:16]
                        public = f"{public[: MAX_NAME - 17]}_{digest}"
                    item = renamed(item, public)
                index[public], shown[public] = entry, item
        listed = tuple(shown.values())
        own = frozenset(label for e in index.values() for label in e.declared) if kind != "tool" else frozenset()
        made = self._loop.time()
        return Listing(index, listed, paged(kind, listed), own, withheld, notes, missing, made, hidden)

    async def _judged(self, kind: Kind, listing: Listing) -> Listing:
        """A list without the entries that guards keep back, each judged by itself. Tools are not asked about here: which
        of them there are is for filters and the lock to say."""
        index: dict[str, Entry] = {}
        shown: list[bytes] = []
        hidden = dict(listing.hidden)
        failed: set[str] = set()
        for (public, entry), item in zip(listing.index.items(), listing.items, strict=True):
            server, labels = entry.member.name, entry.taint
            verdict = None
            if server not in failed:
                verdict = await self._asking.entry(server, LISTS[kind][0], entry.name, item, labels)
                if verdict.rule == GUARD_FAILURE:
                    failed.add(server)  # a guard that takes its whole time for each entry would take it for all
            if verdict is not None and verdict.kind == "allow":
                index[public] = entry
                shown.append(item)
            else:
                rule = verdict.rule if verdict is not None else GUARD_FAILURE
                hidden.setdefault(public, (server, f"withheld by {rule or 'a guard'}"))
        withheld = listing.withheld + len(listing.items) - len(shown)
        return msgspec.structs.replace(
            listing, index=index, items=shown, pages=paged(kind, shown), withheld=withheld, hidden=hidden, views={}
        )

    def _offer(self, member: Member, kind: Kind, item: bytes, left: _LeftOut) -> tuple[Entry, bytes] | None:
        """An item that the agent may see, as it sees it; why it may not goes to `left`."""
        try:
            fields = _item.decode(item)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        name = str(getattr(fields, _NAMED_BY[kind]))
        if not printable(name, kind):
            return None
        verdict = self._admission.admit(member.name, kind, name)
        if isinstance(verdict, Hidden):
            left.hide(name, member, verdict)
            return None
        if self._admission.shapes(member.name):
            asked = msgspec.json.decode(item)
            described = self._admission.describe(member.name, kind, asked, remembered=kind in member.remembered)
            if isinstance(described, Hidden):
                left.hide(name, member, described)
                return None
            if described is not asked:
                item = jsonrpc.encode(described)
        wrong = fault(kind, item, modern=self._modern)
        if wrong is not None:
            left.faults.append(f"{name} ({wrong})")
            return None
        schema = bytes(_item.decode(item).inputSchema) if b"x-mcp-header" in item else b""
        if kind == "tool":
            item = signed(item, member.name)
        return entry_of(member, kind, name, verdict, schema), jsonrpc.one_line(item)

    # --- routing

    async def find(self, kind: Kind, name: str) -> Entry | None:
        """Where a tool, a prompt or a listed resource is."""
        return (await self.listing(kind)).index.get(name)

    async def find_resource(self, uri: str) -> Entry | None:
        """Who owns a resource: the list, else a template that fits, else the one server that has resources at all."""
        entry = await self.find("resource", uri)
        if entry is not None:
            return entry
        await self.listing("template")
        for parts, owner in self._templates:
            if fits(parts, uri):
                return self._admitted(owner.member, uri)
        owners = [member for member in self._members if member.capabilities and "resources" in member.capabilities]
        return self._admitted(owners[0], uri) if len(owners) == 1 else None

    def _admitted(self, member: Member, uri: str) -> Entry | None:
        """A resource that no list names is admitted by itself."""
        verdict = self._admission.admit(member.name, "resource", uri)
        return None if isinstance(verdict, Hidden) else entry_of(member, "resource", uri, verdict)


def paged(kind: Kind, items: Sequence[bytes]) -> Sequence[bytes]:
    """The pages of a list, of which there is at least one."""
    key = LISTS[kind][1].encode()
    return [b'"%s":[%s]' % (key, b",".join(items[i : i + PAGE])) for i in range(0, len(items) or 1, PAGE)]


def names_of(items: Sequence[bytes]) -> list[str]:
    """The names in a list, as far as they can be read."""
    names = []
    for item in items:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            names.append(_item.decode(item).name)
    return names


def renamed(item: bytes, name: str) -> bytes:
    """An item under another name; all else stays as it was spelt."""
    fields: RawMap = jsonrpc.members(item)
    fields["name"] = msgspec.Raw(jsonrpc.encode(name))
    return jsonrpc.encode(fields)


def signed(item: bytes, server: str) -> bytes:
    """An item with the name of its server in `_meta`, where no server can write it; all else stays as it was spelt."""
    fields: RawMap = jsonrpc.members(item)
    theirs = jsonrpc.foreign_meta(fields.get("_meta"))
    ours = b'"%sserver":%s' % (OURS.encode(), jsonrpc.encode(server))
    fields["_meta"] = msgspec.Raw(b"{%s}" % b",".join(filter(None, (theirs, ours))))
    return jsonrpc.encode(fields)


def literals(template: str) -> list[str]:
    """What an RFC 6570 template fixes: the text around its expressions."""
    return re.split(r"\{[^{}]*\}", template)


def fits(parts: list[str], uri: str) -> bool:
    """Whether the text of a template is in the URI, in order. Wide on purpose: it finds an owner, it decides no access.
    No regular expression: a server writes the template, and could write one that never ends."""
    if len(parts) == 1:
        return uri == parts[0]
    first, *middle, last = parts
    if len(uri) < len(first) + len(last) or not uri.startswith(first) or not uri.endswith(last):
        return False
    at, end = len(first), len(uri) - len(last)
    for part in middle:
        found = uri.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True

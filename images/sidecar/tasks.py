"""Tasks of one session (2025-11-25): calls whose result is fetched later, under an id that is the session's own.

Two servers may give the same id, and an id of one session must open nothing in another: the agent gets ids of ours, and
each leads to a task that this session began, with the labels of the tool that it came from.
"""

from __future__ import annotations

import os

import msgspec
from msgspec import Raw

from images.sidecar import jsonrpc
from images.sidecar.catalog import Entry
from images.sidecar.handshake import META
from images.sidecar.jsonrpc import Malformed, RawMap

RELATED = META + "related-task"
_MAX_TASKS = 1_000


class Tasks:
    """Ours ↔ theirs, both ways. Bounded: the oldest is forgotten first."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[Entry, bytes]] = {}
        self._ours: dict[tuple[str, bytes], str] = {}

    def began(self, entry: Entry, task: Raw) -> Raw:
        """A server took a call as a task: its description with our id."""
        fields = jsonrpc.members(task)
        theirs = _spelt(fields)
        key = (entry.member.name, theirs)
        if key not in self._ours:
            if len(self._entries) >= _MAX_TASKS:
                self._forget(next(iter(self._entries)))
            ours = self._ours[key] = os.urandom(8).hex()
            self._entries[ours] = (entry, theirs)
        fields["taskId"] = Raw(jsonrpc.encode(self._ours[key]))
        return Raw(jsonrpc.encode(fields))

    def find(self, fields: RawMap) -> Entry:
        """Which tool's task a request means; writes the server's own id into it. Raises Malformed."""
        ours = jsonrpc.text(fields, "taskId")
        known = self._entries.get(ours)
        if known is None:
            raise Malformed(jsonrpc.INVALID_PARAMS, f"Unknown task: {ours}")
        fields["taskId"] = Raw(known[1])
        return known[0]

    def entry(self, ours: str) -> Entry:
        """What a task of this session came from."""
        return self._entries[ours][0]

    def known(self, server: str, fields: RawMap) -> bool:
        """Writes our id over a server's, wherever the fields name a task; False if the task is not this session's."""
        if "taskId" in fields:
            ours = self._ours.get((server, bytes(fields["taskId"])))
            if ours is None:
                return False
            fields["taskId"] = Raw(jsonrpc.encode(ours))
        meta = jsonrpc.members(fields.get("_meta", b""))
        if RELATED in meta:
            related = jsonrpc.members(meta[RELATED])
            if not self.known(server, related):
                return False
            meta[RELATED] = Raw(jsonrpc.encode(related))
            fields["_meta"] = Raw(jsonrpc.encode(meta))
        return True

    def listed(self, server: str, tasks: bytes) -> list[tuple[Entry, bytes]]:
        """Those of a server's tasks that this session began, with our ids, and what each came from."""
        try:
            items = msgspec.json.decode(tasks or b"[]", type=list[RawMap])
            mine = [item for item in items if "taskId" in item and self.known(server, item)]
            return [(self.entry(jsonrpc.text(item, "taskId")), jsonrpc.encode(item)) for item in mine]
        except (msgspec.DecodeError, UnicodeDecodeError, Malformed):
            return []

    def servers(self) -> set[str]:
        """Servers that have tasks of this session."""
        return {entry.member.name for entry, _ in self._entries.values()}

    def _forget(self, ours: str) -> None:
        entry, theirs = self._entries.pop(ours)
        del self._ours[entry.member.name, theirs]


def _spelt(fields: RawMap) -> bytes:
    theirs = bytes(fields.get("taskId", b""))
    if theirs[:1] != b'"':
        raise Malformed(jsonrpc.INTERNAL_ERROR, "The server began a task without an id")
    return theirs

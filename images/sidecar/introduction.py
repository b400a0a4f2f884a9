"""What servers say of themselves to a model: `instructions` of `initialize` and of `server/discover`.

A client puts them into its model's context before anything is asked for, which makes them the first place to poison. So
they are held against the lock, or what was first seen in this run, like the description of a tool; a guard that looks at
results of `initialize` looks at them; and where more than one server is there, each part is quoted under the name of its
server, so that none can speak for another. Like descriptions they are nothing that an agent has *seen*: only labels that a
guard adds are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import NamedTuple

from images.sidecar import jsonrpc
from images.sidecar.asking import Asking
from images.sidecar.member import Member
from images.sidecar.seams import Admission, Audit, Hidden

METHOD = "initialize"
"""What guards know it by, in both eras."""


class Introduction(NamedTuple):
    """What all servers of a cohort say of themselves."""

    text: str
    withheld: int = 0
    """How many of them a rule, a guard or the lock keeps back."""
    labels: frozenset[str] = frozenset()
    """Those that guards added."""


async def introduction(members: Collection[Member], admission: Admission, asking: Asking, audit: Audit) -> Introduction:
    """Of those servers that have said, or are remembered to have said, who they are."""
    known = [member for member in members if member.capabilities is not None]
    parts = await asyncio.gather(*(_judged(member, admission, asking, audit) for member in known))
    shown = {member.name: part.text for member, part in zip(known, parts, strict=True) if part.text}
    text = (
        "\n\n".join(_quoted(name, said) for name, said in shown.items())
        if len(members) > 1
        else "".join(shown.values())
    )
    return Introduction(text, sum(part.withheld for part in parts), frozenset().union(*(part.labels for part in parts)))


async def _judged(member: Member, admission: Admission, asking: Asking, audit: Audit) -> Introduction:
    text = member.instructions
    if isinstance(admission.introduce(member.name, text, remembered=not member.introduced), Hidden):
        return Introduction("", 1)
    if not text or not asking.active:
        return Introduction(text)
    labels = frozenset(("src:mcp", f"mcp:{member.name}"))
    said = jsonrpc.encode({"instructions": text})
    verdict = await asking.entry(member.name, METHOD, "", said, labels)
    shown: object = text
    if verdict.kind == "transform":
        shown = verdict.value.get("instructions") if isinstance(verdict.value, dict) else None
    if verdict.kind == "deny" or not isinstance(shown, str):
        told = {"server": member.name, "name": "instructions", "method": METHOD, "labels": sorted(labels)}
        audit.emit({"event": "denied", **told, "rule": verdict.rule or "a guard", "reason": verdict.reason})
        return Introduction("", 1)
    return Introduction(shown, 0, verdict.labels)


def _quoted(name: str, text: str) -> str:
    """A part of Markdown that no line of its text can end."""
    return "\n".join((f"# {name}", *(f"> {line}".rstrip() for line in text.splitlines())))

"""Sections of Markdown: `<guide.md # Install>` takes a heading with everything below it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from interpreter.errors import EvaluationError

HEADING = re.compile(r"^(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*$")
FENCE = re.compile(r"^\s*(```|~~~)")


@dataclass(frozen=True)
class Heading:
    """A heading and the lines that belong to it, up to the next of its level or above."""

    title: str
    level: int
    start: int
    end: int


def headings(lines: list[str]) -> list[Heading]:
    found: list[tuple[str, int, int]] = []
    fence: str | None = None
    for number, line in enumerate(lines):
        mark = FENCE.match(line)
        if mark:
            fence = None if fence == mark.group(1) else fence or mark.group(1)
        match = None if fence else HEADING.match(line)
        if match:
            found.append((match.group(2), len(match.group(1)), number))
    return [
        Heading(title, level, start, next((s for _, le, s in found[i + 1 :] if le <= level), len(lines)))
        for i, (title, level, start) in enumerate(found)
    ]


def normal(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", title.lower())


def best(title: str, all_headings: list[Heading]) -> Heading | None:
    """The heading that is meant: equal before equal but for case and punctuation, before one that begins so."""
    wanted = title.strip().lstrip("#").strip()
    tests = (
        lambda h: h.title == wanted,
        lambda h: h.title.lower() == wanted.lower(),
        lambda h: normal(h.title) == normal(wanted),
        lambda h: bool(normal(wanted)) and normal(h.title).startswith(normal(wanted)),
    )
    return next((h for test in tests for h in all_headings if test(h)), None)


def select(text: str, include: list[tuple[str, bool]], exclude: list[str]) -> str:
    """The included sections (title, optional) without the excluded ones, in the order of the document."""
    lines = text.split("\n")
    known = headings(lines)
    keep: list[Heading] = []
    for title, optional in include:
        heading = best(title, known)
        if heading is None:
            if optional:
                continue
            raise EvaluationError(
                f'Section "{title}" not found in content', code="section-not-found",
                hint=f"it has: {', '.join(h.title for h in known[:12])}" if known else "it has no headings",
            )  # fmt: skip
        if heading not in keep:
            keep.append(heading)
    drop = [h for title in exclude if (h := best(title, known)) is not None]
    if not include:
        wanted = set(range(len(lines)))
        order = [range(len(lines))]
    else:
        order = [range(h.start, h.end) for h in keep]
        wanted = {n for span in order for n in span}
    for heading in drop:
        wanted -= set(range(heading.start, heading.end))
    pieces, seen = [], set()
    for span in order:
        part = [lines[n] for n in span if n in wanted and n not in seen]
        seen |= set(span)
        if part:
            pieces.append("\n".join(part).strip("\n"))
    return "\n\n".join(pieces)


def listing(text: str, level: int | None) -> list[str]:
    """`# ??` and `##??`: the titles of all headings, or of those of one level."""
    return [h.title for h in headings(text.split("\n")) if level is None or h.level == level]


def renamed(section: str, title: str) -> str:
    """The section under another heading; a title without `#` keeps the level."""
    first, _, rest = section.partition("\n")
    match = HEADING.match(first)
    if not title.lstrip().startswith("#"):
        title = f"{match.group(1) if match else '#'} {title}"
    return f"{title}\n{rest}" if match else f"{title}\n{section}"

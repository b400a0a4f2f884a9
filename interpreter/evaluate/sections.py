"""Sections of Markdown: `<guide.md # Install>` takes a heading with everything below it."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from interpreter.errors import EvaluationError

HEADING = re.compile(r"^ {0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*$")
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
    """A title without case, accents, spaces and punctuation."""
    plain = unicodedata.normalize("NFKD", title.lower())
    return "".join(mark for mark in plain if mark.isalnum())


def first(title: str, known: list[Heading]) -> Heading | None:
    """The first heading that begins like this title."""
    wanted = normal(title)
    return next((h for h in known if normal(h.title).startswith(wanted)), None) if wanted else None


def select(text: str, include: list[tuple[str, bool]], exclude: list[str]) -> str:
    """The included sections (title, optional) without the excluded ones, in the order of the document. Sections that follow
    each other stay as they are written; others are joined by an empty line. Errors: `EvaluationError` for a section that is
    not there, or of which nothing is left.
    """
    lines = text.split("\n")
    known = headings(lines)
    wanted: set[int] = set()
    found = False
    for title, optional in include:
        heading = first(title, known)
        if heading is not None:
            found = True
            wanted.update(range(heading.start, heading.end))
        elif not optional:
            raise EvaluationError(
                f'Section "{title}" not found in content', code="section-not-found",
                hint=f"it has: {', '.join(h.title for h in known[:12])}" if known else "it has no headings",
            )  # fmt: skip
    for title in exclude:
        if (heading := first(title, known)) is not None:
            wanted.difference_update(range(heading.start, heading.end))
    if found and not wanted:
        title = include[0][0]
        raise EvaluationError(
            f'Section "{title}" not found in content: all of it is excluded', code="section-not-found",
            hint=f"what stands behind ; takes away: {', '.join(exclude)}",
        )  # fmt: skip
    pieces: list[list[str]] = []
    before = -1
    for number in sorted(wanted):
        if number != before + 1 or not pieces:
            pieces.append([])
        pieces[-1].append(lines[number])
        before = number
    chunks = ("\n".join(piece).strip() for piece in pieces)
    return "\n\n".join(chunk for chunk in chunks if chunk)


def listing(text: str, level: int | None) -> list[str]:
    """`# ??` and `##??`: the titles of all headings, or of those of one level."""
    return [h.title for h in headings(text.split("\n")) if level is None or h.level == level]


def body(section: str) -> str:
    """A section without its heading."""
    heading, _, rest = section.partition("\n")
    return rest.strip() if HEADING.match(heading) else section


def renamed(section: str, title: str) -> str:
    """The section under another heading; a title without `#` keeps the level."""
    first, _, rest = section.partition("\n")
    match = HEADING.match(first)
    if not title.lstrip().startswith("#"):
        title = f"{match.group(1) if match else '#'} {title}"
    return f"{title}\n{rest}" if match else f"{title}\n{section}"

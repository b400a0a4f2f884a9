"""Where things are: a source text, a stretch of it, and the picture with the caret that a person is shown."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

Mode = Literal["strict", "document"]

# A line of a minified file is cut around the caret: a picture of 40 kB helps nobody.
PICTURE_WIDTH = 160


def mode_of(name: str) -> Mode:
    """The mode that a file name asks for: `.mld` is strict; `.md` and `.mld.md` are documents."""
    return "document" if name.endswith(".md") else "strict"


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """A text with the name under which it is shown (a path as the user typed it, or `<string>`)."""

    name: str = "<string>"
    text: str

    @cached_property
    def starts(self) -> list[int]:
        """The offset at which each line begins."""
        starts, at = [0], self.text.find("\n")
        while at >= 0:
            starts.append(at + 1)
            at = self.text.find("\n", at + 1)
        return starts

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset, both counted from 1."""
        line = bisect_right(self.starts, offset)
        return line, offset - self.starts[line - 1] + 1

    def line(self, number: int) -> str:
        begin = self.starts[number - 1]
        end = self.starts[number] - 1 if number < len(self.starts) else len(self.text)
        return self.text[begin:end].rstrip("\r")

    def span(self, start: int, end: int | None = None) -> Span:
        return Span(source=self, start=start, end=start if end is None else end)


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of one source, as offsets; lines and columns are worked out when somebody asks."""

    source: Source = field(repr=False)
    start: int
    end: int

    @property
    def line(self) -> int:
        return self.source.position(self.start)[0]

    @property
    def column(self) -> int:
        return self.source.position(self.start)[1]

    @property
    def text(self) -> str:
        return self.source.text[self.start : self.end]

    def __str__(self) -> str:
        """`file:line:column`, the form that terminals and editors make clickable."""
        line, column = self.source.position(self.start)
        return f"{self.source.name}:{line}:{column}"

    def to(self, other: Span) -> Span:
        return Span(self.source, self.start, other.end)

    def before(self, other: Span) -> Span:
        """This stretch up to another one, in a text that ends there: a picture of it shows nothing of what follows."""
        text = f"{self.source.text[: other.start]}…"
        return Span(Source(name=self.source.name, text=text), self.start, min(self.end, len(text)))

    def json(self) -> dict[str, object]:
        line, column = self.source.position(self.start)
        end_line, end_column = self.source.position(self.end)
        return {"file": self.source.name, "line": line, "column": column, "endLine": end_line, "endColumn": end_column}

    def picture(self) -> str:
        """The line with a caret under the stretch; a stretch over several lines is marked to the end of its first."""
        line, column = self.source.position(self.start)
        text = self.source.line(line)
        width = max(1, min(self.end - self.start, len(text) - column + 1))
        shift = max(0, column - PICTURE_WIDTH // 2) if len(text) > PICTURE_WIDTH else 0
        text, column = text[shift : shift + PICTURE_WIDTH], column - shift
        # Tabs stay tabs in the padding, so that the caret stands where the terminal puts the text.
        padding = "".join(c if c == "\t" else " " for c in text[: column - 1])
        gutter = f"{line:>4} | "
        return f"{gutter}{printable(text)}\n{' ' * (len(gutter) - 2)}| {padding}{'^' * min(width, PICTURE_WIDTH)}"


def printable(text: str) -> str:
    """Text of somebody else for a terminal: control characters cannot move the cursor or colour the screen."""
    return "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


# The place of things that no file wrote (a value of the command line, a built-in).
NOWHERE = Span(Source(name="<built-in>", text=""), 0, 0)

"""The document: everything a script writes as its output, in order, with the blank lines that its author meant.

Prose is emitted as it stands. Newlines between directives are held back until something follows: at most one blank line is left of
them. `show` takes the line it stands on with it, and the blank lines below.
"""

from __future__ import annotations

from collections.abc import Callable


class Document:
    """Writes to one sink and never lets more than one blank line through."""

    def __init__(self, sink: Callable[[str], None], mask: Callable[[str], str] = lambda text: text) -> None:
        self._sink = sink
        self._mask = mask
        self._pending = 0  # newlines held back
        self._newlines = 2  # at the end of what was written; the start counts as a blank line
        self._all: list[str] = []
        self._swallow = False

    @classmethod
    def nowhere(cls) -> Document:
        """The document of a module that is being imported: what it shows is not part of the importer's."""
        return cls(lambda text: None)

    def prose(self, text: str) -> None:
        """Text of the document between directives."""
        if self._swallow:
            self._swallow = False
            text = text.lstrip()
            if not text:
                self._swallow = True
                return
        if not text.strip("\n"):
            self._pending += len(text)
            return
        self._emit(text)

    def shown(self, text: str) -> None:
        """What `show` prints: a line of its own."""
        self.printed(text)

    def end_of_directive(self, *, shown: bool) -> None:
        """The line of a directive ends. `show` takes the end of its line, and the blank lines below, with it."""
        if shown:
            self._swallow = True
        else:
            self._pending += 1

    def text(self) -> str:
        """Everything so far: what `output "file"` without a value writes."""
        return "".join(self._all)

    def printed(self, text: str) -> None:
        """What `run` and the like print."""
        self._swallow = False
        self._emit(text if text.endswith("\n") else text + "\n")

    def _emit(self, text: str) -> None:
        lead = "\n" * min(self._pending, 2)
        self._pending = 0
        self._write(lead + text)

    def _write(self, text: str) -> None:
        text = self._mask(text)
        out: list[str] = []
        for piece in text.splitlines(keepends=True) if "\n" in text else [text]:
            if piece == "\n":
                if self._newlines >= 2:
                    continue
                self._newlines += 1
                out.append(piece)
            else:
                self._newlines = 1 if piece.endswith("\n") else 0
                out.append(piece)
        if out:
            written = "".join(out)
            self._all.append(written)
            self._sink(written)

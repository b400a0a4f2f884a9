"""Where a script's effects go: its output to stdout and nothing else there; all the rest to stderr; events to the record."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TextIO

from runner.secrets import Masker


class StreamOutput:
    """Output over two text streams (`ports.Output`), with secrets struck out of both."""

    def __init__(
        self,
        masker: Masker,
        *,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        on_event: Callable[[object], None] | None = None,
    ) -> None:
        self._masker = masker
        self._stdout = sys.stdout if stdout is None else stdout
        self._stderr = sys.stderr if stderr is None else stderr
        self._on_event = on_event

    def document(self, text: str) -> None:
        self._write(self._stdout, text)

    def stdout(self, text: str) -> None:
        self._write(self._stdout, text)

    def stderr(self, text: str) -> None:
        self._write(self._stderr, text)

    def event(self, event: object) -> None:
        if self._on_event:
            self._on_event(event)

    def _write(self, stream: TextIO, text: str) -> None:
        stream.write(self._masker.text(text))
        stream.flush()

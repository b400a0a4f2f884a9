"""The output of an agent's seat on its way to the streams of this process: as it comes, without secrets."""

from __future__ import annotations

import json
import sys
from typing import Literal

from interpreter.evaluate.core import REDACTED
from runner.report_progress import Progress
from runner.secrets import MASK, Masker


class Live:
    """Passes output on; with `stdout` off it only keeps what would have been shown there."""

    def __init__(self, masker: Masker, progress: Progress, *, stdout: bool) -> None:
        self._progress, self._stdout = progress, stdout
        # A secret that a buffer's end has cut in two is found, so both streams hold a little back.
        self._streams = {"stdout": masker.stream(), "stderr": masker.stream()}
        self._kept = bytearray()
        self.heard = False  # anything at all, on either stream

    def __call__(self, name: Literal["stdout", "stderr"], chunk: bytes) -> None:
        self.heard = True
        self._write(name, self._streams[name].feed(chunk))

    def end(self) -> None:
        """After the last command: what was held back."""
        self._write("stdout", self._streams["stdout"].flush())
        self._write("stderr", self._streams["stderr"].flush())

    @property
    def text(self) -> str:
        """All of stdout so far."""
        return self._kept.decode("utf-8", "replace")

    def shows(self, answer: str, value: object) -> bool:
        """Whether stdout already ends with this answer, or holds nothing but the data that it is."""
        if not self._stdout:
            return False
        shown, wanted = (text.replace(MASK, REDACTED).rstrip("\n") for text in (self.text, answer))
        if shown == wanted or shown.endswith(f"\n{wanted}"):
            return True
        try:
            return not isinstance(value, str) and bool(json.loads(shown) == value)
        except ValueError:
            return False

    def end_line(self) -> None:
        """What follows on stdout begins a line of its own."""
        if self._kept and not self._kept.endswith(b"\n"):
            self._write("stdout", b"\n")

    def _write(self, name: Literal["stdout", "stderr"], data: bytes) -> None:
        if name == "stdout":
            self._kept += data
        if data and (self._stdout or name == "stderr"):
            self._progress.clear()
            sink = sys.stdout.buffer if name == "stdout" else sys.stderr.buffer
            sink.write(data)
            sink.flush()

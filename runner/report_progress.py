"""Progress on stderr while a run starts and goes on: a live line per lane on a terminal, a line per fact elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Literal, TextIO

from runner.record import Event
from runner.report import clean

Style = Literal["auto", "plain", "none"]

# Until something takes longer than this a terminal stays quiet: nobody wants to read about 300 ms.
QUIET_SECONDS = 0.4
_WORDS: Mapping[str, str] = {
    "image": "making its image",
    "starting": "starting",
    "fenced": "fence proved",
    "ready": "ready",
    "running": "running",
    "ended": "ended",
    "gone": "gone",
}


class Progress:
    """Listens to the record. `plain` for logs; a terminal gets its lanes redrawn in place."""

    def __init__(
        self,
        stream: TextIO,
        style: Style = "auto",
        *,
        env: Mapping[str, str],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream, self._monotonic = stream, monotonic
        self._start = monotonic()
        live = style == "auto" and stream.isatty() and "CI" not in env and env.get("TERM") != "dumb"
        # `auto` into a file or pipe says nothing, as other tools do; CI logs want the facts.
        self._style = "live" if live else "plain" if style == "plain" or (style == "auto" and "CI" in env) else "none"
        self._lanes: dict[str, str] = {}
        self._drawn = 0

    def __call__(self, event: Event) -> None:
        if self._style == "none" or (said := self._said(event)) is None:
            return
        lane, text = said
        if self._style == "plain":
            self._stream.write(f"{self._monotonic() - self._start:7.2f}s {lane:<10} {text}\n")
            self._stream.flush()
            return
        self._lanes[lane] = f"{text}  {self._monotonic() - self._start:.1f} s"
        if self._monotonic() - self._start > QUIET_SECONDS:
            self._draw()

    def note(self, text: str) -> None:
        """A line that stays: what takes long, how big it is, how far it is."""
        if self._style == "none":
            return
        self.clear()
        self._stream.write(clean(text) + "\n")
        self._stream.flush()

    def stop(self) -> None:
        """Say nothing more: the terminal is somebody else's now."""
        self.clear()
        self._style = "none"

    def clear(self) -> None:
        """Take the live lines away, before anything else is written to the terminal."""
        if self._drawn:
            self._stream.write(f"\x1b[{self._drawn}A\x1b[J")
            self._stream.flush()
            self._drawn = 0

    def _draw(self) -> None:
        self.clear()
        for lane, text in self._lanes.items():
            self._stream.write(f"  {lane:<10} {text}\n")
        self._stream.flush()
        self._drawn = len(self._lanes)

    def _said(self, event: Event) -> tuple[str, str] | None:
        member = clean(event.get("member") or event.get("server") or "", 24)
        match event.get("event"):
            case "state":
                note = f": {clean(event['note'], 60)}" if event.get("note") else ""
                return member, _WORDS.get(str(event.get("state")), clean(event.get("state"))) + note
            case "ready":
                return "run", f"ready with {event.get('tools')} tools after {event.get('ms')} ms"
            case "oom":
                return member, "a process went over the memory limit"
            case "call" if event.get("method") == "tools/call":
                verdict = " denied" if event.get("decision") == "deny" else ""
                return member, f"{clean(event.get('name'), 40)}{verdict}"
            case "egress" if event.get("phase") != "closed":
                verdict = "denied " if event.get("decision") == "deny" else ""
                return member, f"{verdict}{clean(event.get('host'), 60)}:{event.get('port')}"
            case _:
                return None

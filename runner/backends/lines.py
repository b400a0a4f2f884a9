"""Lines out of a stream of bytes."""

from __future__ import annotations

from collections.abc import Iterator

LONGEST_LINE = 1 << 20


class Lines:
    """Takes payloads of one stream, gives whole lines; one that never ends comes in pieces of `LONGEST_LINE`."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._rest += data
        while (end := self._rest.find(b"\n")) >= 0:
            yield bytes(self._rest[:end])
            del self._rest[: end + 1]
        while len(self._rest) > LONGEST_LINE:
            yield bytes(self._rest[:LONGEST_LINE])
            del self._rest[:LONGEST_LINE]

    def rest(self) -> Iterator[bytes]:
        """What the end of the stream left without its newline."""
        if self._rest:
            yield bytes(self._rest)
            self._rest.clear()

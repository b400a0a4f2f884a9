"""The sidecar's record: one JSON object per line on standard output, complete or the sidecar stops.

Events are kept until the end of the loop's turn and written together. When the reader is slow the lines wait here, and
`drain` makes whoever produces them wait too; when the reader is gone or the disk is full, nothing more may be decided
unseen: the sidecar ends (P14).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import orjson

from images.sidecar.masking import Masker

HIGH_WATER = 256 * 1024
LOW_WATER = 64 * 1024
# Producers that cannot wait (the answer to a call is under way) may still fill this much before the sidecar gives up.
MOST_WAITING = 64 * 1024 * 1024
ARGUMENTS_BYTES = 4096
RESULT_BYTES = 2048
ROTATED = 64
"""Tokens that came later and are still masked."""


class AuditFailure(RuntimeError):
    """The record cannot be written any more."""


class Audit:
    """The one writer of events."""

    def __init__(
        self,
        fd: int,
        *,
        secrets: Iterable[str] = (),
        leased: bool = False,
        on_failure: Callable[[AuditFailure], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._fd = fd
        self._clock, self._leased = clock, leased
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._pending: list[bytes] = []
        self._waiting = bytearray()
        self._size = 0
        self._scheduled = False
        self._polled = False
        self._room = asyncio.Event()
        self._room.set()
        self.failure: AuditFailure | None = None
        self._secrets = tuple(secrets)
        self._rotated: deque[str] = deque(maxlen=ROTATED)
        self._masker = Masker(self._secrets)
        os.set_blocking(fd, False)

    def emit(self, event: dict[str, Any]) -> None:
        """Records an event; `drain` afterwards where the producer can wait."""
        if self.failure is not None:
            return  # the sidecar is ending because of it
        if "arguments" in event or "result" in event:
            event = event | self._excerpts(event)
        line = b'{"t":%.6f,%s' % (self._clock(), orjson.dumps(event)[1:])
        if self._masker.found_in(line):
            # Ours are the numbers at the top; everything else may be somebody's data.
            value = orjson.loads(line)
            line = orjson.dumps(
                {k: v if isinstance(v, int | float) else self._masker.clean(v) for k, v in value.items()}
            )
        self._write(line)

    def _write(self, line: bytes) -> None:
        self._pending.append(line)
        self._size += len(line) + 1
        if self._size > HIGH_WATER:
            self._room.clear()
        if self._size > MOST_WAITING:
            self._fail(OSError(0, f"nobody has read the last {MOST_WAITING >> 20} MiB of it"))
        if not self._scheduled and not self._polled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def hide(self, *secrets: str) -> None:
        """Adds secrets that came later: tokens, of which the last are masked, since a run may see any number."""
        self._rotated.extend(secret for secret in secrets if secret and secret not in self._rotated)
        self._masker = Masker((*self._secrets, *self._rotated))

    def keep(self, server: str, credential: dict[str, Any]) -> None:
        """Hands a login to the runner, which holds the other end and does not record it. Without a runner the line would
        be in the engine's log, so nothing is written then."""
        if self._leased and self.failure is None:
            self._write(orjson.dumps({"event": "credential", "server": server, "credential": credential}))

    def _excerpts(self, event: dict[str, Any]) -> dict[str, Any]:
        """The two fields that hold somebody else's data, cut to what a record needs."""
        cut: dict[str, Any] = {}
        if (arguments := event.get("arguments")) is not None:
            encoded = arguments if isinstance(arguments, bytes) else orjson.dumps(arguments)
            cut["arguments"] = self._arguments(encoded)
        if (result := event.get("result")) is not None:
            data = result if isinstance(result, bytes) else str(result).encode("utf-8", "replace")
            head = self._masker.head(data, RESULT_BYTES)
            cut["result"] = head if len(data) <= RESULT_BYTES else f"{head}… ({len(data)} bytes)"
        return cut

    def _arguments(self, encoded: bytes) -> Any:
        # Read and written again: a newline between two tokens would make two lines of one event, the second one forged.
        if len(encoded) <= ARGUMENTS_BYTES:
            try:
                return orjson.loads(encoded or b"null")
            except orjson.JSONDecodeError:
                pass  # whoever called has cut them already
        return {"cut": len(encoded), "head": self._masker.head(encoded, ARGUMENTS_BYTES)}

    @property
    def behind(self) -> bool:
        """Whether `drain` would wait now."""
        return not self._room.is_set()

    async def drain(self) -> None:
        """Waits until the reader has caught up; raises if there is no reader any more."""
        if not self._room.is_set():
            await self._room.wait()
        if self.failure is not None:
            raise self.failure

    async def close(self, *, timeout: float) -> None:
        """Writes what is left."""
        try:
            async with asyncio.timeout(timeout):
                while self._size and self.failure is None:
                    self._flush()
                    await asyncio.sleep(0.005 if self._size else 0)
        except TimeoutError:
            self._fail(OSError(0, f"{self._size} bytes were not read in time"))
        finally:
            if self._polled:
                self._loop.remove_writer(self._fd)
                self._polled = False

    def _flush(self) -> None:
        self._scheduled = False
        if self.failure is not None:
            return
        if self._pending:
            self._pending.append(b"")
            self._waiting += b"\n".join(self._pending)
            self._pending.clear()
        try:
            while self._waiting:
                written = os.write(self._fd, self._waiting)
                del self._waiting[:written]
                self._size -= written
        except BlockingIOError:
            if not self._polled:
                self._polled = True
                self._loop.add_writer(self._fd, self._flush)
        except OSError as error:
            self._fail(error)
        else:
            if self._polled:
                self._polled = False
                self._loop.remove_writer(self._fd)
        if self._size <= LOW_WATER:
            self._room.set()

    def _fail(self, error: OSError) -> None:
        if self.failure is None:
            self.failure = AuditFailure(f"the record cannot be written: {error.strerror or error}")
            self._room.set()
            self._pending.clear()
            self._waiting.clear()
            self._on_failure(self.failure)

"""Streams of the engine: attached containers and execs, as frames that are put together again per stream."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any, cast

from runner.backends.base import Stream

_HEADER = 8
_CHUNK = 1 << 16
_NAMES: dict[int, Stream] = {0: "stdout", 1: "stdout", 2: "stderr"}


class Frames:
    """Takes bytes as they come, gives (stream, payload): headers and payloads are split anywhere on their way."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._left = 0
        self._stream: Stream = "stdout"

    def feed(self, data: bytes) -> Iterator[tuple[Stream, bytes]]:
        at = 0
        while at < len(data):
            if self._left == 0:
                take = data[at : at + _HEADER - len(self._header)]
                self._header += take
                at += len(take)
                if len(self._header) < _HEADER:
                    return
                self._stream = _NAMES.get(self._header[0], "stdout")
                self._left = int.from_bytes(self._header[4:8], "big")
                self._header.clear()
                continue
            payload = data[at : at + self._left]
            at += len(payload)
            self._left -= len(payload)
            yield self._stream, payload


class Duplex:
    """A hijacked connection of the engine."""

    def __init__(self, sdk_socket: Any) -> None:
        self._sdk = sdk_socket  # keeps the SDK's response alive
        self._socket = cast(socket.socket, getattr(sdk_socket, "_sock", sdk_socket))
        self._socket.settimeout(None)
        self._early = b""

    def release(self) -> None:
        """Makes it the event loop's: after this only the coroutines may be used."""
        self._socket.setblocking(False)
        response = getattr(self._sdk, "_response", None)
        buffered = getattr(getattr(getattr(response, "raw", None), "_fp", None), "fp", None)
        if buffered is not None:
            # The SDK reads headers through a buffer and hands out the socket below it: first output of a quick
            # program lies in that buffer, and would be lost.
            with contextlib.suppress(BlockingIOError, ValueError):
                self._early = buffered.peek(_CHUNK) or b""

    def send_now(self, data: bytes) -> None:
        """Before `release`, from a thread: blocks until written."""
        self._socket.sendall(data)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def receive(self) -> bytes:
        """Some bytes; empty at the end, whoever ended it."""
        if self._early:
            early, self._early = self._early, b""
            return early
        try:
            return await asyncio.get_running_loop().sock_recv(self._socket, _CHUNK)
        except (ConnectionError, OSError):
            return b""

    def finish(self) -> None:
        """Half-close: the other side reads the end of its stdin."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError, ValueError):
            self._sdk.close()
        self._socket.close()

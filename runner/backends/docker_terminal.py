"""An interactive program in a seat, in the user's terminal: keys go in raw, the size follows the window."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator

from docker import APIClient

from runner.backends.docker_errors import translated
from runner.backends.docker_stream import Duplex

_CHUNK = 1 << 12


async def converse(duplex: Duplex, resize: Callable[[int, int], None]) -> None:
    """Joins the terminal and the program until the program ends. `resize` takes rows and columns."""
    keys, screen = sys.stdin.fileno(), sys.stdout.fileno()
    loop = asyncio.get_running_loop()
    pressed: asyncio.Queue[bytes] = asyncio.Queue()

    def fit() -> None:
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(screen)
            loop.run_in_executor(None, resize, size.lines, size.columns)

    def press() -> None:
        pressed.put_nowait(data := _read(keys))
        if not data:
            loop.remove_reader(keys)

    async def type_in() -> None:
        while data := await pressed.get():
            await duplex.send(data)
        duplex.finish()

    with raw(keys):
        loop.add_reader(keys, press)
        loop.add_signal_handler(signal.SIGWINCH, fit)
        typist = asyncio.create_task(type_in())
        fit()
        try:
            while data := await duplex.receive():
                _write(screen, data)
        finally:
            typist.cancel()
            loop.remove_reader(keys)
            loop.remove_signal_handler(signal.SIGWINCH)


def resizer(api: APIClient, id: str) -> Callable[[int, int], None]:
    """Tells the engine the size of the window; a program that has ended needs none."""

    def resize(rows: int, columns: int) -> None:
        with contextlib.suppress(Exception), translated():
            api.exec_resize(id, height=rows, width=columns)

    return resize


@contextlib.contextmanager
def raw(fd: int) -> Iterator[None]:
    """The terminal without echo, line editing and signals, and back again whatever happens."""
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, _CHUNK)
    except OSError:
        return b""  # the terminal is gone


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]

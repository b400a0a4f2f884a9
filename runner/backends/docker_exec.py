"""Commands in a running seat: streams as they come, exit codes, and an end at the time limit."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from docker import APIClient

from interpreter.ports import CommandResult
from runner.backends import docker_terminal
from runner.backends.base import Execution, Stream
from runner.backends.docker_errors import translated
from runner.backends.docker_stream import Duplex, Frames
from runner.backends.waiting import finished
from runner.errors import RunnerError
from runner.plan import BRIDGE

T = TypeVar("T")
LONGEST_ARGUMENT = 131_071  # MAX_ARG_STRLEN of Linux, which no setting raises
_TIMED_OUT = 124  # as timeout(1) says it
_SIGNALS = range(129, 129 + 64)
_CANNOT_START = (126, 127)
_REFUSAL = (b"OCI runtime exec failed", b"runtime exec failed")


class Threads(Protocol):
    """Runs a call of the SDK in a thread."""

    def __call__(self, call: Callable[[], T]) -> Awaitable[T]: ...


async def execute(api: APIClient, container: str, execution: Execution, thread: Threads) -> CommandResult:
    """Runs one command to its end or to its time limit."""
    check_arguments(execution.argv)
    mark = f"MLLD_COMMAND={secrets.token_hex(8)}"
    execution = replace(execution, env={**execution.env, **dict([mark.split("=")])})
    stdin = execution.tty or execution.stdin is not None
    starting = asyncio.ensure_future(_start(api, container, execution, thread, stdin=stdin))
    try:
        id, duplex = await finished(starting)
    except asyncio.CancelledError:
        id, duplex = starting.result()
        duplex.close()
        await finished(_end(api, container, id, mark, thread))
        raise
    if execution.tty:
        try:
            await docker_terminal.converse(duplex, docker_terminal.resizer(api, id))
        finally:
            duplex.close()
        return CommandResult(exit_code=await _exit_code(api, id, thread), stdout=b"", stderr=b"")
    output: dict[Stream, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
    timed_out = False
    writer = asyncio.create_task(_feed(duplex, execution.stdin))
    try:
        async with asyncio.timeout(execution.timeout_seconds):
            await _read(duplex, execution, output)
    except TimeoutError:
        timed_out = True
    except asyncio.CancelledError:
        await finished(_end(api, container, id, mark, thread))
        raise
    finally:
        writer.cancel()
        duplex.close()
    if timed_out:
        await _end(api, container, id, mark, thread)
        return CommandResult(
            exit_code=_TIMED_OUT, stdout=bytes(output["stdout"]), stderr=bytes(output["stderr"]), timed_out=True
        )
    code = await _exit_code(api, id, thread)
    if code in _CANNOT_START and any(bytes(output["stdout"]).lstrip().startswith(words) for words in _REFUSAL):
        raise _cannot_start(execution.argv[0], bytes(output["stdout"]))
    return CommandResult(
        exit_code=code,
        stdout=bytes(output["stdout"]),
        stderr=bytes(output["stderr"]),
        signal=code - 128 if code in _SIGNALS else None,
    )


def check_arguments(argv: tuple[str, ...]) -> None:
    """What the kernel would refuse later, with words. Errors: `OSError`."""
    for argument in argv:
        size = len(argument.encode(errors="surrogateescape"))
        if size > LONGEST_ARGUMENT:
            raise OSError(
                errno.E2BIG,
                f"an argument of {argv[0]} has {size} bytes, and a program can be given {LONGEST_ARGUMENT} in one argument; "
                "pass it over stdin instead",
            )
        if "\0" in argument:
            raise OSError(errno.EINVAL, f"an argument of {argv[0]} holds a NUL character, which no argument can")


def with_oom(result: CommandResult, oom: bool) -> CommandResult:
    return replace(result, oom=oom)


class ExecPipe:
    """A program in a seat, for conversation."""

    def __init__(self, duplex: Duplex) -> None:
        self._duplex = duplex
        self._frames = Frames()

    async def send(self, data: bytes) -> None:
        await self._duplex.send(data)

    async def receive(self) -> bytes:
        """Some bytes of its stdout; empty at the end."""
        while data := await self._duplex.receive():
            if out := b"".join(payload for stream, payload in self._frames.feed(data) if stream == "stdout"):
                return out
        return b""

    async def finish(self) -> None:
        self._duplex.finish()

    async def close(self) -> None:
        self._duplex.close()


async def open_pipe(api: APIClient, container: str, argv: tuple[str, ...], thread: Threads) -> ExecPipe:
    _, duplex = await _start(api, container, Execution(argv=argv), thread, stdin=True)
    return ExecPipe(duplex)


async def _start(
    api: APIClient, container: str, execution: Execution, thread: Threads, *, stdin: bool
) -> tuple[str, Duplex]:
    def start() -> tuple[str, Duplex]:
        with translated():
            made: dict[str, Any] = api.exec_create(
                container,
                list(execution.argv),
                stdin=stdin,
                tty=execution.tty,
                environment=dict(execution.env),
                workdir=execution.cwd,
            )
            return made["Id"], Duplex(api.exec_start(made["Id"], socket=True, tty=execution.tty))

    starting = asyncio.ensure_future(thread(start))
    try:
        id, duplex = await finished(starting)
    except asyncio.CancelledError:
        starting.result()[1].close()
        raise
    duplex.release()
    return id, duplex


async def _end(api: APIClient, container: str, id: str, mark: str, thread: Threads) -> None:
    """Ends a command and what it started: the engine can start one and not end it. One that the engine is still
    starting has no mark yet, so this goes on until the engine says that it has ended."""
    with contextlib.suppress(RunnerError):  # the seat may be gone, and the command with it
        for pause in (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6):
            await asyncio.sleep(pause)
            _, duplex = await _start(api, container, Execution(argv=(BRIDGE, "--end", mark)), thread, stdin=False)
            while await duplex.receive():
                pass
            duplex.close()
            state = await _state(api, id, thread)
            if not state["Running"] and state["ExitCode"] is not None:
                return


async def _feed(duplex: Duplex, stdin: bytes | None) -> None:
    if stdin is not None:
        try:
            await duplex.send(stdin)
        except OSError:
            return  # it ended without reading all: its own affair
        duplex.finish()


async def _read(duplex: Duplex, execution: Execution, output: dict[Stream, bytearray]) -> None:
    frames = Frames()
    while data := await duplex.receive():
        for stream, payload in frames.feed(data):
            output[stream] += payload
            if execution.on_output is not None:
                execution.on_output(stream, payload)


async def _exit_code(api: APIClient, id: str, thread: Threads) -> int:
    """The engine knows it a moment after the stream has ended."""

    for pause in (0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0):
        await asyncio.sleep(pause)
        state = await _state(api, id, thread)
        if not state["Running"] and state["ExitCode"] is not None:
            return int(state["ExitCode"])
    return 255


async def _state(api: APIClient, id: str, thread: Threads) -> dict[str, Any]:
    def inspect() -> dict[str, Any]:
        with translated():
            found: dict[str, Any] = api.exec_inspect(id)
            return found

    return await thread(inspect)


def _cannot_start(program: str, words: bytes) -> OSError:
    text = words.decode(errors="replace").strip()
    if b"permission denied" in words:
        return PermissionError(
            errno.EACCES, f"{program} may not be run here: the profile masks it, or it is no program"
        )
    if b"no such file" in words or b"not found" in words:
        return FileNotFoundError(errno.ENOENT, f"there is no program {program!r} in the image of the agent")
    if b"argument list too long" in words:
        return OSError(errno.E2BIG, f"{program} was given too many arguments; pass them over stdin")
    return OSError(errno.EIO, text)

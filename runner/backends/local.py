"""The local backend: the same run as child processes. Nothing is isolated, and whoever uses it is told so.

Tools, filters, guards, policy and taint hold all the same, because the sidecar is the same program: it listens on
sockets in a directory of the run, each server's process gets a connection as its stdin and stdout, and the agent's
programs find the endpoint on a loopback port. What needs a fence (hosts, paths, limits) the planner has refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from interpreter.ports import CommandResult
from runner.backends.base import Execution, Listener, Pipe, Stream
from runner.backends.lines import Lines
from runner.backends.processes import GRACE_SECONDS, ended, exit_code, started
from runner.backends.waiting import finished
from runner.errors import PlanViolated
from runner.handover import Handover, sidecar_line, value_of
from runner.invariants import check
from runner.plan import AGENT, SIDECAR, SandboxPlan, Server

_TIMED_OUT = 124
_ROOT = Path(__file__).parents[2]  # where `runner` and `images` are imported from
_CHUNK = 1 << 16
_ENDLESS = "endless"  # tasks that end by being cancelled only


@dataclass(frozen=True, kw_only=True)
class LocalBackend:
    """Runs plans of the provider `local`. `env` is what child processes inherit."""

    env: Mapping[str, str] = field(repr=False)

    async def apply(self, plan: SandboxPlan, handover: Handover, listener: Listener) -> LocalSeats:
        """The run's processes. Errors: `PlanViolated`, `SandboxFailure`."""
        if violations := check(plan):
            raise PlanViolated([str(violation) for violation in violations])
        seats = LocalSeats(plan=plan, handover=handover, listener=listener, env=self.env)
        try:
            await seats.start()
        except BaseException:
            await finished(seats.remove())
            raise
        return seats


@dataclass(kw_only=True, eq=False)
class LocalSeats:
    """An applied local plan."""

    plan: SandboxPlan
    handover: Handover = field(repr=False)
    listener: Listener
    env: Mapping[str, str] = field(repr=False)
    endpoint_port: int = 0
    _folder: Path | None = None
    _sidecar: asyncio.subprocess.Process | None = None
    _forward: asyncio.Server | None = None
    _processes: set[asyncio.subprocess.Process] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _removing: bool = False

    async def start(self) -> None:
        if not self.plan.servers:
            return  # no tools, so no endpoint: commands are all there is
        self._folder = Path(tempfile.mkdtemp(prefix="mlld-local-"))
        for member in (AGENT, *(server.name for server in self.plan.servers)):
            self._link(member).mkdir()
        self._forward = await asyncio.start_server(self._to_endpoint, "127.0.0.1", 0)
        self.endpoint_port = self._forward.sockets[0].getsockname()[1]
        self._sidecar = await started(
            sys.executable, "-m", "images.sidecar", "--unfenced",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**self.env, "PYTHONPATH": str(_ROOT)},
        )  # fmt: skip
        assert self._sidecar.stdin is not None
        self._follow(SIDECAR, self._sidecar, ("stdout", "stderr"))
        hosts = (f"127.0.0.1:{self.endpoint_port}", f"localhost:{self.endpoint_port}", "127.0.0.1:7000")
        line = sidecar_line(self.plan, self.handover, links=str(self._folder), hosts=hosts)
        self._sidecar.stdin.write(line)
        await self._sidecar.stdin.drain()
        for server in self.plan.servers:
            if server.process is not None:
                self._task(self._serve(server), name=_ENDLESS)

    # ------------------------------------------------------------------------------------------------------- servers

    async def _serve(self, server: Server) -> None:
        """Keeps one spare connection to the sidecar; its first byte makes it the stdin and stdout of a process."""
        path = self._link(server.name) / "stdio.sock"
        loop = asyncio.get_running_loop()
        while True:
            spare = socket.socket(socket.AF_UNIX)
            spare.setblocking(False)
            try:
                await loop.sock_connect(spare, str(path))
                await _readable(spare)
            except OSError:
                spare.close()
                await asyncio.sleep(0.01)
                continue
            except asyncio.CancelledError:
                spare.close()
                raise
            spare.setblocking(True)
            with spare:
                self._task(self._run_server(server, spare.dup()))

    async def _run_server(self, server: Server, connection: socket.socket) -> None:
        """One process of a server. Its end is the end of its connection, also where the process never began."""
        assert server.process is not None
        secrets = {
            secret.variable: value_of(self.handover, secret.name)
            for secret in self.plan.secrets
            if server.name in secret.holders
        }
        argv = server.process.argv
        if argv[0] == "mlld":
            argv = (sys.executable, "-m", "runner", *argv[1:])
        process: asyncio.subprocess.Process | None = None
        with connection:
            try:
                process = await started(
                    *argv, stdin=connection.fileno(), stdout=connection.fileno(), stderr=asyncio.subprocess.PIPE,
                    cwd=server.process.cwd or self.plan.workspace,
                    env={**self.env, **server.process.env, **secrets},
                )  # fmt: skip
                self._follow(server.name, process, ("stderr",))
                await process.wait()
            except OSError as error:
                self.listener.line(server.name, "stderr", f"{argv[0]}: {error.strerror or error}".encode())
            finally:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                if process is not None:
                    await finished(ended(process))  # and what it has started

    # ------------------------------------------------------------------------------------------------------ commands

    async def begin(self) -> None:
        """There is no fence to be proved first: servers get their environment as they start."""

    async def execute(self, member: str, execution: Execution) -> CommandResult:
        """Runs a command as a child process. Errors: `OSError` when the program cannot be started."""
        env = {**self.env, **execution.env}
        cwd = execution.cwd or self.plan.workspace
        if execution.tty:
            process = await asyncio.create_subprocess_exec(*execution.argv, env=env, cwd=cwd)
            await process.wait()
            return CommandResult(exit_code=exit_code(process), stdout=b"", stderr=b"")
        process = await started(
            *execution.argv, env=env, cwd=cwd,
            stdin=asyncio.subprocess.DEVNULL if execution.stdin is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self._processes.add(process)
        output: dict[Stream, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        timed_out = False
        try:
            async with asyncio.timeout(execution.timeout_seconds):
                await asyncio.gather(
                    _feed(process, execution.stdin), *_readers(process, execution, output), process.wait()
                )
        except TimeoutError:
            timed_out = True
        finally:
            await finished(ended(process))
            self._processes.discard(process)
        code = process.returncode
        return CommandResult(
            exit_code=_TIMED_OUT if timed_out else exit_code(process),
            stdout=bytes(output["stdout"]),
            stderr=bytes(output["stderr"]),
            signal=-code if code is not None and code < 0 and not timed_out else None,
            timed_out=timed_out,
        )

    async def pipe(self, member: str, argv: Sequence[str]) -> Pipe:
        """The way to the endpoint: what the bridge would connect to inside is a socket of this machine here."""
        reader, writer = await _connect(self._link(AGENT) / "mcp.sock")
        return _Connection(reader, writer)

    async def _to_endpoint(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name(_ENDLESS)
        self._tasks.add(task)
        inner: _Connection | None = None
        try:
            inner = _Connection(*await _connect(self._link(AGENT) / "mcp.sock"))
            await asyncio.gather(_copy(reader, inner.writer), _copy(inner.reader, writer))
        finally:
            self._tasks.discard(task)
            for end in filter(None, (_Connection(reader, writer), inner)):
                end.writer.close()

    # -------------------------------------------------------------------------------------------------------- remove

    async def remove(self) -> None:
        """Ends every process and removes the directory of the run."""
        if self._removing:
            return
        self._removing = True
        if self._forward is not None:
            self._forward.close()
        for task in self._tasks:
            if task.get_name() == _ENDLESS:
                task.cancel()
        if self._sidecar is not None and self._sidecar.stdin is not None:
            self._sidecar.stdin.close()  # the lease ends: it writes its last lines and goes
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._sidecar.wait(), GRACE_SECONDS)
        await asyncio.gather(*map(ended, [*self._processes]), return_exceptions=True)
        # Who reads from a process that has ended comes to the end by himself, and closes what he read from.
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=GRACE_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    # ------------------------------------------------------------------------------------------------------- helpers

    def _link(self, member: str) -> Path:
        assert self._folder is not None
        return self._folder / member

    def _task(self, work: object, name: str = "") -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        task.set_name(name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _follow(self, member: str, process: asyncio.subprocess.Process, streams: tuple[Stream, ...]) -> None:
        self._processes.add(process)

        async def follow() -> None:
            pipes = {"stdout": process.stdout, "stderr": process.stderr}
            await asyncio.gather(*(self._lines(member, stream, pipes[stream]) for stream in streams))
            await process.wait()
            self._processes.discard(process)
            if not self._removing and member == SIDECAR:
                self.listener.ended(member, exit_code(process), False)

        self._task(follow(), name=member)

    async def _lines(self, member: str, stream: Stream, pipe: asyncio.StreamReader | None) -> None:
        assert pipe is not None
        lines = Lines()
        while data := await pipe.read(_CHUNK):
            for line in lines.feed(data):
                self.listener.line(member, stream, line)
        for line in lines.rest():
            self.listener.line(member, stream, line)


@dataclass(frozen=True)
class _Connection:
    """A pipe over a socket of this machine."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self) -> bytes:
        try:
            return await self.reader.read(_CHUNK)
        except ConnectionError:
            return b""

    async def finish(self) -> None:
        with contextlib.suppress(OSError):
            self.writer.write_eof()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


async def _connect(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection, once somebody listens there."""
    for _ in range(500):
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            return await asyncio.open_unix_connection(path)
        await asyncio.sleep(0.01)
    return await asyncio.open_unix_connection(path)


async def _readable(sock: socket.socket) -> None:
    """Returns once the other side has said something, which stays to be read. Errors: `ConnectionError` at its end."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(sock, tell)
    try:
        await ready
    finally:
        loop.remove_reader(sock)
    if not sock.recv(1, socket.MSG_PEEK):
        raise ConnectionResetError


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        writer.write_eof()


async def _feed(process: asyncio.subprocess.Process, stdin: bytes | None) -> None:
    if stdin is None or process.stdin is None:
        return
    with contextlib.suppress(ConnectionError):  # it ended without reading all: its own affair
        process.stdin.write(stdin)
        await process.stdin.drain()
    process.stdin.close()


def _readers(
    process: asyncio.subprocess.Process, execution: Execution, output: Mapping[Stream, bytearray]
) -> list[asyncio.Future[None]]:
    async def read(stream: Stream, pipe: asyncio.StreamReader | None) -> None:
        assert pipe is not None
        while data := await pipe.read(_CHUNK):
            output[stream].extend(data)
            if execution.on_output is not None:
                execution.on_output(stream, data)

    return [
        asyncio.ensure_future(read("stdout", process.stdout)),
        asyncio.ensure_future(read("stderr", process.stderr)),
    ]

"""Programs on this machine (`ports.CommandPort`): for scripts without an env block, and for the `local` provider.

Each command is a process group of its own, so that a time-out or Ctrl-C ends everything it started. Secrets go into its environment
and nowhere else. Output is bounded: a command that prints without end is killed, not swallowed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from interpreter.ports import Command, CommandResult, Directory
from runner.backends.processes import ended, exit_code, started
from runner.backends.waiting import finished

MOST_OUTPUT = 256 * 1024 * 1024
# One argument of execve may be 128 KiB; a longer text goes through a file.
LONGEST_ARGUMENT = 100_000
SUFFIX = {"node": ".cjs", "py": ".py", "sh": ".sh", "cmd": ".sh"}


class HostCommands:
    """Runs commands as child processes with the environment that it was given."""

    def __init__(self, *, env: Mapping[str, str], cwd: str | None = None, shell: str = "/bin/bash") -> None:
        self._env = dict(env)
        self._cwd = cwd
        self._shell = shell if os.path.exists(shell) else "/bin/sh"

    async def run(self, command: Command) -> CommandResult:
        environment = {**self._env, **command.env, **command.secrets}
        cwd = command.cwd or self._cwd
        if cwd is not None and not os.path.isdir(cwd):
            wrong = "must be a directory" if os.path.exists(cwd) else "does not exist"
            raise OSError(f"Working directory {wrong}: {cwd}")
        with self._argv(command) as argv:
            if command.tty:
                return await self._interactive(argv, environment, cwd)
            process = await started(
                *argv,
                stdin=asyncio.subprocess.PIPE if command.stdin is not None else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment,
                cwd=cwd,
            )
            return await self._follow(process, command)

    async def directory(self, *, project: bool = False) -> Directory:
        """A directory of its own, of this machine."""
        from runner.backends.local_directory import HostDirectory

        return HostDirectory(shows=self._cwd if project else None)

    @contextlib.contextmanager
    def _argv(self, command: Command) -> Iterator[list[str]]:
        text = command.shell_text
        name: str | None = None
        if len(text.encode()) > LONGEST_ARGUMENT:
            handle, name = tempfile.mkstemp(suffix=SUFFIX[command.kind], prefix="mlld-")
            with os.fdopen(handle, "w") as file:
                file.write(text)
        try:
            match command.kind:
                case "cmd":
                    yield ["/bin/sh", name] if name else ["/bin/sh", "-c", text]
                case "sh":
                    yield [self._shell, name] if name else [self._shell, "-c", text]
                case "node":
                    yield ["node", name] if name else ["node", "-e", text]
                case "py":
                    yield ["python3", name] if name else ["python3", "-c", text]
        finally:
            if name:
                os.unlink(name)

    async def _interactive(self, argv: list[str], env: Mapping[str, str], cwd: str | None) -> CommandResult:
        process = await asyncio.create_subprocess_exec(*argv, env=env, cwd=cwd)
        await process.wait()
        return CommandResult(exit_code=exit_code(process), stdout=b"", stderr=b"")

    async def _follow(self, process: asyncio.subprocess.Process, command: Command) -> CommandResult:
        assert process.stdout is not None
        assert process.stderr is not None
        out: list[bytes] = []
        err: list[bytes] = []
        timed_out = False
        work = asyncio.gather(
            _feed(process, command.stdin),
            _collect(process.stdout, out, "stdout", command.on_output),
            _collect(process.stderr, err, "stderr", command.on_output),
            process.wait(),
        )
        try:
            await asyncio.wait_for(work, command.timeout_seconds)
        except TimeoutError:
            timed_out = True
            await finished(ended(process))
        except BaseException:
            await finished(ended(process))
            raise
        code = process.returncode
        return CommandResult(
            exit_code=exit_code(process),
            stdout=b"".join(out),
            stderr=b"".join(err),
            signal=-code if code is not None and code < 0 else None,
            timed_out=timed_out,
        )


async def _feed(process: asyncio.subprocess.Process, data: bytes | None) -> None:
    if data is None or process.stdin is None:
        return
    # A command that does not read its input ends before all of it is written; that is its own business.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(data)
        await process.stdin.drain()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.close()
        await process.stdin.wait_closed()


async def _collect(
    stream: asyncio.StreamReader,
    into: list[bytes],
    name: Literal["stdout", "stderr"],
    on_output: Callable[[Literal["stdout", "stderr"], bytes], None] | None,
) -> None:
    size = 0
    while chunk := await stream.read(65536):
        size += len(chunk)
        if size > MOST_OUTPUT:
            raise OSError(f"the command printed more than {MOST_OUTPUT >> 20} MiB")
        into.append(chunk)
        if on_output:
            on_output(name, chunk)

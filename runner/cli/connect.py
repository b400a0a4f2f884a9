"""`mlld sandbox connect`: the endpoint of a fenced environment for a client on this side of the fence, over stdio.

An editor or a desktop agent starts this command as its MCP server, and gets what an agent inside would get: everything
that the protocol has, in both directions and in every revision, with the same filters, guards, labels and record.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from typing import Any

import click

from runner.cli import interrupt
from runner.cli.environment import load, optional_environment
from runner.cli.lazy import Command
from runner.cli.runs import records, running
from runner.errors import BadOption, SandboxFailure, UnknownRun, running_now
from runner.host.door import knock
from runner.host.sandboxes import Session, exit_code_of
from runner.record import find

EXAMPLES = """
Examples:
  mlld sandbox connect last                    a sandbox that is running
  mlld sandbox connect --env @local/myenv      a new one, which ends with the client

  In the configuration of an MCP client:
  {"mcpServers": {"fenced": {"command": "mlld", "args": ["sandbox", "connect", "--env", "@local/myenv"]}}}
"""

_STDIN, _STDOUT = 0, 1
_CHUNK = 1 << 16


@click.command(cls=Command, examples=EXAMPLES)
@click.argument("run", required=False)
@optional_environment
def connect(run: str | None, ref: str | None, **options: Any) -> None:
    """Serve the tools of RUN, or of a new sandbox of --env, to an MCP client on this machine."""
    if (run is None) == (ref is None):
        raise BadOption("name a running sandbox, or an environment with --env", remedy="mlld sandbox connect --help")
    if run is None:
        interrupt.run(_connect(ref=ref, **options))
        return
    name = _running(run)
    with _knocked(name) as end:
        if not relay(end):
            click.echo(f"the run {name} has ended", err=True)


def _running(name: str) -> str:
    """The run that is meant; `last` is the one that was started last of those that go on. Errors: `UnknownRun`."""
    names = [run.name for run, _ in running()]
    if name == "last" and names:
        return names[0]
    try:
        return find(records(), name).name
    except UnknownRun:
        raise UnknownRun(name, running=names) from None


def _knocked(name: str) -> socket.socket:
    try:
        return knock(name)
    except SandboxFailure as failure:
        failure.detail = running_now(run.name for run, _ in running())
        raise


def relay(end: socket.socket) -> bool:
    """Our stdin to the door, the door's lines to our stdout, until the door is closed; whether that was our doing.

    A thread for each direction, and no buffers between: a client that writes before it reads cannot stop both.
    """
    all_said = threading.Event()

    def inwards() -> None:
        with contextlib.suppress(OSError):
            while chunk := os.read(_STDIN, _CHUNK):
                end.sendall(chunk)
            all_said.set()
            end.shutdown(socket.SHUT_WR)

    # A daemon: it may wait for a client that says nothing more while the sandbox has ended.
    threading.Thread(target=inwards, daemon=True).start()
    try:
        while chunk := end.recv(_CHUNK):
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(_STDOUT, rest) :]
    except BrokenPipeError:
        return True  # the client is gone: there is nobody to tell
    except ConnectionResetError:
        pass
    return all_said.is_set()


async def _connect(*, agent: str | None, **options: Any) -> None:
    environment = await load(agent_name=agent, asked={"command": "connect"}, close_records=False, **options)
    error: BaseException | None = None
    session: Session | None = None
    here, there = socket.socketpair()
    try:
        session = await environment.sandboxes.open(environment.spec())
        environment.progress.clear()
        guest = asyncio.create_task(session.door.lead_in(there))
        asked_to_end = await asyncio.to_thread(relay, here)
        await guest
        if not asked_to_end:
            raise SandboxFailure(f"the sandbox {session.run_id} ended while a client was connected")
    except (Exception, asyncio.CancelledError) as failure:
        error = failure
        raise
    finally:
        with contextlib.suppress(OSError):
            here.shutdown(socket.SHUT_RDWR)  # the thread that reads from it ends
        if session is not None:
            await session.close(error)
        here.close()
        environment.end(exit_code_of(error), error)

"""`mlld sandbox connect`: the tools of a fenced environment for a client on this side of the fence, over stdio.

An editor or a desktop agent starts this command as its MCP server, and gets what an agent inside would get: the same
filters, guards, labels and record. It carries tools; resources and prompts stay inside.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from typing import Any

import click

from interpreter.mcp import Server
from interpreter.ports import SandboxSession
from runner import __version__
from runner.cli import interrupt
from runner.cli.environment import load, optional_environment
from runner.cli.lazy import Command
from runner.cli.runs import records
from runner.errors import BadOption
from runner.host.door import knock, passed_on
from runner.host.sandboxes import exit_code_of
from runner.host.serving import serve_lines
from runner.record import find

EXAMPLES = """
Examples:
  mlld sandbox connect last                    the tools of a sandbox that is running
  mlld sandbox connect --env @local/myenv      those of a new one, which ends with the client

  In the configuration of an MCP client:
  {"mcpServers": {"fenced": {"command": "mlld", "args": ["sandbox", "connect", "--env", "@local/myenv"]}}}
"""


@click.command(cls=Command, examples=EXAMPLES)
@click.argument("run", required=False)
@optional_environment
def connect(run: str | None, ref: str | None, **options: Any) -> None:
    """Serve the tools of RUN, or of a new sandbox of --env, to an MCP client on this machine."""
    if (run is None) == (ref is None):
        raise BadOption("name a running sandbox, or an environment with --env", remedy="mlld sandbox connect --help")
    if run is not None:
        with knock(find(records(), run).name) as end:
            relay(end)
        return
    interrupt.run(_connect(ref=ref, **options))


def relay(end: socket.socket) -> None:
    """Our stdin to the door, the door's lines to our stdout, until either side ends."""

    def inwards() -> None:
        for line in sys.stdin.buffer:
            end.sendall(line)
        end.shutdown(socket.SHUT_WR)

    # A daemon: it may wait for a client that says nothing more while the sandbox has ended.
    threading.Thread(target=inwards, daemon=True).start()
    while chunk := end.recv(65536):
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


async def _connect(*, agent: str | None, **options: Any) -> None:
    environment = await load(agent_name=agent, asked={"command": "connect"}, close_records=False, **options)
    error: BaseException | None = None
    session: SandboxSession | None = None
    try:
        session = await environment.sandboxes.open(environment.spec())
        environment.progress.clear()
        tools = [] if session.tools is None else [passed_on(session.tools, info) for info in session.tools.tools]
        server = Server(name=f"mlld {environment.ref}", version=__version__, tools=tools)
        await serve_lines(server, sys.stdin.buffer, sys.stdout.buffer)
    except (Exception, asyncio.CancelledError) as failure:
        error = failure
        raise
    finally:
        if session is not None:
            await session.close(error)
        environment.end(exit_code_of(error), error)

"""`mlld sandbox connect`: the tools of a fenced environment for a client on this side of the fence, over stdio.

An editor or a desktop agent starts this command as its MCP server, and gets what an agent inside would get: the same
filters, guards, labels and record. It carries tools; resources and prompts stay inside.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

import click

from interpreter.errors import EvaluationError
from interpreter.mcp import Answer, Server, Tool
from interpreter.ports import SandboxSession, ToolConnection, ToolInfo
from runner import __version__
from runner.cli import interrupt
from runner.cli.environment import environment_options, load
from runner.cli.lazy import Command
from runner.host.sandboxes import exit_code_of
from runner.host.serving import serve_lines

EXAMPLES = """
Examples:
  mlld sandbox connect --env @local/myenv

  In the configuration of an MCP client:
  {"mcpServers": {"fenced": {"command": "mlld", "args": ["sandbox", "connect", "--env", "@local/myenv"]}}}
"""


@click.command(cls=Command, examples=EXAMPLES)
@environment_options
def connect(**options: Any) -> None:
    """Serve the environment's tools to an MCP client on this machine, until it closes its end."""
    interrupt.run(_connect(**options))


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


def passed_on(connection: ToolConnection, info: ToolInfo) -> Tool:
    """A tool of the sandbox as one that is served here."""

    async def call(arguments: Mapping[str, Any]) -> Answer:
        result = await connection.call(info.name, arguments)
        if result.is_error:
            raise EvaluationError(result.text or f"{info.name} failed without a word")
        structured = result.structured if isinstance(result.structured, Mapping) else None
        return Answer(text=result.text, structured=structured)

    return Tool(name=info.name, description=info.description, schema=info.input_schema, call=call)

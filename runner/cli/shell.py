"""`mlld sandbox shell`: a person in the agent's seat."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import click

from interpreter.ports import Command as Program
from runner.cli import interrupt
from runner.cli.environment import environment_options, load
from runner.cli.lazy import Command
from runner.errors import UsageFailure
from runner.host.sandboxes import exit_code_of


@click.command(cls=Command, examples="\nExamples:\n  mlld sandbox shell --env @local/myenv\n")
@environment_options
def shell(**options: Any) -> int:
    """An interactive shell in the agent's seat: the module's @shell, or that of --agent."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageFailure("a shell needs a terminal", remedy='mlld sandbox spawn "…" runs a prompt without one')
    return interrupt.run(_shell(**options))


async def _shell(*, agent: str | None, **options: Any) -> int:
    environment = await load(agent_name=agent, asked={"command": "shell"}, close_records=False, **options)
    code = 0
    error: BaseException | None = None
    try:
        if environment.agent is None:
            environment.module.require("shell")
            await environment.module.shell(environment.ports)
        else:
            session = await environment.sandboxes.open(environment.spec())
            try:
                program = Program(kind="cmd", text=environment.agent.command(shell=True), tty=True)
                environment.progress.clear()
                code = (await session.commands.run(program)).exit_code
            finally:
                await session.close()
    except (Exception, asyncio.CancelledError) as failure:
        error, code = failure, exit_code_of(failure)
        raise
    finally:
        environment.end(code, error)
    return code

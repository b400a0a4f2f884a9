"""`mlld sandbox shell`: a person in the agent's seat."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import click

from interpreter.errors import CommandFailed
from interpreter.ports import Command as Program
from runner.agents import Agent
from runner.cli import interrupt
from runner.cli.environment import Environment, environment_options, load
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
    environment.sandboxes.on_terminal = environment.progress.stop
    try:
        if environment.agent is None:
            environment.module.require("shell")
            code = await _own_shell(environment)
        else:
            code = await _agents_shell(environment, environment.agent)
    except (Exception, asyncio.CancelledError) as failure:
        error, code = failure, exit_code_of(failure)
        raise
    finally:
        environment.end(code, error)
    return code


async def _own_shell(environment: Environment) -> int:
    try:
        await environment.module.shell(environment.ports)
    except CommandFailed as failure:
        return failure.status or 1
    return 0


async def _agents_shell(environment: Environment, agent: Agent) -> int:
    session = await environment.sandboxes.open(environment.spec())
    try:
        return (await session.commands.run(Program(kind="cmd", text=agent.command(shell=True)))).exit_code
    finally:
        await session.close()

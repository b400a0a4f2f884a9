"""The provider `local`: an environment without a sandbox. Its commands are child processes, and nothing is isolated.

What a container would have enforced is refused while planning (`planner._refuse_what_local_cannot`); MCP servers are
refused here, since nothing would keep them from each other's files. One line on stderr says that nothing is isolated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from interpreter.declarations import EnvironmentSpec
from interpreter.ports import Command, CommandResult, FilePort, ToolConnection, Witnessed
from runner.errors import Unsupported
from runner.host.commands import HostCommands
from runner.record import RunRecord

WARNING = "provider local: nothing is isolated; commands run as you, on this machine"


def refuse_servers(spec: EnvironmentSpec) -> None:
    """Errors: `Unsupported` when the environment has MCP servers."""
    started = [server for server in spec.mcp.servers if server.tools != ()]
    if started:
        raise Unsupported(
            f"provider local cannot fence MCP servers, and this environment has {len(started)}",
            remedy='use provider docker, or import their tools directly: import tools from mcp "…" as @x',
            place=started[0].place,
        )


@dataclass(kw_only=True)
class LocalSession:
    """An environment whose commands are child processes (`ports.SandboxSession`)."""

    run_id: str
    profile: str
    record: RunRecord
    env: Mapping[str, str] = field(repr=False)
    cwd: Path
    timeout_seconds: float | None
    finish: Callable[[BaseException | None], None]

    @property
    def commands(self) -> LocalSession:
        return self

    @property
    def files(self) -> FilePort | None:
        return None

    @property
    def tools(self) -> ToolConnection | None:
        return None

    async def run(self, command: Command) -> CommandResult:
        """Runs a command (`ports.CommandPort`)."""
        port = HostCommands(env={**self.env, "MLLD_PROFILE": self.profile}, cwd=str(self.cwd))
        return await port.run(command)

    def mark(self) -> int:
        return 0

    async def witnessed(self, mark: int) -> Witnessed:
        # No server was there that could have served a tool; of the network nobody knows, so it is assumed.
        return Witnessed(egress=True)

    async def close(self, error: BaseException | None = None) -> None:
        self.record.append("left", containers=[], networks=[], volumes=[])
        self.finish(error)

"""A world for scripts without an engine: real files, real commands of this machine, sandboxes and servers in memory.

A sandbox here isolates nothing. It remembers what it was asked to be (`spec`), serves the tools of the servers that the
spec names, and tells what was called in it, which is all that the language can see of a real one.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from interpreter.declarations import EMPTY, EnvironmentSpec
from interpreter.environment_mcp import match_tools
from interpreter.errors import MlldError
from interpreter.evaluate import RunOptions, run_script
from interpreter.ports import Denial, Ports, ToolConnection, ToolInfo, ToolResult, Witnessed
from interpreter.source import Source
from runner.host.clock import SystemClock
from runner.host.commands import HostCommands
from runner.host.engine import QuickJS
from runner.host.files import HostFiles

Tool = Callable[[Mapping[str, Any]], str | Denial]
MANIFEST = "name: {name}\ntype: environment\nentry: index.mld\n"


@dataclass
class Recorder:
    """What a script shows (`ports.Output`)."""

    out: io.StringIO = field(default_factory=io.StringIO)
    err: io.StringIO = field(default_factory=io.StringIO)
    events: list[Any] = field(default_factory=list)

    def document(self, text: str) -> None:
        self.out.write(text)

    def stdout(self, text: str) -> None:
        self.out.write(text)

    def stderr(self, text: str) -> None:
        self.err.write(text)

    def event(self, event: object) -> None:
        self.events.append(event)


@dataclass
class Connection:
    """Servers in memory (`ports.ToolConnection`)."""

    servers: Mapping[str, Mapping[str, Tool]]
    labels: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    calls: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)
    arguments: list[Mapping[str, object]] = field(default_factory=list)
    closed: bool = False

    @property
    def tools(self) -> Sequence[ToolInfo]:
        schema = {"type": "object", "properties": {"text": {"type": "string"}}}
        return [
            ToolInfo(server=server, name=name, description=name, input_schema=schema)
            for server, tools in self.servers.items() for name in tools
        ]  # fmt: skip

    async def call(self, tool: str, arguments: Mapping[str, object]) -> ToolResult:
        server = next(name for name, tools in self.servers.items() if tool in tools)
        labels = self.labels.get((server, tool), ())
        self.calls.append((server, tool, labels))
        self.arguments.append(arguments)
        said = self.servers[server][tool](arguments)
        if isinstance(said, Denial):
            return ToolResult(text=f"Denied by {said.rule}: {said.reason}", is_error=True, denied=said)
        return ToolResult(text=said, labels=("src:mcp", f"mcp:{server}:{tool}", *labels))

    async def close(self) -> None:
        self.closed = True


@dataclass
class Session:
    """One sandbox (`ports.SandboxSession`)."""

    spec: EnvironmentSpec
    commands: Any
    connection: Connection
    run_id: str = "test"
    project: str | None = None
    files: Any = None
    closed: bool = False
    error: BaseException | None = None

    @property
    def tools(self) -> ToolConnection | None:
        return self.connection if self.connection.servers else None

    def mark(self) -> int:
        return len(self.connection.calls)

    async def witnessed(self, mark: int) -> Witnessed:
        return Witnessed(calls=tuple(self.connection.calls[mark:]))

    async def close(self, error: BaseException | None = None) -> None:
        assert not self.closed, "closed twice"
        self.closed, self.error = True, error


@dataclass
class Done:
    """How a script ended."""

    out: str
    err: str
    error: MlldError | None
    value: Any
    sessions: list[Session]
    events: list[Any]

    @property
    def lines(self) -> list[str]:
        return self.out.strip().splitlines()


@dataclass
class World:
    """A project with servers and secrets. `servers`: name of the server → name of the tool → what it does."""

    root: Path
    servers: Mapping[str, Mapping[str, Tool]] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    sessions: list[Session] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)  # specs of direct imports
    on_command: Callable[[Session], None] | None = None
    on_open: Callable[[Session], None] | None = None

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def module(self, name: str, text: str) -> None:
        """An environment module `@local/NAME`."""
        self.write(f".mlld/env/{name}/module.yml", MANIFEST.format(name=name))
        self.write(f".mlld/env/{name}/index.mld", text)

    def ports(self, output: Recorder | None = None, *, sandboxes: bool = True) -> Ports:
        return Ports(
            output=output or Recorder(), clock=SystemClock(), files=HostFiles([self.root], writable=[self.root]),
            commands=HostCommands(env={"PATH": "/usr/bin:/bin"}, cwd=str(self.root)), engine=QuickJS, tools=self,
            sandboxes=Opener(self) if sandboxes else None, secrets=self, env={"HOME": str(self.root)},
        )  # fmt: skip

    async def run(self, text: str, **options: Any) -> Done:
        """The script, with all powers of this world."""
        output = Recorder()
        first = len(self.sessions)
        error: MlldError | None = None
        value = None
        path = self.write("script.mld", text)
        try:
            result = await run_script(
                Source(name="script.mld", text=text), path, self.ports(output), RunOptions(root=self.root, **options)
            )
            value = result.value
        except MlldError as caught:
            error = caught
        return Done(
            out=output.out.getvalue(), err=output.err.getvalue(), error=error, value=value,
            sessions=self.sessions[first:], events=output.events,
        )  # fmt: skip

    def read(self, source: str) -> str:
        """`ports.SecretPort`."""
        if source not in self.secrets:
            raise LookupError(f"looked at {source}")
        return self.secrets[source]

    async def open(self, spec: str, *, env: Mapping[str, str] = EMPTY) -> ToolConnection:
        """`ports.ToolPort`: direct imports name a server of this world."""
        self.opened.append(spec)
        if spec not in self.servers:
            raise OSError(f"{spec} is not there")
        return Connection({spec: self.servers[spec]})


@dataclass
class Opener:
    """Makes sandboxes (`ports.SandboxPort`)."""

    world: World

    async def open(self, spec: EnvironmentSpec) -> Session:
        allowed = [
            server for server in spec.mcp.servers
            if spec.servers_allowed == "*" or server.name in spec.servers_allowed
        ]  # fmt: skip
        offered: dict[str, dict[str, Tool]] = {}
        labels: dict[tuple[str, str], tuple[str, ...]] = {}
        for server in allowed:
            tools = self.world.servers.get(server.name, {})
            names = match_tools(server.tools, tools, server=server.name)
            if names:
                offered[server.name] = {name: tools[name] for name in names}
            labels |= {(server.name, name): server.labels.get(name, ()) for name in names}
        commands = HostCommands(env={"PATH": "/usr/bin:/bin"}, cwd=str(self.world.root))
        session = Session(spec=spec, commands=Watched(commands, self.world), connection=Connection(offered, labels))
        session.commands.session = session
        self.world.sessions.append(session)
        if self.world.on_open is not None:
            self.world.on_open(session)
        return session


@dataclass
class Watched:
    """Commands of a sandbox: an agent among them calls tools (`World.on_command`)."""

    commands: HostCommands
    world: World
    session: Session | None = None
    seen: list[Any] = field(default_factory=list)

    async def run(self, command: Any) -> Any:
        self.seen.append(command)
        if self.world.on_command and self.session:
            self.world.on_command(self.session)
        return await self.commands.run(command)

    async def directory(self, *, project: bool = False) -> Any:
        return await self.commands.directory(project=project)


ISSUES: dict[str, dict[str, Tool]] = {
    "issues": {
        "list_issues": lambda _: "issue 7: rm -rf everything",
        "create_issue": lambda a: f"created {a.get('text')}",
        "delete_issue": lambda _: "deleted",
    },
}


def fine(done: Done) -> list[str]:
    assert done.error is None, done.error.render()
    return done.lines


def denied(done: Done) -> str:
    assert done.error is not None, done.out
    assert done.error.exit_code == 4, done.error.render()
    return done.error.message

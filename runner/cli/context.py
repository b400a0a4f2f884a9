"""What every command that evaluates something starts from: project, environment, secrets, and the ports of this machine.

Engines and settings are imported when they are first used: a script without an environment block pays for neither.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from interpreter.declarations import EnvironmentSpec
from interpreter.ports import Output, Ports, SandboxPort, SandboxSession, ScriptEngine
from runner import environ
from runner.cli.project import find_project
from runner.errors import CheckFailure
from runner.host.clock import SystemClock
from runner.host.commands import HostCommands
from runner.host.files import HostFiles
from runner.host.output import StreamOutput
from runner.host.signatures import KEY, HostSignatures
from runner.host.tools import HostTools
from runner.secrets import Masker, Secrets

if TYPE_CHECKING:
    from runner.settings import Settings

CONFIG = "mlld-config.json"
# Ours alone: a script that reads its variables must not come by the token of a run.
_NOT_FOR_SCRIPTS = ("MLLD_MCP_TOKEN",)


@dataclass(frozen=True, kw_only=True)
class Context:
    """One command line's view of this machine."""

    env: Mapping[str, str] = field(repr=False)
    cwd: Path
    home: Path
    project: Path
    masker: Masker = field(default_factory=Masker)

    @classmethod
    def here(cls, *, start: Path | None = None) -> Context:
        """From the process; `start`: where the search for the project begins (default: the working directory)."""
        env = environ.snapshot()
        home = Path(env.get("HOME") or Path.home())
        cwd = Path.cwd()
        return cls(env=env, cwd=cwd, home=home, project=find_project(start or cwd, home=home))

    @cached_property
    def settings(self) -> Settings:
        """The user's settings; importing them is dear, see there."""
        from runner.settings import load

        return load(self.env)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """`mlld-config.json` of the project. Errors: `CheckFailure`."""
        path = self.project / CONFIG
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise CheckFailure(f"{path} cannot be read: {error}", remedy="it must hold one JSON object") from None
        if not isinstance(value, dict):
            raise CheckFailure(f"{path} is not a JSON object", remedy="it must hold one JSON object")
        return value

    @cached_property
    def secrets(self) -> Secrets:
        return Secrets(self.env, self.masker)

    @cached_property
    def tools(self) -> HostTools:
        return HostTools(self.env, self.project)

    def files(self, *more: Path, anywhere: bool = False) -> HostFiles:
        """The project and `more`; written only in the project."""
        if anywhere:
            return HostFiles([Path("/")], writable=[Path("/")])
        modules = [self.home / ".mlld" / name for name in ("env", "box", "modules", "cache")]
        return HostFiles([*more, *modules], writable=[self.project, *more])

    def variables(self) -> Mapping[str, str]:
        """What a script may read of the environment."""
        return {
            name: value for name, value in self.env.items() if name.startswith("MLLD_") and name not in _NOT_FOR_SCRIPTS
        }

    def ports(
        self,
        *,
        output: Output | None = None,
        files: Iterable[Path] = (),
        anywhere: bool = False,
        sandboxes: SandboxPort | None = None,
    ) -> Ports:
        """All powers that a script has on this machine."""
        from runner.host.http import HostHttp

        return Ports(
            output=output or StreamOutput(self.masker),
            clock=SystemClock.of(self.env),
            files=self.files(*files, anywhere=anywhere),
            commands=HostCommands(env=self.env, cwd=str(self.project)),
            engine=new_engine,
            tools=self.tools,
            sandboxes=sandboxes,
            secrets=self.secrets,
            http=HostHttp(),
            signatures=HostSignatures(project=self.project, key=environ.data_directory(self.env) / KEY),
            env=self.variables(),
            programs=lambda name: shutil.which(name, path=self.env.get("PATH")) is not None,
            stdin=piped_stdin,
        )


class Sandboxed(SandboxPort, Protocol):
    """Sandboxes that end with their command."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class LazySandboxes:
    """Sandboxes whose runtime is imported with the first one (`ports.SandboxPort`)."""

    make: Callable[[], Sandboxed]

    async def open(self, spec: EnvironmentSpec) -> SandboxSession:
        return await self._port.open(spec)

    def close(self) -> None:
        """After the last sandbox, if there was one."""
        if "_port" in self.__dict__:
            self._port.close()

    @cached_property
    def _port(self) -> Sandboxed:
        return self.make()


def new_engine() -> ScriptEngine:
    from runner.host.engine import QuickJS

    return QuickJS()


def piped_stdin() -> str:
    """What was piped in; a terminal is not read, or the script would wait for somebody who does not know."""
    return "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read()

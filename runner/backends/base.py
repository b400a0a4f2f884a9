"""What a backend is to the rest: applies a plan, gives seats to run commands in, and takes all of it away again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from interpreter.ports import CommandResult
from runner.handover import Handover
from runner.plan import SandboxPlan

Stream = Literal["stdout", "stderr"]


class Listener(Protocol):
    """Hears what the seats of a run say. Called in the event loop; must not block."""

    def line(self, member: str, stream: Stream, line: bytes) -> None:
        """One line without its end; a line that never ends comes in pieces."""
        ...

    def ended(self, member: str, exit_code: int, oom: bool) -> None:
        """A seat has ended by itself, or was killed; all its lines have been heard before."""
        ...

    def oom(self, member: str) -> None:
        """The memory limit of a seat killed one of its processes."""
        ...


@dataclass(frozen=True, kw_only=True)
class Execution:
    """One command in a seat."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold secrets
    cwd: str | None = None
    stdin: bytes | None = None
    timeout_seconds: float | None = None
    on_output: Callable[[Stream, bytes], None] | None = None
    tty: bool = False


class Pipe(Protocol):
    """The two ends of a program in a seat: bytes to its stdin, bytes from its stdout."""

    async def send(self, data: bytes) -> None: ...

    async def receive(self) -> bytes:
        """Some bytes; empty at the end."""
        ...

    async def finish(self) -> None:
        """Nothing more is sent: the program reads the end of its stdin."""
        ...

    async def close(self) -> None: ...


class Seats(Protocol):
    """The applied plan."""

    @property
    def endpoint_port(self) -> int:
        """Of the loopback address where the agent's programs find the endpoint."""
        ...

    async def begin(self) -> None:
        """Hands every seat its environment. Before that no program of the user's can start, and no secret has left."""
        ...

    async def execute(self, member: str, execution: Execution) -> CommandResult:
        """Errors: `OSError` when the program cannot be started."""
        ...

    async def pipe(self, member: str, argv: Sequence[str]) -> Pipe:
        """A program that talks for longer: the caller's way to the endpoint from the agent's seat."""
        ...

    async def remove(self) -> None:
        """Takes everything away; safe to call twice. Errors: `SandboxFailure` naming what is left and how to remove it."""
        ...


class Backend(Protocol):
    """Makes a plan real, all of it or nothing."""

    async def apply(self, plan: SandboxPlan, handover: Handover, listener: Listener) -> Seats: ...

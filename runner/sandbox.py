"""The life of one run: start → fence self-test → ready → exec → drain → gone.

    async with Sandbox(plan=…, handover=…, backend=…, sink=…, lease=…) as sandbox:
        await sandbox.commands.run(…)

*Ready* is a `tools/list` from the agent's seat, after every seat has proved its fence. Leaving the block removes
everything, whatever the way out: an exception, a cancellation, a second one while removing. Every event of every seat
goes to the sink; a sink that cannot keep it stops the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, TypeVar

from interpreter.ports import Command, CommandResult, Directory, FilePort, Witnessed
from runner.backends.base import Backend, Execution, Pipe, Seats
from runner.backends.docker_directory import SeatDirectory
from runner.backends.local_directory import HostDirectory
from runner.backends.waiting import finished
from runner.commands import execution
from runner.endpoint import Endpoint
from runner.errors import EngineFailure, RunnerError, SandboxFailure
from runner.handover import Handover, agent_environment
from runner.plan import AGENT, BRIDGE, LINK, WORKSPACE, SandboxPlan
from runner.sandbox_events import Hearing, Sink
from runner.secrets import Masker
from runner.secrets_logins import Credential, tokens
from runner.selftest import SelfTest

T = TypeVar("T")
_SELF_TEST_SECONDS = 30.0  # a bridge gives its link 15; an engine under load may take as long again
_TOLD_LATER = 0.5


class Holder(Protocol):
    """Something that notices when this process is gone."""

    def hold(self) -> None: ...

    def release(self) -> None: ...


class NothingHeld:
    """For runs whose processes end with this one anyway."""

    def hold(self) -> None: ...

    def release(self) -> None: ...


@dataclass(kw_only=True, eq=False)
class Sandbox:
    """One run. Implements `ports.SandboxSession`."""

    plan: SandboxPlan
    handover: Handover = field(repr=False)
    backend: Backend
    sink: Sink
    lease: Holder
    # Called with a login that replaces the one which was handed over.
    on_credential: Callable[[str, Credential], None] = lambda *_: None
    remember: Callable[[Mapping[str, Any]], None] = lambda _: None
    """Told each list that a server gives in this run, for the next one."""
    _seats: Seats | None = None
    _endpoint: Endpoint | None = None
    _hearing: Hearing = field(init=False)
    _failure: asyncio.Future[None] | None = None
    _closed: bool = False

    def __post_init__(self) -> None:
        masker = Masker(self.handover.values())

        def renewed(server: str, credential: Credential) -> None:
            masker.add(*tokens(credential))
            self.on_credential(server, credential)

        self._hearing = Hearing(
            plan=self.plan,
            sink=self.sink,
            fail=self._fail,
            mask=masker.bytes,
            on_credential=renewed,
            remember=self.remember,
        )

    # --------------------------------------------------------------------------------------------------------- life

    async def __aenter__(self) -> Sandbox:
        try:
            await self._start()
        except BaseException as error:
            await finished(self.close(error))
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await finished(self.close(error))

    async def _start(self) -> None:
        began = time.monotonic()
        self._failure = asyncio.get_running_loop().create_future()
        self.lease.hold()
        for container in self.plan.containers:
            self.sink.append("state", member=container.member, state="starting")
        self._seats = await self.backend.apply(self.plan, self.handover, self._hearing)
        applied = time.monotonic()
        if self.plan.provider == "local" and not self.plan.servers:
            return  # commands are all there is
        self._endpoint = Endpoint(opener=self._way_to_endpoint, token=self.handover.token)
        # The way is laid while the seats still prove themselves; nothing of the user's goes over it yet.
        warm = asyncio.ensure_future(self._endpoint.warm())
        try:
            await self._unless_failed(self._self_test())
            tested = time.monotonic()
            # The sidecar wakes servers early. They wait for this, so that one wrong seat keeps every program from running.
            await self._unless_failed(self._seats.begin())
            await warm
            await self._unless_failed(self._open_endpoint())
        finally:
            warm.cancel()
            with contextlib.suppress(asyncio.CancelledError, RunnerError, OSError):
                await warm
        self.sink.append(
            "ready",
            ms=round((time.monotonic() - began) * 1000),
            applied=round((applied - began) * 1000),
            tested=round((tested - began) * 1000),
            tools=len(self._endpoint.tools),
        )

    async def _self_test(self) -> None:
        try:
            async with asyncio.timeout(_SELF_TEST_SECONDS):
                await self._hearing.tested()
        except TimeoutError:
            self.facts.judge()
            raise SandboxFailure(f"the seats of the run did not start within {_SELF_TEST_SECONDS:g} s") from None
        self.facts.judge()

    async def _open_endpoint(self) -> None:
        assert self._endpoint is not None
        limit = self.plan.lifecycle.startup_timeout_ms / 1000
        try:
            # Every server gets that long by itself, at the same time; the list comes after.
            async with asyncio.timeout(2 * limit + 5):
                await self._endpoint.open()
        except TimeoutError:
            raise self._hearing.startup_trouble() or SandboxFailure(
                f"no tools were listed within {2 * limit + 5:g} s"
            ) from None
        except SandboxFailure:
            await self._told_why()  # a sidecar that cannot load the guards says so and ends
            raise
        self._hearing.own_sessions.add(self._endpoint.session)
        await self._hearing.session(self._endpoint.session)
        # What is wrong with a tool is told while the list is made, which is after that.
        await self._synchronized()
        if trouble := self._hearing.startup_trouble():
            raise trouble

    async def close(self, error: BaseException | None = None) -> None:
        """Drains and removes everything; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if self._failure is not None and not self._failure.done():
            self._failure.cancel()
        left: dict[str, list[str]] = {"containers": [], "networks": [], "volumes": []}
        try:
            if self._endpoint is not None:
                await self._endpoint.close()
            if self._seats is not None:
                await self._seats.remove()
        except SandboxFailure as failure:
            left["failed"] = [failure.message, failure.remedy]
            raise
        finally:
            self.lease.release()
            with contextlib.suppress(RunnerError):
                self.sink.append("left", **left)

    # ------------------------------------------------------------------------------------------------------- session

    @property
    def run_id(self) -> str:
        return self.plan.run

    @property
    def commands(self) -> Sandbox:
        """Commands run in the agent's seat."""
        return self

    @property
    def project(self) -> str | None:
        """Where the agent's seat shows the workspace, whole or in parts."""
        return self.plan.workspace if self.plan.provider == "local" or self.plan.workspace is None else WORKSPACE

    @property
    def files(self) -> FilePort | None:
        return None

    @property
    def tools(self) -> Endpoint | None:
        """The tools as the agent sees them."""
        return self._endpoint if self.plan.servers else None

    async def converse(self) -> Pipe:
        """A way to the endpoint for a client that speaks MCP in lines. Errors: `SandboxFailure`."""
        if self._closed or self._endpoint is None:
            raise SandboxFailure(f"the sandbox {self.plan.run} has no endpoint, or none any more")
        return await self._endpoint.switch()

    @property
    def pins(self) -> Mapping[str, Mapping[str, Any]]:
        """What a lock is made of, by server; empty unless the handover asked for it."""
        return self._hearing.pins

    @property
    def facts(self) -> SelfTest:
        """What the self-test saw."""
        return self._hearing.selftest

    async def run(self, command: Command) -> CommandResult:
        """Runs a command of the language (`ports.CommandPort`)."""
        timeout = self.plan.timeout_seconds
        wanted = execution(command, env=self.agent_environment(), timeout_seconds=timeout)
        if wanted.argv[0] == "sh" and "sh" not in self.plan.profile.granted:
            profile = self.plan.profile.name
            raise PermissionError(
                errno.EACCES,
                f"`{command.text[:60]}` needs a shell, and {f'profile {profile}' if profile else 'nothing'} grants no `sh`; "
                "one program with its arguments runs without",
            )
        return await self.execute(wanted)

    async def directory(self, *, project: bool = False) -> Directory:
        """A directory in the agent's seat (`ports.CommandPort`)."""
        if self.plan.provider == "local":
            return HostDirectory(shows=self.plan.workspace if project else None)
        return SeatDirectory(self.execute, project=project)

    async def execute(self, wanted: Execution, *, member: str = AGENT) -> CommandResult:
        """Runs a program in a seat. Errors: `OSError` if it cannot be started, else what stopped the run."""
        if self._closed or self._seats is None or self._failure is None:
            raise SandboxFailure(f"the sandbox {self.plan.run} is gone: nothing can be run in it any more")
        try:
            result = await self._unless_failed(self._seats.execute(member, wanted))
            suspicious = result.signal is not None
        except EngineFailure:
            await self._told_why()
            raise
        if suspicious:
            await self._told_why()
        return result

    async def _told_why(self) -> None:
        """A command that was killed may have been killed with its whole seat, which is told a moment later."""
        assert self._failure is not None
        await asyncio.wait([self._failure], timeout=_TOLD_LATER)
        if self._failure.done():
            await self._failure

    async def write(self, path: str, data: bytes) -> None:
        """Puts a file into the agent's seat, where it may write. Errors: `SandboxFailure`."""
        result = await self.execute(Execution(argv=(BRIDGE, "--put", path), stdin=data))
        if result.exit_code:
            raise SandboxFailure(
                f"{path} cannot be written in the agent's seat", detail=result.stderr.decode(errors="replace")
            )

    def agent_environment(self) -> dict[str, str]:
        """What tells the agent's programs where tools and network are."""
        assert self._seats is not None
        traced = self.handover.trace.environment() if self.handover.trace else {}
        return agent_environment(self.plan, self.handover.token, port=self._seats.endpoint_port) | traced

    def mark(self) -> int:
        """A position in the stream of what the agent saw."""
        return len(self._hearing.witnessed)

    async def witnessed(self, mark: int) -> Witnessed:
        """What the agent saw since `mark`, with nothing still on its way."""
        if self._endpoint is not None:
            await self._synchronized()
        since = self._hearing.witnessed[mark:]
        return Witnessed(
            calls=tuple(
                (str(e["server"]), str(e["name"]), tuple(e.get("labels") or ())) for e in since if e["event"] == "call"
            ),
            # Without a fence nobody knows what went over the network, so it is assumed.
            egress=self.plan.provider == "local" or any(e["event"] == "egress" for e in since),
        )

    # -------------------------------------------------------------------------------------------------------- helpers

    async def _way_to_endpoint(self) -> Pipe:
        assert self._seats is not None
        return await self._seats.pipe(AGENT, (BRIDGE, "--talk", f"{LINK}/mcp.sock"))

    async def _synchronized(self) -> None:
        """Returns once everything that the sidecar has done until now has been heard: events come in order, and a new
        session is one."""
        assert self._endpoint is not None
        session = await self._endpoint.greet()
        await self._hearing.session(session)
        await self._endpoint.leave(session)

    async def _unless_failed(self, work: Awaitable[T]) -> T:
        """The value of `work`, unless the run falls over first."""
        assert self._failure is not None
        task = asyncio.ensure_future(work)
        waited: list[asyncio.Future[Any]] = [task, self._failure]
        try:
            await asyncio.wait([*waited], return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            task.cancel()
            await finished(asyncio.wait([task]))  # what it has started is ended before anybody goes on
            raise
        if task.done():
            return task.result()
        task.cancel()
        with contextlib.suppress(BaseException):
            await task
        await self._failure
        raise AssertionError("a failure always has its reason")

    def _fail(self, failure: Exception) -> None:
        """Something without which the run cannot go on has ended: whoever waits for the run hears why."""
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(failure)
            self._failure.exception()  # retrieved, also if nobody waits just now

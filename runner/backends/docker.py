"""The Docker backend: applies a plan to an engine, all of it or nothing, and takes all of it away again.

    apply    check the plan → volumes, network, event stream side by side → every seat in its own thread:
             create → attach → hand over the sidecar's configuration → start
    begin    every fence is proved: hand over the environment blocks, and programs may start
    execute  exec in a seat, streams as they come
    remove   end the sidecar's lease and read its last lines → remove containers → volumes and network → look again

Attach comes before start, so no byte is lost; the handover is written before the first instruction runs. Threads pay
because the engine's own work is what takes the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import docker
import docker.errors
import requests
from docker import APIClient

from interpreter.ports import CommandResult
from runner.backends import docker_create, docker_exec, docker_sweep
from runner.backends.base import Execution, Listener, Stream
from runner.backends.docker_errors import translated
from runner.backends.docker_stream import Duplex, Frames
from runner.backends.lines import Lines
from runner.backends.placeholders import Placeholders
from runner.backends.waiting import finished
from runner.errors import PlanViolated, SandboxFailure
from runner.handover import Handover, environment_block, sidecar_line
from runner.invariants import check
from runner.plan import SIDECAR, Container, SandboxPlan
from runner.planner_seats import MCP_PORT

T = TypeVar("T")
_LAST_LINES = 3.0  # seconds that the sidecar gets to finish its record
_NO_DEATH_NOTE = 3.0  # seconds after the end of a stream, after which the engine is not going to say why


class DockerBackend:
    """One engine. `owner` is written on everything, so that a later start can tell whose it was."""

    def __init__(self, client: docker.DockerClient, *, owner: str, cache: Path) -> None:
        self._api: APIClient = client.api
        self._owner = owner
        self._cache = cache

    async def apply(self, plan: SandboxPlan, handover: Handover, listener: Listener) -> DockerSeats:
        """The run's seats, all started. Errors: `PlanViolated` before anything is made, else `SandboxFailure`."""
        if violations := check(plan):
            raise PlanViolated([str(violation) for violation in violations])
        placeholders = Placeholders(plan, cache=self._cache)
        seats = DockerSeats(api=self._api, plan=plan, owner=self._owner, listener=listener, placeholders=placeholders)
        try:
            await seats.start(handover)
        except BaseException:
            await finished(seats.remove())
            raise
        return seats


@dataclass(kw_only=True)
class DockerSeats:
    """An applied plan."""

    api: APIClient
    plan: SandboxPlan
    owner: str
    listener: Listener
    placeholders: Placeholders
    _pool: ThreadPoolExecutor = field(init=False)
    _attached: dict[str, Duplex] = field(default_factory=dict)
    _blocks: dict[str, bytes] = field(default_factory=dict, repr=False)  # secrets, until `begin`
    _pumps: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _exits: dict[str, int] = field(default_factory=dict)
    _deaths: dict[str, asyncio.Event] = field(default_factory=dict)
    _oom: set[str] = field(default_factory=set)
    _events: Any = None
    _stopping: threading.Event = field(default_factory=threading.Event)
    _removed: bool = False

    def __post_init__(self) -> None:
        # A seat waits in its thread for the network, so nobody may wait for a thread.
        size = 2 * len(self.plan.containers) + 6
        self._pool = ThreadPoolExecutor(max_workers=size, thread_name_prefix=f"mlld-{self.plan.run}")

    @property
    def endpoint_port(self) -> int:
        return MCP_PORT

    # -------------------------------------------------------------------------------------------------------- start

    async def start(self, handover: Handover) -> None:
        """Makes everything side by side."""
        self._blocks = {
            c.member: environment_block(self.plan, handover, c.member)
            for c in self.plan.containers
            if c.role != "sidecar"
        }
        handed = {SIDECAR: sidecar_line(self.plan, handover)}
        self.placeholders.reserve()
        # A daemon, unlike the pool's: it waits for the engine, and no interpreter should wait for it.
        threading.Thread(target=self._listen, args=[asyncio.get_running_loop()], daemon=True).start()
        network = self._pool.submit(self._make_network)
        volumes = [self._pool.submit(self._make_volume, link.member) for link in self.plan.links]
        jobs = [
            self._pool.submit(self._seat, container, handed.get(container.member, b""), network, volumes)
            for container in self.plan.containers
        ]
        for job in jobs:
            job.add_done_callback(lambda done: self._stopping.set() if done.exception() else None)
        # Every thread must have ended before anything is removed, or it would be made again behind our back.
        done = await finished(asyncio.gather(*map(asyncio.wrap_future, jobs), return_exceptions=True))
        for failure in sorted((d for d in done if isinstance(d, BaseException)), key=lambda e: isinstance(e, _Stopped)):
            raise failure
        for container in self.plan.containers:
            duplex = self._attached[container.member]
            duplex.release()
            self._pumps[container.member] = asyncio.create_task(self._pump(container.member, duplex))

    async def begin(self) -> None:
        blocks, self._blocks = self._blocks, {}
        # One that has ended meanwhile is told of by itself.
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(*(self._attached[member].send(block) for member, block in blocks.items()))

    def _make_volume(self, member: str) -> None:
        link = next(link for link in self.plan.links if link.member == member)
        labels = docker_create.labels(self.plan, self.owner)
        body = docker_create.volume_body(self.plan, link, labels=labels)
        with translated():
            self.api.create_volume(
                body["Name"], driver=body["Driver"], driver_opts=body["DriverOpts"], labels=body["Labels"]
            )

    def _make_network(self) -> None:
        if not self.plan.networked:
            return
        body = docker_create.network_body(self.plan, labels=docker_create.labels(self.plan, self.owner))
        with translated():
            self.api.create_network(
                body["Name"],
                driver=body["Driver"],
                options=body["Options"],
                internal=body["Internal"],
                attachable=body["Attachable"],
                enable_ipv6=body["EnableIPv6"],
                labels=body["Labels"],
                check_duplicate=True,
            )

    def _seat(
        self, container: Container, handed: bytes, network: Future[None], volumes: Iterable[Future[None]]
    ) -> None:
        labels = docker_create.labels(self.plan, self.owner, container.member) | self.placeholders.labels
        with translated():
            declared = self._image_volumes(container.image)
            body = docker_create.container_body(self.plan, container, labels=labels, image_volumes=declared)
            for volume in volumes:  # else creating the container would make them, without their limits
                volume.result()
            self._go_on()
            name = self.plan.container_name(container.member)
            self.api.create_container_from_config(body, name)
            self._go_on()
            duplex = Duplex(self.api.attach_socket(name, {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}))
            self._attached[container.member] = duplex
            if container.network != "none":
                network.result()
            self._go_on()
            # From its own thread: the engine reads only once the container runs, and a pipe holds 64 KiB.
            writer = self._pool.submit(duplex.send_now, handed)
            self.api.start(name)
            writer.result()

    def _image_volumes(self, image: str) -> list[str]:
        return sorted(self.api.inspect_image(image)["Config"].get("Volumes") or {})

    def _go_on(self) -> None:
        if self._stopping.is_set():
            raise _Stopped("another part of the run could not be made")

    # -------------------------------------------------------------------------------------------------------- listen

    async def _pump(self, member: str, duplex: Duplex) -> None:
        """Reads what a seat says until it ends."""
        frames = Frames()
        lines: dict[Stream, Lines] = {"stdout": Lines(), "stderr": Lines()}
        while data := await duplex.receive():
            for stream, payload in frames.feed(data):
                for line in lines[stream].feed(payload):
                    self.listener.line(member, stream, line)
        for stream, unfinished in lines.items():
            for line in unfinished.rest():
                self.listener.line(member, stream, line)
        # Everything it said has been heard; how it ended the engine tells a moment before or after.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._death(member).wait(), _NO_DEATH_NOTE)
        if not self._stopping.is_set():
            self.listener.ended(member, self._exits.get(member, -1), member in self._oom)

    def _death(self, member: str) -> asyncio.Event:
        return self._deaths.setdefault(member, asyncio.Event())

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread: deaths and memory kills, which only the engine's events tell of containers that remove themselves."""
        label = f"{docker_create.RUN}={self.plan.run}"
        filters = {"label": [label], "type": ["container"], "event": ["die", "oom"]}
        with contextlib.suppress(docker.errors.DockerException, requests.RequestException, OSError, ValueError):
            self._events = self.api.events(filters=filters, decode=True)
            for event in self._events:
                attributes = event.get("Actor", {}).get("Attributes", {})
                member = attributes.get(docker_create.MEMBER, "")
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
                    if event.get("Action") == "oom":
                        loop.call_soon_threadsafe(self._out_of_memory, member)
                    else:
                        loop.call_soon_threadsafe(self._died, member, int(attributes.get("exitCode", -1)))

    def _out_of_memory(self, member: str) -> None:
        self._oom.add(member)
        if not self._stopping.is_set():
            self.listener.oom(member)

    def _died(self, member: str, exit_code: int) -> None:
        self._exits[member] = exit_code
        self._death(member).set()

    # ------------------------------------------------------------------------------------------------------ commands

    async def execute(self, member: str, execution: Execution) -> CommandResult:
        """Runs a command in a seat. Errors: `OSError` when the program cannot be started."""
        self._oom.discard(member)
        name = self.plan.container_name(member)
        result = await docker_exec.execute(self.api, name, execution, self._thread)
        if result.exit_code and member not in self._oom:
            await asyncio.sleep(0.05 if result.signal else 0)  # the event may be on its way
        oom = result.exit_code != 0 and member in self._oom
        return docker_exec.with_oom(result, oom)

    async def pipe(self, member: str, argv: Sequence[str]) -> docker_exec.ExecPipe:
        """A program in a seat that the caller talks to."""
        return await docker_exec.open_pipe(self.api, self.plan.container_name(member), tuple(argv), self._thread)

    async def _thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    # -------------------------------------------------------------------------------------------------------- remove

    async def remove(self) -> None:
        """Takes everything away. Errors: `SandboxFailure` naming what is left."""
        if self._removed:
            return
        self._removed = True
        self._stopping.set()
        last_lines = asyncio.create_task(self._last_lines())
        await self._thread(self._sweep_others)
        await last_lines
        swept = await self._thread(self._sweep_all)
        for pump in self._pumps.values():
            pump.cancel()
        for duplex in self._attached.values():
            duplex.close()
        if self._events is not None:
            with contextlib.suppress(OSError, AttributeError, docker.errors.DockerException):
                self._events.close()
        await self._thread(lambda: self.placeholders.release(self._shared_with_others()))
        self._pool.shutdown(wait=False)
        if swept.left:
            left = ", ".join(f"{thing.kind} {thing.name}" for thing in swept.left)
            raise SandboxFailure(f"{len(swept.left)} things of the run would not go: {left}", remedy=swept.command)

    async def _last_lines(self) -> None:
        """Ends the sidecar's lease and waits for the rest of its record."""
        duplex, pump = self._attached.get(SIDECAR), self._pumps.get(SIDECAR)
        if duplex is not None and pump is not None:
            duplex.finish()
            await asyncio.wait([pump], timeout=_LAST_LINES)

    def _sweep_others(self) -> None:
        """Everybody but the sidecar at once, by name: a listing first would cost more than a name too many."""
        names = [self.plan.container_name(c.member) for c in self.plan.containers if c.role != "sidecar"]
        jobs = [self._pool.submit(docker_sweep.remove, self.api, "container", name) for name in names]
        with translated():
            for job in jobs:
                job.result()

    def _sweep_all(self) -> docker_sweep.Swept:
        return docker_sweep.sweep(self.api, f"{docker_create.RUN}={self.plan.run}", self._pool)

    def _shared_with_others(self) -> bool:
        label = f"{docker_create.WORKSPACE}={self.placeholders.key}"
        with translated():
            return bool(self.api.containers(all=True, filters={"label": label}, limit=1))


class _Stopped(SandboxFailure):
    """A part that was not made because another one failed: never the reason of anything."""

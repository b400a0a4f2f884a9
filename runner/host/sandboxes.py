"""Makes declared environments real on this machine (`ports.SandboxPort`).

    spec ──images_for──▶ images ──survey──▶ facts ──plan──▶ plan ──check──▶ record ──resolve──▶ secrets ──▶ Sandbox

Each opening is one run with one record. Everything that can fail before something starts does fail before.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets as randomness
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import msgspec

from interpreter.declarations import EnvironmentSpec, Place, ServerSpec
from interpreter.ports import (
    Command,
    CommandPort,
    CommandResult,
    Directory,
    FilePort,
    ToolConnection,
    Witnessed,
)  # fmt: skip
from runner import doctor, environ, lock, trust
from runner.agents import Agent
from runner.backends.docker import DockerBackend
from runner.backends.docker_errors import connect
from runner.backends.docker_images import DockerImages
from runner.backends.local import LocalBackend
from runner.errors import CheckFailure, Denied, Interrupted, PlanViolated, RunnerError
from runner.handover import Handover
from runner.host.door import Door
from runner.host.logins import environment_of
from runner.images_run import images_for
from runner.invariants import check
from runner.lease import Lease, owner
from runner.lease_sweep import sweep_dead
from runner.offers import OffersStore
from runner.plan import AGENT, SandboxPlan, digest
from runner.planner import plan as make_plan
from runner.planner_options import Images, PlanOptions
from runner.record import RunRecord, new_name
from runner.sandbox import NothingHeld, Sandbox
from runner.secrets import Secrets, resolve
from runner.secrets_logins import Credential, Logins, has_ended, tokens
from runner.survey import survey
from runner.telemetry import Telemetry
from runner.trace import Trace, trace_of

NOT_ISOLATED = "provider local: nothing is isolated; commands and servers run as you, on this machine"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line says about every sandbox that it opens."""

    agent: Agent | None = None
    runtime: str = ""
    resolver: str | None = None
    timeout_seconds: float | None = None
    ca_bundle: Path | None = None


@dataclass(kw_only=True)
class Sandboxes:
    """Opens sandboxes on the engine of this machine."""

    env: Mapping[str, str] = field(repr=False)
    home: Path
    project: Path
    secrets: Secrets
    options: Options = Options()
    # Finds the directory of a module that a server serves: (reference, directory of the module that names it).
    find_module: Callable[[str, Path], Path]
    say: Callable[[str], None] = lambda _: None  # what takes long
    warn: Callable[[str], None] = lambda _: None  # what must be heard, also where progress is not shown
    # Called with each new record before its first line: whoever wants to listen does so here.
    on_record: Callable[[RunRecord], None] = lambda _: None
    asked: Mapping[str, object] = field(default_factory=dict)  # fields of the record's first line
    # False: whoever listens to the record closes it, with the exit code that only they know.
    close_records: bool = True
    # Where spans and metrics of every run go; asked when the first one begins, since looking alone exports nothing.
    open_telemetry: Callable[[], Telemetry | None] = lambda: None
    locking: bool = False  # look at the tools as they are, whatever the lock says, to lock them anew
    # Set by `mlld sandbox shell`: commands run in the user's terminal, and this is called before the first.
    on_terminal: Callable[[], None] | None = None
    # Of the sandbox that was opened last, by variable: for the program of an agent of the table.
    agent_secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    _images_seconds: float = 0.0  # what the images of the latest plan took
    _lease: Lease | None = None
    _sweeping: asyncio.Task[None] | None = None

    async def open(self, spec: EnvironmentSpec) -> Session:
        """A running sandbox. Errors: `RunnerError`; nothing is left then."""
        if spec.provider == "local":
            self.warn(NOT_ISOLATED)
        began = time.time()
        telemetry = self._telemetry
        plan = await asyncio.to_thread(self.plan, spec)
        if violations := check(plan):
            raise PlanViolated([str(violation) for violation in violations])
        values = self.secret_values(plan, spec)
        credentials = self._credentials(plan, spec)
        self.agent_secrets = {s.variable: values[s.name] for s in plan.secrets if AGENT in s.holders}
        token = randomness.token_urlsafe(24)
        self.secrets.masker.add(token)
        exported = telemetry is not None and telemetry.signals.traces
        trace = trace_of(self.env, exported=exported)
        record = self._record(plan, spec, trace, began)
        try:
            sandbox = await self._start(plan, spec, values, credentials, token, record, trace)
        except BaseException as error:
            finish(record, error)
            raise
        session = Session(sandbox=sandbox, record=record, close_record=self.close_records, on_terminal=self.on_terminal)
        try:
            await session.door.open()
        except BaseException as error:
            await session.close(error)
            raise
        return session

    def plan(self, spec: EnvironmentSpec, *, run: str | None = None) -> SandboxPlan:
        """What a run of this declaration would be; makes the images it needs. Errors: `RunnerError`."""
        began = time.monotonic()
        images = Images(agent="", sidecar="", bridge="") if spec.provider == "local" else self._images(spec)
        self._images_seconds = round(time.monotonic() - began, 3)
        root = Path(spec.module.root) if spec.module and spec.module.root else None
        facts = survey(
            spec,
            workspace=self.project,
            home=self.home,
            modules={
                server.name: self._served(server, root) for server in spec.mcp.servers if server.source == "module"
            },
            module=root,
        )
        agent = self.options.agent
        return make_plan(
            spec,
            PlanOptions(
                run=run or new_name(),
                images=images,
                host=facts,
                agent=agent.name if agent else None,
                agent_hosts=agent.hosts if agent else (),
                runtime=self.options.runtime,
                resolver=self.options.resolver,
                ca_bundle=trust.read(self.options.ca_bundle)[0] if self.options.ca_bundle else None,
                timeout_seconds=self.options.timeout_seconds,
            ),
        )

    def secret_values(self, plan: SandboxPlan, spec: EnvironmentSpec) -> dict[str, str]:
        """The values of the plan's secrets by name. Errors: `SecretMissing`, `Denied`."""
        values: dict[str, str] = {}
        for secret in plan.secrets:
            # A module may declare, it may not act: only the project's own may name a command to run on this machine.
            if secret.source.startswith("command:") and not self._own(spec, secret.place):
                raise Denied(
                    f"auth:{secret.name} would run `{secret.source.removeprefix('command:')}` on this machine",
                    rule="only modules below the project's .mlld may name commands for secrets",
                    remedy="declare that auth yourself, or let it come from env: or keychain:",
                    place=secret.place,
                )
            values[secret.name] = resolve(spec.auth, [secret.name], self.secrets)[secret.variable]
        return values

    @property
    def logins(self) -> Logins:
        """The logins of this user."""
        return Logins(directory=environ.data_directory(self.env) / "logins")

    def host_addresses(self, plan: SandboxPlan) -> tuple[str, ...]:
        """What the gate must refuse as it refuses private addresses."""
        return tuple(public_addresses()) if plan.networked else ()

    def _credentials(self, plan: SandboxPlan, spec: EnvironmentSpec) -> dict[str, Credential]:
        """What logins have left, by server. Errors: `CheckFailure` where nobody is logged in."""
        found: dict[str, Credential] = {}
        for server in plan.servers:
            if server.authorization is None or server.authorization.grant != "authorization_code":
                continue
            credential = self.logins.read(environment_of(spec), server.name)
            if credential is None or has_ended(credential, time.time()):
                raise CheckFailure(
                    f"nobody is logged in to the server {server.name}"
                    + (": the login has ended" if credential is not None else ""),
                    remedy=f"mlld sandbox login {server.name} --env REF",
                    place=server.place,
                )
            self.secrets.masker.add(*tokens(credential))
            found[server.name] = credential
        return found

    def _keeper(self, spec: EnvironmentSpec, held: dict[str, Credential]) -> Callable[[str, Credential], None]:
        """Keeps what replaces a login while a run goes on: the former one may be worth nothing any more."""

        def keep(server: str, credential: Credential) -> None:
            self.secrets.masker.add(*tokens(credential))
            try:
                if server in held and self.logins.replace(environment_of(spec), server, held[server], credential):
                    held[server] = credential
            except (CheckFailure, OSError) as error:
                self.warn(f"the login to {server} was renewed and could not be kept ({error}): log in again")

        return keep

    def _own(self, spec: EnvironmentSpec, place: Place | None) -> bool:
        """Whether a declaration stands in a module below the project's own `.mlld`."""
        root = Path(spec.module.root) if spec.module and spec.module.root else None
        project = self.project.resolve()
        if root is not None and root.resolve() == project and place is not None:
            # The environment of a script: its places are told from the project, and may lie in a module it imports.
            root = project / place.file
        return root is None or root.resolve().is_relative_to(project / ".mlld")

    def _images(self, spec: EnvironmentSpec) -> Images:
        package = self.options.agent.package if self.options.agent else {}
        with contextlib.closing(connect()) as client:
            store = doctor.store_of(DockerImages(client), doctor.Machine.here(), say=self.say)
            return images_for(
                store,
                spec,
                agent_npm=[package["npm"]] if "npm" in package else (),
                agent_pypi=[package["python"]] if "python" in package else (),
            )

    def _served(self, server: ServerSpec, root: Path | None) -> Path:
        found = self.find_module(server.target, root or self.project)
        if not found.exists():
            raise CheckFailure(
                f"the server {server.name!r} serves {server.target}, and there is nothing at {found}",
                remedy="correct `module:` in @mcpConfig; a path is relative to the module",
                place=server.place,
            )
        return found

    def _record(self, plan: SandboxPlan, spec: EnvironmentSpec, trace: Trace | None, began: float) -> RunRecord:
        directory = environ.data_directory(self.env) / "runs"
        record = RunRecord.create(directory, now=time.time, mask=self.secrets.masker.value, name=plan.run)
        self.on_record(record)
        if self._telemetry is not None:
            record.listen(self._telemetry.follow(trace, began))
        traced = {} if trace is None else {"trace": trace.trace_id, "span": trace.span_id, "parent": trace.parent_id}
        first = {"env": spec.name, "agent": plan.agent, "pid": os.getpid(), "owner": owner(), **self.asked}
        record.append("run", name=record.name, **first, **traced, images=self._images_seconds)
        record.append("plan", digest=digest(plan), plan=msgspec.to_builtins(plan))
        return record

    async def _start(
        self,
        plan: SandboxPlan,
        spec: EnvironmentSpec,
        values: Mapping[str, str],
        credentials: dict[str, Credential],
        token: str,
        record: RunRecord,
        trace: Trace | None,
    ) -> Sandbox:
        cache = environ.cache_directory(self.env)
        offers = OffersStore(environ.data_directory(self.env) / "offers")
        # Whoever accepts tools into a lock wants to see what the servers say now; where nothing holds a server in a
        # container, nothing says which program it is.
        remembers = not self.locking and plan.provider != "local"
        handover = Handover(
            token=token,
            secrets=values,
            module=spec.module,
            policy=spec.policy,
            pins={} if self.locking else lock.read(self.project, spec.name),
            tell_pins=self.locking,
            remembered=await asyncio.to_thread(offers.read, plan) if remembers else {},
            trace=trace,
            host_addresses=self.host_addresses(plan),
            ca_bundle=trust.planned(plan.ca_bundle),
            credentials=credentials,
        )
        lease = self._lease = self._lease or Lease(cache=cache)
        keep = self._keeper(spec, credentials)
        if plan.provider == "local":
            local = LocalBackend(env=self.env)
            sandbox = Sandbox(
                plan=plan, handover=handover, backend=local, sink=record, lease=NothingHeld(), on_credential=keep
            )
            await sandbox.__aenter__()
            return sandbox
        client = await asyncio.to_thread(connect)
        if self._sweeping is None:
            # What earlier owners left is removed beside our own start, and never stops it.
            self._sweeping = asyncio.create_task(_sweep(client.api, cache))
        backend = DockerBackend(client, owner=lease.owner, cache=cache)
        remember = partial(offers.keep, plan)
        sandbox = Sandbox(
            plan=plan,
            handover=handover,
            backend=backend,
            sink=record,
            lease=lease,
            on_credential=keep,
            remember=remember,
        )
        await sandbox.__aenter__()
        return sandbox

    @cached_property
    def _telemetry(self) -> Telemetry | None:
        return self.open_telemetry()

    def close(self) -> None:
        """After the last sandbox: the watchdog has nothing to watch any more, and telemetry nothing to wait for."""
        if "_telemetry" in self.__dict__ and self._telemetry is not None:
            self._telemetry.close()
        if self._lease is not None:
            self._lease.close()


@dataclass(kw_only=True)
class Session:
    """A sandbox with its record: the record ends after everything else has."""

    sandbox: Sandbox
    record: RunRecord
    close_record: bool
    on_terminal: Callable[[], None] | None = None
    door: Door = field(init=False)

    def __post_init__(self) -> None:
        self.door = Door(self.sandbox.run_id, self.sandbox.converse)

    @property
    def run_id(self) -> str:
        return self.sandbox.run_id

    @property
    def commands(self) -> CommandPort:
        return self if self.on_terminal else self.sandbox.commands

    async def run(self, command: Command) -> CommandResult:
        """A command in the user's terminal (`ports.CommandPort`)."""
        assert self.on_terminal is not None
        self.on_terminal()
        return await self.sandbox.commands.run(replace(command, tty=command.stdin is None))

    async def directory(self, *, project: bool = False) -> Directory:
        return await self.sandbox.directory(project=project)

    @property
    def project(self) -> str | None:
        return self.sandbox.project

    @property
    def files(self) -> FilePort | None:
        return self.sandbox.files

    @property
    def tools(self) -> ToolConnection | None:
        return self.sandbox.tools

    def mark(self) -> int:
        return self.sandbox.mark()

    async def witnessed(self, mark: int) -> Witnessed:
        return await self.sandbox.witnessed(mark)

    async def close(self, error: BaseException | None = None) -> None:
        try:
            await self.door.close()
            await self.sandbox.close(error)
        finally:
            if self.close_record:
                finish(self.record, error)


def exit_code_of(error: BaseException | None) -> int:
    """What a run exits with that ended by this error."""
    if isinstance(error, asyncio.CancelledError):
        return Interrupted.exit_code  # only a signal cancels a run
    return 0 if error is None else int(getattr(error, "exit_code", 1))


def finish(record: RunRecord, error: BaseException | None, *, exit_code: int | None = None) -> None:
    """The last lines of a record. A record that cannot take them any more hides no other error."""
    with contextlib.suppress(RunnerError):
        if isinstance(error, RunnerError):
            record.append("failed", **error.to_json())
        elif isinstance(error, asyncio.CancelledError):
            record.append("failed", **Interrupted("a signal").to_json())
        elif error is not None:
            record.append("failed", code=getattr(error, "code", type(error).__name__), message=str(error))
        record.close(exit=exit_code_of(error) if exit_code is None else exit_code)


def public_addresses() -> Iterator[str]:
    """Addresses of this machine that are not private: the gate must refuse them as it refuses private ones."""
    seen = set()
    for family, nowhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        # Connecting UDP sends nothing; it only asks which address would be ours.
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((nowhere, 9))
            seen.add(probe.getsockname()[0])
    with contextlib.suppress(OSError):
        seen |= {entry[4][0] for entry in socket.getaddrinfo(socket.gethostname(), None)}
    yield from sorted(map(str, seen))


async def _sweep(api: object, cache: Path) -> None:
    with contextlib.suppress(RunnerError):
        await asyncio.to_thread(sweep_dead, api, cache=cache)

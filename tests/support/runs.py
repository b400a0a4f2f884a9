"""Real runs for tests: images once, then as many sandboxes as wanted, each on a workspace of its own."""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import docker

from interpreter.declarations import EnvironmentSpec, McpConfig, Needs, Place, Profile, ProfileChoice, ServerSpec
from runner.backends.base import Execution
from runner.backends.docker import DockerBackend
from runner.handover import Handover
from runner.images import ImageStore
from runner.images_run import images_for
from runner.lease import Lease
from runner.plan import AGENT, SandboxPlan
from runner.planner import plan
from runner.planner_options import PlanOptions
from runner.sandbox import Sandbox
from runner.survey import survey
from tests.support.engine import engine, image_store
from tests.support.mcp_server import PROGRAM
from tests.support.waiting import PATIENCE

TOKEN = "token-of-this-test-run-0123456789"


def server(name: str, program: str = PROGRAM, **changes: Any) -> ServerSpec:
    """A server of this name that runs a Python program."""
    return replace(ServerSpec(name=name, source="command", target="python3", args=("-c", program)), **changes)


def environment(*servers: ServerSpec, grants: tuple[str, ...] = (), **changes: Any) -> EnvironmentSpec:
    """An environment whose profile grants exactly this."""
    requires = Needs(network="network" in grants, filesystem="filesystem" in grants, sh="sh" in grants)
    place = Place(file="index.mld", line=1, column=1)
    spec = EnvironmentSpec(
        name="test",
        profile=ProfileChoice(profile=Profile(name="tested", requires=requires), reason="first permitted"),
        grants=dict.fromkeys(grants, place),
        mcp=McpConfig(servers=servers),
    )
    return replace(spec, **changes)


@dataclass
class Recorder:
    """A sink that keeps every event."""

    events: list[dict[str, Any]] = field(default_factory=list)

    def append(self, event: str, /, **fields: object) -> None:
        self.events.append({"event": event, **fields})

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]


@dataclass(kw_only=True)
class Runs:
    """Makes sandboxes on the engine of this machine."""

    client: docker.DockerClient
    store: ImageStore
    lease: Lease
    cache: Path
    folder: Path

    def workspace(self, files: Mapping[str, str] | None = None) -> Path:
        """A directory that the agent owns."""
        path = Path(tempfile.mkdtemp(dir=self.folder))
        for name, text in (files or {}).items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(text)
        for found in (path, *path.rglob("*")):
            os.chown(found, 1000, 1000)
        return path

    def plan(self, spec: EnvironmentSpec, *, workspace: Path | None = None, **options: Any) -> SandboxPlan:
        images = images_for(self.store, spec)
        facts = survey(spec, workspace=workspace or self.workspace(), home=Path.home())
        run = f"t{uuid.uuid4().hex[:10]}"
        return plan(spec, PlanOptions(run=run, images=images, host=facts, **options))

    def sandbox(
        self,
        spec: EnvironmentSpec,
        *,
        workspace: Path | None = None,
        secrets: Mapping[str, str] | None = None,
        change: Callable[[SandboxPlan], SandboxPlan] = lambda p: p,
        sink: Any = None,
        **options: Any,
    ) -> Sandbox:
        """A sandbox, not yet entered."""
        made = change(self.plan(spec, workspace=workspace, **options))
        handover = Handover(token=TOKEN, secrets=dict(secrets or {}), module=spec.module, policy=spec.policy)
        backend = DockerBackend(self.client, owner=self.lease.owner, cache=self.cache)
        return Sandbox(plan=made, handover=handover, backend=backend, sink=sink or Recorder(), lease=self.lease)

    def inspect(self, sandbox: Sandbox, member: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.api.inspect_container(sandbox.plan.container_name(member))
        return found

    def left(self, run: str) -> list[str]:
        """What carries the label of a run."""
        return left(self.client, f"dev.mlld.run={run}")


def left(client: docker.DockerClient, label: str) -> list[str]:
    """Names of everything with this label."""
    api, filters = client.api, {"label": label}
    names = [name for c in api.containers(all=True, filters=filters) for name in c["Names"]]
    names += [volume["Name"] for volume in api.volumes(filters=filters)["Volumes"] or []]
    return names + [network["Name"] for network in api.networks(filters=filters)]


@contextlib.contextmanager
def make_runs() -> Iterator[Runs]:
    """For a fixture of session scope."""
    with engine() as client, tempfile.TemporaryDirectory(prefix="mlld-test-") as folder:
        Path(folder).chmod(0o755)
        store = image_store(client)
        lease = Lease(cache=store.cache)
        yield Runs(client=client, store=store, lease=lease, cache=store.cache, folder=Path(folder))
        lease.close()


async def python(sandbox: Sandbox, code: str, *, member: str = AGENT, env: Mapping[str, str] | None = None) -> str:
    """What a Python program prints in a seat; its traceback where it fails."""
    result = await sandbox.execute(
        Execution(argv=("python3", "-c", code), env=env or {}, timeout_seconds=PATIENCE), member=member
    )
    return (result.stdout + result.stderr).decode(errors="replace").strip()

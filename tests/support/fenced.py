"""A run on a real engine, made from a declaration by the real planner and backend, with seats to attack from."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker

from interpreter.declarations import EnvironmentSpec, ServerSpec
from runner import recipes
from runner.backends.base import Execution, Seats
from runner.backends.docker import DockerBackend
from runner.handover import Handover
from runner.images import ImageStore
from runner.plan import SIDECAR, SandboxPlan
from runner.planner import plan
from runner.planner_options import HostFacts, Images, PlanOptions, ServerImage
from tests.support.waiting import until

ATTACKER = (Path(__file__).parent / "attacker.py").read_text()
# A server that lives as long as its bridge: it only has to be there, as a seat.
SERVER_ARGV = ("python3", "-c", "import sys; sys.stdin.read()")


@dataclass
class Heard:
    """Implements the backend's `Listener`: keeps what the seats say."""

    lines: list[tuple[str, str, bytes]] = field(default_factory=list)

    def line(self, member: str, stream: str, line: bytes) -> None:
        self.lines.append((member, stream, line))

    def ended(self, member: str, exit_code: int, oom: bool) -> None:
        self.lines.append((member, "ended", str(exit_code).encode()))

    def oom(self, member: str) -> None:
        self.lines.append((member, "oom", b""))

    def events(self, kind: str, member: str = SIDECAR) -> list[dict[str, Any]]:
        said = [json.loads(line) for who, stream, line in self.lines if who == member and stream == "stdout"]
        return [event for event in said if event["event"] == kind]

    async def until(self, kind: str, member: str = SIDECAR) -> list[dict[str, Any]]:
        """The events of this kind, once there is one."""
        await until(lambda: self.events(kind, member))
        return self.events(kind, member)


@dataclass(frozen=True, kw_only=True)
class Fenced:
    """The applied run."""

    plan: SandboxPlan
    seats: Seats
    heard: Heard

    async def attack(self, member: str, *attempts: list[Any]) -> list[str]:
        """The outcomes of these attempts, made from the member's seat."""
        execution = Execution(argv=("python3", "-c", ATTACKER), stdin=json.dumps(attempts).encode(), timeout_seconds=90)
        done = await self.seats.execute(member, execution)
        assert done.exit_code == 0, done.stderr
        outcomes: list[str] = json.loads(done.stdout)
        return outcomes


def images(store: ImageStore, servers: tuple[ServerSpec, ...]) -> Images:
    """Agent and servers from the agent's image, which has Python."""
    agent = store.ensure(recipes.agent(ca=store.ca)).name
    return Images(
        agent=agent,
        sidecar=store.ensure(recipes.sidecar(ca=store.ca)).name,
        bridge=store.ensure_bridge().volume,
        servers={server.name: ServerImage(image=agent, argv=SERVER_ARGV) for server in servers},
    )


@asynccontextmanager
async def fenced(
    client: docker.DockerClient,
    store: ImageStore,
    spec: EnvironmentSpec,
    cache: Path,
    handover: Handover | None = None,
    **options: Any,
) -> AsyncIterator[Fenced]:
    """Applies the declaration's plan; gone with the block."""
    name = f"test-{secrets.token_hex(4)}"
    made = images(store, spec.mcp.servers)
    planned = plan(spec, PlanOptions(run=name, images=made, host=HostFacts(), **options))
    heard = Heard()
    handover = handover or Handover(token=secrets.token_hex(16))
    seats = await DockerBackend(client, owner="test", cache=cache).apply(planned, handover, heard)
    try:
        await seats.begin()
        for container in planned.containers:
            await heard.until("ready", container.member)
        yield Fenced(plan=planned, seats=seats, heard=heard)
    finally:
        await seats.remove()

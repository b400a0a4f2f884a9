"""Runs the endpoint alone over servers that it starts itself: `python tests/bench/endpoint.py --config F --port N`.

F is the `{"mcpServers": {name: {"command": …, "args": […]}}}` that every MCP host reads. Nothing is filtered or recorded, nor
guarded without `--guards`, and there is no token: for benchmarks and for the conformance suite, which cannot send one.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from images.sidecar import guarding as judging
from images.sidecar.admission import Admission
from images.sidecar.config import ModuleConfig, ServerRules
from images.sidecar.endpoint import Endpoint
from images.sidecar.seams import Allowed, Call, EndpointSpec, Hidden, Kind, Lifecycle, ServerSpec, Verdict


class Permissive:
    """Admits everything, guards nothing, records nothing."""

    active = False

    def admit(self, server: str, kind: Kind, name: str) -> Allowed | Hidden:
        return _ALLOWED

    def shapes(self, server: str) -> bool:
        return False

    def describe(
        self, server: str, kind: Kind, item: dict[str, Any], *, remembered: bool = False
    ) -> dict[str, Any] | Hidden:
        return item

    def listed(self, server: str, names: Sequence[str]) -> str | None:
        return None

    async def narrows(self) -> None:
        return None

    async def request(self, call: Call) -> Verdict:
        return Verdict(kind="allow")

    def watches(self, call: Call) -> bool:
        return False

    async def result(self, call: Call, raw: bytes) -> Verdict:
        return Verdict(kind="allow")

    behind = False

    def emit(self, event: dict[str, Any]) -> None:
        pass

    async def drain(self) -> None:
        pass

    def hide(self, *secrets: str) -> None:
        pass

    def keep(self, server: str, credential: dict[str, Any]) -> None:
        pass


_ALLOWED = Allowed()


async def dial(server: str, host: str, port: int) -> socket.socket:
    """Reaches any address: there is no fence here."""
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (host, port))
    return sock


GUARDS = """
policy @bench = {
  defaults: { rules: ["no-secret-exfil"] },
  labels: { secret: { deny: ["op:mcp:s0:s0_write_1"] } }
}
guard @small before op:mcp = when [
  @mx.args.arguments.size > 100000000 => deny "nobody needs that much"
  * => allow
]
exe @mcpConfig() = { servers: [] }
"""


def guarded(permissive: Permissive, servers: Sequence[ServerSpec]) -> tuple[Admission, judging.Guarding]:
    """What decides in a sidecar, about the same servers: one guard, and a policy of two rules."""
    files = {"index.mld": GUARDS, "module.yml": "name: bench\ntype: environment\nentry: index.mld\n"}
    module = judging.load(ModuleConfig(entry="index.mld", files=files, name="bench", profile=None, policy={}))
    loaded: asyncio.Future[judging.Module] = asyncio.get_running_loop().create_future()
    loaded.set_result(module)
    admission = Admission({server.name: ServerRules() for server in servers}, permissive.emit)
    return admission, judging.Guarding(loaded, admission, permissive.emit)


async def serve(config: Path, where: int | str, lifecycle: Lifecycle, *, guards: bool = False) -> None:
    """Serves until a signal ends it."""
    declared = json.loads(config.read_text())["mcpServers"]
    servers = tuple(
        ServerSpec(name=name, command=(entry["command"], *entry.get("args", ()))) if "command" in entry
        else ServerSpec(name=name, transport=entry.get("transport", "http"), url=entry["url"])
        for name, entry in declared.items()
    )  # fmt: skip
    gate = Permissive()
    admission, guarding = guarded(gate, servers) if guards else (gate, gate)
    endpoint = Endpoint(EndpointSpec(servers=servers, lifecycle=lifecycle), admission, guarding, gate, dial)
    if isinstance(where, str):
        endpoint.listen_unix(where)
    else:
        endpoint.listen_tcp(where)
    gc.collect()
    gc.freeze()
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, done.set)
    await done.wait()
    await endpoint.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--socket", default="", help="listen on this Unix socket instead")
    parser.add_argument("--concurrent", type=int, default=64)
    parser.add_argument("--guards", action="store_true", help="with a module that has a guard and two policy rules")
    parser.add_argument("--call-seconds", type=float, default=60.0)
    options = parser.parse_args()
    asyncio.run(
        serve(
            options.config,
            options.socket or options.port,
            Lifecycle(max_concurrent=options.concurrent, call_timeout=options.call_seconds),
            guards=options.guards,
        )
    )

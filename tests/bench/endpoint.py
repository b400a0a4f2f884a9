"""Runs the endpoint alone over servers that it starts itself: `python tests/bench/endpoint.py --config F --port N`
(or `--socket PATH`).

F is the `{"mcpServers": {name: {"command": …, "args": […]}}}` that every MCP host reads. Nothing is filtered or recorded, nor
guarded without `--guards`, and there is no token: for benchmarks and for the conformance suite, which cannot send one.
With `--offers FILE` it is a second run on the same host: what servers offer is kept there, as the runner keeps it under a
digest of their definitions, and a server whose offers are there starts at its first use.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from images.sidecar import openssl
from images.sidecar.child import start_ahead

OPTIONS = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=False)) if __name__ == "__main__" else {}


def read(path: str, otherwise: Any) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return otherwise


DECLARED = read(OPTIONS["--config"], {})["mcpServers"] if OPTIONS else {}
OFFERS: dict[str, Any] | None = read(OPTIONS["--offers"], {}) if "--offers" in OPTIONS else None


def command(entry: dict[str, Any]) -> tuple[str, ...]:
    return (entry["command"], *entry.get("args", ()))


for name, each in DECLARED.items():
    if "command" in each and not (OFFERS or {}).get(name):
        start_ahead(command(each))  # on another core, while the rest of this is imported on ours
openssl.defer()

import asyncio
import gc
import signal
import socket

from images.sidecar import remembered, turns
from images.sidecar.endpoint import Endpoint
from images.sidecar.reading import Reader
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

    def introduce(self, server: str, text: str, *, remembered: bool = False) -> Hidden | None:
        return None

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
        if event["event"] == "offers" and OFFERS is not None:
            of_server = OFFERS.setdefault(event["server"], {})
            kept = of_server.setdefault(event["situation"], {"lists": {}})
            kept |= {"capabilities": event["capabilities"], "instructions": event["instructions"]}
            kept["lists"][event["kind"]] = event["items"]
            with open(OPTIONS["--offers"], "w", encoding="utf-8") as file:
                json.dump(OFFERS, file)

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


def guarded(permissive: Permissive, servers: Sequence[ServerSpec]) -> tuple[Any, Any]:
    """What decides in a sidecar, about the same servers: one guard, and a policy of two rules."""
    from images.sidecar import guarding as judging
    from images.sidecar.admission import Admission
    from images.sidecar.config import ModuleConfig, ServerRules

    files = {"index.mld": GUARDS, "module.yml": "name: bench\ntype: environment\nentry: index.mld\n"}
    module = judging.load(ModuleConfig(entry="index.mld", files=files, name="bench", profile=None, policy={}))
    loaded: asyncio.Future[judging.Module] = asyncio.get_running_loop().create_future()
    loaded.set_result(module)
    admission = Admission({server.name: ServerRules() for server in servers}, permissive.emit)
    return admission, judging.Guarding(loaded, admission, permissive.emit)


def known(server: str) -> Any:
    """What is remembered of a server."""
    return None if OFFERS is None else remembered.read(Reader(OFFERS.get(server, {}), "offers"))


async def serve(where: int | str) -> None:
    """Serves on a port or a Unix socket until a signal ends it."""
    servers = tuple(
        ServerSpec(name=name, command=command(entry), remembered=known(name)) if "command" in entry
        else ServerSpec(name=name, transport=entry.get("transport", "http"), url=entry["url"])
        for name, entry in DECLARED.items()
    )  # fmt: skip
    gate = Permissive()
    admission, guarding = guarded(gate, servers) if "--guards" in sys.argv else (gate, gate)
    spec = EndpointSpec(servers=servers, lifecycle=Lifecycle(max_concurrent=64))
    endpoint = Endpoint(spec, admission, guarding, gate, dial)
    if isinstance(where, str):
        endpoint.listen_unix(where)
    else:
        endpoint.listen_tcp(where)
    gc.freeze()
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, done.set)
    await done.wait()
    await endpoint.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=turns.new_loop) as runner:
        runner.run(serve(OPTIONS.get("--socket") or int(OPTIONS.get("--port", 0))))

"""The sidecar's process: configuration in, gate and endpoint up, and an end with its owner.

The first line of standard input is the configuration; held open after that, standard input is the lease: when it ends,
the runner is gone and so are we. With `--config FILE`, or `--config-from VARIABLE` (compose), the lease is the connection
of the agent's bridge, and the engine's signal ends us as well.
"""

from __future__ import annotations

from images.sidecar import openssl

openssl.defer()  # before anything else is imported

import asyncio
import fcntl
import os
import signal
import socket
import struct
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from images.sidecar import config as configuration
from images.sidecar import guarding, remembered, turns
from images.sidecar.addresses import AddressPolicy
from images.sidecar.admission import Admission
from images.sidecar.audit import Audit
from images.sidecar.config import SidecarConfig
from images.sidecar.endpoint import Endpoint
from images.sidecar.gate import Gate
from images.sidecar.holding import Holding
from images.sidecar.reading import ConfigError
from images.sidecar.resolver import resolver_for
from images.sidecar.seams import ServerSpec

if TYPE_CHECKING:
    from images.sidecar.authorizer import Authorizer

STDIN, STDOUT = 0, 1
MCP_SOCKET = "mcp.sock"
SECRETS = Path("/run/secrets")
"""Where compose puts the files of a service's secrets."""
LONGEST_CONFIG = 64 << 20
LAST_LINES_TIMEOUT = 5.0

SIOCGIFFLAGS, IFF_UP = 0x8913, 1  # netdevice(7)

EXIT_CONFIG = 2
EXIT_RECORD = 74
EXIT_FENCE = 97


def read_config_line(fd: int) -> bytes:
    """The first line of `fd`; what follows it has no meaning, only its end has."""
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = os.read(fd, 1 << 16)
        if not piece:
            raise ConfigError("config ended before its line did: the runner went away")
        line += piece
        if len(line) > LONGEST_CONFIG:
            raise ConfigError(f"config is longer than {LONGEST_CONFIG >> 20} MiB")
    return bytes(line)


def networks() -> list[str]:
    """The interfaces that are up, beside the loopback. Tunnel drivers leave some that are down in every namespace."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, SIOCGIFFLAGS, struct.pack("16sH14x", name.encode(), 0))
            except OSError:
                found.append(name)  # what cannot be asked counts
                continue
            if name != "lo" and struct.unpack_from("H", answer, 16)[0] & IFF_UP:
                found.append(name)
    return found


def fence_problem(config: SidecarConfig, found: list[str]) -> str | None:
    """A run in which nobody was granted a host has a sidecar without a network."""
    if config.egress or not found:
        return None
    return f"nobody was granted a host, yet there is a network here ({', '.join(found)})"


class Ending:
    """The first reason to stop is the one that counts."""

    def __init__(self) -> None:
        self._code: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def because(self, code: int, message: str | None = None) -> None:
        if not self._code.done():
            if message:
                print(f"sidecar: {message}", file=sys.stderr, flush=True)
            self._code.set_result(code)

    async def wait(self) -> int:
        return await self._code


async def run(config: SidecarConfig, *, leased: bool, started: float, fenced: bool = True) -> int:
    """Serves until the lease lapses or a signal comes; the exit code."""
    loop = asyncio.get_running_loop()
    ending = Ending()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.because, 0)
    audit = Audit(
        STDOUT,
        secrets=config.secrets(),
        leased=leased,
        on_failure=lambda failure: ending.because(EXIT_RECORD, f"{failure}; nothing may be decided unseen"),
    )
    loop.set_exception_handler(lambda _, context: audit.emit(_fault(context)))
    problem = None
    if fenced:
        problem = fence_problem(config, networks())
        saw = problem or "as planned"
        audit.emit({"event": "canary", "name": "sidecar-network", "ok": problem is None, "saw": saw})
    async with AsyncExitStack() as parts:
        parts.push_async_callback(audit.close, timeout=LAST_LINES_TIMEOUT)
        if problem is not None:
            return EXIT_FENCE
        admission = Admission(config.rules, audit.emit, tell_pins=config.tell_pins)
        module = _loading(config, audit, ending)
        gate = Gate(
            rules=config.egress,
            resolver=resolver_for(config.resolver),
            record=audit,
            addresses=AddressPolicy(host=config.host_addresses),
        )
        parts.push_async_callback(gate.close)
        await gate.start(config.links)
        judges = guarding.Guarding(module, admission, audit.emit)
        parts.push_async_callback(judges.close)

        def authorize(server: ServerSpec) -> Authorizer:
            from images.sidecar.authorizer import Authorizer  # most runs have no server that wants tokens

            return Authorizer(server, gate.dial, audit)

        spec = msgspec.structs.replace(
            config.endpoint,
            servers=tuple(remembered.agreed(server, admission, audit.emit) for server in config.endpoint.servers),
        )
        endpoint = Endpoint(spec, admission, judges, audit, gate.dial, authorize)
        parts.push_async_callback(endpoint.close)
        endpoint.listen_unix(f"{config.agent_link}/{MCP_SOCKET}")
        if not leased:
            holding = Holding(lambda: ending.because(0))
            parts.push_async_callback(holding.close)
            await holding.start(config.links)
        if leased:
            loop.add_reader(STDIN, lambda: None if os.read(STDIN, 4096) else ending.because(0))
        audit.emit({"event": "ready", "ms": round((time.monotonic() - started) * 1000, 1)})
        return await ending.wait()


def _fault(context: dict[str, Any]) -> dict[str, Any]:
    """What nobody caught, for the record: on stderr alone nobody would see it."""
    reason = context.get("exception") or context.get("message")
    return {"event": "error", "where": "loop", "reason": repr(reason), "in": repr(context.get("handle"))[:200]}


def _loading(config: SidecarConfig, audit: Audit, ending: Ending) -> asyncio.Future[guarding.Module] | None:
    """The module's guards, read in a thread while servers start: the first call waits for them, the first list does not.
    A module that cannot be read ends the sidecar."""
    if config.module is None:
        return None

    def loaded(done: asyncio.Future[guarding.Module]) -> None:
        if not done.cancelled() and (failure := done.exception()) is not None:
            audit.emit({"event": "error", "where": "guards", "error": str(failure)})
            ending.because(EXIT_CONFIG, str(failure))

    future = asyncio.ensure_future(asyncio.to_thread(guarding.load, config.module))
    future.add_done_callback(loaded)
    return future


def main(arguments: list[str]) -> int:
    """The exit code of the process."""
    started = time.monotonic()
    try:
        match arguments:
            case []:
                config, leased = configuration.parse(read_config_line(STDIN)), True
            case ["--unfenced"]:  # the provider `local`: there is no fence to be wrong
                config, leased = configuration.parse(read_config_line(STDIN)), True
            case ["--config", path]:
                config, leased = configuration.parse(Path(path).read_bytes(), secrets=SECRETS), False
            case ["--config-from", variable]:
                config, leased = configuration.parse(os.environb.get(variable.encode(), b""), secrets=SECRETS), False
            case _:
                print(
                    "usage: python -m images.sidecar [--unfenced | --config FILE | --config-from VARIABLE]",
                    file=sys.stderr,
                )
                return EXIT_CONFIG
        if config.ca_bundle:
            # Most runs have no remote server, and their start pays nothing for it.
            from images.sidecar import httpclient

            httpclient.trust(config.ca_bundle)
    except (ConfigError, OSError) as error:
        print(f"sidecar: {error}", file=sys.stderr)
        return EXIT_CONFIG
    with asyncio.Runner(loop_factory=turns.new_loop) as runner:
        return runner.run(run(config, leased=leased, started=started, fenced=arguments != ["--unfenced"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A small internet on the engine: a network with public addresses that leads nowhere, and one host on it.

The sidecar of a run is connected to it beside its own network. Its gate is the real one: the host has an address that
is public by every rule, so nothing had to be loosened for the tests; the network is internal, so nothing gets out.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.models.containers import Container
from docker.models.networks import Network
from docker.types import IPAMConfig, IPAMPool

from tests.support.certificates import certificate
from tests.support.waiting import wait_until

LABELS = {"dev.mlld.test": "internet"}
NAMES = ("granted.example", "www.wild.example", "server-only.example", "not-granted.example", "denied.wild.example")
TOOLS, AUTHORITY = "tools.example", "auth.example"
"""An MCP server that wants tokens, and who gives them."""


@dataclass(frozen=True, kw_only=True)
class Internet:
    """The network, the host, its address and the certificate that its names have."""

    network: Network
    host: Container
    address: str
    authority: str

    @property
    def resolver(self) -> str:
        return f"{self.address}:53"

    def connect(self, sidecar: str) -> None:
        """Puts the sidecar of a run on this internet."""
        self.network.connect(sidecar)

    def asked(self, what: str) -> list[dict[str, Any]]:
        """What the host was asked, in order."""
        lines = self.host.logs(stderr=False).decode().splitlines()
        return [event for event in map(json.loads, lines) if event["asked"] == what]


@contextlib.contextmanager
def internet(client: docker.DockerClient, image: str) -> Iterator[Internet]:
    """A network of 44.0.0.0/8 with one host, from an image that has Python; removed with the block."""
    prefix = f"44.{secrets.randbelow(250) + 1}.{secrets.randbelow(250) + 1}"
    address = f"{prefix}.80"
    pool = IPAMPool(subnet=f"{prefix}.0/24", gateway=f"{prefix}.254")
    name = f"mlld-test-internet-{secrets.token_hex(4)}"
    ipam = IPAMConfig(pool_configs=[pool])
    network = client.networks.create(name, driver="bridge", internal=True, ipam=ipam, labels=LABELS)
    with contextlib.ExitStack() as stack:
        stack.callback(network.remove)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="internet-")))
        folder.chmod(0o755)
        authority = certificate(folder, *NAMES, TOOLS, AUTHORITY)
        (folder / "host.py").write_text((Path(__file__).parent / "internet_host.py").read_text())
        made = client.api.create_container(
            image,
            ["python3", "/world/host.py", address],
            entrypoint=[],
            user="0:0",
            labels=LABELS,
            host_config=client.api.create_host_config(binds=[f"{folder}:/world:ro"], init=True),
            networking_config=client.api.create_networking_config(
                {name: client.api.create_endpoint_config(ipv4_address=address)}
            ),
        )
        host = client.containers.get(made["Id"])
        stack.callback(host.remove, force=True)
        host.start()
        yield _ready(Internet(network=network, host=host, address=address, authority=authority))


def _ready(made: Internet) -> Internet:
    wait_until(lambda: made.asked("ready"), "the host of the internet")
    return made

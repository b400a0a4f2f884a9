"""A container with the bridge in the strictest setting, of which the test is owner and sidecar."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
from docker.models.containers import Container
from docker.types import Mount

from runner.backends import docker_seccomp
from tests.support.waiting import PATIENCE, wait_until

FENCED: dict[str, Any] = {
    "network_mode": "none",
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges", f"seccomp={docker_seccomp.profile()}"],
    "read_only": True,
    "user": "1000:1000",
}


class Seat:
    """A container with the bridge, a link of which the test is the sidecar, and an attached lease."""

    def __init__(
        self, client: docker.DockerClient, image: str, volume: str, folder: Path, argv: tuple[str, ...], **flags: Any
    ) -> None:
        mounts = [
            Mount(target="/.mlld/bin", source=volume, type="volume", read_only=True),
            Mount(target="/.mlld/link", source=str(folder), type="bind", read_only=flags.pop("read_only_link", True)),
        ]
        config = client.api.create_host_config(mounts=mounts, **{k: v for k, v in flags.items() if k != "user"})
        made = client.api.create_container(
            image, ["/.mlld/bin/bridge", *argv], user=flags["user"], host_config=config, stdin_open=True, entrypoint=[],
            labels={"dev.mlld.test": "canary"},
        )  # fmt: skip
        self.container: Container = client.containers.get(made["Id"])
        self.stdin = self.container.attach_socket(params={"stdin": 1, "stream": 1})

    def start(self) -> None:
        self.container.start()

    def send(self, data: bytes) -> None:
        self.stdin._sock.sendall(data)

    def end_lease(self) -> None:
        self.stdin._sock.shutdown(socket.SHUT_WR)

    def facts(self) -> dict[str, dict[str, Any]]:
        lines = self.container.logs(stderr=False).decode().splitlines()
        return {e.get("name", e["event"]): e for e in map(json.loads, lines)}

    def result(self) -> dict[str, dict[str, Any]]:
        wait_until(lambda: "canary-done" in self.facts(), "the canary")
        return self.facts()

    def exit_code(self) -> int:
        return int(self.container.wait(timeout=PATIENCE)["StatusCode"])

    def remove(self) -> None:
        self.stdin._response.close()
        self.container.remove(force=True)


@contextlib.contextmanager
def seat(
    client: docker.DockerClient, image: str, volume: str, folder: Path, argv: tuple[str, ...], **loosened: Any
) -> Iterator[Seat]:
    """A started seat; removed with the block."""
    made = Seat(client, image, volume, folder, argv, **(FENCED | loosened))
    try:
        made.start()
        yield made
    finally:
        made.remove()

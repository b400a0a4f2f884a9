"""The canary in real containers: green behind the fence, red for every single thing that is loosened, silent on the wire."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.types import Mount

from runner import recipes
from runner.backends import docker_seccomp
from runner.images import ImageStore
from tests.support import seats
from tests.support.bridges import Listener
from tests.support.seats import Seat
from tests.support.waiting import wait_until

pytestmark = pytest.mark.engine

ARGV = ("--canary", "--lease", "--serve", "/.mlld/link/stdio.sock", "--", "/bin/sh", "-c", "echo started >&2; cat")


@contextlib.contextmanager
def seat(engine: docker.DockerClient, store: ImageStore, link: Path, **loosened: Any) -> Iterator[Seat]:
    image = store.ensure(recipes.agent(ca=store.ca)).name
    with seats.seat(engine, image, store.ensure_bridge().volume, link, ARGV, **loosened) as made:
        yield made


def wrong(facts: dict[str, dict[str, Any]]) -> set[str]:
    return {name for name, fact in facts.items() if fact["event"] == "canary" and not fact["ok"]}


def test_green_behind_the_fence_and_then_it_serves(
    engine: docker.DockerClient, store: ImageStore, link: Path, sidecar: Listener
) -> None:
    with seat(engine, store, link) as s:
        facts = s.result()
        assert wrong(facts) == set(), facts
        assert facts["canary-done"]["ok"]
        assert {
            "interfaces", "routes-v4", "routes-v6", "udp-metadata", "tcp-metadata", "udp-internet", "tcp-internet",
            "udp-internet-v6", "tcp-internet-v6", "vsock",
            "udp-dns-127.0.0.11", "tcp-dns-127.0.0.11", "capabilities",
            "no-new-privileges", "user", "root", "link-stdio.sock", "read-only-stdio.sock",
        } <= facts.keys()  # fmt: skip
        assert facts["tcp-metadata"]["saw"] == "ENETUNREACH"
        s.send(b"\0")
        connection = sidecar.accept()
        assert sidecar.nobody_comes(), "the connection of the canary is the spare, not a dead one beside it"
        connection.sendall(b"hello")
        assert connection.recv(5) == b"hello"
        s.end_lease()
        assert s.exit_code() == 0
        assert "lapsed" in s.facts()


@pytest.mark.parametrize(
    ("loosened", "red"),
    [
        (
            {"network_mode": "bridge"},
            {"interfaces", "routes-v4", "udp-metadata", "tcp-metadata", "udp-internet", "tcp-internet"},
        ),
        ({"cap_drop": []}, {"capabilities"}),
        ({"cap_drop": ["ALL"], "cap_add": ["NET_RAW"]}, {"capabilities"}),
        ({"security_opt": [f"seccomp={docker_seccomp.profile()}"]}, {"no-new-privileges"}),
        ({"security_opt": ["no-new-privileges", "seccomp=unconfined"]}, {"vsock"}),
        ({"read_only": False}, {"root"}),
        ({"user": "0:0"}, {"user"}),
    ],
    ids=["network", "capabilities", "one capability", "new privileges", "vsock", "writable root", "root"],
)
def test_red_for_each_thing_that_is_loosened(
    engine: docker.DockerClient,
    store: ImageStore,
    link: Path,
    sidecar: Listener,
    loosened: dict[str, Any],
    red: set[str],
) -> None:
    with seat(engine, store, link, **loosened) as s:
        s.send(b"SECRET=value\0\0")
        facts = s.result()
        resolvers = {name for name in facts if "-dns-" in name} if "network_mode" in loosened else set()
        assert red <= wrong(facts) <= red | resolvers, facts
        assert not facts["canary-done"]["ok"]
        assert s.exit_code() == 97
        assert sidecar.nobody_comes(0), "no socket is touched from a broken seat"
        assert b"started" not in s.container.logs()


def test_red_on_an_internal_network(
    engine: docker.DockerClient, store: ImageStore, link: Path, sidecar: Listener
) -> None:
    """The engine's own idea of isolation: an address of the host is one hop away, and a resolver answers."""
    network = engine.networks.create(f"canary-{time.time_ns()}", internal=True, labels={"dev.mlld.test": "canary"})
    try:
        with seat(engine, store, link, network_mode=network.name) as s:
            red = wrong(s.result())
            assert {"interfaces", "routes-v4", "tcp-dns-127.0.0.11"} <= red
            assert s.exit_code() == 97
    finally:
        network.remove()


def test_red_for_a_link_that_the_member_could_write(
    engine: docker.DockerClient, store: ImageStore, link: Path, sidecar: Listener
) -> None:
    with seat(engine, store, link, read_only_link=False) as s:
        assert wrong(s.result()) == {"read-only-stdio.sock"}
        assert s.exit_code() == 97


def test_it_waits_for_the_sidecar_but_not_longer_than_its_owner(
    engine: docker.DockerClient, store: ImageStore, link: Path
) -> None:
    def took() -> float:
        with seat(engine, store, link) as s:
            wait_until(lambda: "root" in s.facts())
            started = time.monotonic()
            s.end_lease()
            assert s.exit_code() == 97
            ended = time.monotonic()
            assert wrong(s.facts()) == {"link-stdio.sock"}
            return ended - started

    assert any(took() < 5 for _ in range(3)), "once, on a machine that may stall"


def test_a_broken_fence_is_found_without_sending_a_packet(engine: docker.DockerClient, store: ImageStore) -> None:
    """Counters of the interface, before and after. The control is one datagram, which they do count."""
    probe = """
import socket, subprocess, time
def sent():
    line = next(l for l in open("/proc/net/dev") if "eth0:" in l)
    return int(line.split(":")[1].split()[9])
def settle():
    last = -1
    while (now := sent()) != last:
        last = now; time.sleep(0.5)
    return now
def canary():
    before = settle()
    assert subprocess.run(["/.mlld/bin/bridge", "--canary"], capture_output=True).returncode == 97
    time.sleep(0.3)
    return sent() - before
# The kernel itself says something now and then (neighbours, groups); what the canary sent it would send each time.
least = min(canary() for _ in range(3))
after = settle()
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b"x", ("192.0.2.1", 9)); time.sleep(0.3)
print(least, sent() - after)
"""
    image = store.ensure(recipes.agent(ca=store.ca)).name
    volume = store.ensure_bridge().volume
    mounts = [Mount(target="/.mlld/bin", source=volume, type="volume", read_only=True)]
    said = engine.containers.run(
        image, ["python3", "-c", probe], mounts=mounts, network_mode="bridge", remove=True, user="1000:1000",
        labels={"dev.mlld.test": "canary"},
    )  # fmt: skip
    canary, control = map(int, said.split())
    assert canary == 0
    assert control > 0

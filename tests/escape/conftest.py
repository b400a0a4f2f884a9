"""The attack score: how many attacks were tried per promise, and how many were blocked (`pytest tests/escape`)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import docker
import pytest

from runner.images import ImageStore
from tests.support.engine import engine, image_store
from tests.support.fenced import images
from tests.support.internet import Internet, internet
from tests.support.runs import Runs, make_runs

_ATTACK = re.compile(r"tests/escape/test_p(\d+)_(\w+)\.py::test_cannot_")
_FROM_A_SERVER = re.compile(r"[-\[](a|b)\]$|[-\[](github|mute)[-\]]|from_a_server")


@pytest.fixture(scope="session")
def runs() -> Iterator[Runs]:
    with make_runs() as made:
        yield made


@pytest.fixture(scope="session")
def client() -> Iterator[docker.DockerClient]:
    with engine() as made:
        yield made


@pytest.fixture(scope="session")
def store(client: docker.DockerClient) -> ImageStore:
    return image_store(client)


@pytest.fixture(scope="module")
def net(client: docker.DockerClient, store: ImageStore) -> Iterator[Internet]:
    """A network that leads nowhere, with one host on it."""
    with internet(client, images(store, ()).agent) as made:
        yield made


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tried: Counter[tuple[int, str]] = Counter()
    blocked: Counter[tuple[int, str]] = Counter()
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            found = _ATTACK.search(report.nodeid)
            if found and (report.when == "call" or outcome == "error"):
                promise = int(found[1]), found[2].replace("_", " ")
                if promise[0] == 1 and _FROM_A_SERVER.search(report.nodeid):
                    promise = 2, "server reaches only the sidecar"
                tried[promise] += 1
                blocked[promise] += outcome == "passed"
    if tried:
        terminalreporter.section("attacks blocked / tried, per promise")
        for (number, words), count in sorted(tried.items()):
            terminalreporter.line(f"P{number:<3} {words:<24} {blocked[number, words]:>4} / {count}")
        terminalreporter.line(f"all  {'':<24} {sum(blocked.values()):>4} / {sum(tried.values())}")

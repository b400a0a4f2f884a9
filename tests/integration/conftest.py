"""One engine, one set of images for all integration tests."""

from __future__ import annotations

from collections.abc import Iterator

import docker
import pytest

from runner.images import ImageStore
from tests.support import engine as machine
from tests.support.runs import Runs, make_runs


@pytest.fixture(scope="session")
def runs() -> Iterator[Runs]:
    with make_runs() as made:
        yield made


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    with machine.engine() as client:
        yield client


@pytest.fixture(scope="session")
def store(engine: docker.DockerClient) -> ImageStore:
    return machine.image_store(engine)

"""The engine of this machine, and the images that this project makes on it, with the cache that all tests share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import docker

from runner import environ
from runner.backends.docker_errors import connect
from runner.backends.docker_images import DockerImages
from runner.images import ImageStore


@contextmanager
def engine() -> Iterator[docker.DockerClient]:
    """A client of it. Errors: those of `connect`, so that a missing engine is a failure."""
    with closing(connect()) as client:
        yield client


def image_store(client: docker.DockerClient) -> ImageStore:
    env = environ.snapshot()
    return ImageStore(engine=DockerImages(client), cache=environ.cache_directory(env), env=env)

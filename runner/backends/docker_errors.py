"""What the engine and its SDK say when something is wrong, told in our own errors (facts: one event, many exceptions)."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import docker
import docker.errors
import requests
from docker.context import ContextAPI

from runner.errors import (
    EngineFailure,
    EngineMissing,
    EngineNotPermitted,
    EngineStopped,
    EngineTooOld,
    ImageMissing,
    NoAddressPool,
    NoSpace,
    RunnerError,
)

MINIMUM_API = "1.41"  # engine 20.10

# First match wins. 20.10 says some of these with status 404, 28 with 400: the words are steadier than the numbers.
_WORDS: tuple[tuple[re.Pattern[str], type[NoSpace] | type[NoAddressPool]], ...] = (
    (re.compile(r"no space left on device|disk quota exceeded", re.I), NoSpace),
    (re.compile(r"could not find an available.*(address|pool)|all predefined address pools", re.I), NoAddressPool),
)


def told(error: Exception, *, address: str = "") -> RunnerError:
    """The error that a person can act on."""
    text = str(getattr(error, "explanation", None) or error)
    for pattern, kind in _WORDS:
        if pattern.search(text):
            return NoSpace("the engine's disk", text) if kind is NoSpace else NoAddressPool(text)
    if isinstance(error, docker.errors.ImageNotFound):
        return ImageMissing(text.rpartition(": ")[2] or text, text)
    if ("client version" in text and "too old" in text) or "Minimum supported API version" in text:
        return EngineFailure("this Docker SDK is too old for the engine", detail=text, remedy="./dev doctor")
    if isinstance(error, docker.errors.APIError):
        return EngineFailure(f"the Docker engine refused: {text}")
    if "PermissionError" in text or "Permission denied" in text:
        return EngineNotPermitted(address)
    if "FileNotFoundError" in text or "No such file or directory" in text:
        installed = shutil.which("dockerd") is not None
        return (
            EngineStopped(address, "it is installed, and not running")
            if installed
            else EngineMissing(f"no socket at {address}")
        )
    if isinstance(error, docker.errors.DockerException) and "Invalid bind address" in text:
        return EngineFailure(f"DOCKER_HOST cannot be used: {text}", remedy="correct or unset DOCKER_HOST")
    return EngineStopped(address, text)


@contextmanager
def translated(address: str = "") -> Iterator[None]:
    """Within: exceptions of the SDK become ours. A pinned version or a later call raises requests' own, too."""
    try:
        yield
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise told(error, address=address) from error


def connect(*, timeout: float = 60) -> docker.DockerClient:
    """A client of the engine that the environment or Docker's current context names, known to be there and new enough."""
    chosen = docker.utils.kwargs_from_env()
    if "base_url" not in chosen and (context := _context_address()):
        chosen = {"base_url": context}
    address = chosen.get("base_url", "unix:///var/run/docker.sock")
    with translated(address):
        client = docker.DockerClient(version=None, timeout=timeout, **chosen)
        version = client.api.version()
    if _numbers(client.api.api_version) < _numbers(MINIMUM_API):
        client.close()
        raise EngineTooOld(str(version.get("Version", "unknown")), "20.10")
    return client


def _context_address() -> str | None:
    """Where `docker context use` points to (Docker Desktop, Colima, rootless engines); None for the default."""
    try:
        context = ContextAPI.get_current_context()
    except (docker.errors.DockerException, OSError, ValueError):
        return None  # a broken file of another program is not our failure: the default is tried
    return None if context is None or context.Name == "default" else str(context.Host)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))

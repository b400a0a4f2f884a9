"""Images and shared volumes of the engine: the few calls that making images takes, and their errors in our words."""

from __future__ import annotations

import io
import json
import re
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import docker
import docker.errors
import requests
from docker.types import Mount

from runner.backends.docker_errors import connect, translated
from runner.errors import NoSpace

_ANSI = re.compile(r"\x1b\[[0-9;]*m")  # the legacy builder paints stderr red
Listener = Callable[[str], None]


class StepFailed(Exception):
    """A step of a build ended with an error; `log` is what it printed."""

    def __init__(self, message: str, log: Sequence[str]) -> None:
        super().__init__(message)
        self.message = message
        self.log = tuple(log)


@dataclass(frozen=True, kw_only=True)
class ImageInfo:
    """An image that the engine has."""

    id: str
    tags: tuple[str, ...] = ()
    size: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    folder: str = ""  # its WORKDIR


class DockerImages:
    """The engine, as far as images are concerned. Thread-safe: each call is one HTTP request of its own."""

    def __init__(self, client: docker.DockerClient) -> None:
        self._api = client.api

    def find(self, reference: str) -> ImageInfo | None:
        with translated():
            try:
                return _info(self._api.inspect_image(reference))
            except docker.errors.ImageNotFound:
                return None

    def labelled(self, label: str) -> list[ImageInfo]:
        """The images with this label, newest first."""
        with translated():
            return [_info(found) for found in self._api.images(filters={"label": label})]

    def name(self, image: str, tag: str) -> None:
        """Gives an image another name, taking it from whoever had it."""
        repository, _, version = tag.rpartition(":")
        with translated():
            self._api.tag(image, repository, version, force=True)

    def remove(self, reference: str) -> bool:
        """False if something still uses it."""
        return _gone(self._api.remove_image, reference)

    def reachable(self, reference: str, seconds: float) -> bool:
        """Whether the engine finds it in its registry. Asked of the engine, since that is who would pull."""
        probe = connect(timeout=seconds)
        try:
            probe.api.inspect_distribution(reference)
        except (docker.errors.DockerException, requests.RequestException):
            return False
        finally:
            probe.close()
        return True

    def pull(self, reference: str, say: Listener) -> None:
        with translated():
            self._follow(self._api.pull(reference, stream=True, decode=True), say)

    def load_root(self, tar: IO[bytes], tag: str, changes: Sequence[str]) -> None:
        """Makes an image of one layer out of a tar stream."""
        repository, _, version = tag.rpartition(":")
        with translated():
            answer = self._api.import_image_from_stream(tar, repository=repository, tag=version, changes=list(changes))
        for line in answer.splitlines():
            if (error := json.loads(line).get("error")) is not None:
                raise NoSpace("the engine's disk", error) if "no space left" in error else StepFailed(error, [error])

    def build(self, context: bytes, tag: str, say: Listener, *, buildargs: Mapping[str, str] | None = None) -> None:
        """Builds from a tar of the context, which has the Dockerfile. Steps and their output go to `say`."""
        with translated():
            stream = self._api.build(
                fileobj=io.BytesIO(context), custom_context=True, tag=tag, rm=True, forcerm=True, pull=False, decode=True,
                buildargs=dict(buildargs or {}),
            )  # fmt: skip
            self._follow(stream, say)

    def read(self, image: str, path: str) -> bytes:
        """One file out of an image, which need not be able to run."""
        return self._read(image, path, [])

    def read_volume(self, volume: str, image: str, path: str) -> bytes:
        """One file out of a volume: `path` is where it would be with the volume mounted at its parent folder."""
        return self._read(
            image, path, [Mount(target=path.rpartition("/")[0], source=volume, type="volume", read_only=True)]
        )

    def _read(self, image: str, path: str, mounts: list[Mount]) -> bytes:
        with translated():
            container = self._api.create_container(
                image, command=["none"], labels={"dev.mlld.asset": "reader"},
                host_config=self._api.create_host_config(mounts=mounts, network_mode="none"),
            )  # fmt: skip
            try:
                chunks, _ = self._api.get_archive(container["Id"], path)
                with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
                    member = tar.extractfile(tar.next() or path)
                    return member.read() if member else b""
            finally:
                self._api.remove_container(container["Id"], force=True)

    def sweep(self) -> None:
        """Removes readers that a killed process left; they were never started. A minute is longer than any reading."""
        with translated():
            for found in self._api.containers(
                all=True, filters={"label": "dev.mlld.asset=reader", "status": "created"}
            ):
                if time.time() - found["Created"] > 60:
                    self._api.remove_container(found["Id"], force=True)

    def volume_created(self, name: str) -> str | None:
        """When the volume was made, as the engine writes it; None if there is none."""
        with translated():
            try:
                return str(self._api.inspect_volume(name)["CreatedAt"])
            except docker.errors.NotFound:
                return None

    def fill_volume(self, name: str, image: str, target: str, labels: Mapping[str, str]) -> None:
        """A volume with the content of the image's folder `target`. The engine copies when a container is created;
        nothing is run."""
        with translated():
            self._api.create_volume(name, labels=dict(labels))
            mount = Mount(target=target, source=name, type="volume")
            container = self._api.create_container(
                image, command=["none"], labels={"dev.mlld.asset": "reader"},
                host_config=self._api.create_host_config(mounts=[mount], network_mode="none"),
            )  # fmt: skip
            self._api.remove_container(container["Id"], force=True)

    def remove_volume(self, name: str) -> bool:
        """False if something still uses it."""
        return _gone(self._api.remove_volume, name)

    def _follow(self, stream: Iterator[dict[str, Any]], say: Listener) -> None:
        log: list[str] = []
        error = ""
        for event in stream:  # to its end, also after an error: an answer that is not read keeps its connection
            error = error or str(event.get("error", ""))
            text = _ANSI.sub("", str(event.get("stream") or _pull_progress(event))).rstrip()
            if text:
                log.append(text)
                say(text)
        if "no space left on device" in error or (error and any("No space left on device" in line for line in log)):
            raise NoSpace("the engine's disk", error)
        if error:
            raise StepFailed(error, log)


def _pull_progress(event: Mapping[str, Any]) -> str:
    status, progress = str(event.get("status", "")), event.get("progressDetail") or {}
    if status == "Downloading" and progress.get("total"):
        return f"pulling {progress['current'] / 1e6:.0f} of {progress['total'] / 1e6:.0f} MB"
    return "" if status in {"Downloading", "Extracting", "Waiting", "Verifying Checksum"} else status


def _info(raw: Mapping[str, Any]) -> ImageInfo:
    config = raw.get("Config") or {}  # a list of images has none, and its labels lie one level higher
    return ImageInfo(
        id=raw["Id"],
        tags=tuple(raw.get("RepoTags") or ()),
        size=raw.get("Size", 0),
        labels=raw.get("Labels") or config.get("Labels") or {},
        entrypoint=tuple(config.get("Entrypoint") or ()),
        command=tuple(config.get("Cmd") or ()),
        folder=config.get("WorkingDir") or "",
    )


def _gone(remove: Callable[[str], object], name: str) -> bool:
    """Removes what may be gone already. False if something still uses it."""
    with translated():
        try:
            remove(name)
        except docker.errors.NotFound:
            return True
        except docker.errors.APIError as error:
            if error.status_code == 409:
                return False
            raise
    return True

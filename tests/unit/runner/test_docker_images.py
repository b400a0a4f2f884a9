"""What the engine's answers about images become, over an engine that is made up."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import docker.errors
import pytest

from runner.backends.docker_images import DockerImages, StepFailed
from runner.errors import EngineFailure, NoSpace


class Api:
    """The few calls that are used, with answers given beforehand."""

    def __init__(self, events: Iterable[dict[str, Any]] = (), containers: Iterable[dict[str, Any]] = ()) -> None:
        self.events, self.listed = list(events), list(containers)
        self.removed: list[str] = []
        self.read_to_the_end = False

    def build(self, **_: Any) -> Iterable[dict[str, Any]]:
        yield from self.events
        self.read_to_the_end = True

    def containers(self, **_: Any) -> list[dict[str, Any]]:
        return self.listed

    def remove_container(self, container: str, **_: Any) -> None:
        self.removed.append(container)

    def remove_image(self, image: str) -> None:
        answer = {"used": docker.errors.APIError("409", SimpleNamespace(status_code=409, reason="", url="")),
                  "gone": docker.errors.ImageNotFound("404"),
                  "broken": docker.errors.APIError("500", SimpleNamespace(status_code=500, reason="", url=""))}  # fmt: skip
        if image in answer:
            raise answer[image]


def images(api: Api) -> DockerImages:
    return DockerImages(SimpleNamespace(api=api))


def test_a_build_is_followed_line_by_line() -> None:
    said: list[str] = []
    events = [
        {"stream": "Step 1/2 : FROM x\n"},
        {"stream": "\n"},
        {"stream": "\x1b[91mpainted\n\x1b[0m"},
        {"aux": {"ID": "x"}},
    ]
    images(Api(events)).build(b"", "a:b", said.append)
    assert said == ["Step 1/2 : FROM x", "painted"]


def test_a_failed_build_keeps_its_log_and_reads_its_answer_to_the_end() -> None:
    api = Api([{"stream": "first"}, {"error": "it returned 1", "errorDetail": {}}, {"stream": "last words"}])
    with pytest.raises(StepFailed, match="it returned 1") as caught:
        images(api).build(b"", "a:b", lambda _: None)
    assert caught.value.log == ("first", "last words")
    assert api.read_to_the_end


@pytest.mark.parametrize(
    "events",
    [
        [{"error": "write /var/lib/docker/overlay2/x: no space left on device"}],
        [{"stream": "tar: /usr/lib/x: Cannot write: No space left on device"}, {"error": "it returned 2"}],
    ],
    ids=["the engine's", "a step's"],
)
def test_a_full_disk_is_told_as_one(events: list[dict[str, Any]]) -> None:
    with pytest.raises(NoSpace) as caught:
        images(Api(events)).build(b"", "a:b", lambda _: None)
    assert caught.value.exit_code == 5
    assert "prune" in caught.value.remedy


def test_a_pull_says_how_far_it_is() -> None:
    said: list[str] = []
    progress = {"current": 12_000_000, "total": 30_000_000}
    events = [
        {"status": "Downloading", "progressDetail": progress},
        {"status": "Waiting"},
        {"status": "Status: Downloaded x"},
    ]
    images(Api(events)).build(b"", "a:b", said.append)
    assert said == ["pulling 12 of 30 MB", "Status: Downloaded x"]


def test_removing_what_is_used_is_no_error_and_what_is_broken_is() -> None:
    engine = images(Api())
    assert engine.remove("free")
    assert engine.remove("gone")
    assert not engine.remove("used")
    with pytest.raises(EngineFailure):
        engine.remove("broken")


def test_readers_that_were_left_are_swept_and_those_at_work_are_not() -> None:
    api = Api(containers=[{"Id": "left", "Created": time.time() - 3600}, {"Id": "working", "Created": time.time()}])
    images(api).sweep()
    assert api.removed == ["left"]

"""The doctor's decisions, on machines that are made up."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker.errors
import pytest
import requests

from runner import doctor
from runner.backends import docker_errors
from runner.backends.docker_errors import told
from runner.doctor import Machine, install_engine, start_engine
from runner.errors import (
    EngineFailure,
    EngineMissing,
    EngineNotPermitted,
    EngineStopped,
    ImageMissing,
    NoAddressPool,
    NoSpace,
    RunnerError,
)

ROOT_ON_DEBIAN = Machine(env={}, root=True, debian=True, systemd=False)


class Commands:
    """Records what would be run; answers with a code."""

    def __init__(self, code: int = 0, says: str = "") -> None:
        self.run: list[list[str]] = []
        self.code, self.says = code, says

    def __call__(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.run.append(command)
        return subprocess.CompletedProcess(command, self.code, stdout="", stderr=self.says)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    recorder = Commands()
    monkeypatch.setattr(doctor.subprocess, "run", recorder)
    return recorder


def test_root_on_debian_gets_the_engine_from_apt(commands: Commands) -> None:
    said: list[str] = []
    install_engine(ROOT_ON_DEBIAN, say=said.append)
    assert [command[:2] for command in commands.run] == [["apt-get", "update"], ["apt-get", "install"]]
    assert "--no-install-recommends" in commands.run[1]
    assert {"docker.io", "mmdebstrap"} <= set(commands.run[1])
    assert "docker.io" in said[0]


@pytest.mark.parametrize(
    ("machine", "next_step"),
    [
        (replace(ROOT_ON_DEBIAN, root=False), "sudo apt-get install -y --no-install-recommends docker.io mmdebstrap"),
        (replace(ROOT_ON_DEBIAN, debian=False), "https://docs.docker.com/engine/install/"),
    ],
)
def test_who_may_not_install_is_told_what_to_type(machine: Machine, next_step: str, commands: Commands) -> None:
    with pytest.raises(EngineMissing) as caught:
        install_engine(machine, say=print)
    assert next_step in caught.value.remedy
    assert commands.run == []


def test_apt_failing_is_told_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.subprocess, "run", Commands(100, "E: Could not resolve mirror.example"))
    with pytest.raises(EngineMissing) as caught:
        install_engine(ROOT_ON_DEBIAN, say=print)
    assert "apt-get update failed" in caught.value.detail
    assert "Could not resolve" in caught.value.detail


@pytest.mark.parametrize(
    ("machine", "next_step"),
    [
        (replace(ROOT_ON_DEBIAN, root=False, systemd=True), "sudo systemctl start docker"),
        (replace(ROOT_ON_DEBIAN, root=False), "setsid dockerd"),
        (replace(ROOT_ON_DEBIAN, env={"DOCKER_HOST": "tcp://elsewhere:2375"}), "unset DOCKER_HOST"),
    ],
)
def test_who_may_not_start_it_is_told_how(machine: Machine, next_step: str, commands: Commands) -> None:
    with pytest.raises(EngineStopped) as caught:
        start_engine(machine, say=print)
    assert next_step in caught.value.remedy
    assert commands.run == []


def test_a_container_without_cgroups_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os.path, "ismount", lambda _: False)
    with pytest.raises(EngineStopped) as caught:
        start_engine(ROOT_ON_DEBIAN, say=print)
    assert "--privileged" in caught.value.remedy


def test_systemd_is_used_where_it_runs(monkeypatch: pytest.MonkeyPatch, commands: Commands) -> None:
    answers: list[Callable[[], Any]] = [_refused, _client]
    monkeypatch.setattr(doctor, "connect", lambda timeout: answers.pop(0)())
    start_engine(replace(ROOT_ON_DEBIAN, systemd=True), say=print)
    assert commands.run == [["systemctl", "start", "docker"]]
    assert answers == [], "it waited until the engine answered"


def test_a_daemon_that_ends_at_once_shows_its_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("first\n" * 50 + "failed to start daemon: Devices cgroup isn't mounted\n")
    monkeypatch.setattr(doctor, "connect", lambda timeout: _refused())
    with subprocess.Popen(["/bin/false"]) as ended:
        ended.wait()
        with pytest.raises(EngineStopped) as caught:
            doctor._wait_for_engine(ended, log)
    assert "ended at once" in caught.value.detail
    assert "Devices cgroup isn't mounted" in caught.value.detail
    assert caught.value.detail.count("first") < 15


def test_examine_stops_at_a_missing_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "connect", lambda timeout: _refused())
    findings = list(doctor.examine(ROOT_ON_DEBIAN))
    assert [(f.name, f.ok) for f in findings] == [("python", True), ("engine", False)]
    assert findings[-1].remedy == "mlld doctor --fix"


def _refused() -> Any:
    raise EngineStopped("unix:///var/run/docker.sock")


class _client:
    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (
            docker.errors.DockerException(
                "… ('Connection aborted.', FileNotFoundError(2, 'No such file or directory'))"
            ),
            EngineMissing,
        ),
        (
            docker.errors.DockerException("… ('Connection aborted.', PermissionError(13, 'Permission denied'))"),
            EngineNotPermitted,
        ),
        (docker.errors.DockerException("… ConnectionRefusedError(111, 'Connection refused')"), EngineStopped),
        (
            requests.exceptions.ConnectionError("('Connection aborted.', PermissionError(13, 'Permission denied'))"),
            EngineNotPermitted,
        ),
        (requests.exceptions.ReadTimeout("Read timed out."), EngineStopped),
        (docker.errors.DockerException("Invalid bind address protocol: bogus"), EngineFailure),
        (docker.errors.APIError("500", explanation="write /var/lib/docker/x: no space left on device"), NoSpace),
        (
            docker.errors.NotFound("404", explanation="could not find an available, non-overlapping IPv4 address pool"),
            NoAddressPool,
        ),
        (
            docker.errors.APIError("400", explanation="all predefined address pools have been fully subnetted"),
            NoAddressPool,
        ),
        (docker.errors.ImageNotFound("404", explanation="No such image: x:1"), ImageMissing),
        (docker.errors.APIError("500", explanation="something else"), EngineFailure),
    ],
)
def test_every_failure_of_the_sdk_has_its_words(
    error: Exception, kind: type[RunnerError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_errors.shutil, "which", lambda _: None)
    failure = told(error, address="unix:///var/run/docker.sock")
    assert type(failure) is kind
    assert failure.exit_code == 5
    assert failure.remedy


def test_an_engine_that_is_installed_and_not_running_is_stopped_not_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_errors.shutil, "which", lambda _: "/usr/sbin/dockerd")
    failure = told(
        docker.errors.DockerException("FileNotFoundError(2, 'No such file or directory')"), address="unix:///x"
    )
    assert isinstance(failure, EngineStopped)


def test_an_engine_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        class api:
            api_version = "1.40"

            @staticmethod
            def version() -> dict[str, str]:
                return {"Version": "19.03.1"}

        def close(self) -> None:
            pass

    monkeypatch.setattr(docker_errors.docker, "DockerClient", lambda **_: Old())
    with pytest.raises(RunnerError, match=r"is 19\.03\.1; 20\.10 or newer is needed") as caught:
        docker_errors.connect()
    assert caught.value.code == "engine-too-old"

"""Whether this machine can make sandboxes: each thing that can be missing, what was seen, and how to repair it.

`examine` looks and changes nothing. `repair` does what can be done without asking: as root on Debian or Ubuntu it installs
the engine, starts it (with systemd or without), and it makes the images. What needs a person is told instead.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner import environ, recipes
from runner.backends.docker_engine import EngineFacts, broken, facts
from runner.backends.docker_errors import connect
from runner.backends.docker_images import DockerImages
from runner.errors import EngineFailure, EngineMissing, EngineStopped, FenceBroken, NoSpace, RunnerError
from runner.images import ImageStore, quiet
from runner.recipes import Recipe

Say = Callable[[str], None]
READY_WITHIN = 60.0  # seconds for a daemon to answer: it may have containers of a crash to clean up
ROOM = 3 << 30  # bytes that the images and a run may take
ENGINE_PACKAGES = ("docker.io", "mmdebstrap", "debian-archive-keyring", "ca-certificates")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool
    saw: str
    remedy: str = ""
    error: RunnerError | None = None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What we need to know about this machine beside the engine."""

    env: Mapping[str, str]
    root: bool
    debian: bool  # or a child of it: has apt-get
    systemd: bool

    @classmethod
    def here(cls) -> Machine:
        return cls(
            env=environ.snapshot(),
            root=os.geteuid() == 0,
            debian=shutil.which("apt-get") is not None,
            systemd=Path("/run/systemd/system").is_dir(),
        )


def examine(machine: Machine, *, say: Say = quiet) -> Iterator[Finding]:
    """Findings in the order in which they matter; after a missing engine nothing else can be known."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(name="python", ok=sys.version_info >= (3, 11), saw=version, remedy="install Python 3.11 or newer")
    try:
        client = connect(timeout=10)
    except RunnerError as error:
        yield Finding(name="engine", ok=False, saw=error.message, remedy=error.remedy, error=error)
        return
    try:
        yield from _engine_findings(facts(client))
        images = DockerImages(client)
        store = store_of(images, machine, say=say)
        yield _images_finding(store)
        if (bridge := images.find(recipes.bridge().tag)) is not None:
            yield _fence_finding(broken(client, bridge.id))
    finally:
        client.close()


def repair(machine: Machine, *, say: Say) -> None:
    """Leaves a machine that can make sandboxes, or raises what stands in the way."""
    try:
        connect(timeout=10).close()
    except EngineMissing:
        install_engine(machine, say=say)
        start_engine(machine, say=say)
    except EngineStopped:
        start_engine(machine, say=say)
    client = connect()
    try:
        for finding in _engine_findings(facts(client)):
            if finding.error is not None:
                raise finding.error
        images = DockerImages(client)
        images.sweep()
        store = store_of(images, machine, say=say)
        if not all(images.find(recipe.tag) for recipe in standard(store)):
            _bring_mmdebstrap(images, machine, say=say)
        store.ensure_all(standard(store))
        store.ensure_bridge()
    finally:
        client.close()


def standard(store: ImageStore) -> Sequence[Recipe]:
    """The images that every run needs, the ones that others wait for first."""
    ca = store.ca
    return (recipes.module(ca=ca), recipes.agent(ca=ca), recipes.sidecar(ca=ca), recipes.bridge())


def store_of(engine: DockerImages, machine: Machine, *, say: Say = quiet) -> ImageStore:
    """The image store of this user."""
    return ImageStore(engine=engine, cache=environ.cache_directory(machine.env), env=machine.env, say=say)


def install_engine(machine: Machine, *, say: Say) -> None:
    """Docker from the distribution's own packages. Errors: `EngineMissing` telling what to type where we may not."""
    packages = " ".join(ENGINE_PACKAGES[:2])
    if not machine.debian:
        raise _by_hand(EngineMissing(), "https://docs.docker.com/engine/install/ says how, then: mlld doctor --fix")
    if not machine.root:
        raise _by_hand(
            EngineMissing(), f"sudo apt-get install -y --no-install-recommends {packages}, then: mlld doctor --fix"
        )
    say(f"doctor: installing {packages} (about 70 MB to fetch)")
    _apt(ENGINE_PACKAGES, machine)


def start_engine(machine: Machine, *, say: Say) -> None:
    """Starts the daemon and waits until it answers. Errors: `EngineStopped` with the end of its log."""
    if elsewhere := machine.env.get("DOCKER_HOST"):
        raise _by_hand(
            EngineStopped(elsewhere), "start that engine, or unset DOCKER_HOST to use the one of this machine"
        )
    if not machine.root:
        how = (
            "sudo systemctl start docker"
            if machine.systemd
            else "sudo sh -c 'setsid dockerd >/var/log/dockerd.log 2>&1 &'"
        )
        raise _by_hand(EngineStopped(), how)
    if machine.systemd:
        say("doctor: starting Docker with systemd")
        subprocess.run(["systemctl", "start", "docker"], check=False, stdin=subprocess.DEVNULL)
        _wait_for_engine(None, None)
        return
    if not os.path.ismount("/sys/fs/cgroup"):
        raise _by_hand(EngineStopped(detail="no cgroups are mounted here"), "start this container with --privileged")
    log = Path("/var/log/dockerd.log")
    say(f"doctor: starting dockerd (its log is {log})")
    with log.open("ab") as out:
        # A session of its own: it outlives this command and its terminal.
        daemon = subprocess.Popen(["dockerd"], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    _wait_for_engine(daemon, log)


def _by_hand(error: RunnerError, remedy: str) -> RunnerError:
    """The error with a next step that only a person can take."""
    error.remedy = remedy
    return error


def _wait_for_engine(daemon: subprocess.Popen[bytes] | None, log: Path | None) -> None:
    until = time.monotonic() + READY_WITHIN
    while True:
        try:
            connect(timeout=5).close()
        except EngineFailure as error:
            ended = daemon is not None and daemon.poll() is not None
            if ended or time.monotonic() > until:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log else error.detail
                raise EngineStopped(
                    detail=f"it was started and {'ended at once' if ended else 'does not answer'}:\n{tail}"
                ) from error
            time.sleep(0.1)
        else:
            return


def _engine_findings(found: EngineFacts) -> Iterator[Finding]:
    yield Finding(name="engine", ok=True, saw=f"Docker {found.version} (API {found.api}) on {found.system}")
    yield Finding(
        name="confinement",
        ok=found.seccomp,
        saw="seccomp is on" if found.seccomp else "the engine has no seccomp",
        remedy="use a kernel and an engine with seccomp: the fence relies on it",
        error=None if found.seccomp else EngineFailure("the engine has no seccomp, which the fence relies on"),
    )
    if found.limits_missing:
        yield Finding(
            name="limits",
            ok=False,
            saw=f"the kernel cannot limit {', '.join(found.limits_missing)}",
            remedy="mount the missing cgroup controllers, or switch to cgroup v2",
            error=EngineFailure(f"the kernel cannot limit {', '.join(found.limits_missing)}"),
        )
    else:
        yield Finding(name="limits", ok=True, saw="memory, cpu and pids")
    if (free := _free(found.data)) is not None:
        room = f"{free / 1e9:.1f} GB free in {found.data}"
        short = free < ROOM
        yield Finding(
            name="space",
            ok=not short,
            saw=room,
            remedy="mlld sandbox images prune; docker system df shows the rest",
            error=NoSpace("the engine's disk", room) if free < ROOM // 10 else None,
        )
    if found.runtimes:
        yield Finding(name="runtimes", ok=True, saw=", ".join(found.runtimes))


def _fence_finding(wrong: list[str]) -> Finding:
    """The self-test of a seat like those of a run."""
    return Finding(
        name="fence",
        ok=not wrong,
        saw="; ".join(wrong) or "a seat on this engine reaches nothing",
        remedy="this engine does not keep what it is asked for: use another, or report it (SECURITY.md)",
        error=FenceBroken("doctor", wrong) if wrong else None,
    )


def _images_finding(store: ImageStore) -> Finding:
    missing = [recipe.name for recipe in standard(store) if store.engine.find(recipe.tag) is None]
    saw = f"to be built: {', '.join(missing)}" if missing else ", ".join(recipe.name for recipe in standard(store))
    return Finding(name="images", ok=not missing, saw=saw, remedy="mlld doctor --fix")


def _bring_mmdebstrap(images: DockerImages, machine: Machine, *, say: Say) -> None:
    """Where no registry answers, images are made from packages: that takes a program which a bare machine lacks."""
    debian = recipes.pins()["debian"]
    if shutil.which("mmdebstrap") or not (machine.root and machine.debian):
        return
    if images.find(debian["image"]) or images.reachable(debian["image"], debian["registry_timeout"]):
        return
    say("doctor: installing mmdebstrap, since no image registry answers")
    _apt(("mmdebstrap", "debian-archive-keyring"), machine)


def _apt(packages: Sequence[str], machine: Machine) -> None:
    env = {**machine.env, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-qy", "--no-install-recommends", *packages]):
        done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()[-2000:]
            raise EngineMissing(f"{' '.join(command[:2])} failed:\n{said}")


def _free(folder: str) -> int | None:
    """Free bytes where the engine keeps its data; None if that is not a folder of this machine."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None

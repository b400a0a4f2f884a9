"""Finds what carries our labels and removes it: at the end of a run, after a crash, at each start."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import docker.errors
from docker import APIClient as APIClient  # for those who may not import the SDK

from runner.backends.docker_create import MEMBER, OWNER, RUN, WORKSPACE
from runner.backends.docker_errors import translated

_EVERY = 0.02  # seconds between looks
_GONE, _BUSY, _REFUSED = 404, 409, 403  # 403: the network still has an end


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A container, volume or network of a run."""

    kind: str
    id: str
    name: str
    run: str
    owner: str
    member: str = ""
    workspace: str = ""
    running: bool = False


Choice = Callable[[Thing], bool]


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What a sweep did: names removed, and things that would not go."""

    removed: tuple[str, ...] = ()
    left: tuple[Thing, ...] = ()
    workspaces: frozenset[str] = field(default_factory=frozenset)

    @property
    def command(self) -> str:
        """What removes the rest by hand."""
        by_kind: dict[str, list[str]] = {}
        for thing in self.left:
            by_kind.setdefault(thing.kind, []).append(thing.name)
        verbs = {"container": "docker rm -f", "volume": "docker volume rm -f", "network": "docker network rm"}
        return "; ".join(f"{verbs[kind]} {' '.join(names)}" for kind, names in by_kind.items())


def find(api: APIClient, label: str) -> list[Thing]:
    """Everything with this label (`key` or `key=value`)."""
    filters = {"label": label}
    with translated():
        containers = api.containers(all=True, filters=filters)
        volumes = api.volumes(filters=filters).get("Volumes") or []
        networks = api.networks(filters=filters)
    found = [
        _thing("container", c["Id"], (c["Names"] or ["/?"])[0].removeprefix("/"), c["Labels"], c["State"] == "running")
        for c in containers
    ]
    found += [_thing("volume", v["Name"], v["Name"], v["Labels"]) for v in volumes]
    found += [_thing("network", n["Id"], n["Name"], n["Labels"]) for n in networks]
    return found


def sweep(api: APIClient, label: str, pool: Executor, *, within: float = 15.0, which: Choice = lambda _: True) -> Swept:
    """Removes everything with this label that `which` takes, looking again until nothing is left or time is up."""
    deadline = time.monotonic() + within
    removed: dict[str, None] = {}
    workspaces: set[str] = set()
    while True:
        things = [thing for thing in find(api, label) if which(thing)]
        workspaces |= {thing.workspace for thing in things if thing.workspace}
        if not things or time.monotonic() > deadline:
            return Swept(removed=tuple(removed), left=tuple(things), workspaces=frozenset(workspaces))
        removed |= dict.fromkeys(f"{thing.kind} {thing.name}" for thing in things)
        containers = [thing for thing in things if thing.kind == "container"]
        # Volumes and networks go once nobody holds them any more.
        _all(pool, api, containers or things)
        if containers:
            time.sleep(_EVERY)


def remove(api: APIClient, kind: str, name: str) -> bool:
    """Removes one thing; False if something still holds it. What is gone already is removed."""
    try:
        match kind:
            case "container":
                api.remove_container(name, force=True, v=True)
            case "volume":
                api.remove_volume(name, force=True)
            case "network":
                api.remove_network(name)
    except docker.errors.APIError as error:
        if error.status_code == _GONE:
            return True
        if error.status_code in (_BUSY, _REFUSED):
            return False
        raise
    return True


def _all(pool: Executor, api: APIClient, things: Iterable[Thing]) -> None:
    with translated():
        for job in [pool.submit(remove, api, thing.kind, thing.id) for thing in things]:
            job.result()


def _thing(kind: str, id: str, name: str, labels: Any, running: bool = False) -> Thing:
    labels = labels or {}
    return Thing(
        kind=kind,
        id=id,
        name=name,
        run=labels.get(RUN, ""),
        owner=labels.get(OWNER, ""),
        member=labels.get(MEMBER, ""),
        workspace=labels.get(WORKSPACE, ""),
        running=running,
    )

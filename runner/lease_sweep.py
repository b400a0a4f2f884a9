"""Removes what owners left who are no more: as the watchdog's last act, at each start, and for `mlld sandbox gc`."""

from __future__ import annotations

import contextlib
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from runner.backends import docker_create, docker_errors, docker_sweep, placeholders
from runner.backends.docker_sweep import APIClient, Swept, Thing
from runner.errors import RunnerError
from runner.lease import is_dead


def sweep_dead(api: APIClient, *, cache: Path, within: float = 15.0) -> Swept:
    """Removes everything whose owner is known to be dead. Errors: `EngineFailure`."""
    return _sweep(api, docker_create.OWNER, cache, within, lambda thing: is_dead(thing.owner))


def sweep_owner(api: APIClient, mark: str, *, cache: Path, within: float = 15.0) -> Swept:
    """Removes everything of one owner."""
    return _sweep(api, f"{docker_create.OWNER}={mark}", cache, within, lambda _: True)


def sweep_run(api: APIClient, run: str, *, cache: Path, within: float = 15.0) -> Swept:
    """Removes everything of one run, whoever owns it (`mlld sandbox stop`)."""
    return _sweep(api, f"{docker_create.RUN}={run}", cache, within, lambda _: True)


def dead(api: APIClient) -> list[Thing]:
    """What `sweep_dead` would remove."""
    return [thing for thing in docker_sweep.find(api, docker_create.OWNER) if is_dead(thing.owner)]


def _sweep(api: APIClient, label: str, cache: Path, within: float, which: docker_sweep.Choice) -> Swept:
    with ThreadPoolExecutor(max_workers=8, thread_name_prefix="mlld-sweep") as pool:
        swept = docker_sweep.sweep(api, label, pool, within=within, which=which)
    for key in swept.workspaces:
        with docker_errors.translated():
            shared = api.containers(all=True, filters={"label": f"{docker_create.WORKSPACE}={key}"}, limit=1)
        if not shared:
            placeholders.release(cache, key)
    return swept


def main(mark: str, cache: Path) -> None:
    """The watchdog's last act. It has no terminal and nobody to tell; what stays is found by the next start."""
    with contextlib.suppress(RunnerError), contextlib.closing(docker_errors.connect()) as client:
        sweep_owner(client.api, mark, cache=cache, within=60)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

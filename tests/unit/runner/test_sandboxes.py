"""What opening a sandbox refuses before anything starts, and how a run's end is told."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from interpreter.declarations import AuthDecl, ModuleSource
from interpreter.errors import Denied as Refused
from runner.errors import Denied, NoSpace, SecretMissing
from runner.host.sandboxes import Sandboxes, exit_code_of, finish
from runner.planner import plan
from runner.record import RunRecord, read
from runner.secrets import Secrets
from tests.support import plans


def sandboxes(project: Path, env: dict[str, str]) -> Sandboxes:
    return Sandboxes(
        env=env, home=project, project=project, secrets=Secrets(env), find_module=lambda reference, folder: folder / reference
    )  # fmt: skip


def values(project: Path, root: Path, source: str) -> dict[str, str]:
    """The secrets of a run of a module at `root` whose auth is read from `source`."""
    auth = {"gh": AuthDecl(name="gh", variable="GITHUB_TOKEN", source=source)}
    spec = plans.full(auth=auth)
    assert spec.module is not None
    spec = replace(spec, module=ModuleSource(name="demo", entry="index.mld", files=spec.module.files, root=str(root)))
    return sandboxes(project, {"PATH": os.environ["PATH"], "T": "s3cret"}).secret_values(
        plan(spec, plans.options()), spec
    )


def test_the_projects_own_module_may_name_a_command(tmp_path: Path) -> None:
    assert values(tmp_path, tmp_path / ".mlld" / "env" / "x", "command:echo from-a-command") == {"gh": "from-a-command"}


@pytest.mark.parametrize("place", ["llm/modules/x", "elsewhere", ".mlld/../elsewhere"])
def test_cannot_run_a_command_for_a_module_from_elsewhere(tmp_path: Path, place: str) -> None:
    witness = tmp_path / "witness"
    with pytest.raises(Denied, match="would run `touch") as caught:
        values(tmp_path, tmp_path / place, f"command:touch {witness}")
    assert caught.value.exit_code == 4
    assert not witness.exists()


def test_other_sources_are_read_for_every_module(tmp_path: Path) -> None:
    assert values(tmp_path, tmp_path / "elsewhere", "env:T") == {"gh": "s3cret"}
    with pytest.raises(SecretMissing):
        values(tmp_path, tmp_path / "elsewhere", "env:NOT_THERE")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (asyncio.CancelledError(), 130),
        (NoSpace("the disk"), 5),
        (Refused("no"), 4),
        (RuntimeError("a defect"), 1),
    ],
)
def test_how_a_run_ended_is_in_its_record(tmp_path: Path, error: BaseException | None, code: int) -> None:
    record = RunRecord.create(tmp_path, now=lambda: 1_700_000_000.0)
    finish(record, error)
    events = list(read(record.path))
    assert exit_code_of(error) == code
    assert events[-1]["exit"] == code
    assert [event["event"] for event in events] == (["failed", "closed"] if error else ["closed"])

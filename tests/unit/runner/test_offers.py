"""What servers offered is kept per definition, and a file that is not ours or not whole is as if it were not there."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.offers import OffersStore, definition
from runner.plan import Mount, SandboxPlan
from tests.support.plans import good

TOOL = json.dumps({"name": "read", "description": "naïve", "inputSchema": {"type": "object"}})
EVENT = {
    "server": "tickets", "situation": "handshake", "kind": "tool", "items": [TOOL],
    "capabilities": {"tools": {}}, "instructions": "",
}  # fmt: skip


def kept(store: OffersStore, plan: SandboxPlan) -> Path:
    """The one file that is there after a run of this plan."""
    store.keep(plan, EVENT)
    (file,) = store.directory.iterdir()
    return file


def items(store: OffersStore, plan: SandboxPlan) -> list[str]:
    offers = store.read(plan)["tickets"].get("handshake")
    return offers.lists.get("tool", []) if offers else []


def test_what_was_kept_is_there_in_the_next_run(tmp_path: Path) -> None:
    store, plan = OffersStore(tmp_path / "offers"), good()
    assert store.read(plan) == {server.name: {} for server in plan.servers if server.url is None}
    file = kept(store, plan)
    assert items(store, replace(plan, run="another-run")) == [TOOL]
    assert file.stat().st_mode & 0o777 == 0o600
    store.keep(plan, EVENT | {"kind": "prompt", "items": []})
    assert items(store, plan) == [TOOL]
    store.keep(plan, EVENT | {"kind": "prompt", "items": [], "capabilities": {"prompts": {}}})
    assert items(store, plan) == []  # of a server that says it can do other things, older lists say nothing


def test_another_definition_is_another_server() -> None:
    container, profile = good().container("tickets"), good().profile.name
    first = definition(container, profile)
    assert (
        definition(replace(container, mounts=tuple(replace(m, why="said") for m in container.mounts)), profile) == first
    )
    changes: list[dict[str, Any]] = [
        {"image": "mlld/other:1"}, {"argv": (*container.argv, "--admin")}, {"env": {**container.env, "MODE": "all"}},
        {"secrets": (*container.secrets, "more")}, {"cwd": "/elsewhere"}, {"mounts": ()},
    ]  # fmt: skip
    others = [definition(replace(container, **change), profile) for change in changes]
    assert len({first, definition(container, "other"), *others}) == 2 + len(changes)


def test_an_edited_program_is_another_server(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text("tools = 1")
    mount = Mount(kind="bind", source=str(tmp_path), target="/workspace")
    container = replace(good().container("tickets"), argv=("python3", "server.py"), cwd="/workspace", mounts=(mount,))
    first = definition(container, None)
    (tmp_path / "unrelated.txt").write_text("x")
    assert definition(container, None) == first
    (tmp_path / "server.py").write_text("tools = 22")
    assert definition(container, None) != first


@pytest.mark.parametrize(
    "poison",
    [
        b"", b"{", b"\xff", b'{"version":2,"situations":{}}', b"[" * 100_000,
        b'{"version":1,"situations":{"handshake":{"lists":{"tool":["not JSON"]}}}}',
        b'{"version":1,"situations":{"handshake":{"lists":{"tool":[{}]}}}}',
        b'{"version":1,"situations":{"handshake":{"lists":{"secret":[]}}}}',
        b'{"version":1,"situations":{"handshake":{"lists":{},"tools":"*","pins":{}}}}',
    ],
)  # fmt: skip
def test_cannot_poison_a_run_by_what_is_no_list(tmp_path: Path, poison: bytes) -> None:
    store, plan = OffersStore(tmp_path / "offers"), good()
    file = kept(store, plan)
    assert items(store, plan) == [TOOL]
    file.write_bytes(poison)
    assert items(store, plan) == []
    kept(store, plan)  # and the run writes it anew
    assert items(store, plan) == [TOOL]


@pytest.mark.parametrize("mode", [0o660, 0o602])
def test_cannot_be_written_by_others(tmp_path: Path, mode: int) -> None:
    store, plan = OffersStore(tmp_path / "offers"), good()
    kept(store, plan).chmod(mode)
    assert items(store, plan) == []


def test_cannot_be_a_link_to_elsewhere(tmp_path: Path) -> None:
    store, plan = OffersStore(tmp_path / "offers"), good()
    file = kept(store, plan)
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert items(store, plan) == []
    os.unlink(file)
    os.mkfifo(file)  # nor may it keep the run waiting
    assert items(store, plan) == []


@pytest.mark.parametrize(
    "change", [{"server": "../../etc"}, {"items": ["x" * (9 << 20)]}, {"kind": "secret"}, {"items": [1]}]
)
def test_cannot_be_made_to_keep_anything_else(tmp_path: Path, change: dict[str, Any]) -> None:
    store = OffersStore(tmp_path / "offers")
    store.keep(good(), EVENT | change)
    assert not store.directory.exists()

"""The lock of tools: written, read, refused when it is damaged, and heard of when a tool differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner import lock
from runner.errors import CheckFailure, ToolChanged
from runner.handover import Handover, sidecar_line
from runner.sandbox_events import Hearing
from tests.support.plans import full, good

PINS = {"tickets": {"close": {"description": "Closes a ticket.", "inputSchema": {"type": "object"}}}}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    assert lock.read(tmp_path, "@local/a") == {}
    path = lock.write(tmp_path, "@local/a", PINS)
    assert path == tmp_path / ".mlld" / "mcp-lock.json"
    assert lock.read(tmp_path, "@local/a") == PINS
    assert lock.read(tmp_path, "@local/b") == {}


def test_locks_of_other_environments_stay(tmp_path: Path) -> None:
    lock.write(tmp_path, "@local/a", PINS)
    lock.write(tmp_path, "@local/b", {"git": {}})
    assert lock.read(tmp_path, "@local/a") == PINS
    assert lock.read(tmp_path, "@local/b") == {"git": {}}
    assert [entry.name for entry in (tmp_path / ".mlld").iterdir()] == ["mcp-lock.json"]


def test_a_profile_that_shows_other_tools_adds_them(tmp_path: Path) -> None:
    lock.write(tmp_path, "@local/a", {"s": {"one": {"description": "1"}, "two": {"description": "2"}}})
    lock.write(tmp_path, "@local/a", {"s": {"two": {"description": "new"}}, "t": {"three": {}}})
    assert lock.read(tmp_path, "@local/a") == {
        "s": {"one": {"description": "1"}, "two": {"description": "new"}},
        "t": {"three": {}},
    }


def test_the_same_tools_make_the_same_file(tmp_path: Path) -> None:
    first = lock.write(tmp_path, "@local/a", {"b": {}, "a": {"y": {}, "x": {}}}).read_text()
    second = lock.write(tmp_path, "@local/a", {"a": {"x": {}, "y": {}}, "b": {}}).read_text()
    assert first == second


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"version": 2, "environments": {}}',
        '{"version": 1, "environments": []}',
        '{"version": 1, "environments": {"@local/a": []}}',
        '{"version": 1, "environments": {"@local/a": {"s": []}}}',
        '{"version": 1, "environments": {"@local/a": {"s": {"t": "x"}}}}',
    ],
)
def test_cannot_lift_a_lock_by_damaging_it(tmp_path: Path, text: str) -> None:
    path = lock.write(tmp_path, "@local/a", PINS)
    path.write_text(text)
    with pytest.raises(CheckFailure) as caught:
        lock.read(tmp_path, "@local/a")
    assert caught.value.remedy


def handed(**changes: Any) -> dict[str, Any]:
    made = good()
    secrets = {secret.name: "value" for secret in made.secrets}
    spec = full()
    line = sidecar_line(
        made, Handover(token="t" * 16, secrets=secrets, module=spec.module, policy=spec.policy, **changes)
    )
    config: dict[str, Any] = json.loads(line)
    return config


def test_the_sidecar_gets_the_pins_of_each_server() -> None:
    config = handed(pins=PINS)
    pins = {server["name"]: server.get("pins") for server in config["servers"]}
    assert pins == {"tickets": PINS["tickets"], "github": None}
    assert "tellPins" not in config
    assert handed(tell_pins=True)["tellPins"] is True


class Kept:
    """A record that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, object]]] = []

    def append(self, event: str, /, **fields: object) -> None:
        self.lines.append((event, fields))


async def heard(*events: dict[str, Any]) -> Hearing:
    hearing = Hearing(plan=good(), sink=Kept(), fail=lambda error: None, mask=bytes)
    for event in events:
        hearing.line("sidecar", "stdout", json.dumps(event).encode())
    return hearing


async def test_a_tool_that_differs_stops_the_run_with_its_difference() -> None:
    event = {"event": "denied", "rule": "pin", "server": "tickets", "name": "close", "reason": "it is not in the lock"}
    trouble = (await heard(event | {"diff": '+  "description": "new"'})).startup_trouble()
    assert isinstance(trouble, ToolChanged)
    assert "'close'" in trouble.message
    assert "it is not in the lock" in trouble.message
    assert "new" in trouble.detail
    assert "--lock" in trouble.remedy


async def test_instructions_that_differ_stop_the_run() -> None:
    event = {"event": "denied", "rule": "pin", "server": "tickets", "kind": "instructions", "name": "instructions"}
    trouble = (await heard(event | {"reason": "it is not in the lock", "diff": "+  x"})).startup_trouble()
    assert isinstance(trouble, ToolChanged)
    assert trouble.message.startswith("what is said in `instructions` of the MCP server 'tickets' was not accepted")


async def test_what_a_lock_is_made_of_is_kept_and_not_recorded() -> None:
    hearing = await heard({"event": "pins", "server": "tickets", "tools": PINS["tickets"]})
    assert hearing.pins == PINS
    assert isinstance(hearing.sink, Kept)
    assert hearing.sink.lines == []

"""The record: chained, append-only, loud when it cannot be written."""

from __future__ import annotations

import errno
import json
import os
from itertools import count
from pathlib import Path

import pytest

from runner import record as module
from runner.errors import AmbiguousRun, RecordFailed, UnknownRun
from runner.record import RunRecord, find, new_name, read, runs, verify
from runner.secrets import MASK, Masker


def make(directory: Path, **kwargs: object) -> RunRecord:
    ticks = count(1_700_000_000)
    return RunRecord.create(directory, now=lambda: float(next(ticks)), **kwargs)


def test_what_was_appended_is_read_back_in_order(tmp_path: Path) -> None:
    record = make(tmp_path)
    record.append("plan", digest="sha256:1")
    record.append("call", name="list_tickets", decision="allow")
    record.close(exit=0)
    events = list(read(record.path))
    assert [event["event"] for event in events] == ["plan", "call", "closed"]
    assert [event["n"] for event in events] == [0, 1, 2]
    assert events[1]["name"] == "list_tickets"


def test_a_field_cannot_take_the_place_of_the_lines_own(tmp_path: Path) -> None:
    record = make(tmp_path)
    record.append("call", n=99, t=0, name="x")
    assert record.events[0]["n"] == 0
    assert record.events[0]["t"] != 0


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    record = make(tmp_path / "data" / "runs")
    assert record.path.stat().st_mode & 0o777 == 0o600
    assert record.path.parent.stat().st_mode & 0o777 == 0o700


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    record = make(tmp_path)
    for number in range(5):
        record.append("call", name=f"tool {number}", text='quotes " and a newline \n and ü')
    record.close(exit=0)
    return record.path


def test_a_whole_record_verifies(whole: Path) -> None:
    verdict = verify(whole)
    assert verdict.faults == ()
    assert verdict.lines == 6
    assert verdict.head == json.loads(whole.read_text().splitlines()[-1])["hash"]


def test_cannot_change_a_line_unseen(whole: Path) -> None:
    whole.write_text(whole.read_text().replace("tool 3", "tool 4", 1))
    assert verify(whole).faults == ("line 4 was changed: its hash does not fit its text",)


def test_cannot_change_a_line_and_its_hash_unseen(whole: Path, tmp_path: Path) -> None:
    lines = whole.read_text().splitlines(keepends=True)
    other = make(tmp_path / "other")
    other.append("call", name="tool 0", text="forged")
    lines[0] = other.path.read_text()
    whole.write_text("".join(lines))
    assert verify(whole).faults == ("line 2 does not follow the line before it: something was removed or put in",)


def test_cannot_remove_a_line_unseen(whole: Path) -> None:
    lines = whole.read_text().splitlines(keepends=True)
    whole.write_text("".join(lines[:2] + lines[3:]))
    assert any("line 3 does not follow" in fault for fault in verify(whole).faults)


def test_cannot_cut_the_end_unseen(whole: Path) -> None:
    whole.write_text("".join(whole.read_text().splitlines(keepends=True)[:-1]))
    assert any("no closing line" in fault for fault in verify(whole).faults)


def test_a_torn_line_is_found(whole: Path) -> None:
    whole.write_bytes(whole.read_bytes()[:-20])
    assert "the last line is torn" in verify(whole).faults


def test_cannot_be_written_is_an_error_that_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = make(tmp_path)

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.os, "write", full)
    with pytest.raises(RecordFailed, match="No space left on device") as caught:
        record.append("call")
    assert caught.value.exit_code == 5
    assert "XDG_DATA_HOME" in caught.value.remedy


def test_a_line_written_in_part_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = make(tmp_path)
    monkeypatch.setattr(module.os, "write", lambda fd, data: len(data) - 1)
    with pytest.raises(RecordFailed, match="only"):
        record.append("call")


def test_a_directory_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(RecordFailed):
        make(tmp_path / "runs")


def test_secrets_are_struck_out_before_they_are_written(tmp_path: Path) -> None:
    masker = Masker()
    record = make(tmp_path, mask=masker.value)
    masker.add('hunter2-"quoted"')
    record.append("call", arguments={"token": 'hunter2-"quoted"'}, result=['x hunter2-"quoted" y'])
    text = record.path.read_text()
    assert "hunter2" not in text
    assert text.count(MASK) == 2


def test_names_are_pronounceable_and_differ() -> None:
    names = {new_name() for _ in range(200)}
    assert len(names) > 195
    assert all(len(name) == 7 and name.isalpha() and name.islower() for name in names)


def test_last_and_unique_prefixes_find_a_run(tmp_path: Path) -> None:
    for stamp, name in (("20260101T000000.000Z", "kubodan"), ("20260102T000000.000Z", "kuboral")):
        (tmp_path / f"{stamp}-{name}.jsonl").write_text("")
    (tmp_path / "notes.txt").write_text("not a run")
    assert [run.name for run in runs(tmp_path)] == ["kubodan", "kuboral"]
    assert find(tmp_path, "last").name == "kuboral"
    assert find(tmp_path, "kubod").name == "kubodan"
    with pytest.raises(AmbiguousRun, match="fits 2 runs"):
        find(tmp_path, "kubo")
    with pytest.raises(UnknownRun) as caught:
        find(tmp_path, "kubodin")
    assert "did you mean 'kubodan'" in caught.value.detail
    with pytest.raises(UnknownRun, match="nothing has been run yet"):
        find(tmp_path / "none", "last")


def test_listeners_hear_what_was_written(tmp_path: Path) -> None:
    record, heard = make(tmp_path), []
    record.listen(heard.append)
    record.append("state", state="ready")
    assert [(event["event"], event["state"]) for event in heard] == [("state", "ready")]


def test_text_that_has_no_utf8_is_recorded_and_verifies(tmp_path: Path) -> None:
    record = make(tmp_path)
    record.append("run", prompt="before \udcff after")
    record.close()
    assert verify(record.path).faults == ()
    assert next(read(record.path))["prompt"] == "before ? after"

"""The sidecar's record: complete, in order, masked, or the sidecar stops."""

from __future__ import annotations

import asyncio
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from images.sidecar.audit import HIGH_WATER, Audit, AuditFailure
from tests.support.waiting import PATIENCE


class Pipe:
    """A pipe, its reader on demand."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.read_end, False)

    def read(self) -> bytes:
        pieces = []
        try:
            while piece := os.read(self.read_end, 1 << 20):
                pieces.append(piece)
        except BlockingIOError:
            pass
        return b"".join(pieces)

    def close(self) -> None:
        for fd in (self.read_end, self.write_end):
            try:
                os.close(fd)
            except OSError:
                continue


def failures() -> tuple[list[AuditFailure], Callable[[AuditFailure], None]]:
    seen: list[AuditFailure] = []
    return seen, seen.append


def lines(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


async def test_events_of_one_turn_are_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = Pipe()
    seen, failed = failures()
    audit = Audit(pipe.write_end, on_failure=failed, clock=lambda: 12.5)
    writes: list[int] = []
    real = os.write

    def write(fd: int, data: bytes) -> int:
        writes.append(len(data))
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    for number in range(100):
        audit.emit({"event": "call", "id": number})
    assert pipe.read() == b""
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(writes) == 1
    assert lines(pipe.read()) == [{"t": 12.5, "event": "call", "id": number} for number in range(100)]
    assert seen == []
    pipe.close()


async def test_a_slow_reader_makes_the_producer_wait_and_loses_nothing() -> None:
    pipe = Pipe()
    seen, failed = failures()
    audit = Audit(pipe.write_end, on_failure=failed)
    assert not audit.behind
    for number in range(2 * HIGH_WATER // 1000):
        audit.emit({"event": "call", "id": number, "text": "x" * 1000})
    assert audit.behind
    waiting = asyncio.ensure_future(audit.drain())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    got = bytearray()
    async with asyncio.timeout(PATIENCE):
        while not waiting.done() or len(lines(bytes(got).rpartition(b"\n")[0])) < 2 * HIGH_WATER // 1000:
            got += pipe.read()
            await asyncio.sleep(0.001)
    assert [event["id"] for event in lines(bytes(got))] == list(range(2 * HIGH_WATER // 1000))
    assert not audit.behind
    audit.emit({"event": "call", "id": -1})
    await asyncio.sleep(0.01)
    assert lines(pipe.read())[0]["id"] == -1
    assert seen == []
    pipe.close()


async def test_a_reader_that_went_away_stops_everything() -> None:
    pipe = Pipe()
    seen, failed = failures()
    audit = Audit(pipe.write_end, on_failure=failed)
    os.close(pipe.read_end)
    audit.emit({"event": "call"})
    await asyncio.sleep(0.01)
    assert len(seen) == 1
    assert "Broken pipe" in str(seen[0])
    with pytest.raises(AuditFailure):
        await audit.drain()
    os.close(pipe.write_end)


async def test_a_full_disk_stops_everything(tmp_path: Path) -> None:
    seen, failed = failures()
    full = os.open("/dev/full", os.O_WRONLY)
    audit = Audit(full, on_failure=failed)
    audit.emit({"event": "call"})
    await asyncio.sleep(0.01)
    assert [str(failure) for failure in seen] == ["the record cannot be written: No space left on device"]
    os.close(full)


async def test_a_producer_that_waits_is_woken_by_the_failure() -> None:
    pipe = Pipe()
    _, failed = failures()
    audit = Audit(pipe.write_end, on_failure=failed)
    audit.emit({"event": "call", "text": "x" * (2 * HIGH_WATER)})
    waiting = asyncio.ensure_future(audit.drain())
    await asyncio.sleep(0.02)
    os.close(pipe.read_end)
    with pytest.raises(AuditFailure):
        await asyncio.wait_for(waiting, PATIENCE)
    os.close(pipe.write_end)


async def test_close_writes_what_is_left() -> None:
    pipe = Pipe()
    _, failed = failures()
    audit = Audit(pipe.write_end, on_failure=failed)
    audit.emit({"event": "last"})
    await audit.close(timeout=1)
    assert lines(pipe.read())[0]["event"] == "last"
    pipe.close()


async def test_close_does_not_wait_for_ever_and_says_what_is_lost() -> None:
    pipe = Pipe()
    seen, failed = failures()
    audit = Audit(pipe.write_end, on_failure=failed)
    audit.emit({"event": "call", "text": "x" * (2 * HIGH_WATER)})
    await audit.close(timeout=0.1)
    assert "were not read in time" in str(seen[0])
    pipe.close()


SECRET = 'hunter2-"quoted"-ü'


@pytest.mark.parametrize(
    "event",
    [
        {"event": "call", "arguments": {"key": SECRET, SECRET: 1}},
        {"event": "call", "arguments": {"deep": [{"text": f"a{SECRET}b{SECRET}"}]}},
        {"event": "call", "arguments": json.dumps({"x": SECRET}).encode()},
        {"event": "call", "result": f"the key is {SECRET}"},
        {"event": "call", "result": json.dumps({"text": SECRET}).encode()},
        {"event": "call", "result": json.dumps({"text": SECRET}, ensure_ascii=False).encode()},
        {"event": "call", "result": json.dumps({"text": json.dumps({"text": SECRET})}).encode()},
        {"event": "call", "result": f"https://example.com/?key={quote(SECRET)}"},
        {"event": "egress", "host": SECRET},
    ],
)
async def test_cannot_write_a_secret_into_the_record(event: dict[str, Any]) -> None:
    pipe = Pipe()
    _, failed = failures()
    audit = Audit(pipe.write_end, on_failure=failed, secrets=[SECRET, "x"])
    audit.emit(event)
    await audit.close(timeout=1)
    line = pipe.read().decode()
    assert "hunter2" not in line
    assert "••••" in line
    assert json.loads(line)["event"] == event["event"]
    pipe.close()


async def test_a_secret_number_leaves_the_line_readable() -> None:
    pipe = Pipe()
    _, failed = failures()
    audit = Audit(pipe.write_end, on_failure=failed, secrets=["424242"])
    audit.emit({"event": "call", "bytesIn": 424242, "arguments": {"pin": 424242, "ok": True}})
    await audit.close(timeout=1)
    (event,) = lines(pipe.read())
    assert (event["bytesIn"], event["arguments"]) == (424242, {"pin": "••••", "ok": True})
    pipe.close()


async def test_the_longer_secret_goes_whole() -> None:
    pipe = Pipe()
    _, failed = failures()
    audit = Audit(pipe.write_end, on_failure=failed, secrets=["abcdef", "Bearer abcdefgh"])
    audit.emit({"event": "x", "text": "Bearer abcdefgh"})
    await audit.close(timeout=1)
    assert lines(pipe.read())[0]["text"] == "••••"
    pipe.close()


async def test_long_arguments_and_results_are_cut_with_a_mark() -> None:
    pipe = Pipe()
    _, failed = failures()
    audit = Audit(pipe.write_end, on_failure=failed)
    audit.emit({"event": "call", "arguments": {"text": "a" * 5000}, "result": "b" * 5000})
    audit.emit({"event": "call", "arguments": {"text": "a"}, "result": "b"})
    await audit.close(timeout=1)
    cut, whole = lines(pipe.read())
    assert cut["arguments"]["cut"] == 5011
    assert len(cut["arguments"]["head"]) == 4096
    assert cut["result"].endswith("… (5000 bytes)")
    assert len(cut["result"]) < 2100
    assert (whole["arguments"], whole["result"]) == ({"text": "a"}, "b")
    pipe.close()


async def test_a_secret_that_the_cut_divides_is_masked() -> None:
    pipe = Pipe()
    _, failed = failures()
    audit = Audit(pipe.write_end, on_failure=failed, secrets=["supersecretvalue"])
    audit.emit({"event": "call", "result": "a" * 2040 + "supersecretvalue" + "b" * 100})
    await audit.close(timeout=1)
    assert b"supers" not in pipe.read()
    pipe.close()


async def test_a_record_that_nobody_reads_is_given_up_before_memory_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("images.sidecar.audit.MOST_WAITING", 1 << 20)
    pipe = Pipe()
    seen, failed = failures()
    audit = Audit(pipe.write_end, on_failure=failed)
    for _ in range(2000):
        audit.emit({"event": "call", "text": "x" * 1000})
    assert [str(failure) for failure in seen] == ["the record cannot be written: nobody has read the last 1 MiB of it"]
    await audit.close(timeout=1)
    pipe.close()


async def test_memory_stays_bounded_by_the_producers() -> None:
    """Only `drain` holds a producer back, so a producer that drains never lets more than the high water wait."""
    pipe = Pipe()
    _, failed = failures()
    audit = Audit(pipe.write_end, on_failure=failed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    async def produce() -> None:
        for _ in range(20_000):
            await audit.drain()
            audit.emit({"event": "call", "text": "x" * 2000})

    producer = asyncio.ensure_future(produce())
    async with asyncio.timeout(PATIENCE):
        while not producer.done():
            pipe.read()
            await asyncio.sleep(0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB, of 40,000 that went through
    pipe.close()

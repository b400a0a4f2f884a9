"""What seats say on stderr is in the record: bounded, and without what they were handed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runner.backends.lines import LONGEST_LINE
from runner.sandbox_events import Hearing
from runner.secrets import MASK, Masker
from tests.support.plans import good

SECRET = "hunter2-of-a-server"


class Kept:
    """A record that keeps its lines."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def append(self, event: str, /, **fields: object) -> None:
        self.events.append({"event": event, **fields})

    def lines(self, member: str) -> list[str]:
        return [event["line"] for event in self.events if event["event"] == "log" and event["member"] == member]


def hearing(kept: Kept, *secrets: str) -> Hearing:
    return Hearing(plan=good(), sink=kept, fail=lambda error: None, mask=Masker(secrets or [SECRET]).bytes)


async def test_what_a_server_says_is_in_the_record() -> None:
    kept = Kept()
    heard = hearing(kept)
    heard.line("tickets", "stderr", b"listening")
    heard.line("tickets", "stdout", b"not an event")
    assert kept.lines("tickets") == ["listening", "not an event"]


async def test_cannot_fill_the_disk_by_talking() -> None:
    kept = Kept()
    heard = hearing(kept)
    for _ in range(400):
        heard.line("tickets", "stderr", b"x" * 100_000)
    heard.line("other", "stderr", b"still heard")
    lines = kept.lines("tickets")
    assert sum(map(len, lines)) <= 1 << 20
    assert max(map(len, lines)) == 4096
    assert lines[-1].startswith("… more than 1 MiB")
    assert kept.lines("other") == ["still heard"]


@pytest.mark.parametrize("before", [0, 10, 3_990, 4_085, 4_090, 4_095, 4_096, 5_000])
async def test_cannot_leave_half_a_secret_where_a_line_is_cut(before: int) -> None:
    kept = Kept()
    heard = hearing(kept)
    heard.line("tickets", "stderr", b"x" * before + SECRET.encode() + b" end")
    (line,) = kept.lines("tickets")
    assert not any(SECRET[:length] in line for length in range(4, len(SECRET)))
    assert "hunt" not in heard.last_words("tickets")
    assert (MASK in line) == (before < 4_090)


async def test_cannot_leave_the_rest_of_a_secret_where_an_endless_line_goes_on() -> None:
    kept = Kept()
    heard = hearing(kept)
    whole = b"x" * (LONGEST_LINE - 8) + SECRET.encode() + b" end"
    heard.line("tickets", "stderr", whole[:LONGEST_LINE])
    heard.line("tickets", "stderr", whole[LONGEST_LINE:])
    heard.line("tickets", "stderr", b"the next line")
    assert [line[:20] for line in kept.lines("tickets")[:1]] == ["x" * 20]
    assert not any("a-server" in line for line in kept.lines("tickets"))
    assert "a-server" not in heard.last_words("tickets")


async def test_the_lines_of_a_key_are_secrets_each() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQ\nshort\n-----END KEY-----\n"
    kept = Kept()
    heard = hearing(kept, key)
    for line in key.encode().splitlines():
        heard.line("tickets", "stderr", b"> " + line)
    assert kept.lines("tickets") == [f"> {MASK}", f"> {MASK}", "> short", f"> {MASK}"]


async def test_what_servers_offer_is_remembered_and_not_recorded_and_holds_no_secret() -> None:
    kept, remembered = Kept(), []
    heard = hearing(kept)
    heard.remember = remembered.append
    for text in ("reads a file", f"reads a file with {SECRET}"):
        heard.line(
            "sidecar", "stdout", json.dumps({"event": "offers", "t": 1, "server": "s", "items": [text]}).encode()
        )
    assert remembered == [{"server": "s", "items": ["reads a file"]}]
    assert kept.events == []

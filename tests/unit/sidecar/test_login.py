"""A person's login: the browser comes back to this machine, and nobody else can come back for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from images.sidecar import login as logging_in
from images.sidecar.login import login
from images.sidecar.oauth import OAuthError
from tests.support.waiting import PATIENCE
from tests.unit.sidecar.oauth_world import OAuthWorld, Response, oauth_world

ROOT = Path(__file__).parents[3]
PERSON = {"grant": "authorization_code", "client_id": "", "client_secret": ""}


@pytest.fixture
async def w() -> AsyncIterator[OAuthWorld]:
    async with oauth_world() as made:
        yield made


async def come_back(
    url: str, answer: dict[str, str], *, method: str = "GET", path: str = "/callback", host: str | None = None
) -> tuple[int, str]:
    """What a browser does at the end; status and head and body of what it sees."""
    place = urlsplit(dict(parse_qsl(urlsplit(url).query))["redirect_uri"])
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(f"{method} {path}?{urlencode(answer)} HTTP/1.1\r\nHost: {host or place.netloc}\r\n\r\n".encode())
    said = (await reader.read()).decode()
    writer.close()
    return int(said.split()[1]), said


class Login:
    """A login under way: its events, and the URL for the browser once there is one."""

    def __init__(self, w: OAuthWorld, **options: Any) -> None:
        self.events: list[dict[str, Any]] = []
        self._opened = asyncio.Event()
        self.task = asyncio.create_task(login(w.spec(**PERSON), w.dial, self._emit, **options))

    def _emit(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        if event["event"] == "open":
            self._opened.set()

    async def url(self) -> str:
        await asyncio.wait_for(self._opened.wait(), PATIENCE)
        return str(next(event["url"] for event in self.events if event["event"] == "open"))

    async def state(self) -> str:
        return dict(parse_qsl(urlsplit(await self.url()).query))["state"]

    def credentials(self) -> list[dict[str, Any]]:
        return [event["credential"] for event in self.events if event["event"] == "credential"]


async def test_a_person_logs_in(w: OAuthWorld) -> None:
    under_way = Login(w, scopes=("mail.send",))
    url = await under_way.url()
    assert url.startswith(f"{w.authority.url}/authorize?")
    query = dict(parse_qsl(urlsplit(url).query))
    assert query["scope"] == "mail.send"
    assert query["redirect_uri"].startswith("http://127.0.0.1:")
    status, said = await come_back(url, {"code": "the-code", "state": query["state"]})
    assert (status, "This is done." in said, "default-src 'none'" in said) == (200, True, True)
    await asyncio.wait_for(under_way.task, PATIENCE)
    [kept] = under_way.credentials()
    assert (kept["access_token"], kept["client_id"], kept["scopes"]) == ("access-token-1", "made-here", ["mail.send"])
    assert w.resource.seen[-1].headers["authorization"] == "Bearer access-token-1"  # it was tried
    assert json.loads(next(r.body for r in w.authority.seen if r.path == "/register"))["application_type"] == "native"


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"answer": {"code": "stolen", "state": "another"}}, 400),
        ({"answer": {"code": "stolen"}}, 400),
        ({"host": "evil.example.com"}, 404),
        ({"path": "/"}, 404),
        ({"method": "POST"}, 404),
    ],
)
async def test_cannot_come_back_for_the_person(w: OAuthWorld, wrong: dict[str, Any], status: int) -> None:
    under_way = Login(w)
    url = await under_way.url()
    right = {"code": "the-code", "state": await under_way.state()}
    assert (await come_back(url, **({"answer": right} | wrong)))[0] == status
    assert not under_way.task.done()
    assert w.issued == 0
    assert (await come_back(url, right))[0] == 200
    await asyncio.wait_for(under_way.task, PATIENCE)
    assert under_way.credentials()


@pytest.mark.parametrize(
    "request_", [b"GET /callback?" + b"a=b&" * 100 + b" HTTP/1.1", b"GET http://[ HTTP/1.1", b"\xff" * 20_000, b""]
)
async def test_cannot_stop_it_with_what_is_no_request(w: OAuthWorld, request_: bytes) -> None:
    under_way = Login(w)
    url = await under_way.url()
    place = urlsplit(dict(parse_qsl(urlsplit(url).query))["redirect_uri"])
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(request_ + f"\r\nHost: {place.netloc}\r\n\r\n".encode())
    writer.write_eof()
    with contextlib.suppress(ConnectionError):
        assert b" 200 " not in await asyncio.wait_for(reader.read(), PATIENCE)
    writer.close()
    assert (await come_back(url, {"code": "the-code", "state": await under_way.state()}))[0] == 200
    await asyncio.wait_for(under_way.task, PATIENCE)


async def test_cannot_write_into_the_page(w: OAuthWorld) -> None:
    under_way = Login(w)
    answer = {"error": "access_denied", "error_description": "<script>x</script>", "state": await under_way.state()}
    status, said = await come_back(await under_way.url(), answer)
    assert (status, "script" in said.partition("\r\n\r\n")[2]) == (200, False)
    with pytest.raises(OAuthError, match="refused \\(access_denied\\)"):
        await asyncio.wait_for(under_way.task, PATIENCE)
    assert under_way.credentials() == []


async def test_a_person_who_does_not_come_back_is_not_waited_for_without_end(
    w: OAuthWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging_in, "_PERSON_SECONDS", 0.1)
    with pytest.raises(OAuthError, match="nobody came back"):
        await asyncio.wait_for(Login(w).task, PATIENCE)


async def test_a_token_that_the_server_refuses_is_told(w: OAuthWorld) -> None:
    w.resource.answers["/mcp"] = lambda _: Response({}, 403)
    under_way = Login(w)
    await come_back(await under_way.url(), {"code": "c", "state": await under_way.state()})
    with pytest.raises(OAuthError, match="refuses the token"):
        await asyncio.wait_for(under_way.task, PATIENCE)


def run(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "images.sidecar.login"],
        input=line, capture_output=True, text=True, timeout=PATIENCE, cwd="/", env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_its_process_says_what_is_wrong_and_ends_with_its_owner() -> None:
    done = run("{}\n")
    assert (done.returncode, done.stdout) == (2, "")
    assert "config.version" in done.stderr
    url = "https://mcp.example.com/mcp"
    server = {"name": "far", "transport": "http", "url": url, "oauth": {"grant": "authorization_code"}, "tools": "*"}
    config = {"version": 1, "run": "r", "token": "t" * 16, "agent": {"link": "/x"}, "servers": [server], "egress": {}}
    done = run(json.dumps(config) + "\n")
    # Nothing is granted: whichever came first, the refusal or the end of the lease, nothing was reached.
    events = [json.loads(text) for text in done.stdout.splitlines()]
    assert done.returncode == 1
    assert all(event["event"] == "failed" and "was not granted" in event["reason"] for event in events)

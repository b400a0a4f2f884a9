"""A person's login to one remote server, on their own machine: `python -m images.sidecar.login [--port N] [--scope S]…`

Standard input is the configuration of a sidecar with one server, and then the lease, as for a sidecar. Requests go through the same
gate under the same rules: metadata of a server must not make this machine talk to its own network either. Standard
output is events as JSON lines: `open` (the URL for the browser), `credential` (what is to be kept), `auth`, `failed`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import html
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from images.sidecar import config as configuration
from images.sidecar.__main__ import EXIT_CONFIG, STDIN, read_config_line
from images.sidecar.addresses import AddressPolicy
from images.sidecar.authorizer import Authorized, Authorizer
from images.sidecar.gate import Gate
from images.sidecar.handshake import CLIENT, LEGACY
from images.sidecar.httpclient import HttpClient, HttpError, trust
from images.sidecar.oauth import Challenge, OAuthError
from images.sidecar.reading import ConfigError
from images.sidecar.resolver import resolver_for
from images.sidecar.seams import Dial, ServerSpec

_PERSON_SECONDS = 300.0
_REQUEST_SECONDS = 10.0
_LONGEST_REQUEST = 16 << 10
_MOST_BYTES = 1 << 20
_HEADERS = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
_PAGE = (
    "<!doctype html><meta charset=utf-8><title>mlld sandbox</title>"
    "<body style='font:1.2em system-ui;margin:4em'><p>{}</p><p>You can close this window.</p>"
)

Emit = Callable[[dict[str, Any]], None]


class Told:
    """`authorizer.Custody`: everything goes to whoever started this, who masks and keeps."""

    def __init__(self, emit: Emit) -> None:
        self.emit = emit

    def hide(self, *secrets: str) -> None:
        """Nothing is written here but what `keep` hands over."""

    def keep(self, server: str, credential: dict[str, Any]) -> None:
        self.emit({"event": "credential", "server": server, "credential": credential})


class Loopback:
    """The redirect's end on this machine (RFC 8252 §7.3). Implements `oauth_grants.Consent`."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._state = ""
        self._authority = ""
        self._answer: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        self.redirect_uri = ""

    @asynccontextmanager
    async def listening(self, port: int) -> AsyncIterator[Loopback]:
        """Listens on 127.0.0.1; port 0: any. Errors: `OSError`."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=_LONGEST_REQUEST, backlog=8)
        self._authority = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self.redirect_uri = f"http://{self._authority}/callback"
        try:
            yield self
        finally:
            server.close()

    async def ask(self, url: str) -> dict[str, str]:
        self._state = dict(parse_qsl(urlsplit(url).query))["state"]
        self._emit({"event": "open", "url": url})
        try:
            return await asyncio.wait_for(self._answer, _PERSON_SECONDS)
        except TimeoutError:
            raise OAuthError(f"nobody came back from the browser within {_PERSON_SECONDS / 60:g} minutes") from None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        faults = (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)
        try:
            # What is no request gets no answer.
            with contextlib.suppress(*faults):
                async with asyncio.timeout(_REQUEST_SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
                    status, text = self._received(head.decode("latin-1").split("\r\n"))
                    page = _PAGE.format(html.escape(text)).encode()
                    writer.write(
                        f"HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(page)}\r\n"
                        "Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nConnection: close\r\n"
                        "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n\r\n".encode()
                        + page
                    )
                    await writer.drain()
        finally:
            writer.close()

    def _received(self, lines: list[str]) -> tuple[str, str]:
        """Status and text for a request. Only the answer to our own question counts: any page in the browser can come here,
        and what it brings must neither be taken for the answer nor end the wait for it."""
        method, _, rest = lines[0].partition(" ")
        target = urlsplit(rest.rpartition(" ")[0])
        hosts = [line.partition(":")[2].strip() for line in lines[1:] if line.lower().startswith("host:")]
        answer = dict(parse_qsl(target.query, keep_blank_values=True, max_num_fields=32))
        if method != "GET" or hosts != [self._authority] or target.path != "/callback":
            return "404 Not Found", "There is nothing here."
        if not self._state or answer.get("state") != self._state or self._answer.done():
            return "400 Bad Request", "This is not the answer to the login that is under way."
        self._answer.set_result(answer)
        return "200 OK", "Access was refused." if "error" in answer else "This is done."


async def login(spec: ServerSpec, dial: Dial, emit: Emit, *, port: int = 0, scopes: tuple[str, ...] = ()) -> None:
    """Logs a person in, and shows that the server takes the token. Errors: `HttpError`, `OSError`."""
    assert spec.url is not None
    opening = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": CLIENT}
    message = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": opening}).encode()
    async with Loopback(emit).listening(port) as browser:
        authorizer = Authorizer(spec, dial, Told(emit), consent=browser, wider=scopes)
        plain = HttpClient(spec.name, spec.url, {}, dial, _MOST_BYTES)
        async with asyncio.timeout(_REQUEST_SECONDS), await plain.request("POST", _HEADERS, message) as response:
            challenge = Challenge.read(response.headers.get("www-authenticate", ""))
        await authorizer.renew(401, challenge, None)
        wanting = Authorized(spec.name, spec.url, dial, _MOST_BYTES, authorizer)
        async with asyncio.timeout(_REQUEST_SECONDS), await wanting.request("POST", _HEADERS, message) as response:
            if response.status in (401, 403):
                raise OAuthError(f"it refuses the token that it was given for: HTTP {response.status}")


class _Decisions:
    """Of the gate: what it refuses is in the error that follows."""

    def emit(self, event: dict[str, Any]) -> None: ...

    async def drain(self) -> None: ...


def _say(event: dict[str, Any]) -> None:
    print(json.dumps(event), flush=True)


async def _main(config: configuration.SidecarConfig, port: int, scopes: tuple[str, ...]) -> int:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_reader(STDIN, lambda: None if os.read(STDIN, 4096) else task.cancel())
    addresses = AddressPolicy(host=config.host_addresses)
    resolver = resolver_for(config.resolver)
    gate = Gate(rules=config.egress, resolver=resolver, record=_Decisions(), addresses=addresses)
    try:
        await login(config.servers[0], gate.dial, _say, port=port, scopes=scopes)
    except TimeoutError:
        _say({"event": "failed", "reason": f"it did not answer within {_REQUEST_SECONDS:g} s"})
        return 1
    except (HttpError, OSError) as e:
        _say({"event": "failed", "reason": str(e)})
        return 1
    return 0


def main(arguments: list[str]) -> int:
    """0 after a login, 1 with a `failed` event."""
    parser = argparse.ArgumentParser(prog="python -m images.sidecar.login")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--scope", action="append", default=[])
    options = parser.parse_args(arguments)
    try:
        config = configuration.parse(read_config_line(STDIN))
        if config.ca_bundle:
            trust(config.ca_bundle)
    except ConfigError as error:
        print(f"login: {error}", file=sys.stderr)
        return EXIT_CONFIG
    with contextlib.suppress(asyncio.CancelledError):
        return asyncio.run(_main(config, options.port, tuple(options.scope)))
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Requests to authorization servers, under the egress rules of the server that they are for; discovery with them.

Every request is one connection through the gate, so a metadata document can name any host and reach none that the plan
does not allow. Redirects are not followed, answers are small, and each request has its time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec

from images.sidecar.httpclient import HttpClient, HttpError
from images.sidecar.oauth import (
    Challenge,
    Discovered,
    OAuthError,
    ResourceMetadata,
    ServerMetadata,
    chosen_issuer,
    endpoint,
    issuer_checked,
    origin,
    resource_checked,
    resource_documents,
    scopes_in,
    server_documents,
    shown,
)
from images.sidecar.seams import Dial

_MOST_BYTES = 64 << 10
_REQUEST_SECONDS = 10.0
_DISCOVERY_SECONDS = 20.0
DPOP_ALGORITHM = "ES256"

T = TypeVar("T")


class Fault(msgspec.Struct, frozen=True):
    """An error response (RFC 6749 §5.2)."""

    error: str
    error_description: str = ""


class Refused(OAuthError):
    """The authorization server has understood and says no: asking the same again brings nothing."""

    def __init__(self, issuer: str, fault: Fault) -> None:
        why = f": {shown(fault.error_description)}" if fault.error_description else ""
        super().__init__(f"{shown(issuer)} refused ({shown(fault.error, 60)}){why}")
        self.error = fault.error


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def read(self, kind: type[T], what: str) -> T:
        """The body as JSON of that shape; unknown keys are skipped. Errors: `OAuthError`."""
        try:
            return msgspec.json.decode(self.body, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
            raise OAuthError(f"{what} is not what the protocol says ({shown(str(e))})") from None

    def fault(self) -> Fault | None:
        try:
            return msgspec.json.decode(self.body, type=Fault)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None


class Fetch:
    """The requests for one remote server."""

    def __init__(self, server: str, dial: Dial) -> None:
        self._server, self._dial = server, dial

    async def get(self, url: str) -> Answer:
        return await self._request("GET", url, {"Accept": "application/json"}, b"")

    async def post_form(self, url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> Answer:
        kind = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        return await self._request("POST", url, kind | dict(headers), urlencode(form).encode())

    async def post_json(self, url: str, value: object) -> Answer:
        kind = {"Content-Type": "application/json", "Accept": "application/json"}
        return await self._request("POST", url, kind, msgspec.json.encode(value))

    async def _request(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        host = urlsplit(endpoint(url, "a URL of its authorization")).hostname
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                client = HttpClient(self._server, url, {}, self._dial, _MOST_BYTES)
                async with await client.request(method, headers, body) as response:
                    return Answer(status=response.status, headers=response.headers, body=await response.body())
        except TimeoutError:
            raise OAuthError(f"{host} did not answer within {_REQUEST_SECONDS:g} s") from None
        except OAuthError:
            raise
        except HttpError as e:
            raise OAuthError(f"its authorization needs {host}: {e}") from e


async def discover(fetch: Fetch, url: str, challenge: Challenge, issuer: str | None) -> Discovered:
    """Which authorization server is to be asked for a token for `url`. Errors: `OAuthError`."""
    try:
        async with asyncio.timeout(_DISCOVERY_SECONDS):
            found = await _resource(fetch, url, challenge)
            if found is None:
                # The revision of 2025-03-26: the server is its own authorization server, perhaps without metadata.
                scheme, _, _ = origin(url)
                own = f"{scheme}://{urlsplit(url).netloc}"
                if issuer is not None and issuer != own:
                    raise OAuthError(f"it publishes no metadata, and `issuer` of its auth says {issuer}")
                server = await _server(fetch, own) or ServerMetadata.assumed(endpoint(own, "it"))
                return Discovered(resource=url, server=server)
            wanted = chosen_issuer(found, issuer)
            known = await _server(fetch, wanted)
    except TimeoutError:
        raise OAuthError(f"its metadata did not come within {_DISCOVERY_SECONDS:g} s") from None
    if known is None:
        raise OAuthError(f"{shown(wanted)} publishes no metadata")
    takes_bound = challenge.dpop or found.dpop_bound_access_tokens_required
    return Discovered(
        resource=found.resource,
        server=known,
        scopes=scopes_in(" ".join(found.scopes_supported or ())),
        dpop=takes_bound and DPOP_ALGORITHM in known.dpop_signing_alg_values_supported,
    )


async def _resource(fetch: Fetch, url: str, challenge: Challenge) -> ResourceMetadata | None:
    places = resource_documents(url)
    if challenge.metadata:
        # Only from the origin that it describes: a refusal must not send us to read elsewhere.
        if origin(endpoint(challenge.metadata, "the place of its metadata")) != origin(url):
            raise OAuthError(f"it says that its metadata is elsewhere ({shown(challenge.metadata)})")
        places = [challenge.metadata]
    for place in places:
        answer = await fetch.get(place)
        if answer.status == 200:
            return resource_checked(answer.read(ResourceMetadata, f"its metadata at {shown(place)}"), url)
    if challenge.metadata:
        raise OAuthError(f"its metadata at {shown(challenge.metadata)} is not there: HTTP {answer.status}")
    return None


async def _server(fetch: Fetch, issuer: str) -> ServerMetadata | None:
    for place in server_documents(issuer):
        answer = await fetch.get(place)
        if answer.status == 200:
            return issuer_checked(answer.read(ServerMetadata, f"the metadata at {shown(place)}"), issuer)
    return None

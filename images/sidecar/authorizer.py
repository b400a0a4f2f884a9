"""The tokens of one remote server: got when it asks for them, renewed before they lapse, sent to its origin only.

One authorizer serves all sessions with its server. Whatever a server or an authorization server answers, a request is
repeated a few times at most, tokens are got a few times a minute at most, and a refusal is remembered for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import msgspec

from images.sidecar.budget import Budget
from images.sidecar.httpclient import HttpClient, Response
from images.sidecar.joint import outcome
from images.sidecar.oauth import Challenge, Client, Discovered, OAuthError, Token, covers, origin
from images.sidecar.oauth_fetch import Fetch, Refused, discover
from images.sidecar.oauth_grants import LONGEST_NONCE, Consent, Grants
from images.sidecar.seams import Dial, OAuth, ServerSpec

_ROUNDS = 4  # a token, a wider one, a nonce, and the request itself
_MARGIN_SECONDS = 10.0
_RENEWALS, _WINDOW_SECONDS = 8, 60.0
_SCOPES_SHOWN = 8
_ENDED = ("invalid_grant", "invalid_client", "unauthorized_client")
_REFUSED_SECONDS, _FAILED_SECONDS = 30.0, 2.0


class Custody(Protocol):
    """Where tokens go beside the request that needs them."""

    def emit(self, event: dict[str, Any]) -> None:
        """Records an event, without secrets."""
        ...

    def hide(self, *secrets: str) -> None:
        """Must not be written anywhere from now on."""
        ...

    def keep(self, server: str, credential: dict[str, Any]) -> None:
        """Hands a login back to who keeps it: the former one may be worth nothing any more."""
        ...


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """A login as it is kept between runs (JSON): the token, whose it is, and what renews it."""

    resource: str
    issuer: str
    client_id: str
    client_secret: str = ""
    method: str = "none"
    access_token: str
    dpop: bool = False
    lapses: float | None = None
    refresh_token: str = ""
    scopes: list[str] = []
    key: str = ""
    """PEM; the key that the tokens are bound to."""


class Authorizer:
    """Gets and renews the tokens of one server."""

    def __init__(
        self,
        spec: ServerSpec,
        dial: Dial,
        custody: Custody,
        *,
        consent: Consent | None = None,
        wider: tuple[str, ...] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`wider`: scopes to ask for beside those that the server wants."""
        if spec.oauth is None or spec.url is None:
            raise ValueError(f"{spec.name} does not authenticate by OAuth")
        self._name, self._url, self._oauth = spec.name, spec.url, spec.oauth
        self._custody, self._clock, self._wider = custody, clock, wider
        self._fetch = Fetch(spec.name, dial)
        self._grants = Grants(self._fetch, spec.oauth, consent=consent, clock=clock)
        self._found: Discovered | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._renewals: deque[float] = deque(maxlen=_RENEWALS)
        self._failed: tuple[float, str] = (0.0, "")
        self.token = self._restored(spec.oauth)

    def _restored(self, oauth: OAuth) -> Token | None:
        """The token of a login, if it is one for this server."""
        if oauth.credential is None:
            return None
        kept = msgspec.convert(dict(oauth.credential), Credential)
        # A declaration may have been changed since: the token belongs to what it was got for.
        if not covers(kept.resource, self._url) or oauth.issuer not in (None, kept.issuer):
            return None
        self._grants.client = Client(
            issuer=kept.issuer, id=kept.client_id, secret=kept.client_secret, method=kept.method
        )
        if kept.key:
            self._grants.prove(kept.key)
        return Token(
            value=kept.access_token,
            issuer=kept.issuer,
            dpop=kept.dpop,
            lapses=kept.lapses,
            refresh=kept.refresh_token,
            scopes=tuple(kept.scopes),
        )

    async def close(self) -> None:
        """Lets a renewal under way end: an authorization server may have replaced a refresh token already."""
        if self._renewing is not None:
            with contextlib.suppress(OAuthError, TimeoutError):
                await asyncio.wait_for(self._renewing, 2.0)

    # --- for requests

    async def current(self) -> Token | None:
        """The token to send; one that lapses is renewed first if nobody needs to be asked. Errors: `OAuthError`."""
        token = self.token
        if token is not None and token.lapses is not None and token.lapses - self._clock() < _MARGIN_SECONDS:
            if token.refresh or self._oauth.grant != "authorization_code":
                await self.renew(0, Challenge(), token)
            return self.token
        return token

    def headers(self, token: Token | None, method: str, url: str) -> dict[str, str]:
        """What carries the token with one request to the server itself."""
        if token is None or origin(url) != origin(self._url):
            return {}
        if not token.dpop:
            return {"Authorization": f"Bearer {token.value}"}
        prover, place = self._grants.prove(), url.partition("?")[0]
        proof = prover.proof(method, place, prover.nonces.get(str(origin(url)), ""), token.value)
        return {"Authorization": f"DPoP {token.value}", "DPoP": proof}

    def heard(self, response: Response, url: str) -> None:
        """Keeps the nonce that the next proof has to show (RFC 9449 §9)."""
        nonce = response.headers.get("dpop-nonce", "")
        if nonce and len(nonce) <= LONGEST_NONCE and self._grants.prover is not None:
            self._grants.prover.nonces[str(origin(url))] = nonce

    async def renew(self, status: int, challenge: Challenge, used: Token | None) -> None:
        """A token after a refusal of the `used` one (0: before it). Errors: `OAuthError`."""
        if self.token is not used:
            return  # somebody else has seen to it meanwhile
        if self._renewing is None:
            task = asyncio.get_running_loop().create_task(self._renew(status, challenge, used))
            task.add_done_callback(self._renewed)
            self._renewing = task
        # Apart: who asked may go away, and a refresh token that was used must not be lost with its successor.
        await outcome(self._renewing)

    def _renewed(self, task: asyncio.Task[None]) -> None:
        self._renewing = None
        if not task.cancelled():
            task.exception()  # told to whoever waits; nobody may

    async def _renew(self, status: int, challenge: Challenge, used: Token | None) -> None:
        now = self._clock()
        until, why = self._failed
        if now < until:
            raise OAuthError(why)
        if len(self._renewals) == _RENEWALS and now - self._renewals[0] < _WINDOW_SECONDS:
            raise OAuthError(f"it wanted {_RENEWALS} tokens within {_WINDOW_SECONDS:g} s; wait a minute")
        self._renewals.append(now)
        try:
            token, found = await self._obtain(status, challenge, used)
        except OAuthError as e:
            pause = _REFUSED_SECONDS if isinstance(e, Refused) else _FAILED_SECONDS
            self._failed = (self._clock() + pause, str(e))
            self._custody.emit({"event": "auth", "server": self._name, "decision": "failed", "reason": str(e)})
            raise
        self._keep(token, found)
        self.token = token

    async def _obtain(self, status: int, challenge: Challenge, used: Token | None) -> tuple[Token, Discovered]:
        if status == 403 and set(challenge.scopes) <= set(used.scopes if used else ()):
            named = " ".join(challenge.scopes) or "that is not named"
            raise OAuthError(f"it refuses a token that was asked for with the scope {named}")
        alone = self._oauth.grant == "authorization_code" and not self._grants.can_ask
        refresh = status != 403 and used is not None and bool(used.refresh)
        if alone and not refresh:
            raise self._login(challenge)
        if status == 401 or self._found is None:
            # It may have gone over to another authorization server.
            self._found = await discover(self._fetch, self._url, challenge, self._oauth.issuer)
        found = self._found
        if refresh and used is not None and used.issuer == found.server.issuer:
            try:
                return await self._grants.refresh(found, used), found
            except Refused as e:
                if alone and e.error in _ENDED:
                    self.token = replace(used, refresh="")  # it is worth nothing any more, and is not tried again
                    raise OAuthError(f"its login has ended ({e}): mlld sandbox login {self._name}") from None
                if alone:
                    raise
        if alone:
            raise self._login(challenge)
        return await self._grants.obtain(found, self._scopes(found, challenge, used)), found

    def _login(self, challenge: Challenge) -> OAuthError:
        # Quoted: a server that names its scopes must not write a command for whoever copies this line.
        scopes = "".join(f" --scope {shlex.quote(scope)}" for scope in challenge.scopes[:_SCOPES_SHOWN])
        return OAuthError(f"somebody has to log in to it: mlld sandbox login {self._name}{scopes}")

    def _scopes(self, found: Discovered, challenge: Challenge, used: Token | None) -> tuple[str, ...]:
        """What to ask for: what there was and what is wanted now, within what the declaration allows."""
        former = used.scopes if used is not None and used.issuer == found.server.issuer else ()
        declared = self._oauth.scopes
        if declared is not None:
            beyond = [scope for scope in (*challenge.scopes, *self._wider) if scope not in declared]
            if beyond:
                raise OAuthError(f"it wants the scope {' '.join(beyond)}, which `scopes` of its auth does not have")
            return declared
        wanted = [*((*former, *challenge.scopes) or found.scopes), *self._wider]
        offline = self._oauth.grant == "authorization_code" and "offline_access" in found.server.scopes_supported
        return tuple(dict.fromkeys((*wanted, "offline_access") if offline else wanted))

    def _keep(self, token: Token, found: Discovered) -> None:
        client, prover = self._grants.client, self._grants.prover
        key = prover.pem if prover is not None and token.dpop else ""
        secret = client.secret if client is not None else ""
        self._custody.hide(token.value, token.refresh, secret, key)
        lapses = None if token.lapses is None else round(token.lapses - self._clock())
        event = {"grant": self._oauth.grant, "issuer": token.issuer, "scopes": list(token.scopes), "seconds": lapses}
        self._custody.emit({"event": "auth", "server": self._name, "decision": "allow", **event})
        if self._oauth.grant == "authorization_code" and client is not None:
            kept = Credential(
                resource=found.resource,
                issuer=token.issuer,
                client_id=client.id,
                client_secret=client.secret,
                method=client.method,
                access_token=token.value,
                dpop=token.dpop,
                lapses=token.lapses,
                refresh_token=token.refresh,
                scopes=list(token.scopes),
                key=key,
            )
            self._custody.keep(self._name, msgspec.to_builtins(kept))


class Authorized(HttpClient):
    """Requests to a server that wants tokens. What it refuses is sent again with a better one, a few times."""

    def __init__(
        self, server: str, url: str, dial: Dial, limit: int, authorizer: Authorizer, budget: Budget | None = None
    ) -> None:
        super().__init__(server, url, {}, dial, limit, budget)
        self._authorizer = authorizer

    async def request(
        self, method: str, headers: Mapping[str, str], body: bytes = b"", target: str | None = None
    ) -> Response:
        authorizer, address = self._authorizer, self.address
        url = f"{address.scheme}://{address.authority}{target or address.target}"
        for turn in range(_ROUNDS):
            token = await authorizer.current()
            carried = authorizer.headers(token, method, url)
            response = await super().request(method, {**headers, **carried}, body, target)
            authorizer.heard(response, url)
            challenge = Challenge.read(response.headers.get("www-authenticate", ""))
            refused = response.status == 401 or (response.status == 403 and challenge.error == "insufficient_scope")
            if not refused or turn == _ROUNDS - 1:
                break
            async with response:
                pass
            if challenge.error != "use_dpop_nonce":
                await authorizer.renew(response.status, challenge, token)
        return response

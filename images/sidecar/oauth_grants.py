"""Token requests: who we are to an authorization server, and each grant that gets a token from it."""

from __future__ import annotations

import secrets
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Protocol
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

import msgspec
from msgspec import Meta

from images.sidecar.masking import MASK
from images.sidecar.oauth import (
    Client,
    Discovered,
    OAuthError,
    ServerMetadata,
    Token,
    TokenAnswer,
    endpoint,
    origin,
    pkce,
    redirected_code,
    shown,
)
from images.sidecar.oauth_fetch import Answer, Fault, Fetch, Refused
from images.sidecar.seams import OAuth

if TYPE_CHECKING:
    from images.sidecar.oauth_keys import Prover

CLIENT_NAME = "mlld sandbox"
_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_ID_JAG = "urn:ietf:params:oauth:token-type:id-jag"
_ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"
_SECRET_FIELDS = (
    "client_secret", "client_assertion", "assertion", "refresh_token", "code", "code_verifier", "subject_token",
)  # fmt: skip
_SHORTEST_SECRET = 4
LONGEST_NONCE = 1024
_WITHOUT_METADATA = ("client_secret_basic",)  # RFC 8414 §2


class Consent(Protocol):
    """A person at a browser."""

    redirect_uri: str

    async def ask(self, url: str) -> Mapping[str, str]:
        """Has the URL opened; the parameters of the redirect that comes back. Errors: `OAuthError`."""
        ...


class Registered(msgspec.Struct, frozen=True):
    """A registration response (RFC 7591 §3.2.1)."""

    client_id: Annotated[str, Meta(min_length=1, max_length=2048)]
    client_secret: Annotated[str, Meta(max_length=4096)] = ""
    token_endpoint_auth_method: str | None = None


class Grants:
    """Gets tokens for one remote server in the way that its declaration says."""

    def __init__(
        self,
        fetch: Fetch,
        oauth: OAuth,
        *,
        consent: Consent | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._fetch, self._oauth, self._consent, self._clock = fetch, oauth, consent, clock
        self.client: Client | None = None
        """Who we are, once it is known; for its issuer only."""
        self.prover: Prover | None = None
        """The key that tokens are bound to, if they are."""

    def prove(self, pem: str = "") -> Prover:
        """The key for tokens that are bound to one: the one there is, that of `pem`, or a new one."""
        if self.prover is None:
            from images.sidecar.oauth_keys import Prover

            self.prover = Prover(pem)
        return self.prover

    @property
    def can_ask(self) -> bool:
        """Whether there is a person who could consent."""
        return self._consent is not None

    async def obtain(self, found: Discovered, scopes: tuple[str, ...]) -> Token:
        """A new token, by the declared grant. Errors: `OAuthError`; `Refused` if the server has said no."""
        match self._oauth.grant:
            case "client_credentials":
                return await self._token(found, {"grant_type": "client_credentials"}, scopes)
            case "jwt_bearer":
                return await self._bearer(found, self._oauth.assertion, scopes)
            case "identity_assertion":
                return await self._bearer(found, await self._identity(found, scopes), scopes)
            case "authorization_code":
                return await self._code(found, scopes)

    async def refresh(self, found: Discovered, former: Token) -> Token:
        """The successor of a token (RFC 6749 §6); scopes stay as they are."""
        form = {"grant_type": "refresh_token", "refresh_token": former.refresh}
        return await self._token(found, form, former.scopes, former=former, scoped=False)

    # --- grants

    async def _bearer(self, found: Discovered, assertion: str, scopes: tuple[str, ...]) -> Token:
        """RFC 7523 §2.1."""
        return await self._token(found, {"grant_type": _JWT_BEARER, "assertion": assertion}, scopes)

    async def _identity(self, found: Discovered, scopes: tuple[str, ...]) -> str:
        """An identity assertion for this authorization server, of the enterprise's own (RFC 8693, ID-JAG)."""
        provider = self._oauth.provider
        if provider is None:
            raise OAuthError("its auth names no identity provider")
        form = {
            "grant_type": _TOKEN_EXCHANGE,
            "requested_token_type": _ID_JAG,
            "subject_token": provider.id_token,
            "subject_token_type": _ID_TOKEN,
            "audience": found.server.issuer,
            "resource": found.resource,
            **({"scope": " ".join(scopes)} if scopes else {}),
        }
        issuer = urlunsplit((*urlsplit(provider.token_endpoint)[:2], "", "", ""))
        method = "client_secret_basic" if provider.client_secret else "none"
        client = Client(issuer=issuer, id=provider.client_id, secret=provider.client_secret, method=method)
        answer = await self._send(ServerMetadata(issuer=issuer, token_endpoint=provider.token_endpoint), client, form)
        return answer.read(TokenAnswer, f"the assertion of {shown(issuer)}").access_token

    async def _code(self, found: Discovered, scopes: tuple[str, ...]) -> Token:
        """The authorization code with PKCE (OAuth 2.1 §4.1)."""
        consent, server = self._consent, found.server
        if consent is None:
            raise OAuthError("somebody has to log in to it")
        if "S256" not in server.code_challenge_methods_supported:
            raise OAuthError(f"{shown(server.issuer)} does not offer PKCE (S256): a code could be stolen on its way")
        target = endpoint(server.authorization_endpoint, f"the authorization endpoint of {shown(server.issuer)}")
        client = await self._identify(server)
        verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(24)
        query = {
            "response_type": "code",
            "client_id": client.id,
            "redirect_uri": consent.redirect_uri,
            "state": state,
            "code_challenge": pkce(verifier),
            "code_challenge_method": "S256",
            "resource": found.resource,
            **({"scope": " ".join(scopes)} if scopes else {}),
            # OpenID Connect Core §11: without it a server may leave the refresh token out.
            **({"prompt": "consent"} if "offline_access" in scopes else {}),
        }
        joint = "&" if urlsplit(target).query else "?"
        answer = await consent.ask(f"{target}{joint}{urlencode(query)}")
        code = redirected_code(answer, state=state, server=server)
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "code_verifier": verifier,
            "redirect_uri": consent.redirect_uri,
        }
        return await self._token(found, form, scopes, scoped=False)

    # --- the request

    async def _token(
        self,
        found: Discovered,
        form: dict[str, str],
        scopes: tuple[str, ...],
        *,
        former: Token | None = None,
        scoped: bool = True,
    ) -> Token:
        server = found.server
        client = await self._identify(server)
        asked = {"scope": " ".join(scopes)} if scoped and scopes else {}
        bound = found.dpop or (former is not None and former.dpop)
        if bound:
            self.prove()
        answer = await self._send(server, client, form | {"resource": found.resource} | asked, bound=bound)
        said = answer.read(TokenAnswer, f"the token of {shown(server.issuer)}")
        return said.token(server.issuer, scopes, self._clock(), former)

    async def _send(
        self, server: ServerMetadata, client: Client, form: dict[str, str], *, bound: bool = False
    ) -> Answer:
        """A request at a token endpoint; the answer is a success. Errors: `OAuthError`, `Refused`."""
        for first in (True, False):
            signed, headers = self._authenticated(server, client, form)
            prover = self.prover if bound else None
            if prover is not None:
                url = server.token_endpoint.partition("?")[0]
                place = str(origin(url))
                headers["DPoP"] = prover.proof("POST", url, prover.nonces.get(place, ""))
            answer = await self._fetch.post_form(server.token_endpoint, signed, headers)
            if answer.status == 200:
                return answer
            fault = answer.fault()
            if fault is None:
                break
            fault = _without(fault, (client.secret, *(signed[name] for name in _SECRET_FIELDS if name in signed)))
            nonce = answer.headers.get("dpop-nonce", "")
            wanted = fault.error == "use_dpop_nonce" and 0 < len(nonce) <= LONGEST_NONCE
            if not (first and prover is not None and wanted):
                raise Refused(server.issuer, fault)
            prover.nonces[place] = nonce
        raise OAuthError(f"{shown(server.issuer)} gives no token: HTTP {answer.status}")

    def _authenticated(
        self, server: ServerMetadata, client: Client, form: Mapping[str, str]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Form and headers of a request that says who we are (RFC 6749 §2.3)."""
        match client.method:
            case "client_secret_basic":
                pair = f"{quote(client.id, safe='')}:{quote(client.secret, safe='')}"
                return dict(form), {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}
            case "client_secret_post":
                return {**form, "client_id": client.id, "client_secret": client.secret}, {}
            case "private_key_jwt":
                from images.sidecar.oauth_keys import assertion

                oauth = self._oauth
                said = assertion(client.id, server.issuer, oauth.private_key, oauth.algorithm)
                signed = {"client_id": client.id, "client_assertion_type": _ASSERTION_TYPE, "client_assertion": said}
                return {**form, **signed}, {}
            case _:
                return {**form, **({"client_id": client.id} if client.id else {})}, {}

    # --- who we are

    async def _identify(self, server: ServerMetadata) -> Client:
        """Registered beforehand, by a metadata document, else registered now; never what another issuer knows."""
        if self.client is None or self.client.issuer != server.issuer:
            self.client = self._known(server) or await self._register(server)
        return self.client

    def _known(self, server: ServerMetadata) -> Client | None:
        oauth, offered = self._oauth, server.token_endpoint_auth_methods_supported or _WITHOUT_METADATA
        if not oauth.client_id:
            if oauth.client_metadata and server.client_id_metadata_document_supported:
                return Client(issuer=server.issuer, id=oauth.client_metadata)
            # RFC 7523 §3.1: the assertion says who it is.
            return Client(issuer=server.issuer, id="") if oauth.grant == "jwt_bearer" else None
        if oauth.private_key:
            algorithms = server.token_endpoint_auth_signing_alg_values_supported
            if algorithms and oauth.algorithm not in algorithms:
                raise OAuthError(f"{shown(server.issuer)} takes {', '.join(algorithms[:8])}, not {oauth.algorithm}")
            return Client(issuer=server.issuer, id=oauth.client_id, method="private_key_jwt")
        if not oauth.client_secret:
            return Client(issuer=server.issuer, id=oauth.client_id)
        method = next((m for m in ("client_secret_basic", "client_secret_post") if m in offered), None)
        if method is None:
            raise OAuthError(f"{shown(server.issuer)} takes no client secret, but {', '.join(offered[:8])}")
        return Client(issuer=server.issuer, id=oauth.client_id, secret=oauth.client_secret, method=method)

    async def _register(self, server: ServerMetadata) -> Client:
        """Dynamic registration (RFC 7591)."""
        if self._consent is None or not server.registration_endpoint:
            raise OAuthError(
                f"{shown(server.issuer)} registers nobody by itself: register a client there, and put its `clientId` "
                "into the auth of the server"
            )
        target = endpoint(server.registration_endpoint, f"the registration endpoint of {shown(server.issuer)}")
        offered = server.token_endpoint_auth_methods_supported or _WITHOUT_METADATA
        preferred = ("none", "client_secret_basic", "client_secret_post")
        asked = next((method for method in preferred if method in offered), "none")
        metadata: dict[str, Any] = {
            "client_name": CLIENT_NAME,
            "application_type": "native",
            "redirect_uris": [self._consent.redirect_uri],
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": asked,
        }
        answer = await self._fetch.post_json(target, metadata)
        if answer.status not in (200, 201):
            raise Refused(server.issuer, answer.fault() or Fault(error=f"registration: HTTP {answer.status}"))
        made = answer.read(Registered, f"the registration at {shown(server.issuer)}")
        method = made.token_endpoint_auth_method or asked
        if method not in preferred or (method != "none" and not made.client_secret):
            raise OAuthError(
                f"{shown(server.issuer)} registered a client for {shown(method, 60)}, which cannot be done"
            )
        return Client(issuer=server.issuer, id=made.client_id, secret=made.client_secret, method=method)


def _without(fault: Fault, secrets: Iterable[str]) -> Fault:
    """The fault without what we have sent: its text goes to the agent, and a server may say back whatever it was told."""
    code, text = fault.error, fault.error_description
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET:
            code, text = code.replace(secret, MASK), text.replace(secret, MASK)
    return Fault(error=code, error_description=text)

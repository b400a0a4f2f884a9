"""OAuth for remote servers, as far as nothing is sent: challenges, metadata, resources, scopes, redirects.

Names are those of the RFCs: 6749 and OAuth 2.1 (grants), 8414 (authorization server metadata), 9728 (protected resource
metadata), 8707 (`resource`), 7636 (PKCE), 9207 (`iss`), 9449 (DPoP). Everything read here comes from servers that are
not trusted: it is bounded, checked, and a fault is an `OAuthError` with the next step.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec import Meta

from images.sidecar.httpclient import HttpError

PROTECTED_RESOURCE = "oauth-protected-resource"
_SERVER_DOCUMENTS = ("oauth-authorization-server", "openid-configuration")
_LONGEST_CHALLENGE = 8 << 10
_LONGEST_URL = 2048
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PART = re.compile(
    rf'(?P<name>{_NAME})[ \t]*=[ \t]*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s,"]+))|(?P<scheme>{_NAME})'
)
# RFC 6749 appendix A.4: without quotes, backslashes and control characters a scope can stand in a header and a message.
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,256}")
_MOST_SCOPES = 64
# What can stand in an Authorization header: a token with a line end in it would write further headers.
_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}")

_Text = Annotated[str, Meta(max_length=_LONGEST_URL)]
_Texts = Annotated[list[_Text], Meta(max_length=256)]


class OAuthError(HttpError):
    """No token can be had; the text says why and what to do, and holds no secret."""


# --- challenges


@dataclass(frozen=True, kw_only=True, slots=True)
class Challenge:
    """What a refused request is told to bring (RFC 9110 §11.6.1, RFC 6750 §3)."""

    scheme: str = ""
    error: str = ""
    scopes: tuple[str, ...] = ()
    metadata: str = ""
    """URL of the protected resource metadata (RFC 9728 §5.1)."""
    dpop: bool = False
    """Whether the resource takes tokens that are bound to a key."""

    @classmethod
    def read(cls, header: str) -> Challenge:
        """The challenge of a `WWW-Authenticate` header; where it offers Bearer and DPoP, what both say together."""
        found = [each for each in _schemes(header[:_LONGEST_CHALLENGE]) if each[0] in ("bearer", "dpop")]
        if not found:
            return cls()
        said = {name: value for _, parameters in reversed(found) for name, value in parameters.items()}
        return cls(
            scheme=found[0][0],
            error=said.get("error", ""),
            scopes=scopes_in(said.get("scope", "")),
            metadata=said.get("resource_metadata", ""),
            dpop=any(scheme == "dpop" for scheme, _ in found),
        )


def _schemes(header: str) -> Iterator[tuple[str, dict[str, str]]]:
    scheme, said = "", dict[str, str]()
    for part in _PART.finditer(header):
        if part["scheme"] is not None:
            if scheme:
                yield scheme, said
            scheme, said = part["scheme"].lower(), {}
        else:
            quoted = part["quoted"]
            value = part["bare"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            said.setdefault(part["name"].lower(), value)
    if scheme:
        yield scheme, said


def scopes_in(text: str) -> tuple[str, ...]:
    """The scopes of a space-separated list, each once, without what is none."""
    return tuple(dict.fromkeys(word for word in text.split() if _SCOPE.fullmatch(word)))[:_MOST_SCOPES]


# --- URLs


def endpoint(url: str, what: str) -> str:
    """A URL that a request with credentials or a code may go to: https, or http on loopback. Errors: `OAuthError`."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or len(url) > _LONGEST_URL or not url.isascii() or not url.isprintable() or " " in url:
        raise OAuthError(f"{what} is no URL")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise OAuthError(f"{what} must have no user, password or fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and host in _LOOPBACK):
        raise OAuthError(f"{what} at {host} is not https, so that anybody on the way could read a token")
    return url


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what a credential belongs to."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def resource_documents(url: str) -> list[str]:
    """Where the metadata of a protected resource may lie (RFC 9728 §3.1): below its path, then at the root."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    below = [urlunsplit((parts.scheme, parts.netloc, f"/.well-known/{PROTECTED_RESOURCE}{path}", parts.query, ""))]
    root = [urlunsplit((parts.scheme, parts.netloc, f"/.well-known/{PROTECTED_RESOURCE}", "", ""))]
    return below + root if path or parts.query else root


def server_documents(issuer: str) -> list[str]:
    """Where the metadata of an authorization server may lie: RFC 8414 §3.1, then OpenID Connect Discovery §4."""
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    places = [f"/.well-known/{name}{path}" for name in _SERVER_DOCUMENTS]
    if path:
        places.append(f"{path}/.well-known/{_SERVER_DOCUMENTS[1]}")
    return [urlunsplit((parts.scheme, parts.netloc, place, "", "")) for place in places]


def covers(resource: str, url: str) -> bool:
    """Whether a resource identifier is that of the URL, or of something around it at the same origin."""
    try:
        if origin(resource) != origin(url):
            return False
    except ValueError:
        return False
    outer, inner = urlsplit(resource), urlsplit(url)
    above, below = outer.path.rstrip("/"), inner.path.rstrip("/")
    return not outer.fragment and outer.query in ("", inner.query) and f"{below}/".startswith(f"{above}/")


# --- metadata


class ResourceMetadata(msgspec.Struct, frozen=True):
    """Protected resource metadata (RFC 9728 §2), as far as it is used."""

    resource: _Text
    authorization_servers: Annotated[list[_Text], Meta(max_length=16)] = msgspec.field(default_factory=list)
    scopes_supported: _Texts | None = None
    dpop_bound_access_tokens_required: bool = False


class ServerMetadata(msgspec.Struct, frozen=True):
    """Authorization server metadata (RFC 8414 §2), as far as it is used."""

    issuer: _Text
    token_endpoint: _Text = ""
    authorization_endpoint: _Text = ""
    registration_endpoint: _Text = ""
    scopes_supported: _Texts = msgspec.field(default_factory=list)
    token_endpoint_auth_methods_supported: _Texts = msgspec.field(default_factory=list)
    token_endpoint_auth_signing_alg_values_supported: _Texts = msgspec.field(default_factory=list)
    code_challenge_methods_supported: _Texts = msgspec.field(default_factory=list)
    client_id_metadata_document_supported: bool = False
    authorization_response_iss_parameter_supported: bool = False
    dpop_signing_alg_values_supported: _Texts = msgspec.field(default_factory=list)

    @classmethod
    def assumed(cls, issuer: str) -> ServerMetadata:
        """That of a server which publishes none: the places and the method of the revision of 2025-03-26."""
        return cls(
            issuer=issuer,
            token_endpoint=f"{issuer}/token",
            authorization_endpoint=f"{issuer}/authorize",
            registration_endpoint=f"{issuer}/register",
            code_challenge_methods_supported=["S256"],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Discovered:
    """What discovery found out: for which resource to ask, whom, and for which scopes if nothing else says."""

    resource: str
    server: ServerMetadata
    scopes: tuple[str, ...] = ()
    dpop: bool = False
    """Whether tokens are to be bound to a key: the resource takes such, and the server makes them."""


def resource_checked(found: ResourceMetadata, url: str) -> ResourceMetadata:
    """Errors: `OAuthError` if the metadata is that of another resource: a token for it must not be asked for here."""
    if not covers(found.resource, url):
        raise OAuthError(f"its metadata is for another resource ({shown(found.resource)})")
    return found


def issuer_checked(found: ServerMetadata, issuer: str) -> ServerMetadata:
    """Errors: `OAuthError` if the document is that of another issuer (RFC 8414 §3.3: compared character by character)."""
    if found.issuer != issuer:
        raise OAuthError(f"the metadata of {shown(issuer)} names another issuer ({shown(found.issuer)})")
    endpoint(found.token_endpoint, f"the token endpoint of {shown(issuer)}")
    return found


def chosen_issuer(found: ResourceMetadata, wanted: str | None) -> str:
    """The authorization server to use. A declared one is the only one that credentials may go to. Errors: `OAuthError`."""
    listed = found.authorization_servers
    if not listed:
        raise OAuthError("its metadata names no authorization server")
    if wanted is not None and wanted not in listed:
        others = ", ".join(shown(each, 80) for each in listed[:3])
        raise OAuthError(f"it wants tokens of {others}, and `issuer` of its auth says {wanted}")
    return endpoint(wanted or listed[0], "its authorization server")


# --- tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Client:
    """Who we are to one authorization server, and to no other."""

    issuer: str
    id: str
    secret: str = field(default="", repr=False)
    method: str = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """An access token and what renews it."""

    value: str = field(repr=False)
    issuer: str
    dpop: bool = False
    lapses: float | None = None
    """Seconds since the epoch; None: not said."""
    refresh: str = field(default="", repr=False)
    scopes: tuple[str, ...] = ()
    """Those that were asked for or granted: asking for them again would bring nothing."""


class TokenAnswer(msgspec.Struct, frozen=True):
    """A token response (RFC 6749 §5.1)."""

    access_token: str
    token_type: str = "Bearer"
    expires_in: float | str | None = None
    refresh_token: Annotated[str, Meta(max_length=16384)] | None = None
    scope: Annotated[str, Meta(max_length=16384)] | None = None

    def token(self, issuer: str, asked: Iterable[str], now: float, former: Token | None) -> Token:
        """Errors: `OAuthError` for what cannot be sent as a token."""
        kind = self.token_type.lower()
        if kind not in ("bearer", "dpop"):
            raise OAuthError(f"{shown(issuer)} gives tokens of the unknown type {shown(self.token_type, 40)}")
        if not _TOKEN.fullmatch(self.access_token):
            raise OAuthError(f"{shown(issuer)} gives a token that no header can carry")
        return Token(
            value=self.access_token,
            issuer=issuer,
            dpop=kind == "dpop",
            lapses=_lapses(self.expires_in, now),
            refresh=self.refresh_token or (former.refresh if former else ""),
            scopes=tuple(dict.fromkeys((*asked, *scopes_in(self.scope or "")))),
        )


def _lapses(expires_in: float | str | None, now: float) -> float | None:
    if expires_in is None:
        return None
    try:
        seconds = float(expires_in)
    except ValueError:
        return None
    return now + min(max(seconds, 0.0), 366 * 86_400.0) if seconds == seconds else None


# --- the authorization code


def pkce(verifier: str) -> str:
    """The S256 challenge of a verifier (RFC 7636 §4.2)."""
    return urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def redirected_code(answer: Mapping[str, str], *, state: str, server: ServerMetadata) -> str:
    """The code of an authorization response. Errors: `OAuthError` for one that is not the answer to our request.

    `state` first: without it the response is somebody else's. Then `iss` (RFC 9207 §2.4), compared as it is spelt, or a
    second authorization server could have our code sent to it.
    """
    if not hmac.compare_digest(answer.get("state", "").encode(), state.encode()):
        raise OAuthError("the browser came back with an answer to another question (its state is not ours)")
    said = answer.get("iss")
    if said is None and server.authorization_response_iss_parameter_supported:
        raise OAuthError(f"the answer does not say who it is from, and {shown(server.issuer)} promises to (iss)")
    if said is not None and said != server.issuer:
        raise OAuthError(f"the answer is from {shown(said)}, and {shown(server.issuer)} was asked")
    if "error" in answer:
        why = f": {shown(answer['error_description'])}" if answer.get("error_description") else ""
        raise OAuthError(f"{shown(server.issuer)} refused ({shown(answer['error'], 60)}){why}")
    if not answer.get("code"):
        raise OAuthError(f"{shown(server.issuer)} sent no code")
    return answer["code"]


def shown(text: str, most: int = 200) -> str:
    """A text of a server as it may stand in a message: printable, and not long."""
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:most])
    return plain if len(text) <= most else f"{plain}…"

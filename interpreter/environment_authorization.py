"""`auth` of a remote server: a bearer, or an OAuth grant. Secrets are named, never held."""

from __future__ import annotations

from typing import get_args
from urllib.parse import urlsplit

from interpreter.declarations import Authorization, Grant, IdentityProvider
from interpreter.policy_reader import Reader

_GRANTS: tuple[Grant, ...] = get_args(Grant)
_KEYS = (
    "grant", "issuer", "clientId", "clientSecret", "privateKey", "algorithm", "clientMetadata", "scopes", "assertion",
    "provider",
)  # fmt: skip
_ALGORITHMS = ("ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_EXAMPLE = '{ grant: "client_credentials", issuer: "https://auth.example.com", clientId: "me", clientSecret: "name" }'


def parse_authorization(reader: Reader) -> Authorization:
    """What `auth` of a server with `url` says. Errors: `ConfigFault`."""
    if isinstance(reader.value, str | list | tuple):
        names = reader.names("a name of an auth declaration")
        if len(names) != 1:
            raise reader.fault("must be one name: a remote server gets one bearer", hint='auth: "name"')
        return Authorization(grant="bearer", bearer=names[0])
    reader.mapping(_KEYS, what=f"the name of an auth declaration, or an object such as {_EXAMPLE}")
    grant = reader.at("grant").one_of({grant: grant for grant in _GRANTS if grant != "bearer"})
    for key, only in (
        ("assertion", "jwt_bearer"), ("provider", "identity_assertion"), ("clientMetadata", "authorization_code"),
    ):  # fmt: skip
        if grant != only and (extra := reader.get(key)):
            raise extra.fault(f"is for the grant {only}, and this is {grant}")

    def text(key: str) -> str | None:
        at = reader.get(key)
        return at.string() if at else None

    issuer, scopes, provider, metadata = (reader.get(key) for key in ("issuer", "scopes", "provider", "clientMetadata"))
    found = Authorization(
        grant=grant,
        issuer=_url(issuer) if issuer else None,
        client_id=text("clientId"),
        client_secret=text("clientSecret"),
        private_key=text("privateKey"),
        algorithm=reader.at("algorithm").one_of({each: each for each in _ALGORITHMS})
        if reader.get("algorithm")
        else "ES256",
        client_metadata=_url(metadata) if metadata else None,
        scopes=_scopes(scopes) if scopes else None,
        assertion=text("assertion"),
        provider=_provider(provider) if provider else None,
    )
    _check(reader, found)
    return found


def _check(reader: Reader, found: Authorization) -> None:
    """What each grant needs, and where its secrets may go."""
    grant = found.grant
    needs = {
        "client_credentials": ("clientId",),
        "jwt_bearer": ("assertion",),
        "identity_assertion": ("clientId", "provider"),
    }
    for key in needs.get(grant, ()):
        if reader.get(key) is None:
            raise reader.fault(f"needs `{key}` for the grant {grant}")
    secret, private = found.client_secret, found.private_key
    if secret and private:
        raise reader.fault("has clientSecret and privateKey, and one of them says who it is")
    if grant == "client_credentials" and not (secret or private):
        raise reader.fault("needs `clientSecret` or `privateKey`: the name of an auth declaration")
    if (secret or private) and not found.client_id:
        raise reader.fault("needs the `clientId` that the secret belongs to")
    if found.auth and not found.issuer:
        # Without it the server itself would say who gets the secret.
        raise reader.fault(
            "needs `issuer`: the authorization server that the secret is for, and no other",
            hint='issuer: "https://auth.example.com"',
        )


def _provider(reader: Reader) -> IdentityProvider:
    reader.mapping(("tokenEndpoint", "clientId", "clientSecret", "idToken"))
    secret = reader.get("clientSecret")
    return IdentityProvider(
        token_endpoint=_url(reader.at("tokenEndpoint")),
        client_id=reader.at("clientId").string(),
        client_secret=secret.string() if secret else None,
        id_token=reader.at("idToken").string("the name of an auth declaration"),
    )


def _scopes(reader: Reader) -> tuple[str, ...]:
    names = reader.names("a list of scopes")
    for name in names:
        if not name.isascii() or not name.isprintable() or any(character in name for character in ' "\\'):
            raise reader.fault(f"holds '{name}', which is no scope", hint='scopes: ["read", "write"]')
    return tuple(dict.fromkeys(names))


def _url(reader: Reader) -> str:
    text = reader.string("a URL").strip()
    try:
        parts = urlsplit(text)
        sound = bool(parts.hostname) and parts.port != 0 and text.isascii() and text.isprintable() and " " not in text
    except ValueError:
        sound = False
    if not sound or parts.username is not None or parts.password is not None or parts.fragment:
        raise reader.fault(f"is no URL: '{text}'", hint='for example "https://auth.example.com"')
    if not fit_for_credentials(text):
        raise reader.fault(f"must be https, got '{text}'")
    return text


def fit_for_credentials(url: str) -> bool:
    """Whether what is sent there can be read on the way by nobody: https, or loopback."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)

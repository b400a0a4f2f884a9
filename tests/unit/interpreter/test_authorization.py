"""`auth` of a remote server: what it says, and what it may not leave open."""

from __future__ import annotations

from typing import Any

import pytest

from interpreter.declarations import Authorization, IdentityProvider, ServerSpec
from interpreter.environment_mcp import parse_mcp_config
from interpreter.policy_reader import ConfigFault

ISSUER = "https://auth.example.com"
BASIC = {"grant": "client_credentials", "issuer": ISSUER, "clientId": "me", "clientSecret": "key"}


def parsed(auth: object, **server: object) -> ServerSpec:
    kind: dict[str, Any] = server or {"url": "https://mcp.example.com/mcp"}
    return parse_mcp_config({"servers": [{**kind, "auth": auth}]}).servers[0]


@pytest.mark.parametrize(
    ("auth", "expected", "names"),
    [
        ("gh", Authorization(grant="bearer", bearer="gh"), ("gh",)),
        (["gh"], Authorization(grant="bearer", bearer="gh"), ("gh",)),
        (
            BASIC | {"scopes": ["read", "write"]},
            Authorization(
                grant="client_credentials", issuer=ISSUER, client_id="me", client_secret="key", scopes=("read", "write")
            ),
            ("key",),
        ),
        (
            {"grant": "client_credentials", "issuer": ISSUER, "clientId": "me", "privateKey": "pem", "algorithm": "RS256"},
            Authorization(
                grant="client_credentials", issuer=ISSUER, client_id="me", private_key="pem", algorithm="RS256"
            ),
            ("pem",),
        ),
        ({"grant": "authorization_code"}, Authorization(grant="authorization_code"), ()),
        (
            {
                "grant": "identity_assertion", "issuer": ISSUER, "clientId": "me", "clientSecret": "key",
                "provider": {"tokenEndpoint": "https://idp.example.com/t", "clientId": "us", "idToken": "who"},
            },
            Authorization(
                grant="identity_assertion", issuer=ISSUER, client_id="me", client_secret="key",
                provider=IdentityProvider(token_endpoint="https://idp.example.com/t", client_id="us", id_token="who"),
            ),
            ("key", "who"),
        ),
    ],
)  # fmt: skip
def test_a_remote_server_says_how_it_is_told_who_asks(auth: object, expected: object, names: tuple[str, ...]) -> None:
    server = parsed(auth)
    assert server.authorization == expected
    assert server.auth == names


def test_a_server_in_a_container_gets_secrets_by_name() -> None:
    server = parsed(["a", "b"], npm="x")
    assert (server.auth, server.authorization) == (("a", "b"), None)
    with pytest.raises(ConfigFault, match=r"servers\[0\]\.auth must be .*list"):
        parsed(BASIC, npm="x")


@pytest.mark.parametrize(
    ("auth", "fault"),
    [
        (["a", "b"], "must be one name: a remote server gets one bearer"),
        (7, "must be the name of an auth declaration, or an object"),
        ({}, "auth.grant must be a string"),
        ({"grant": "password"}, "auth.grant cannot be 'password'"),
        ({"grant": "bearer"}, "auth.grant cannot be 'bearer'"),
        ({"grant": "authorization_code", "clientID": "x"}, "has no key 'clientID'"),
        ({k: v for k, v in BASIC.items() if k != "issuer"}, "needs `issuer`: the authorization server that the secret"),
        ({k: v for k, v in BASIC.items() if k != "clientSecret"}, "needs `clientSecret` or `privateKey`"),
        ({k: v for k, v in BASIC.items() if k != "clientId"}, "needs `clientId`"),
        (BASIC | {"privateKey": "p"}, "has clientSecret and privateKey"),
        (BASIC | {"assertion": "p"}, "auth.assertion is for the grant jwt_bearer"),
        (BASIC | {"provider": {}}, "auth.provider is for the grant identity_assertion"),
        (BASIC | {"algorithm": "none"}, "auth.algorithm cannot be 'none'"),
        (BASIC | {"algorithm": "HS256"}, "auth.algorithm cannot be 'HS256'"),
        (BASIC | {"issuer": "http://auth.example.com"}, "auth.issuer must be https"),
        (BASIC | {"issuer": "https://u:p@auth.example.com"}, "auth.issuer is no URL"),
        (BASIC | {"issuer": "https://[x"}, "auth.issuer is no URL"),
        (BASIC | {"scopes": ["a b"]}, "auth.scopes holds 'a b', which is no scope"),
        ({"grant": "jwt_bearer", "issuer": ISSUER}, "needs `assertion`"),
        ({"grant": "authorization_code", "clientSecret": "x", "issuer": ISSUER}, "needs the `clientId`"),
    ],
)
def test_what_is_wrong_is_named(auth: object, fault: str) -> None:
    with pytest.raises(ConfigFault) as caught:
        parsed(auth)
    assert fault in str(caught.value)


def test_cannot_send_a_credential_in_the_clear() -> None:
    for auth in ("gh", {"grant": "authorization_code"}):
        with pytest.raises(ConfigFault, match=r"servers\[0\]\.url must be https: with `auth`"):
            parsed(auth, url="http://mcp.example.com/mcp")
    assert parsed("gh", url="http://127.0.0.1:8080/mcp").authorization
    assert parse_mcp_config({"servers": [{"url": "http://mcp.example.com/mcp"}]}).servers

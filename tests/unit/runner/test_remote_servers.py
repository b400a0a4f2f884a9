"""Remote servers from their declaration to the sidecar's configuration: hosts, credentials, what the plan shows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from images.sidecar import config as sidecar
from interpreter.declarations import AuthDecl, Authorization, HostRule, IdentityProvider, McpConfig, Network, ServerSpec
from runner.errors import SecretMissing, Unsupported
from runner.handover import Handover, sidecar_line
from runner.invariants import check
from runner.plan import SandboxPlan, to_json
from runner.planner import plan
from runner.report_compose import ComposeOptions, compose_text
from runner.report_events import log_line
from runner.report_plan import plan_text
from tests.support.plans import full, options, server

ISSUER = "https://auth.example.com"
OAUTH = Authorization(
    grant="client_credentials", issuer=ISSUER, client_id="me", client_secret="key", scopes=("read", "write")
)
SECRETS = {"key": "the-secret-of-key", "pem": "the-pem", "who": "the-id-token"}


def remote(authorization: Authorization | None, *hosts: str) -> ServerSpec:
    allow = tuple(HostRule(host=host, ports=(443,)) for host in hosts or ("mcp.example.com", "auth.example.com"))
    return server(
        "far", source="url", target="https://mcp.example.com/mcp", authorization=authorization,
        auth=authorization.auth if authorization else (), network=Network(allow=allow),
    )  # fmt: skip


def planned(authorization: Authorization | None, *hosts: str, **more: Any) -> SandboxPlan:
    declared = {name: AuthDecl(name=name, variable=name.upper(), source=f"env:{name.upper()}") for name in SECRETS}
    return plan(full(mcp=McpConfig(servers=(remote(authorization, *hosts),)), auth=declared), options(**more))


def configured(made: SandboxPlan, **changes: object) -> sidecar.SidecarConfig:
    spec = full()
    handed = {"token": "t" * 16, "secrets": SECRETS, "module": spec.module, "policy": spec.policy} | changes
    return sidecar.parse(sidecar_line(made, Handover(**handed)))


def test_a_bearer_reaches_the_sidecar_and_nothing_else() -> None:
    made = planned(Authorization(grant="bearer", bearer="key"))
    assert check(made) == []
    [far] = configured(made).servers
    assert far.headers == {"Authorization": "Bearer the-secret-of-key"}
    assert "the-secret-of-key" not in to_json(made).decode() + plan_text(made) + repr(far)
    assert "the-secret-of-key" in configured(made).secrets()
    assert "authenticates by the bearer auth:key" in plan_text(made)
    with pytest.raises(SecretMissing):
        configured(made, secrets={})


def test_a_bearer_cannot_write_headers_of_its_own() -> None:
    made = planned(Authorization(grant="bearer", bearer="key"))
    with pytest.raises(sidecar.ConfigError, match=r"config\.servers\[0\]\.headers\.Authorization must be one line"):
        configured(made, secrets={"key": "x\r\nHost: evil"})


def test_a_grant_reaches_the_sidecar_with_its_secrets() -> None:
    made = planned(OAUTH)
    assert check(made) == []
    config = configured(made)
    oauth = config.servers[0].oauth
    assert oauth is not None
    assert (oauth.grant, oauth.issuer, oauth.client_id) == ("client_credentials", ISSUER, "me")
    assert (oauth.client_secret, oauth.scopes) == ("the-secret-of-key", ("read", "write"))
    assert "the-secret-of-key" in config.secrets()
    shown = plan_text(made)
    assert (
        "authenticates by OAuth client credentials as me, at https://auth.example.com only, for read write at most"
        in shown
    )
    assert "reaches mcp.example.com:443" in shown
    assert "the-secret-of-key" not in shown + to_json(made).decode() + repr(config.servers[0])


def test_a_login_reaches_the_sidecar() -> None:
    made = planned(Authorization(grant="authorization_code"))
    kept = {"resource": "https://mcp.example.com/mcp", "access_token": "gold-access", "refresh_token": "gold-refresh"}
    config = configured(made, credentials={"far": kept})
    assert {"gold-access", "gold-refresh"} <= config.secrets()
    assert config.servers[0].oauth.credential == kept
    assert "gold" not in repr(config.servers[0])


def test_an_enterprises_provider_reaches_the_sidecar() -> None:
    provider = IdentityProvider(token_endpoint="https://idp.example.com/t", client_id="us", id_token="who")
    made = planned(replace(OAUTH, grant="identity_assertion", provider=provider))
    oauth = configured(made).servers[0].oauth
    assert oauth is not None
    assert oauth.provider is not None
    assert (oauth.provider.token_endpoint, oauth.provider.id_token) == ("https://idp.example.com/t", "the-id-token")


def test_a_server_without_its_own_host_is_not_served() -> None:
    made = planned(OAUTH, "auth.example.com")
    assert made.servers == ()
    assert [refusal.asked for refusal in made.refused] == ["host mcp.example.com"]
    assert planned(OAUTH).servers


def composed(authorization: Authorization) -> dict[str, Any]:
    handover = Handover(token="t" * 16, module=full().module, policy=full().policy, secret_files=True)
    options = ComposeOptions(agent=("x",), bridge_image="b", seccomp="s")
    file: dict[str, Any] = yaml.safe_load(compose_text(planned(authorization), handover, options))
    return file


BEARER = Authorization(grant="bearer", bearer="key")
EXCHANGED = Authorization(
    grant="identity_assertion", issuer=ISSUER, client_id="me", client_secret="key",
    provider=IdentityProvider(token_endpoint=ISSUER, client_id="me", id_token="who"),
)  # fmt: skip


@pytest.mark.parametrize(("authorization", "names"), [(BEARER, {"key"}), (OAUTH, {"key"}), (EXCHANGED, {"key", "who"})])
def test_compose_hands_files_to_the_sidecar_which_reads_them(
    tmp_path: Path, authorization: Authorization, names: set[str]
) -> None:
    """The file has names alone, the sidecar the values, and nobody else either."""
    file = composed(authorization)
    assert set(file["services"]["sidecar"]["secrets"]) == names
    assert "secrets" not in file["services"]["agent"]
    assert set(file["secrets"]) == names
    config = file["services"]["sidecar"]["environment"]["MLLD_CONFIG"].replace("$$", "$")
    assert not [value for value in SECRETS.values() if value in str(file)]
    for name, value in SECRETS.items():
        (tmp_path / name).write_text(f"{value}\n")
    (server,) = sidecar.parse(config, secrets=tmp_path).servers
    if authorization is BEARER:
        assert server.headers == {"Authorization": "Bearer the-secret-of-key"}
    else:
        assert server.oauth is not None
        assert server.oauth.client_secret == "the-secret-of-key"
        assert server.oauth.provider is None or server.oauth.provider.id_token == "the-id-token"
    with pytest.raises(sidecar.ConfigError, match="must be a string"):
        sidecar.parse(config)  # from the runner come values: no name is followed there


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (None, "No such file"),
        (b"", "1 to 65536 bytes"),
        (b"x" * 70_000, "1 to 65536 bytes"),
        (b"\xff", "not UTF-8"),
        (b"a\r\nX-Admin: 1", "one line of a header"),
    ],
)
def test_cannot_begin_without_the_secret(tmp_path: Path, text: bytes | None, fault: str) -> None:
    if text is not None:
        (tmp_path / "key").write_bytes(text)
    config = composed(BEARER)["services"]["sidecar"]["environment"]["MLLD_CONFIG"].replace("$$", "$")
    with pytest.raises(sidecar.ConfigError, match=fault):
        sidecar.parse(config, secrets=tmp_path)


def test_cannot_read_another_file_by_the_name_of_a_secret(tmp_path: Path) -> None:
    config = json.loads(composed(BEARER)["services"]["sidecar"]["environment"]["MLLD_CONFIG"].replace("$$", "$"))
    for name in ("../etc/passwd", "/etc/passwd", ".."):
        config["servers"][0]["headers"] = {"Authorization": {"secret": name}}
        with pytest.raises(sidecar.ConfigError, match=r"headers\.Authorization\.secret must be letters"):
            sidecar.parse(json.dumps(config), secrets=tmp_path)


def test_compose_cannot_keep_a_login() -> None:
    with pytest.raises(Unsupported, match="compose cannot keep a person's login at the remote server far") as caught:
        composed(Authorization(grant="authorization_code", client_id="me"))
    assert "client_credentials" in caught.value.remedy
    assert json.loads(to_json(planned(None)))["servers"][0]["authorization"] is None


def test_the_sidecar_refuses_a_grant_that_it_does_not_know() -> None:
    line = json.loads(sidecar_line(planned(OAUTH), Handover(token="t" * 16, secrets=SECRETS, module=full().module)))
    for change, fault in (
        ({"grant": "password"}, "oauth.grant must be one of authorization_code"),
        ({"grant": None}, "oauth.grant"),
        ({"clientsecret": "x"}, "oauth.clientsecret is unknown; did you mean 'clientSecret'"),
    ):
        line["servers"][0]["oauth"] |= change
        with pytest.raises(sidecar.ConfigError, match=fault):
            sidecar.parse(json.dumps(line))
        line["servers"][0]["oauth"].pop("clientsecret", None)


def test_the_sidecar_sends_no_credential_in_the_clear() -> None:
    line = json.loads(sidecar_line(planned(OAUTH), Handover(token="t" * 16, secrets=SECRETS, module=full().module)))
    line["servers"][0]["url"] = "http://mcp.example.com/mcp"
    with pytest.raises(sidecar.ConfigError, match=r"servers\[0\]\.url must be https"):
        sidecar.parse(json.dumps(line))
    del line["servers"][0]["oauth"]
    assert sidecar.parse(json.dumps(line)).servers


def test_what_happens_with_tokens_is_told() -> None:
    given = {"event": "auth", "server": "far", "decision": "allow", "issuer": ISSUER, "scopes": ["read"], "t": 1.0}
    assert "far          has a token of https://auth.example.com, for read" in str(log_line(given))
    failed = {"event": "auth", "server": "far", "decision": "failed", "reason": "it is\x1b down", "t": 1.0}
    assert "✗ has no token: it is\\x1b down" in str(log_line(failed))

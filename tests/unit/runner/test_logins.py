"""Logins on this machine: kept for their user alone, handed to the runs of their environment, replaced when renewed."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from interpreter.declarations import Authorization, EnvironmentSpec, HostRule, McpConfig, ModuleSource, Network
from runner.errors import BadOption, CheckFailure, SandboxFailure, UnknownName
from runner.handover import Handover
from runner.host.logins import alone, environment_of, log_in, server_of
from runner.host.sandboxes import Sandboxes
from runner.planner import plan
from runner.sandbox_events import Hearing
from runner.secrets import Masker, Secrets
from runner.secrets_logins import Logins, tokens
from tests.support.plans import full, good, options, readonly, server
from tests.unit.sidecar.gate_world import world as internet

GOLD = {"resource": "https://mail.example.com/mcp", "issuer": "https://auth.example.com", "client_id": "c",
        "access_token": "gold-access", "refresh_token": "gold-refresh", "scopes": ["read"]}  # fmt: skip
SILVER = GOLD | {"access_token": "silver-access", "refresh_token": "silver-refresh"}


def spec(root: Path | None = None, **changes: Any) -> EnvironmentSpec:
    mail = server(
        "mail", source="url", target="https://mail.example.com/mcp",
        authorization=Authorization(grant="authorization_code"),
        network=Network(allow=(HostRule(host="mail.example.com", ports=(443,)),)),
    )  # fmt: skip
    made = full(mcp=McpConfig(servers=(mail, server("a"))), **changes)
    assert made.module is not None
    source = ModuleSource(name="m", entry="index.mld", files=made.module.files, root=str(root) if root else None)
    return replace(made, module=source)


@pytest.fixture
def logins(tmp_path: Path) -> Logins:
    return Logins(directory=tmp_path / "mlld" / "logins")


def test_a_login_is_kept_for_its_user_alone(logins: Logins) -> None:
    assert logins.read("env", "mail") is None
    before = os.umask(0)
    try:
        logins.write("env", "mail", GOLD)
    finally:
        os.umask(before)
    assert logins.read("env", "mail") == GOLD
    assert stat.S_IMODE(logins.directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in logins.directory.iterdir()} == {0o600}
    assert logins.forget("env", "mail")
    assert not logins.forget("env", "mail")
    assert logins.read("env", "mail") is None


def test_cannot_read_the_login_of_another_environment(logins: Logins) -> None:
    logins.write("/home/me/one", "mail", GOLD)
    assert logins.read("/home/me/two", "mail") is None
    assert logins.read("/home/me/one", "other") is None
    assert logins.read("/home/me/one", "mail") == GOLD


def test_cannot_be_given_a_login_that_others_could_write_or_read(logins: Logins, tmp_path: Path) -> None:
    logins.write("env", "mail", GOLD)
    [path] = logins.directory.glob("*.json")
    path.chmod(0o644)
    with pytest.raises(CheckFailure, match="others than you can read it"):
        logins.read("env", "mail")
    path.chmod(0o600)
    assert logins.read("env", "mail") == GOLD
    elsewhere = tmp_path / "elsewhere.json"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    with pytest.raises(CheckFailure, match="cannot be read"):
        logins.read("env", "mail")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 9, "credential": {}}', '{"version": 1, "credential": 7}']
)
def test_a_login_that_is_none_says_what_to_do(logins: Logins, text: str) -> None:
    logins.write("env", "mail", GOLD)
    [path] = logins.directory.glob("*.json")
    path.write_text(text)
    with pytest.raises(CheckFailure, match="no login that this release can read"):
        logins.read("env", "mail")


def test_a_renewal_replaces_what_its_run_was_given_and_nothing_newer(logins: Logins) -> None:
    logins.write("env", "mail", GOLD)
    assert logins.replace("env", "mail", GOLD, SILVER)
    assert logins.read("env", "mail") == SILVER
    assert not logins.replace("env", "mail", GOLD, {"access_token": "late"})  # somebody has logged in meanwhile
    assert logins.read("env", "mail") == SILVER


class Kept:
    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def append(self, event: str, /, **fields: object) -> None:
        self.events.append({"event": event, **fields})


def test_cannot_find_a_renewed_login_in_the_record(tmp_path: Path) -> None:
    kept, masker = Kept(), Masker(tokens(GOLD))
    env = {"XDG_DATA_HOME": str(tmp_path), "HOME": str(tmp_path)}
    sandboxes = Sandboxes(
        env=env, home=tmp_path, project=tmp_path, secrets=Secrets(env), find_module=lambda reference, folder: folder
    )
    declared = spec(tmp_path / "module")
    sandboxes.logins.write(environment_of(declared), "mail", GOLD)
    keep = sandboxes._keeper(declared, {"mail": GOLD})
    hearing = Hearing(plan=good(), sink=kept, fail=lambda error: None, mask=masker.bytes, on_credential=keep)
    hearing.line(
        "sidecar", "stdout", json.dumps({"event": "credential", "server": "mail", "credential": SILVER}).encode()
    )
    hearing.line(
        "sidecar", "stdout", json.dumps({"event": "credential", "server": "other", "credential": SILVER}).encode()
    )
    hearing.line("sidecar", "stdout", b'{"event":"auth","server":"mail","decision":"allow"}')
    assert [event["event"] for event in kept.events] == ["auth"]
    assert sandboxes.logins.read(environment_of(declared), "mail") == SILVER
    assert sandboxes.secrets.masker.text("x silver-refresh y") == "x ••• y"


def test_a_run_without_a_login_says_so_before_anything_starts(tmp_path: Path) -> None:
    env = {"XDG_DATA_HOME": str(tmp_path), "HOME": str(tmp_path)}
    sandboxes = Sandboxes(
        env=env, home=tmp_path, project=tmp_path, secrets=Secrets(env), find_module=lambda reference, folder: folder
    )
    declared = spec(tmp_path / "module")
    made = plan(declared, options())
    with pytest.raises(CheckFailure, match="nobody is logged in to the server mail") as raised:
        sandboxes._credentials(made, declared)
    assert "mlld sandbox login mail" in raised.value.remedy
    sandboxes.logins.write(environment_of(declared), "mail", GOLD)
    assert sandboxes._credentials(made, declared) == {"mail": GOLD}
    sandboxes.logins.write(environment_of(declared), "mail", GOLD | {"lapses": 1.0})  # something renews it
    assert sandboxes._credentials(made, declared)
    sandboxes.logins.write(environment_of(declared), "mail", GOLD | {"lapses": 1.0, "refresh_token": ""})
    with pytest.raises(CheckFailure, match="nobody is logged in to the server mail: the login has ended"):
        sandboxes._credentials(made, declared)
    assert {"gold-access", "gold-refresh"} <= Handover(token="t" * 16, credentials={"mail": GOLD}).values()


def test_who_can_be_logged_in_to() -> None:
    assert server_of(spec(), "mail").name == "mail"
    with pytest.raises(BadOption, match="nobody logs in to a"):
        server_of(spec(), "a")
    with pytest.raises(UnknownName):
        server_of(spec(), "mial")


def test_a_login_reaches_what_a_run_would_and_nothing_more() -> None:
    denying = spec(network=Network(deny=(HostRule(host="auth.example.com"),)))
    made = plan(alone(denying, server_of(denying, "mail")), options())
    rule = made.egress_of("mail")
    assert rule is not None
    assert [host.host for host in rule.allow] == ["mail.example.com"]
    assert [host.host for host in rule.deny] == ["auth.example.com"]
    assert [s.name for s in made.servers] == ["mail"]
    quiet = replace(readonly(), mcp=spec().mcp)
    nothing = plan(alone(quiet, server_of(quiet, "mail")), options())
    with pytest.raises(CheckFailure, match="out of reach"):
        asyncio.run(log_in(nothing, Handover(token="t" * 16), env={}, port=0, scopes=(), on_url=print))


async def test_cannot_be_led_inside_by_a_login(tmp_path: Path) -> None:
    """The real process on this machine, with a name server that says where the server is: here."""
    async with internet(tmp_path) as net:
        host, port = net.gate.resolver.servers[0]
        made = plan(alone(spec(), server_of(spec(), "mail")), replace(options(), resolver=f"{host}:{port}"))
        urls: list[str] = []
        for address, why in (("127.0.0.1", "loopback"), ("169.254.169.254", "metadata")):
            net.names.zone["mail.example.com"] = [("A", address)]
            with pytest.raises(SandboxFailure, match=rf"leads to {address} \({why}\)"):
                await log_in(made, Handover(token="t" * 16), env=os.environ, port=0, scopes=(), on_url=urls.append)
        assert urls == []
        assert ("mail.example.com", "A") in net.names.asked

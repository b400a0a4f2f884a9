"""A CA bundle of the user's: said by the plan, handed over as text, and never another one than was planned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from images.sidecar import config as sidecar
from runner import settings, trust
from runner.errors import BadOption, SandboxFailure, Unsupported
from runner.handover import Handover, sidecar_line
from runner.invariants import check
from runner.plan import SandboxPlan
from runner.planner import plan
from runner.report_compose import ComposeOptions, compose_text
from runner.report_plan import plan_text
from tests.support.certificates import certificate
from tests.support.plans import full, good, options
from tests.unit.runner.test_remote_servers import BEARER, SECRETS, planned


def bundle(folder: Path) -> Path:
    path = folder / "ca.pem"
    path.write_text(f"# Überall\n{certificate(folder, 'a.example')}")
    return path


def with_bundle(folder: Path) -> SandboxPlan:
    return planned(BEARER, ca_bundle=trust.read(bundle(folder))[0])


def test_the_plan_says_which_authorities_are_trusted(tmp_path: Path) -> None:
    made = with_bundle(tmp_path)
    assert not check(made)
    line = f"trusts the certificate authorities in {tmp_path / 'ca.pem'} (sha256:"
    assert line in plan_text(made)
    assert line not in plan_text(planned(BEARER))


def test_nobody_trusts_it_where_no_server_is_remote(tmp_path: Path) -> None:
    found, _ = trust.read(bundle(tmp_path))
    assert plan(full(), options(ca_bundle=found)).ca_bundle is None


def test_the_sidecar_gets_its_text(tmp_path: Path) -> None:
    made = with_bundle(tmp_path)
    text = trust.planned(made.ca_bundle)
    handover = Handover(token="t" * 16, secrets=SECRETS, module=full().module, policy=full().policy, ca_bundle=text)
    assert sidecar.parse(sidecar_line(made, handover)).ca_bundle == text
    assert "caBundle" not in json.loads(sidecar_line(good(), _of(good())))


def _of(made: SandboxPlan) -> Handover:
    held = {secret.name: "x" for secret in made.secrets}
    return Handover(token="t" * 16, secrets=held, module=full().module, policy=full().policy)


def test_cannot_trust_another_one_than_was_planned(tmp_path: Path) -> None:
    made = with_bundle(tmp_path)
    with pytest.raises(SandboxFailure, match="CA bundle"):
        sidecar_line(made, Handover(token="t" * 16, secrets=SECRETS, module=full().module, policy=full().policy))
    (tmp_path / "ca.pem").write_text(certificate(tmp_path, "b.example"))
    with pytest.raises(SandboxFailure, match="is not the one that was planned"):
        trust.planned(made.ca_bundle)


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "server.pem"
    certificate(tmp_path, "a.example")  # writes its key beside it
    for name, text in (("none", None), ("empty", b""), ("text", b"hello"), ("key", key.read_bytes())):
        path = tmp_path / name
        if text is not None:
            path.write_bytes(text)
        with pytest.raises(BadOption, match="CA bundle") as caught:
            trust.read(path)
        assert "MLLD_CA_BUNDLE" in caught.value.remedy


def test_compose_is_handed_none(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="CA bundle"):
        compose_text(
            with_bundle(tmp_path), Handover(token="t" * 16), ComposeOptions(agent=("x",), bridge_image="b", seccomp="s")
        )


def test_it_is_a_setting(tmp_path: Path) -> None:
    assert settings.load({"MLLD_CA_BUNDLE": str(tmp_path / "ca.pem")}).ca_bundle == tmp_path / "ca.pem"
    assert settings.load({}).ca_bundle is None

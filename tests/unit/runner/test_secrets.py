"""Secrets: where they are read, and that they do not show."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interpreter.declarations import AuthDecl, Place
from runner.errors import SecretMissing
from runner.secrets import MASK, Masker, Secrets, resolve

PATH = {"PATH": os.environ["PATH"]}


def test_a_variable_of_the_environment() -> None:
    assert Secrets({"TOKEN": "s3cret"}).read("env:TOKEN") == "s3cret"


def test_a_bare_name_is_a_variable() -> None:
    assert Secrets({"TOKEN": "s3cret"}).read("TOKEN") == "s3cret"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("env:TOKEN", "Environment variable 'TOKEN' is not set"),
        ("env:EMPTY", "'EMPTY' is empty"),
        ("command:false", "it ended with 1"),
        ("command:true", "nothing came out"),
        ("command:no-such-program-here x", "cannot be started"),
        ("command:echo 'open", "cannot be split"),
        ("command:", "names no program"),
        ("keychain:service", "names no account"),
        ("vault:a/b", "'vault' is not a source"),
    ],
)
def test_an_error_says_where_it_looked(source: str, said: str) -> None:
    with pytest.raises(LookupError) as caught:
        Secrets({"EMPTY": "", **PATH}).read(source)
    assert said in str(caught.value)


def test_a_command_prints_it_without_a_shell() -> None:
    assert Secrets(PATH).read("command:printf '%s\\n' '$(id) \"x\"'") == '$(id) "x"'


def test_what_a_failing_command_printed_is_not_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "vault").write_text("#!/bin/sh\necho top-secret; echo top-secret >&2; exit 3\n")
    (tmp_path / "vault").chmod(0o755)
    with pytest.raises(LookupError) as caught:
        Secrets(PATH).read(f"command:{tmp_path}/vault")
    assert "ended with 3" in str(caught.value)
    assert "top-secret" not in str(caught.value)


def test_the_keychain_is_asked_through_the_systems_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(LookupError, match="secret-tool is not installed"):
        Secrets({"PATH": str(tmp_path)}).read("keychain:svc/me")
    tool = tmp_path / "secret-tool"
    tool.write_text('#!/bin/sh\n[ "$*" = "lookup service svc account me" ] && echo from-keychain\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Secrets({"PATH": f"{tmp_path}:{PATH['PATH']}"}).read("keychain:svc/me") == "from-keychain"


def test_resolving_gives_variables_and_errors_at_the_declaration() -> None:
    place = Place(file="index.mld", line=4, column=1)
    declared = {"gh": AuthDecl(name="gh", variable="GITHUB_TOKEN", source="env:GH", place=place)}
    assert resolve(declared, ["gh"], Secrets({"GH": "abcd"})) == {"GITHUB_TOKEN": "abcd"}
    with pytest.raises(SecretMissing) as caught:
        resolve(declared, ["gh"], Secrets({}))
    assert caught.value.place == "index.mld:4:1"
    assert "'GH' is not set" in caught.value.detail
    with pytest.raises(SecretMissing, match="auth:other"):
        resolve(declared, ["other"], Secrets({}))


@pytest.mark.parametrize(
    "written",
    ['p@ss w/rd"1', "p%40ss%20w%2Frd%221", 'p@ss w/rd\\"1', base64.b64encode(b'p@ss w/rd"1').decode().rstrip("=")],
    ids=["plain", "url", "json", "base64"],
)
def test_cannot_show_in_the_usual_encodings(written: str) -> None:
    masker = Masker(['p@ss w/rd"1'])
    assert masker.text(f"x {written} y") == f"x {MASK} y"


def test_a_secret_inside_another_leaves_no_rest() -> None:
    assert Masker(["token", "token-long"]).text("token-long token") == f"{MASK} {MASK}"


def test_very_short_values_are_left_alone() -> None:
    assert Masker(["on"]).text("one on one") == "one on one"


def test_values_are_masked_in_depth_and_not_changed_in_place() -> None:
    value = {"a": ["secret-1", {"secret-1": 1}], "n": 3, "none": None}
    assert Masker(["secret-1"]).value(value) == {"a": [MASK, {MASK: 1}], "n": 3, "none": None}
    assert value["a"][0] == "secret-1"


@given(st.text(max_size=20), st.lists(st.integers(1, 7), max_size=12), st.text(max_size=20))
def test_cannot_slip_through_in_pieces(before: str, cuts: list[int], after: str) -> None:
    masker = Masker(["abcabd-secret"])
    data = f"{before}abcabd-secret{after}".encode()
    stream, out, at = masker.stream(), b"", 0
    for cut in cuts:
        out += stream.feed(data[at : at + cut])
        at += cut
    out += stream.feed(data[at:]) + stream.flush()
    assert out == masker.bytes(data)
    assert b"abcabd-secret" not in out

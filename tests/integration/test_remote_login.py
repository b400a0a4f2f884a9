"""Remote servers from the declaration to their answers, with `mlld` as a program, real TLS, names and addresses: by a
bearer, by client credentials, and by the login of a person that is renewed while a run goes on."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

from tests.support.oauth_internet import ROOT

SECRETS = ("access-token-", "refresh-token-", "the-bearer-value", "the-client-secret", "the-code")


def test_remote_servers_are_told_who_asks_and_nobody_else_is(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "-Urnm", sys.executable, "-m", "tests.support.oauth_internet", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["before"]["code"] == 3
    assert "mlld sandbox login mail" in seen["before"]["err"]
    assert seen["login"]["code"] == 0, seen["login"]["err"]
    assert "logged in to mail at https://auth.example.com" in seen["login"]["err"]
    for name, call in seen["calls"].items():
        assert (call["code"], call["out"]) == (0, "it is there\n"), (name, call["err"])
    for turn in ("renewed", "once more"):
        assert (seen[turn]["code"], seen[turn]["out"]) == (0, "it is there\n"), seen[turn]["err"]
    kinds = [form["grant_type"] for form in seen["forms"]]
    assert kinds.count("authorization_code") == 1
    assert kinds.count("refresh_token") == 2, "each run used what the one before it had handed back"
    assert "client_credentials" in kinds
    assert seen["asked"] == ["auth.example.com", "mail.example.com"]
    assert (
        "mail     url https://mail.example.com/mcp; all its tools; authenticates by the login of a person"
        in seen["show"]["out"]
    )
    assert "has a token of https://auth.example.com" in seen["logs"]["out"]
    assert seen["logout"]["code"] == 0
    assert seen["after"]["code"] == 3

    records = sorted((tmp_path / "data" / "mlld" / "runs").rglob("*"))
    texts = [path.read_text() for path in records if path.is_file()]
    assert any('"auth"' in text for text in texts)
    said = texts + [
        seen[name][stream] for name in ("login", "renewed", "show", "logs", "after") for stream in ("out", "err")
    ]
    assert not [secret for secret in SECRETS for text in said if secret in text]
    kept = tmp_path / "data" / "mlld" / "logins"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert [path.name for path in kept.iterdir()] == ["lock"]

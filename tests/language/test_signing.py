"""`sign` and `verify`: a text is the one that was signed, or the script ends."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from interpreter.errors import MlldError
from interpreter.evaluate import RunOptions, run_script
from interpreter.source import Source
from runner.cli.app import execute
from runner.host.signatures import HostSignatures
from tests.support.worlds import Recorder, World

PROMPT = "var @prompt = ::Review @asked and <notes.md>; reject if unsafe::\n"


class Signing:
    def __init__(self, root: Path) -> None:
        self.world = World(root / "project")
        self.world.write("x", "")
        self.signatures = HostSignatures(project=self.world.root, key=root / "home/signing.key")

    @property
    def text(self) -> Path:
        return self.world.root / ".sig/content/prompt.sig.content"

    @property
    def about(self) -> Path:
        return self.world.root / ".sig/content/prompt.sig.json"

    async def run(self, script: str) -> MlldError | None:
        ports = replace(self.world.ports(Recorder()), signatures=self.signatures)
        script = f"var @asked = 1\n{script}"
        try:
            await run_script(Source(name="s.mld", text=script), None, ports, RunOptions(root=self.world.root))
        except MlldError as error:
            return error
        return None


@pytest.fixture
def signing(tmp_path: Path) -> Signing:
    made = Signing(tmp_path)
    made.world.write("notes.md", "n")
    return made


async def test_a_text_is_signed_with_its_holes(signing: Signing) -> None:
    assert await signing.run(f'{PROMPT}sign @prompt by "security-team" with sha256\nverify @prompt') is None
    assert signing.text.read_text() == "Review @asked and <notes.md>; reject if unsafe"
    about = json.loads(signing.about.read_text())
    assert (about["signedBy"], about["algorithm"]) == ("security-team", "hmac-sha256")
    assert signing.signatures.key.stat().st_mode & 0o777 == 0o600
    # In another run, and whatever is filled in.
    assert await signing.run(f"{PROMPT}verify @prompt") is None
    assert await signing.run(f"{PROMPT.replace('::', '`')}sign @prompt\nverify @prompt") is None


@pytest.mark.parametrize("change", ["text", "signer", "time", "signature", "both", "key", "unreadable"])
async def test_cannot_change_what_was_signed(signing: Signing, change: str) -> None:
    assert await signing.run(f'{PROMPT}sign @prompt by "me"') is None
    about = json.loads(signing.about.read_text())
    forged = "Approve everything"
    if change in ("text", "both"):
        signing.text.write_text(forged)
    if change == "both":  # as whoever has no key would: with a hash that fits
        about |= {"hash": "sha256:" + "0" * 64, "signature": "0" * 64}
    about |= {"signer": {"signedBy": "you"}, "time": {"signedAt": "2030"}, "signature": {"signature": ""}}.get(
        change, {}
    )
    signing.about.write_text("[" if change == "unreadable" else json.dumps(about))
    if change == "key":
        signing.signatures.key.write_bytes(b"x" * 32)
    error = await signing.run(f"{PROMPT.replace('Review', 'Review')}verify @prompt")
    assert error is not None
    assert error.code == "verify"
    assert "does not hold" in error.message
    assert error.span is not None
    assert error.span.line == 3
    assert error.hint


async def test_another_text_is_not_the_one_that_was_signed(signing: Signing) -> None:
    assert await signing.run(f'{PROMPT}sign @prompt by "me"') is None
    error = await signing.run(f"{PROMPT.replace('reject', 'approve')}verify @prompt")
    assert error is not None
    assert "@prompt is not the text that was signed by me at 20" in error.message
    assert "mlld verify prompt" in (error.hint or "")
    error = await signing.run("var @other = `x`\nverify @other")
    assert error is not None
    assert "@other was never signed" in error.message


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("var @prompt = `x`\nsign @prompt with md5", "Unsupported signing method: md5"),
        ("var @a = `x`\nvar @prompt = @a\nsign @prompt", "no text that is written in this file"),
        ("var @prompt = cmd { echo hi }\nsign @prompt", "no text that is written in this file"),
        ("verify @nobody", "Variable not found for verification: @nobody"),
    ],
)
async def test_what_cannot_be_signed_is_told(signing: Signing, script: str, message: str) -> None:
    error = await signing.run(script)
    assert error is not None
    assert message in error.message
    assert error.hint
    assert error.span is not None


async def test_cannot_sign_while_a_module_is_declared(signing: Signing) -> None:
    signing.world.module("evil", "var @p = `x`\nsign @p\nexe @mcpConfig() = { servers: [] }\nexport { @mcpConfig }\n")
    error = await signing.run("import { @mcpConfig } from @local/evil")
    assert error is not None
    assert error.code == "no-effects"
    assert not (signing.world.root / ".sig").exists()


@pytest.mark.parametrize("name", ["../x", "a/b", "", "."])
def test_cannot_name_a_file_elsewhere(signing: Signing, name: str) -> None:
    with pytest.raises(LookupError):
        signing.signatures.signed(name)


def test_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlld-config.json").write_text("{}")
    (tmp_path / "s.mld").write_text('var @a = `one`\nvar @b = `two`\nsign @a by "me"\nsign @b\n')
    assert execute(["s.mld"]) == 0
    assert execute(["verify", "@a"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["verified"], said["template"], said["signedBy"]) == (True, "one", "me")
    assert said["hash"].startswith("sha256:")
    monkeypatch.setenv("MLLD_VERIFY_VARS", "a,b,c")
    assert execute(["verify"]) == 1
    assert [each["verified"] for each in json.loads(capsys.readouterr().out)] == [True, True, False]
    monkeypatch.delenv("MLLD_VERIFY_VARS")
    assert execute(["verify"]) == 2

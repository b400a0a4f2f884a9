"""Scripts by name, and what the command line gives to a script."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.cli.app import execute
from runner.cli.project import find_project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home, project = tmp_path / "home", tmp_path / "project"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(home))
    for path, text in {
        home / ".mlld/run/mine.mld": 'show "mine"',
        home / ".mlld/run/hello.mld": 'show "hidden"',
        project / "mlld-config.json": "{}",
        project / "llm/run/hello.mld": "show @payload",
        project / "llm/run/app/index.mld": 'show "app"',
        project / "llm/run/notes.mld.md": "# Notes",
        project / "llm/run/parts/x.txt": "no script",
        project / "state.mld": "show @state",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(project)
    return project


def mlld(*arguments: str) -> int:
    return execute(arguments)


def test_scripts_are_listed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mlld("run") == 0
    assert capsys.readouterr().out.split() == ["app", "hello", "mine", "notes"]


@pytest.mark.parametrize(
    ("name", "said"), [("app", "app"), ("mine", "mine"), ("hello.mld", "{}"), ("notes", "# Notes")]
)
def test_a_script_runs_by_its_name(project: Path, capsys: pytest.CaptureFixture[str], name: str, said: str) -> None:
    assert mlld("run", name) == 0
    assert capsys.readouterr().out.strip() == said


def test_the_configuration_says_where_they_are(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "mlld-config.json").write_text('{"scriptDir": "jobs"}')
    (project / "jobs").mkdir()
    (project / "jobs" / "nightly.mld").write_text('show "night"')
    assert mlld("run") == 0
    assert capsys.readouterr().out.split() == ["hello", "mine", "nightly"]


def test_a_name_that_is_not_there(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mlld("run", "helo") == 2
    assert "did you mean 'hello'?" in capsys.readouterr().err


def test_flags_and_pairs_become_the_payload(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mlld("run", "hello", "--topic", "vars", "limit=5", "--max-size=3", "--fast") == 0
    assert json.loads(capsys.readouterr().out) == {
        "topic": "vars", "limit": "5", "max-size": "3", "maxSize": "3", "fast": True,
    }  # fmt: skip


def test_cannot_misspell_an_option_into_the_payload(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mlld("run", "hello", "--documnt") == 2
    assert "did you mean '--document'?" in capsys.readouterr().err
    assert mlld("run", "hello", "--document") == 0


@pytest.mark.parametrize("wrong", ["loose", "--9", "a b=c"])
def test_what_is_no_field_is_refused(project: Path, capsys: pytest.CaptureFixture[str], wrong: str) -> None:
    assert mlld("run", "hello", wrong) == 2
    capsys.readouterr()


def test_a_text_runs_without_a_file(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mlld("-e", "show `topic @payload.topic`", "--topic", "x") == 0
    assert capsys.readouterr().out.strip() == "topic x"


def test_state_is_given_in_parts(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "s.json").write_text('{"a": 1, "b": [2]}')
    assert mlld("state.mld", "--state", "@s.json", "--state", "a=true", "--state", "c=text") == 0
    assert json.loads(capsys.readouterr().out) == {"a": True, "b": [2], "c": "text"}
    assert mlld("state.mld", "--state", "[1]") == 2
    assert "no JSON object" in capsys.readouterr().err


def test_a_directory_is_validated(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mlld("validate", "llm") == 0
    assert "3 files: 0 errors" in capsys.readouterr().err


def test_a_manifest_marks_a_project_only_where_nothing_else_does(tmp_path: Path) -> None:
    part = tmp_path / "project" / "packages" / "a"
    part.mkdir(parents=True)
    (part / "package.json").write_text("{}")
    assert find_project(part, home=tmp_path) == part
    (tmp_path / "project" / ".git").mkdir()
    assert find_project(part, home=tmp_path) == tmp_path / "project"


@pytest.mark.parametrize(
    ("text", "said"),
    [('{"a": 1}', '1 {"a":1} env'), ("plain", "null plain env"), ("", "null null env")],
)
def test_input_is_stdin_and_imports_add_variables(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    (project / "in.mld").write_text("import { @a, @MLLD_T } from @input\nshow `@a @input @MLLD_T`")
    monkeypatch.setenv("MLLD_T", "env")
    monkeypatch.setattr("runner.cli.context.piped_stdin", lambda: text)
    assert mlld("run", "in.mld") == 0
    assert capsys.readouterr().out.strip() == said

"""The command line without an engine: help, wrong words, exit codes, looking back at records."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from runner import __version__
from runner.cli.app import execute
from runner.cli.shown import fail
from runner.cli.tools import hidden_in
from runner.errors import UnknownRun
from runner.lease import owner
from runner.plan import ProfileReason, SandboxPlan, to_json
from runner.record import RunRecord

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def mlld(*arguments: str) -> int:
    return execute(arguments)


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "runner", "--version"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout == f"mlld {__version__}\n"
    assert "click" not in done.stderr, "--version must not import the commands"


@pytest.mark.parametrize("command", [(), ("sandbox",), ("sandbox", "show"), ("sandbox", "images"), ("doctor",)])
def test_help_begins_with_examples_or_usage(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert mlld(*command, "--help") == 0
    assert capsys.readouterr().out.startswith(("Examples:\n  mlld", "Usage: mlld"))


def test_every_command_of_the_tables_can_be_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    from runner.cli.app import COMMANDS as top
    from runner.cli.sandbox import COMMANDS as below

    for path in [*((name,) for name in top), *(("sandbox", name) for name in below)]:
        assert mlld(*path, "--help") == 0, path
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "said", "next_step"),
    [
        (("sandbx",), "there is no command 'sandbx'\n  did you mean 'sandbox'?", "mlld --help"),
        (("sandbox", "spwan"), "did you mean 'spawn'?", "mlld sandbox --help"),
        (("env", "sho"), "did you mean 'show'?", "--help"),
        (("sandbox", "ps", "--jsn"), "there is no option '--jsn'\n  did you mean '--json'?", "mlld sandbox ps --help"),
        (("completion", "tcsh"), "'tcsh' is not one of", "mlld completion --help"),
        (("sandbox", "ps", "--limit", "many"), "'many' is not a valid integer", "mlld sandbox ps --help"),
        (("sandbox", "show", "nope"), "there is no run 'nope'", "mlld sandbox spawn"),
        (("sandbox", "explain", "engine-stoped"), "did you mean 'engine-stopped'?", "docs/errors.md"),
        (("sandbox", "init", "../x"), "'../x' is not a name", "@local/NAME"),
    ],
)
def test_a_wrong_word_is_a_usage_error_with_a_next_step(
    arguments: tuple[str, ...], said: str, next_step: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mlld(*arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    assert next_step in shown.err.split("next:")[1]


def test_without_arguments_help_is_shown_and_it_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert mlld() == 2
    assert "Examples:" in capsys.readouterr().err


def test_json_errors_are_one_object_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert mlld("sandbox", "show", "nope", "--json") == 2
    shown = json.loads(capsys.readouterr().out)
    assert (shown["ok"], shown["exit"], shown["errors"][0]["code"]) == (False, 2, "unknown-run")


def test_a_defect_of_ours_is_told_as_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("boom\x1b[31m")

    monkeypatch.setattr("runner.cli.runs.runs", broken)
    assert mlld("sandbox", "ps") == 1
    shown = capsys.readouterr().err
    assert "a defect of this program: RuntimeError: boom\\x1b[31m" in shown
    assert "MLLD_TRACEBACK=1" in shown


def test_completion_knows_our_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert mlld("completion", shell) == 0
        assert "_MLLD_COMPLETE" in capsys.readouterr().out
    done = subprocess.run(
        [sys.executable, "-c", "from runner.cli import main; main()"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "_MLLD_COMPLETE": "bash_complete", "COMP_WORDS": "mlld sandbox sp",
             "COMP_CWORD": "2"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "spawn" in done.stdout


# ------------------------------------------------------------------------------------------------------------- records


@pytest.fixture
def run(tmp_path: Path) -> RunRecord:
    """A run with all that a run can have."""
    at = iter(range(1_700_000_000, 1_700_000_100))
    record = RunRecord.create(tmp_path / "data" / "mlld" / "runs", now=lambda: float(next(at)))
    plan = SandboxPlan(run=record.name, environment="myenv", profile=ProfileReason(name="full", why="first permitted"))
    record.append("run", name=record.name, env="@local/myenv", agent="scripted", pid=os.getpid(), owner=owner())
    record.append("plan", digest="sha256:abc", plan=json.loads(to_json(plan)))
    record.append("log", member="tickets", stream="stderr", line="hello \x1b[31mred")
    call = {"method": "tools/call", "server": "tickets", "arguments": {"id": "T-7"}}
    record.append("call", **call, name="list_tickets", decision="allow", ms=3, labels=["pii"])
    record.append("call", **call, name="get_ticket", decision="deny", rule="guard @embargo (index.mld:25)")
    record.append("egress", member="agent", host="evil.example", port=443, decision="deny", rule="not granted")
    record.append("answer", text="6 open\x1b]0;tickets", taint=["src:mcp"], exit=0)
    record.append("left", containers=[], networks=[], volumes=[])
    return record


def test_show_tells_the_whole_run(run: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    run.close(exit=0)
    assert mlld("sandbox", "show", "last") == 0
    shown = capsys.readouterr().out
    for line in (
        f"run {run.name} · @local/myenv · agent scripted · ok",
        "profile: full (first permitted)",
        '  ✓ tickets.list_tickets {"id": "T-7"}  3 ms  [pii]',
        '  ✗ tickets.get_ticket {"id": "T-7"} by guard @embargo (index.mld:25)',
        "  ✗ agent → evil.example:443 by not granted",
        "  │ 6 open\\x1b]0;tickets",
        "taint: src:mcp",
        "left behind: nothing (no container, no network, no volume)",
    ):
        assert line in shown
    assert "\x1b" not in shown, "hostile text must not drive the terminal"


def test_show_as_an_object_has_the_result(run: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    run.close(exit=0)
    assert mlld("sandbox", "show", run.name[:4], "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["profile"] == "full"
    assert [call["name"] for call in shown["calls"]] == ["list_tickets", "get_ticket"]
    assert [denial["event"] for denial in shown["denials"]] == ["call", "egress"]
    assert shown["left"] == {"containers": [], "networks": [], "volumes": []}


def test_ps_shows_what_runs_and_all_shows_what_ran(run: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    assert mlld("sandbox", "ps") == 0
    assert "running" in capsys.readouterr().out
    run.close(exit=3)
    assert mlld("env", "ps") == 0
    assert capsys.readouterr().out == ""
    assert mlld("sandbox", "ps", "--all") == 0
    assert "exit 3" in capsys.readouterr().out


def test_a_run_whose_runner_was_killed_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = RunRecord.create(tmp_path / "data" / "mlld" / "runs", now=lambda: 1_700_000_000.0)
    machine, boot, namespace, _, started = owner().split(":")
    record.append("run", name=record.name, env="x", owner=f"{machine}:{boot}:{namespace}:{2**22 + 1}:{started}")
    assert mlld("sandbox", "ps", "--all") == 0
    assert "lost" in capsys.readouterr().out


def test_verify_is_loud_about_a_changed_record(run: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    run.close(exit=0)
    assert mlld("sandbox", "verify", "last") == 0
    assert run.head in capsys.readouterr().out
    run.path.write_text(run.path.read_text().replace('"deny"', '"allow"', 1))
    assert mlld("sandbox", "verify", "last") == 1
    assert "line 5 was changed" in capsys.readouterr().err
    mlld("sandbox", "show", "last")
    assert "the record is not whole" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------------- init


def test_init_makes_a_module_and_never_overwrites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mlld("sandbox", "init", "review") == 0
    assert "type: environment" in (tmp_path / ".mlld" / "env" / "review" / "module.yml").read_text()
    capsys.readouterr()
    assert mlld("sandbox", "init", "review") == 2
    assert "is there already" in capsys.readouterr().err


def test_every_error_has_a_page_and_no_page_is_of_none(capsys: pytest.CaptureFixture[str]) -> None:
    from runner.cli.explain import classes, pages

    written = pages((ROOT / "docs" / "errors.md").read_text())
    assert set(classes()) <= set(written)
    assert all(written.values())
    assert all(kind.exit_code for kind in classes().values()), "no error ever exits 0"
    assert mlld("sandbox", "explain", "engine-stopped") == 0
    assert "with systemd or without" in capsys.readouterr().out


def test_of_failures_side_by_side_the_first_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    both = ExceptionGroup("two", [ExceptionGroup("one", [UnknownRun("x")]), ValueError("after")])
    assert fail(both) == 2
    assert "there is no run 'x'" in capsys.readouterr().err


@pytest.mark.parametrize("prompt", ["", " \n", b"\xff".decode("utf-8", "surrogateescape")])
def test_a_prompt_that_is_none_is_refused_before_anything(prompt: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert mlld("sandbox", "spawn", prompt, "--env", "@local/none") == 2
    assert "the prompt is" in capsys.readouterr().err


def test_what_is_hidden_is_shown_with_its_reason() -> None:
    first = {"event": "list", "server": "tickets", "hidden": {"old": "gone by now"}, "total": 1}
    last = {"event": "list", "server": "tickets", "hidden": {"drop\x1b[2J": "policy withholds it"}, "total": 3}
    assert hidden_in([first, {"event": "call", "server": "tickets"}, last]) == [
        "hidden: drop\\x1b[2J of tickets: policy withholds it",
        "hidden: 2 more of tickets",
    ]


def test_the_only_environment_need_not_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    ask = ("sandbox", "check", "net api.github.com", "--provider", "local")
    assert mlld(*ask) == 2
    assert "mlld sandbox init NAME" in capsys.readouterr().err
    assert mlld("sandbox", "init", "one") == 0
    assert mlld(*ask) != 2  # whatever it answers
    assert "--env @local/one: the only one here" in capsys.readouterr().err
    assert mlld("sandbox", "init", "two") == 0
    assert mlld(*ask) == 2
    assert "--env is missing: there are @local/one, @local/two" in capsys.readouterr().err


@pytest.mark.parametrize("command", [("run", "missing.mld"), ("missing.mld",), ("check", "missing.mld")])
def test_a_script_that_is_not_there(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert mlld(*command) == 2
    assert capsys.readouterr().err == (
        "error[usage]: there is no file missing.mld\n  next: give the path of a script, or - for standard input\n"
    )


def test_advice_is_told_as_it_can_be_typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MLLD_CALLED", "./dev mlld")
    assert mlld("sandbox", "show") == 2
    assert '  next: ./dev mlld sandbox spawn "…" --env REF' in capsys.readouterr().err
    assert mlld("sandbox", "init", "one") == 0
    assert "next: ./dev mlld sandbox plan --env @local/one" in capsys.readouterr().err
    assert mlld("sandbox", "plan", "--env", "@local/two") == 2
    assert "hint: " in capsys.readouterr().err


@pytest.mark.parametrize("script", ["globs.mld", "./globs.mld", "sub/../globs.mld"])
def test_a_script_that_is_named_from_here_finds_its_files(
    script: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.md").write_text("one")
    (tmp_path / "sub" / ".hidden.md").write_text("two")
    (tmp_path / "globs.mld").write_text("var @all = <sub/*.md>\nshow @all.length()\n")
    assert mlld("run", script) == 0
    assert capsys.readouterr().out == "1\n"


def test_a_directory_is_checked_without_what_others_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.mld", "sub/b.mld.md", "sub/c.att", ".mlld/env/e/index.mld", "node_modules/x.mld", ".git/y.mld"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("/var x = 1\n" if name.endswith(".md") else "show `fine`\n")
    assert mlld("check", ".") == 3
    found = capsys.readouterr().err
    assert "./sub/b.mld.md:1:6: error[missing-at]" in found
    assert found.endswith("4 files: 1 error, 0 warnings\n")
    assert mlld("check", ".", "--exit-code", "1") == 1
    assert mlld("check", "a.mld", "--exit-code", "1") == 0
    assert mlld("check", "a.mld", "--error-on-warnings") == 0
    (tmp_path / "a.mld").write_text("show @mx.now\n")
    assert mlld("check", "a.mld") == 0
    assert mlld("check", "a.mld", "--error-on-warnings") == 3


def test_a_check_of_nothing_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert mlld("check", "empty") == 2
    assert "there is no script below empty" in capsys.readouterr().err

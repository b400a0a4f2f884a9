"""`mlld sandbox logs` and `ps`: a run as it goes on, from another terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from interpreter.declarations import Place
from runner.backends import docker_errors, docker_usage
from runner.backends.docker_usage import Usage
from runner.cli.app import execute
from runner.lease import owner
from runner.plan import ProfileReason, SandboxPlan, Server, to_json
from runner.record import RunRecord, Tail
from runner.report_events import log_line
from tests.support.projects import ROOT
from tests.support.waiting import PATIENCE


def mlld(*arguments: str) -> int:
    return execute(list(arguments))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with monkeypatch.context() as clock:
        clock.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def begun(directory: Path, mark: str) -> RunRecord:
    record = RunRecord.create(directory / "data" / "mlld" / "runs", now=time.time)
    servers = tuple(
        Server(name=name, source="x", place=Place(file="index.mld", line=4, column=1)) for name in ("tickets", "git")
    )
    plan = SandboxPlan(
        run=record.name,
        environment="myenv",
        profile=ProfileReason(name="full", why="first permitted"),
        servers=servers,
    )
    record.append("run", name=record.name, env="@local/myenv", pid=os.getpid(), owner=mark)
    record.append("plan", digest="sha256:abc", plan=json.loads(to_json(plan)))
    return record


@pytest.fixture
def run(tmp_path: Path) -> RunRecord:
    """A run that goes on."""
    record = begun(tmp_path, owner())
    at = 1_700_000_000.25
    for server in ("tickets", "git"):
        record.append("server", at=at, server=server, state="ready", processes=1, restarts=0, seconds=0.1)
    record.append("log", member="tickets", line="hello \x1b[31mred")
    call = {"at": at, "method": "tools/call", "server": "tickets", "arguments": {"id": "T-7"}}
    for ms in (3, 9, 40):
        record.append("call", **call, name="list", decision="allow", ms=ms, labels=["pii"])
    record.append("call", **call, name="get", decision="deny", rule="guard @embargo (index.mld:25)", ms=1)
    record.append("denied", at=at, method="tools/call", name="nope", decision="deny", rule="unknown", reason="no such")
    record.append("request", at=at, method="tools/list", decision="allow")
    record.append("egress", at=at, member="agent", host="evil.example", port=443, decision="deny", rule="default-deny")
    record.append("server", at=time.time(), server="git", state="exited", processes=0, restarts=2,
                  reason="server git ended by itself", retryMs=900_000)  # fmt: skip
    return record


# ------------------------------------------------------------------------------------------------------------------ logs


def test_logs_are_what_happened_line_by_line(run: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    assert mlld("sandbox", "logs") == 0
    shown = capsys.readouterr().out
    lines = [line.partition(" ")[2] for line in shown.splitlines()]
    assert lines == [
        f"run          {run.name} · @local/myenv",
        "tickets      ready",
        "git          ready",
        "tickets      │ hello \\x1b[31mred",
        *(f'tickets      ✓ tickets.list {{"id": "T-7"}}  {ms} ms  [pii]' for ms in (3, 9, 40)),
        'tickets      ✗ tickets.get {"id": "T-7"} by guard @embargo (index.mld:25)',
        "agent        ✗ nope by unknown: no such",
        "agent        ✗ agent → evil.example:443 by default-deny",
        "git          exited: server git ended by itself",
    ]
    assert shown.splitlines()[1].startswith("22:13:20.250 ")


def test_whoever_lost_what_was_not_finished_is_told() -> None:
    lost = {"event": "shed", "member": "tickets", "bytes": 3, "times": 1}
    told = log_line(lost)
    assert told is not None
    assert told.endswith("tickets      ✗ lost 3 bytes that were not finished: the sidecar holds too much")
    again = log_line(lost | {"times": 7})
    assert again == f"{told} (7 times)"


def test_what_a_lock_makes_forgotten_is_told() -> None:
    told = log_line({"event": "forgotten", "server": "git", "situation": "handshake", "what": "the tool log"})
    assert told is not None
    assert "git          forgets what it said in an earlier run: the tool log is not as in the lock" in told


def test_logs_are_of_one_member(run: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    assert mlld("sandbox", "logs", run.name[:4], "--of", "git") == 0
    assert [line.split(" ", 2)[1] for line in capsys.readouterr().out.splitlines()] == ["git", "git"]
    assert mlld("sandbox", "logs", "last", "--of", "tickets", "--stderr") == 0
    assert capsys.readouterr().out == "hello \\x1b[31mred\n"
    assert mlld("sandbox", "logs", "last", "--stderr") == 0
    assert capsys.readouterr().out == "tickets      hello \\x1b[31mred\n"


def test_logs_as_json_are_the_events(run: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    assert mlld("sandbox", "logs", "last", "--json", "--of", "agent") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["denied", "request", "egress"]
    assert events[0]["hash"]


def test_an_unknown_member_names_the_known_ones(run: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    assert mlld("sandbox", "logs", "last", "--of", "nobody") == 2
    assert "known: agent, sidecar, tickets, git" in capsys.readouterr().err
    assert mlld("sandbox", "logs", "last", "--of", "ticket") == 2
    assert "did you mean 'tickets'?" in capsys.readouterr().err


def test_an_unknown_run_names_the_known_ones(run: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    assert mlld("sandbox", "logs", "-f", "zzzz") == 2
    assert run.name in capsys.readouterr().err


def test_following_what_has_ended_ends(run: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    run.close(exit=3)
    assert mlld("sandbox", "logs", "last", "-f") == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("run          ended with 3")


def test_following_a_run_whose_runner_was_killed_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine, boot, namespace, _, started = owner().split(":")
    record = begun(tmp_path, f"{machine}:{boot}:{namespace}:{2**22 + 1}:{started}")
    assert mlld("sandbox", "logs", "last", "-f") == 0
    assert f"the runner of {record.name} was killed" in capsys.readouterr().err


@pytest.fixture
def following(run: RunRecord) -> Iterator[subprocess.Popen[str]]:
    """`logs -f` in a process of its own, which has caught up."""
    command = [sys.executable, "-P", "-m", "runner", "sandbox", "logs", "-f", "last"]
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while "exited" not in process.stdout.readline():
        assert process.poll() is None
    yield process
    process.kill()
    process.communicate()


def test_what_comes_is_shown_while_it_comes(run: RunRecord, following: subprocess.Popen[str]) -> None:
    assert following.stdout is not None
    for number in range(3):
        run.append("log", member="git", line=f"line {number}")
        assert f"│ line {number}" in following.stdout.readline()
    run.close(exit=0)
    rest, errors = following.communicate(timeout=PATIENCE)
    assert (rest.strip().endswith("ended with 0"), errors, following.returncode) == (True, "", 0)


def test_whoever_has_seen_enough_leaves_without_a_word(run: RunRecord, following: subprocess.Popen[str]) -> None:
    following.send_signal(signal.SIGINT)
    rest, errors = following.communicate(timeout=PATIENCE)
    assert (rest, errors, following.returncode) == ("", "", 130)
    run.append("log", member="git", line="the run goes on")


def test_following_a_damaged_record_says_so(run: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    with run.path.open("a") as file:
        file.write("not a line of ours\n")
    assert mlld("sandbox", "logs", "last", "-f") == 1
    told = capsys.readouterr()
    assert told.out.splitlines()[-1].endswith("server git ended by itself")
    assert f"next: mlld sandbox verify {run.name}" in told.err


def test_a_line_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"n":0}\n{"n":')
    with Tail(path) as tail:
        assert list(tail.news()) == [{"n": 0}]
        with path.open("ab") as file:
            file.write(b"1}\n")
        assert list(tail.news()) == [{"n": 1}]
        assert list(tail.news()) == []


# -------------------------------------------------------------------------------------------------------------------- ps


def test_ps_shows_the_health_of_each_server(run: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    assert mlld("sandbox", "ps") == 0
    head, row, tickets, git = capsys.readouterr().out.splitlines()
    assert head.split() == ["RUN", "STARTED", "TIME", "STATE", "CALLS", "DENIED", "ENV"]
    assert row.split()[-4:] == ["running", "4", "3", "@local/myenv"]
    assert tickets == "  tickets          ready     3 calls, p50 9 ms"
    assert git.startswith(
        "  git              failed    0 calls, 2 restarts; server git ended by itself; may start again in "
    )


def test_ps_as_json_has_the_same(run: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    assert mlld("sandbox", "ps", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["calls"], row["denied"]) == (4, 3)
    tickets, git = row["servers"]
    assert tickets == {
        "name": "tickets", "state": "ready", "reason": None, "retryMs": None, "calls": 3, "restarts": 0, "p50Ms": 9.0,
    }  # fmt: skip
    assert (git["state"], git["restarts"], 500_000 < git["retryMs"] <= 900_000) == ("failed", 2, True)


def test_a_server_that_nobody_has_used_is_idle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun(tmp_path, owner())
    assert mlld("sandbox", "ps", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert [(server["name"], server["state"]) for server in row["servers"]] == [("tickets", "idle"), ("git", "idle")]


def test_a_run_that_has_ended_has_no_health(run: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    run.close(exit=0)
    assert mlld("sandbox", "ps", "--all") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.fixture
def seats(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that has measured one seat."""

    class Client:
        api = None

        def close(self) -> None: ...

    found = Usage(member="agent", memory_bytes=34 << 20, memory_limit=512 << 20, processes=3, processes_limit=128)
    monkeypatch.setattr(docker_errors, "connect", Client)
    monkeypatch.setattr(docker_usage, "usage", lambda api, name: [found])


@pytest.mark.usefixtures("seats")
def test_ps_shows_it_of_the_runs_that_go_on(run: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    assert mlld("sandbox", "ps", "--usage") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "  agent            uses 34 of 512 MiB, 3 of 128 processes"
    assert mlld("sandbox", "ps", "--usage", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["usage"] == [
        {"member": "agent", "memoryBytes": 34 << 20, "memoryLimit": 512 << 20, "processes": 3, "processesLimit": 128}
    ]
    assert mlld("sandbox", "ps", "--json") == 0
    assert "usage" not in json.loads(capsys.readouterr().out)[0], "nobody has asked"

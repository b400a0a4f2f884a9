"""`mlld sandbox explain`: why a run refused something, from its record alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from interpreter.declarations import Place
from runner.cli.app import execute
from runner.plan import ProfileReason, SandboxPlan, Server, to_json
from runner.record import RunRecord


def mlld(*arguments: str) -> int:
    return execute(list(arguments))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunRecord:
    """A run in which all kinds of things were refused."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    record = RunRecord.create(tmp_path / "data" / "mlld" / "runs", now=lambda: 1_700_000_000.0)
    plan = SandboxPlan(
        run=record.name,
        environment="myenv",
        profile=ProfileReason(name="readonly", why="x", denied={"full": ("network: policy @p denies net",)}),
        servers=(
            Server(
                name="tickets",
                source="x",
                tools=("list", "close"),
                labels={"close": ("destructive",)},
                place=Place(file="index.mld", line=4, column=3),
            ),
        ),
    )
    record.append("run", name=record.name, env="@local/myenv")
    record.append("plan", digest="sha256:abc", plan=json.loads(to_json(plan)))
    call = {"session": "s1", "method": "tools/call", "server": "tickets", "decision": "allow", "isError": False}
    record.append("call", **call, name="list", labels=["src:mcp", "mcp:tickets:list", "untrusted"])
    record.append("call", **call | {"session": "s2"}, name="list", labels=["src:mcp", "secret"])
    record.append("call", **call | {"decision": "deny"}, name="list", labels=["pii"], rule="guard @x", result="")
    rule = "rule no-untrusted-destructive of policy @p (index.mld:9:5)"
    refused = {"decision": "deny", "rule": rule, "result": f"Denied by {rule}: untrusted cannot flow to destructive"}
    labels = ["src:mcp", "mcp:tickets:close", "destructive"]
    record.append("call", **call | refused, name="close", labels=labels, arguments={"id": "T-7\x1b[31m"})
    denied = {"session": "s1", "method": "tools/call", "decision": "deny", "labels": []}
    record.append("denied", **denied, server="tickets", name="wipe", rule="hidden", reason="not in `tools`")
    record.append("denied", **denied, server="", name="lst", rule="unknown", reason="no server offers it")
    egress = {"member": "agent", "port": 443, "decision": "deny", "phase": "open"}
    record.append("egress", **egress, host="a.example", rule="default-deny", reason="not granted")
    record.append("egress", **egress, host="b.example", rule="deny b.example (index.mld:12:3)", reason="denied")
    record.close(exit=0)
    return record


def test_a_rule_is_told_with_its_line_and_what_the_agent_had_seen(
    run: RunRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mlld("sandbox", "explain", run.name, "5") == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert lines[0].endswith(' · tools/call · tickets.close {"id": "T-7\\u001b[31m"}')
    assert lines[1:4] == [
        "denied by  rule no-untrusted-destructive of policy @p (index.mld:9:5)",
        "at         index.mld:9:5",
        "because    untrusted cannot flow to destructive",
    ]
    assert "           destructive        declared for tickets.close (index.mld:4:3)" in lines
    # Neither what another session saw nor what this one was refused.
    assert [line for line in lines if line.startswith("had seen")] == ["had seen   untrusted          #2 tickets.list"]
    assert "secret" not in shown
    assert "pii" not in shown
    assert any(line.startswith("to let it through") for line in lines)


@pytest.mark.parametrize(
    ("number", "place", "way"),
    [
        ("6", "at         index.mld:4:3", "name 'wipe' in `tools` of the server 'tickets' (index.mld:4:3)"),
        ("7", None, "did it mean 'list'?"),
        ("8", None, "a profile that requires `network`, and a policy that permits it (now: readonly)"),
        ("8", None, "profile full was not permitted: network: policy @p denies net"),
        ("8", None, '"a.example" (port 443) in `net.allow`, granted to agent'),
        ("9", "at         index.mld:12:3", "nothing but taking that line away"),
        ("4", None, "another answer of that guard"),
    ],
)
def test_each_refusal_has_its_way_out(
    run: RunRecord, number: str, place: str | None, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mlld("sandbox", "explain", "last", number) == 0
    shown = capsys.readouterr().out
    assert way in shown
    assert [line for line in shown.splitlines() if line.startswith("at  ")] == ([place] if place else [])


def test_without_a_number_it_is_the_latest_and_the_others_are_named(
    run: RunRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mlld("sandbox", "explain", "last") == 0
    told = capsys.readouterr()
    assert told.out.startswith("#9 ")
    assert told.err.strip() == f"also denied in {run.name}: #4, #5, #6, #7, #8"


def test_as_json_it_is_one_object(run: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    assert mlld("sandbox", "explain", "last", "5", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["n"], shown["at"]) == (5, "index.mld:9:5")
    assert {"label": "untrusted", "from": "#2 tickets.list"} in shown["seen"]


def test_the_numbers_are_where_refusals_are_told(run: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    assert mlld("sandbox", "show", "last") == 0
    shown = capsys.readouterr().out
    assert "  ✗ tickets.wipe by hidden: not in `tools`  #6\n" in shown
    assert f"  why: mlld sandbox explain {run.name} 4\n" in shown
    assert mlld("sandbox", "show", "last", "--json") == 0
    assert [denial["n"] for denial in json.loads(capsys.readouterr().out)["denials"]] == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("last", "2"), "#2 of"),
        (("last", "99"), "is no refusal"),
        (("last", "x"), "'x' is not a valid integer"),
        (("nobody",), "there is no error code or run 'nobody'"),
        (("nobody", "3"), "there is no run 'nobody'"),
    ],
)
def test_what_is_no_refusal_is_told_with_those_that_are(
    run: RunRecord, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mlld("sandbox", "explain", *arguments) == 2
    assert said in capsys.readouterr().err


def test_an_error_code_is_still_a_page(run: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    assert mlld("sandbox", "explain", "engine-stopped") == 0
    assert "exit 5" in capsys.readouterr().out


def test_a_run_without_refusals_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    RunRecord.create(tmp_path / "data" / "mlld" / "runs", now=lambda: 1_700_000_000.0).close(exit=0)
    assert mlld("sandbox", "explain", "last") == 2
    assert "nothing was denied" in capsys.readouterr().err

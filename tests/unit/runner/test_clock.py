"""The clock that scripts see."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from runner.cli.app import execute
from runner.errors import BadOption
from runner.host.clock import SystemClock


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("1234567890", 1234567890.0),
        ("2009-02-13T23:31:30Z", 1234567890.0),
        ("2009-02-13T23:31:30.500Z", 1234567890.5),
        ("2009-02-14T00:31:30+01:00", 1234567890.0),
        ("2009-02-13T23:31:30", 1234567890.0),
        ("2009-02-13", 1234483200.0),
    ],
)
def test_a_given_moment_stops_it(given: str, seconds: float) -> None:
    clock = SystemClock.of({"MLLD_MOCK_TIME": given})
    assert clock.now() == clock.now() == seconds
    assert clock.monotonic() == pytest.approx(time.monotonic(), abs=5)  # limits and pauses go on


@pytest.mark.parametrize("env", [{}, {"MLLD_MOCK_TIME": ""}])
def test_without_one_it_goes(env: dict[str, str]) -> None:
    assert SystemClock.of(env).now() == pytest.approx(time.time(), abs=5)


@pytest.mark.parametrize("given", ["noon", "-1", "2009-13-40", "9" * 30, "99999999999999", "²"])
def test_what_is_no_moment_is_refused_by_its_name(given: str) -> None:
    with pytest.raises(BadOption, match="MLLD_MOCK_TIME"):
        SystemClock.of({"MLLD_MOCK_TIME": given})


def test_a_script_sees_the_moment_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "now.mld"
    script.write_text("import { unix, date } from @now\nshow `@unix @date @now`\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLLD_MOCK_TIME", "1234567890")
    assert execute(["run", str(script)]) == 0
    assert capsys.readouterr().out == "1234567890 2009-02-13 2009-02-13T23:31:30.000Z\n"
    monkeypatch.setenv("MLLD_MOCK_TIME", "noon")
    assert execute(["run", str(script)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "MLLD_MOCK_TIME" in shown.err

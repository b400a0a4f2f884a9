"""Results of `exe llm` that runs keep: when they are used again, what is thrown away, what is never written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from interpreter.checkpoints import Store
from interpreter.errors import MlldError
from interpreter.evaluate import RunOptions, run_script
from interpreter.source import Source
from runner.cli.app import execute
from runner.host.checkpoints import KeptResults
from tests.support.worlds import Done, Recorder, World, fine

ASK = 'exe llm @ask(q) = sh { echo "$q" >> asked.log; echo "answer to $q" }\n'


class Runs:
    """A project whose scripts keep results."""

    def __init__(self, root: Path) -> None:
        self.world = World(root)
        self.kept = KeptResults.of(root / "script.mld", root)

    async def run(self, text: str, *, keep: bool = True, **options: Any) -> Done:
        output, error = Recorder(), None
        path = self.world.write("script.mld", text)
        ports = replace(self.world.ports(output), checkpoints=self.kept if keep else None)
        try:
            await run_script(
                Source(name="script.mld", text=text), path, ports, RunOptions(root=self.world.root, **options)
            )
        except MlldError as caught:
            error = caught
        return Done(
            out=output.out.getvalue(),
            err=output.err.getvalue(),
            error=error,
            value=None,
            sessions=[],
            events=output.events,
        )

    @property
    def asked(self) -> list[str]:
        """What the model was asked since this was looked at last."""
        path = self.world.root / "asked.log"
        found = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return found


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


@pytest.mark.parametrize(
    ("header", "resume", "asked"),
    [
        ("", None, ["a"]), ("", "", []), ("resume: manual\n", None, ["a"]), ("resume: auto\n", None, []),
        ('resume: "auto" >> yes\n', None, []),
        ("---\nresume: auto\n---\n", None, []), ("resume: never\n", None, ["a"]), ("resume: never\n", "", ["a"]),
    ],
)  # fmt: skip
async def test_a_result_is_used_again_as_the_script_says(
    runs: Runs, header: str, resume: str | None, asked: list[str]
) -> None:
    script = header + ASK + 'show @ask("a")'
    assert fine(await runs.run(script)) == ["answer to a"]
    assert runs.asked == ["a"]
    assert fine(await runs.run(script, resume=resume)) == ["answer to a"]
    assert runs.asked == asked


async def test_equal_calls_are_asked_each_for_itself(runs: Runs) -> None:
    script = "resume: auto\n" + ASK + 'for @i in [1, 2, 3] => show @ask("vote")'
    assert len(fine(await runs.run(script))) == 3
    assert runs.asked == ["vote"] * 3
    assert len(fine(await runs.run(script.replace("[1, 2, 3]", "[1, 2, 3, 4]")))) == 4
    assert runs.asked == ["vote"]


async def test_a_changed_function_is_asked_anew(runs: Runs) -> None:
    script = "resume: auto\n" + ASK + 'show @ask("a")'
    await runs.run(script)
    assert fine(await runs.run(script.replace("answer to", "reply to"))) == ["reply to a"]
    assert runs.asked == ["a", "a"]


@pytest.mark.parametrize(
    ("target", "asked"),
    [
        ("@ask", ["src/a", "b", "c"]), ("@ask:1", ["b"]), ('@ask("src/")', ["src/a"]), ("later", ["c"]),
        ('"early"', ["b", "c"]), ("@other", []),
    ],
)  # fmt: skip
async def test_a_target_is_made_again(runs: Runs, target: str, asked: list[str]) -> None:
    script = ASK + 'show @ask("src/a")\ncheckpoint "early"\nshow @ask("b")\ncheckpoint "later"\nshow @ask("c")'
    fine(await runs.run(script))
    assert runs.asked == ["src/a", "b", "c"]
    fine(await runs.run(script, resume=target))
    assert runs.asked == asked
    fine(await runs.run(script, resume=""))
    assert runs.asked == []


async def test_a_target_that_is_not_there_is_told(runs: Runs) -> None:
    done = await runs.run(ASK + 'checkpoint "early"', resume="late")
    assert done.error is not None
    assert 'there is no such checkpoint; the script has "early"' in done.error.message
    assert "@fn:2" in (done.error.hint or "")


async def test_a_checkpoint_has_a_policy_of_its_own(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    script = ASK + 'show @ask("a")\ncheckpoint "b" with { resume: auto, ttl: 1h }\nshow @ask("b")'
    await runs.run(script)
    assert runs.asked == ["a", "b"]
    await runs.run(script)
    assert runs.asked == ["a"]
    aged = [
        json.dumps({**json.loads(line), "at": json.loads(line)["at"] - 3700})
        for line in runs.kept.path.read_text().splitlines()
    ]
    runs.kept.path.write_text("\n".join(aged) + "\n")
    await runs.run(script)
    assert runs.asked == ["a", "b"]
    await runs.run(script, resume="")  # whatever the script says
    assert runs.asked == []


async def test_what_is_not_complete_is_made_again(runs: Runs) -> None:
    script = ASK + 'checkpoint "x" with { resume: auto, complete: @done }\nshow @ask("a")\nvar @done = READY\n'
    await runs.run(script.replace("READY", "false"))
    await runs.run(script.replace("READY", "true"))
    assert runs.asked == ["a", "a"]
    await runs.run(script.replace("READY", "true"))
    assert runs.asked == []


@pytest.mark.parametrize(
    ("options", "message", "column"),
    [
        ("{ resume: often }", "resume: often is none of auto, manual, never", 31),
        ("{ until: 1 }", "no option 'until'", 23),
    ],
)
async def test_a_wrong_option_is_told(runs: Runs, options: str, message: str, column: int) -> None:
    done = await runs.run(f'show "x"\ncheckpoint "a" with {options}')
    assert done.error is not None
    assert message in done.error.message
    assert done.error.span is not None
    assert (done.error.span.line, done.error.span.column) == (2, column)
    assert done.error.hint


async def test_a_kept_result_keeps_its_labels_and_meets_guards(runs: Runs) -> None:
    script = "resume: auto\n" + ASK + 'var pii @q = "a"\nvar @r = @ask(@q)\nshow `@r.mx.labels @r.mx.taint`'
    first = fine(await runs.run(script))
    assert "src:sh" in first[0]
    assert fine(await runs.run(script)) == first
    assert runs.asked == ["a"]
    guard = 'guard before @no for pii = when [ * => deny "no pii" ]\n'
    done = await runs.run(script.replace("exe llm", guard + "exe llm"))
    assert done.error is not None
    assert done.error.exit_code == 4
    after = "guard after @sign for @ask = when [ * => allow `signed @output` ]\n"
    signed = script.replace("exe llm", f"{after}exe llm").replace("show `@r.mx.labels @r.mx.taint`", "show @r")
    assert fine(await runs.run(signed)) == ["signed answer to a"]
    assert runs.asked == []


async def test_hooks_see_whether_it_was_kept(runs: Runs) -> None:
    hook = "hook @h after @ask = [ log `hit=@mx.checkpoint.hit` ]\n"
    script = "resume: auto\n" + ASK + hook + 'show @ask("a")'
    assert "hit=false" in (await runs.run(script)).err
    done = await runs.run(script)
    assert "hit=true" in done.err
    (event,) = [e for e in done.events if type(e).__name__ == "ResultReused"]
    assert len(event.key) == 64


async def test_the_workspace_of_a_block_comes_back(runs: Runs) -> None:
    script = """resume: auto
exe llm @write(q) = sh { echo "$q" >> /dev/null; echo made > out.txt; rm old.txt; echo ok }
var @ws = box [
  file "old.txt" = "x"
  let @d = @write("a")
  run sh { cat out.txt }
]
show <@ws/out.txt>
show @ws.mx.edits.length
"""
    first = fine(await runs.run(script))
    assert first == ["made", "made", "1"]
    assert fine(await runs.run(script)) == first
    assert len(list(runs.kept.listed())) == 1


@pytest.mark.parametrize(
    "call",
    [
        'var secret @k = "sk-1234"\nvar @x = @ask(@k)',
        'var @x = @leak("a")',
        'run cmd { true } using auth:key\nvar @x = @ask("sk-1234")',
    ],
)
async def test_cannot_write_a_secret_down(runs: Runs, call: str) -> None:
    runs.world.secrets = {"env:KEY": "sk-1234"}
    head = 'auth @key = { from: "env:KEY", as: "KEY" }\nexe llm, secret @leak(q) = sh { echo sk-1234 }\n' + ASK
    fine(await runs.run(f'{head}{call}\nvar @y = @ask("fine")'))
    written = runs.kept.path.read_text()
    assert "fine" in written
    assert "sk-1234" not in written


async def test_nothing_is_kept_without_the_power(runs: Runs) -> None:
    fine(await runs.run("resume: auto\n" + ASK + 'show @ask("a")', keep=False))
    assert not runs.kept.path.exists()


async def test_a_broken_store_stops_nothing(runs: Runs) -> None:
    script = "resume: auto\n" + ASK + 'show @ask("a")'
    await runs.run(script)
    text = runs.kept.path.read_text()
    for broken in ("nonsense\n" + text[:-20], '{"kind": "result"}\n[]\n{"kind": "drop"}\n', "[" * 100_000):
        runs.kept.path.write_text(broken)
        done = await runs.run(script)
        assert fine(done) == ["answer to a"]
        assert "kept results cannot be read" in done.err
    assert Store.read(b"\xff\xfe\n").broken == 1


def test_scripts_do_not_share(tmp_path: Path) -> None:
    one = KeptResults.of(tmp_path / "a/run.mld", tmp_path)
    other = KeptResults.of(tmp_path / "b/run.mld", tmp_path, fork=tmp_path / "a/run.mld")
    one.append(b"1")
    other.append(b"2")
    assert (one.read(), other.read()) == (b"1\n", b"1\n2\n")
    assert other.clear()
    assert one.read() == b"1\n"
    assert one.path.stat().st_mode & 0o777 == 0o600


def test_cannot_be_led_away_by_a_link(tmp_path: Path) -> None:
    kept = KeptResults.of(tmp_path / "run.mld", tmp_path)
    kept.path.parent.mkdir(parents=True)
    target = tmp_path / "elsewhere"
    kept.path.symlink_to(target)
    with pytest.raises(OSError, match="symbolic"):
        kept.append(b"1")
    assert not target.exists()


def test_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlld-config.json").write_text("{}")
    (tmp_path / "s.mld").write_text(ASK + 'checkpoint "first"\nshow @ask("a")\n')
    log = tmp_path / "asked.log"

    def asked(*arguments: str) -> int:
        log.unlink(missing_ok=True)
        assert execute(arguments) == 0, capsys.readouterr().err
        assert capsys.readouterr().out == "answer to a\n"
        return len(log.read_text().split()) if log.exists() else 0

    assert asked("run", "s.mld", "--no-checkpoint") == 1
    assert not (tmp_path / ".mlld").exists()
    assert asked("s.mld") == 1
    assert asked("run", "s.mld", "--resume") == 0
    assert asked("run", "s.mld", "--resume", "first") == 1
    (tmp_path / "t.mld").write_text((tmp_path / "s.mld").read_text())
    assert asked("run", "t.mld", "--resume", "--fork", "s.mld") == 0
    assert asked("run", "s.mld", "--fresh", "--resume") == 1
    assert execute(["checkpoint", "list", "s.mld"]) == 0
    assert '@ask:0  "a"  [first]' in capsys.readouterr().out
    assert execute(["checkpoint", "inspect", "s.mld"]) == 0
    (kept,) = json.loads(capsys.readouterr().out)
    assert (kept["value"], kept["labels"]["taint"]) == ("answer to a", ["src:sh"])
    assert execute(["checkpoint", "clean", "s.mld"]) == 0
    assert execute(["checkpoint", "list", "s.mld"]) == 0
    assert "nothing is kept of s.mld" in capsys.readouterr().err
    assert execute(["run", "s.mld", "--resume", "last"]) == 1
    assert 'the script has "first"' in capsys.readouterr().err

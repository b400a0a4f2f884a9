"""What a module's own @spawn prints: passed on while it runs, whole when it fails, and never a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.projects import Project
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.engine

AGENT = "python3 /workspace/agent.py"
SPAWN = "exe @spawn(prompt) = cmd { %s }\nexport { @spawn }\n"
FAILS = """
import os, sys, time
print("first", flush=True)
print("trouble", file=sys.stderr, flush=True)
while not os.path.exists("/workspace/go-on"):
    time.sleep(0.05)
print("second", flush=True)
sys.exit(7)
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.make(tmp_path)


def test_output_comes_as_it_is_written_and_a_failure_keeps_all_of_it(project: Project) -> None:
    project.write("agent.py", FAILS)
    running = project.start("sandbox", "spawn", "x", "--env", project.module("m", SPAWN % AGENT), "-q")
    assert running.stdout is not None
    assert running.stdout.readline() == "first\n"
    project.write("go-on", "")
    rest, errors = running.communicate(timeout=PATIENCE)
    assert rest == "second\n"
    assert errors.count("trouble") == 1
    assert running.returncode == 7


def test_json_has_the_output_of_a_failure(project: Project) -> None:
    project.write("agent.py", FAILS)
    project.write("go-on", "")
    done = project.spawn("x", project.module("m", SPAWN % AGENT), "--json")
    assert done.code == 7
    assert done.json()["answer"] == "first\nsecond\n"
    assert done.json()["exit"] == 7


@pytest.mark.parametrize(
    ("spawn", "said"),
    [
        ("cmd { printf 'a\\nb' }", "a\nb\n"),  # its last line is ended
        ('cmd { printf \'{"b":1,"a":[2]}\' }', '{"b":1,"a":[2]}\n'),  # data is shown as it was printed
        ("py { print('working'); return 'answer' }", "working\nanswer\n"),  # what it returned comes after
        ('[ let @said = run cmd { printf one }\n  => `[@said]` ]', "one\n[one]\n"),  # what it made of it, too
    ],
)  # fmt: skip
def test_the_answer_is_printed_once(project: Project, spawn: str, said: str) -> None:
    ref = project.module("m", f"exe @spawn(prompt) = {spawn}\nexport {{ @spawn }}\n")
    done = project.spawn("x", ref, "-q")
    assert (done.code, done.out) == (0, said), done.err


def test_a_secret_is_struck_out_across_two_writes(project: Project) -> None:
    project.write(
        "agent.py",
        "import os, sys, time\nkey = os.environ['KEY']\nprint('key ' + key[:5], end='', flush=True)\n"
        "time.sleep(0.5)\nprint(key[5:] + ' end', flush=True)\nsys.exit(3)\n",
    )
    body = f'auth @key = {{ from: "env:MY_KEY", as: "KEY" }}\nexe @spawn(prompt) = cmd {{ {AGENT} }} using auth:key\n'
    ref = project.module("m", body + "export { @spawn }\n")
    done = project.spawn("x", ref, MY_KEY="hunter2-hunter2")
    assert (done.code, done.out) == (3, "key ••• end\n"), done.err
    assert "hunter2" not in done.err
    project.write("agent.py", (project.path / "agent.py").read_text().replace("exit(3)", "exit(0)"))
    done = project.spawn("x", ref, MY_KEY="hunter2-hunter2")
    assert (done.code, done.out) == (0, "key ••• end\n"), done.err


def test_what_a_guard_judges_is_not_shown_before(project: Project) -> None:
    guard = 'guard @late after op:exe = when [ @output.includes("hidden") => deny "not for you"\n * => allow ]\n'
    ref = project.module("m", guard + SPAWN % "sh -c 'echo hidden; sleep 0.2'")
    done = project.spawn("x", ref, "-q")
    assert done.code == 4, done.err
    assert done.out == ""


def test_a_reader_that_stops_reading(project: Project) -> None:
    project.write("agent.py", "for at in range(100000): print(at, 'x' * 80, flush=True)\n")
    running = project.start("sandbox", "spawn", "x", "--env", project.module("m", SPAWN % AGENT), "-q")
    assert running.stdout is not None
    assert running.stderr is not None
    with running.stderr:
        running.stdout.readline()
        running.stdout.close()
        errors = running.stderr.read()
    assert running.wait(timeout=PATIENCE) != 0
    assert "Traceback" not in errors

"""The bridge as the keeper of a server's processes: lease, environment, spare connection, ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.support.bridges import PYTHON, Bridge, listening, read_all
from tests.support.processes import is_alive
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.engine

SERVE = ("--serve", "{folder}/stdio.sock")
SH = "/bin/sh"


def test_a_process_starts_at_the_first_byte_and_not_before(bridge: Path) -> None:
    with Bridge(bridge, *SERVE, "--max", "4", "--", "/bin/cat") as b, listening(b.folder / "stdio.sock") as server:
        b.give_environment()
        spare = server.accept()
        assert server.nobody_comes(), "one spare at a time"
        assert not [e for e in b.poll_events() if e["event"] == "spawn"]
        spare.sendall(b"hello\n")
        assert spare.recv(100) == b"hello\n"
        assert b.event("spawn")["running"] == 1
        server.accept().close()


def test_a_spare_which_the_sidecar_drops_is_dialled_again(bridge: Path) -> None:
    with Bridge(bridge, *SERVE, "--", "/bin/cat") as b, listening(b.folder / "stdio.sock") as server:
        b.give_environment()
        server.accept().close()
        second = server.accept()
        second.sendall(b"x")
        assert second.recv(1) == b"x"


def test_it_waits_for_a_socket_that_is_not_there_yet(bridge: Path) -> None:
    with Bridge(bridge, *SERVE, "--", "/bin/cat") as b:
        b.give_environment()
        b.event("ready")
        time.sleep(0.3)
        with listening(b.folder / "stdio.sock") as server:
            server.accept().close()


def test_no_more_processes_than_allowed(bridge: Path) -> None:
    with Bridge(bridge, *SERVE, "--max", "2", "--", "/bin/cat") as b, listening(b.folder / "stdio.sock") as server:
        b.give_environment()
        held = []
        for _ in range(2):
            connection = server.accept()
            connection.sendall(b"x")
            held.append(connection)
        b.event("spawn", running=2)
        assert server.nobody_comes(), "the third must wait"
        held[0].shutdown(socket.SHUT_WR)
        b.event("exit", code=0)
        server.accept().close()


def test_the_socket_is_the_stdin_and_stdout(bridge: Path) -> None:
    """Megabytes both ways, unchanged; the end of input ends the program, its end ends the connection."""
    payload = os.urandom(3_000_000)
    with Bridge(bridge, *SERVE, "--", "/bin/cat") as b, listening(b.folder / "stdio.sock") as server:
        b.give_environment()
        connection = server.accept()
        sender = threading.Thread(target=lambda: (connection.sendall(payload), connection.shutdown(socket.SHUT_WR)))
        sender.start()
        assert read_all(connection) == payload
        sender.join()
        b.event("exit", code=0)


def test_stderr_is_the_containers(bridge: Path) -> None:
    with Bridge(bridge, *SERVE, "--", SH, "-c", "echo said >&2") as b, listening(b.folder / "stdio.sock") as server:
        b.give_environment()
        connection = server.accept()
        connection.sendall(b"x")
        assert read_all(connection) == b""
        b.end_lease()
        assert "said" in b.errors()


@pytest.mark.parametrize("program", ["sleep 1000", "trap '' TERM; while :; do sleep 1000; done"], ids=["plain", "deaf"])
def test_the_end_of_the_lease_ends_everything_within_a_second(bridge: Path, program: str) -> None:
    def took() -> float:
        with Bridge(bridge, *SERVE, "--", SH, "-c", program) as b, listening(b.folder / "stdio.sock") as server:
            b.give_environment()
            connection = server.accept()
            connection.sendall(b"x")
            pid = b.event("spawn")["pid"]
            time.sleep(0.1)  # the trap must be set
            started = time.monotonic()
            b.end_lease()
            assert b.process.wait(timeout=PATIENCE) == 0
            ended = time.monotonic()
            wait_until(lambda: not is_alive(pid), "the child lives on")
            assert b.event("lapsed")["reason"] == "lease"
            return ended - started

    assert any(took() < 1 for _ in range(5)), "once, on a machine that may stall"


def test_sigterm_ends_everything(bridge: Path) -> None:
    with Bridge(bridge, *SERVE, "--", "/bin/cat") as b, listening(b.folder / "stdio.sock") as server:
        b.give_environment()
        connection = server.accept()
        connection.sendall(b"x")
        pid = b.event("spawn")["pid"]
        b.process.send_signal(signal.SIGTERM)
        assert b.process.wait(timeout=PATIENCE) == 0
        assert not is_alive(pid)
        assert b.event("lapsed")["reason"] == "SIGTERM"


def test_a_killed_bridge_takes_its_children_along(bridge: Path) -> None:
    with Bridge(bridge, *SERVE, "--", "/bin/sleep", "1000") as b, listening(b.folder / "stdio.sock") as server:
        b.give_environment()
        server.accept().sendall(b"x")
        pid = b.event("spawn")["pid"]
        b.process.kill()
        wait_until(lambda: not is_alive(pid), "the child outlived its bridge")


def test_closing_the_connection_ends_a_program_that_does_not_notice(bridge: Path) -> None:
    program = "trap '' TERM; while :; do sleep 1; done"
    with Bridge(bridge, *SERVE, "--", SH, "-c", program) as b, listening(b.folder / "stdio.sock") as server:
        b.give_environment()
        connection = server.accept()
        connection.sendall(b"x")
        pid = b.event("spawn")["pid"]
        connection.close()
        assert b.event("exit", pid=pid)["signal"] == signal.SIGKILL
        server.accept().close()  # and its place is free again


def test_what_a_program_leaves_behind_is_ended_with_it(bridge: Path) -> None:
    program = "sleep 1000 & echo $!; exit 3"
    with Bridge(bridge, *SERVE, "--", SH, "-c", program) as b, listening(b.folder / "stdio.sock") as server:
        b.give_environment()
        connection = server.accept()
        connection.sendall(b"x")
        orphan = int(read_all(connection))
        b.event("exit", code=3)
        wait_until(lambda: not is_alive(orphan), "the orphan lives")


def test_a_program_that_is_not_there(bridge: Path) -> None:
    with Bridge(bridge, *SERVE, "--", "/no/such/program") as b, listening(b.folder / "stdio.sock") as server:
        b.give_environment()
        connection = server.accept()
        connection.sendall(b"x")
        assert read_all(connection) == b""
        assert b.event("exit", code=127)["error"] == "exec: ENOENT"
        b.end_lease()
        assert "cannot start /no/such/program: No such file" in b.errors()


def test_secrets_reach_the_program_and_nothing_else(bridge: Path) -> None:
    show = "import os,json; print(json.dumps(dict(os.environ)))"
    env = {"PATH": "/usr/bin:/bin", "KEPT": "yes", "OVERRIDDEN": "old"}
    with (
        Bridge(bridge, *SERVE, "--", PYTHON, "-c", show, env=env) as b,
        listening(b.folder / "stdio.sock") as server,
    ):
        b.give_environment("TOKEN=s3cr3t=with=signs", "OVERRIDDEN=new", "LINES=a\nb")
        connection = server.accept()
        connection.sendall(b"x")
        b.event("spawn")
        for name in ("environ", "cmdline"):
            assert b"s3cr3t" not in Path(f"/proc/{b.process.pid}/{name}").read_bytes()
        seen = read_all(connection).decode()
        assert '"TOKEN": "s3cr3t=with=signs"' in seen
        assert '"OVERRIDDEN": "new"' in seen
        assert '"old"' not in seen
        assert '"KEPT": "yes"' in seen
        assert '"LINES": "a\\nb"' in seen


def test_an_environment_that_comes_in_pieces(bridge: Path) -> None:
    show = "import os; print(os.environ['A'] + os.environ['B'])"
    with Bridge(bridge, *SERVE, "--", PYTHON, "-c", show) as b, listening(b.folder / "stdio.sock") as server:
        assert b.process.stdin is not None
        for piece in (b"A=on", b"e\0B=", b"two\0", b"\0"):
            assert not [e for e in b.poll_events() if e["event"] == "ready"]
            b.process.stdin.write(piece)
            b.process.stdin.flush()
            time.sleep(0.05)
        b.event("ready")
        connection = server.accept()
        connection.sendall(b"x")
        assert read_all(connection) == b"onetwo\n"


@pytest.mark.parametrize("block", [b"NO_SIGN\0\0", b"=x\0\0", b"A=" + b"x" * (1 << 20) + b"\0\0"])
def test_a_malformed_environment_starts_nothing(bridge: Path, block: bytes) -> None:
    with Bridge(bridge, *SERVE, "--", "/bin/cat") as b:
        assert b.process.stdin is not None
        try:
            b.process.stdin.write(block)
            b.process.stdin.flush()
        except BrokenPipeError:
            pass
        assert b.process.wait(timeout=PATIENCE) == 64
        assert "environment block" in b.errors()


def test_another_process_of_the_same_user_cannot_reach_into_it(bridge: Path) -> None:
    """It could forge events on our stdout, or read the environment block out of our memory."""
    user = {"user": 12345, "group": 12345} if os.getuid() == 0 else {}
    probe = 'for path; do if (exec <"$path") 2>/dev/null; then echo open; else echo closed; fi; done'
    files = ("fd", "mem", "environ")
    with Bridge(bridge, **user) as b:
        b.give_environment()
        b.event("ready")
        sleeper = subprocess.Popen(["/bin/sleep", "100"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, **user)
        try:
            paths = [f"/proc/{pid}/{file}" for pid in (b.process.pid, sleeper.pid) for file in files]
            said = subprocess.run([SH, "-c", probe, "sh", *paths], capture_output=True, text=True, cwd="/", **user)
        finally:
            sleeper.kill()
            sleeper.communicate()
        seen = said.stdout.split()
        assert seen[3:] == ["open"] * 3, "the control: an ordinary process of that user is wide open"
        assert seen[:3] == ["closed"] * 3


def test_run_is_the_program(bridge: Path, tmp_path: Path) -> None:
    """For compose, where nobody can exec: output and exit code are the program's, and nothing else is said."""
    block = tmp_path / "env"
    block.write_bytes(b"NAME=value\0\0")
    program = [SH, "-c", 'echo "$NAME"; exit 7']
    done = subprocess.run(
        [bridge, "--env-file", block, "--run", "--", *program], capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stdout) == (7, "value\n")
    assert done.stderr == ""
    text = "a prompt with\nlines, 'quotes' and $(no shell)\n" * 1000
    echo = subprocess.run(
        [bridge, "--run", "--input", text, "--", "/bin/cat"], capture_output=True, text=True, timeout=PATIENCE
    )
    assert echo.stdout == text
    killed = subprocess.run(
        [bridge, "--run", "--", SH, "-c", "kill -9 $$"], capture_output=True, text=True, timeout=PATIENCE
    )
    assert killed.returncode == 137
    missing = subprocess.run([bridge, "--run", "--", "/no/such"], capture_output=True, text=True, timeout=PATIENCE)
    assert missing.returncode == 127


def test_secrets_may_come_as_files(bridge: Path, tmp_path: Path) -> None:
    """As compose brings them: one file per secret, often with a newline that does not belong to it."""
    block, token = tmp_path / "env", tmp_path / "token"
    block.write_bytes(b"NAME=value\0\0")
    token.write_text("s3cr3t=\n")
    program = ["--run", "--", SH, "-c", 'echo "$NAME/$TOKEN/"']
    for given, said in (
        (["--env-from", f"TOKEN={token}"], "/s3cr3t=/\n"),
        (["--env-file", block, "--env-from", f"TOKEN={token}"], "value/s3cr3t=/\n"),
    ):
        done = subprocess.run([bridge, *given, *program], capture_output=True, text=True, timeout=PATIENCE)
        assert (done.returncode, done.stdout) == (0, said)
    missing = subprocess.run(
        [bridge, "--env-from", "A=/no/such", *program], capture_output=True, text=True, timeout=PATIENCE
    )
    assert missing.returncode == 64
    assert "--env-from cannot be read" in missing.stderr


def test_a_held_connection_is_a_lease(bridge: Path) -> None:
    args = ("--hold", "{folder}/lease.sock", "--serve", "{folder}/stdio.sock", "--", "/bin/sleep", "1000")
    with Bridge(bridge, *args, lease=False) as b, listening(b.folder / "stdio.sock") as server:
        time.sleep(0.2)
        assert b.poll_events() == [], "nothing starts before there is an owner"
        with listening(b.folder / "lease.sock") as owner:
            held = owner.accept()
            b.event("ready")
            server.accept().sendall(b"x")
            pid = b.event("spawn")["pid"]
            held.close()
            assert b.process.wait(timeout=PATIENCE) == 0
            assert not is_alive(pid)
            assert b.event("lapsed")["reason"] == "hold"


def test_a_program_that_outlives_its_owner_has_not_succeeded(bridge: Path) -> None:
    with Bridge(bridge, "--hold", "{folder}/lease.sock", "--run", "--", "/bin/sleep", "1000", lease=False) as b:
        with listening(b.folder / "lease.sock") as owner:
            owner.accept()
        assert b.process.wait(timeout=PATIENCE) == 75


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--nonsense", "x"], "unknown option"),
        (["--serve"], "without its value"),
        (["--serve", "/s"], "want -- ARGV"),
        (["--", "cat"], "want -- ARGV"),
        (["--serve", "/s", "--max", "0", "--", "cat"], "from 1 to 64"),
        (["--serve", "/s", "--max", "9x", "--", "cat"], "from 1 to 64"),
        (["--forward", "0.0.0.0:80=/s"], "127.0.0.1:PORT=SOCKET"),
        (["--forward", "127.0.0.1:=/s"], "127.0.0.1:PORT=SOCKET"),
        (["--forward", "127.0.0.1:99999=/s"], "127.0.0.1:PORT=SOCKET"),
        (["--forward", "127.0.0.1:80="], "127.0.0.1:PORT=SOCKET"),
        (["--serve", "/s", "--run", "--", "cat"], "exclude each other"),
        (["--serve", "/s", "--input", "x", "--", "cat"], "--input is for --run"),
        (["--lease", "--env-file", "/x"], "--env-file"),
        (["--lease", "--env-from", "A=/x"], "--env-"),
        (["--lease", "--hold", "/x"], "exclude each other"),
        (["--env-from", "A"], "NAME=FILE"),
        (["--env-from", "=/x"], "NAME=FILE"),
        (["--env-file", "/no/such/file"], "cannot be read"),
        (["--env-file", "/dev/null"], "empty entry"),
    ],
)
def test_bad_arguments_are_told(bridge: Path, args: list[str], says: str) -> None:
    done = subprocess.run([bridge, *args], capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)
    assert done.returncode == 64
    assert says in done.stderr
    assert "usage: bridge" in done.stderr

"""The sidecar as a process: how it starts, what it refuses to start with, what it serves, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from images.sidecar.__main__ import networks
from tests.support.waiting import PATIENCE
from tests.unit.sidecar.sidecar_process import ROOT, FakeServer, connects, sidecar, text, tool

LEAST = {"version": 1, "run": "r", "token": "0123456789abcdef", "agent": {"link": "/nowhere"}, "servers": []}


def started(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "images.sidecar", *arguments],
        input=stdin,
        capture_output=True,
        timeout=20,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )


@pytest.mark.parametrize(
    ("stdin", "arguments", "message"),
    [
        (b"", [], "config ended before its line did"),
        (b'{"version":1', [], "config ended before its line did"),
        (b"{\n", [], "config is not JSON"),
        (json.dumps(LEAST | {"run": 3}).encode() + b"\n", [], "config.run must be a string, got a number"),
        (b"", ["--config", "/does/not/exist"], "No such file"),
        (b"", ["--help-me"], "usage: "),
    ],
)
def test_a_wrong_start_is_refused_in_words(stdin: bytes, arguments: list[str], message: str) -> None:
    done = started(*arguments, stdin=stdin)
    assert done.returncode == 2
    assert message in done.stderr.decode()
    assert b"Traceback" not in done.stderr


async def test_a_sidecar_without_grants_refuses_to_have_a_network(tmp_path: Path) -> None:
    """The fence's own seat: on this machine there is a network, and nobody was granted a host."""
    async with sidecar(tmp_path, alone=False, wait=False) as s:
        assert await s.exit() == 97
        (canary,) = s.of("canary")
        assert canary["ok"] is False
        assert not connects(tmp_path / "agent" / "mcp.sock")


def test_only_interfaces_that_are_up_are_a_network() -> None:
    """As the other interface of the kernel tells it, for whatever this machine has."""
    flags = {path.parent.name: int(path.read_text(), 16) for path in Path("/sys/class/net").glob("*/flags")}
    assert set(networks()) == {name for name, bits in flags.items() if bits & 1 and name != "lo"}


async def test_it_serves_tools_and_records_calls(tmp_path: Path) -> None:
    tickets = FakeServer(
        [tool("list_tickets"), tool("close_ticket", id={"type": "integer"})], lambda n, a: text(f"{n} {a}")
    )
    async with sidecar(
        tmp_path, {"tickets": tickets}, server_tickets={"labels": {"close_ticket": ["destructive"]}}
    ) as s:
        assert [event["ok"] for event in s.of("canary")] == [True]
        agent = await s.agent.hello()
        assert [t["name"] for t in await agent.tools()] == ["list_tickets", "close_ticket"]
        answer = await agent.call("close_ticket", id=3)
        assert answer["result"]["content"] == [{"type": "text", "text": "close_ticket {'id': 3}"}]
        assert "destructive" in answer["result"]["_meta"]["dev.mlld/labels"]
        (call,) = await s.until("call")
        assert (call["server"], call["name"], call["decision"], call["arguments"]) == (
            "tickets", "close_ticket", "allow", {"id": 3},
        )  # fmt: skip
        assert call["labels"] == ["src:mcp", "mcp:tickets:close_ticket", "destructive"]


async def test_the_sidecar_ends_with_its_lease(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as s:
        assert s.process.stdin is not None
        s.process.stdin.close()
        assert await s.exit() == 0
        assert s.errors == b""
        assert not connects(tmp_path / "agent" / "mcp.sock")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_in_order(tmp_path: Path, number: signal.Signals) -> None:
    server = FakeServer([tool("slow")], lambda n, a: text("x"))
    async with sidecar(tmp_path, {"one": server}) as s:
        await (await s.agent.hello()).tools()
        s.process.send_signal(number)
        assert await s.exit() == 0
        assert s.errors == b""
        assert s.of("session")[-1]["state"] == "closed"


async def test_a_record_that_nobody_reads_any_more_stops_it(tmp_path: Path) -> None:
    server = FakeServer([tool("echo")], lambda n, a: text("x"))
    async with sidecar(tmp_path, {"one": server}) as s:
        agent = await s.agent.hello()
        await agent.tools()
        s.process._transport.get_pipe_transport(1).close()
        for _ in range(50):
            try:
                await agent.call("echo")
            except (OSError, asyncio.IncompleteReadError, json.JSONDecodeError):
                break
            await asyncio.sleep(0.01)
        assert await s.process.wait() == 74
        assert s.process.stderr is not None
        said = bytes(s.errors) + await s.process.stderr.read()
        assert b"the record cannot be written" in said


async def test_cannot_forge_lines_of_the_record_from_a_request(tmp_path: Path) -> None:
    """A request may hold raw newlines between its tokens; the record keeps one line for one event."""
    server = FakeServer([tool("echo")], lambda n, a: text("x"))
    async with sidecar(tmp_path, {"one": server}) as s:
        agent = await s.agent.hello()
        await agent.tools()
        forged = json.dumps({"event": "egress", "decision": "allow"})
        body = (
            b'{"jsonrpc":"2.0","id":99,"method":"tools/call","params":{"name":"echo","arguments":{"a":1,\n"b":\n'
            + forged.encode()
            + b"\n}}}"
        )
        await agent.http(body)
        (call,) = await s.until("call")
        assert call["arguments"] == {"a": 1, "b": json.loads(forged)}
        assert s.of("egress") == []


async def test_the_token_is_never_in_the_record(tmp_path: Path) -> None:
    server = FakeServer([tool("echo", text={"type": "string"})], lambda n, a: text(a["text"]))
    async with sidecar(tmp_path, {"one": server}) as s:
        agent = await s.agent.hello()
        await agent.tools()
        await agent.call("echo", text="my token is token-0123456789abcdef")
        (call,) = await s.until("call")
        assert call["arguments"] == {"text": "my token is ••••"}
        assert "0123456789abcdef" not in json.dumps(s.events)


async def test_arguments_that_the_endpoint_cut_are_told_as_text(tmp_path: Path) -> None:
    server = FakeServer([tool("echo", text={"type": "string"})], lambda n, a: text("ok"))
    async with sidecar(tmp_path, {"one": server}) as s:
        agent = await s.agent.hello()
        await agent.tools()
        await agent.call("echo", text="é" * 5000)
        (call,) = await s.until("call")
        assert call["arguments"]["head"].startswith('{"text"')
        assert len(call["arguments"]["head"]) <= 4096


BROKEN = """
import asyncio, sys
import images.sidecar.__main__ as program

class Broken(program.Endpoint):
    def listen_unix(self, path):
        super().listen_unix(path)
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)

program.Endpoint = Broken
sys.exit(program.main(["--unfenced"]))
"""


def test_what_nobody_caught_is_on_record_and_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "agent").mkdir()
    config = {"version": 1, "run": "r", "token": "t" * 20, "agent": {"link": str(tmp_path / "agent")}, "servers": []}
    with subprocess.Popen(
        [sys.executable, "-c", BROKEN], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(config).encode() + b"\n")
        process.stdin.flush()
        events = {}
        while "error" not in events:
            event = json.loads(process.stdout.readline())
            events[event["event"]] = event
        assert (events["error"]["where"], "ZeroDivisionError" in events["error"]["reason"]) == ("loop", True)
        _, errors = process.communicate(timeout=PATIENCE)  # the lease ends, and nothing before it did
        assert (process.returncode, errors) == (0, b"")

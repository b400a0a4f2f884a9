"""The ports as this machine fills them: files in their roots, servers as child processes, output with secrets struck out."""

from __future__ import annotations

import io
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

from runner.errors import ServerFailed, ServerSilent, Unsupported
from runner.host import tools as module
from runner.host.files import HostFiles
from runner.host.http import HostHttp
from runner.host.output import StreamOutput
from runner.host.tools import OURSELVES, HostTools, argv_for
from runner.secrets import MASK, Masker, Secrets

# ----------------------------------------------------------------------------------------------------------------- files


def test_files_are_read_and_written_below_their_roots(tmp_path: Path) -> None:
    files = HostFiles([tmp_path / "in"], writable=[tmp_path / "out"])
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.md").write_bytes(b"a")
    files.write(tmp_path / "out" / "deep" / "b", b"1")
    files.write(tmp_path / "out" / "deep" / "b", b"2", append=True)
    assert files.read(tmp_path / "in" / "a.md") == b"a"
    assert files.read(tmp_path / "out" / "deep" / "b") == b"12"
    assert files.glob(tmp_path / "in", "*.md") == [tmp_path / "in" / "a.md"]


def test_cannot_leave_the_roots(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_text("x")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "secret")
    files = HostFiles([tmp_path / "in"])
    for path in (tmp_path / "secret", tmp_path / "in" / ".." / "secret", tmp_path / "in" / "link", Path("/etc/passwd")):
        with pytest.raises(PermissionError, match="lies outside"):
            files.read(path)
    assert files.glob(tmp_path / "in", "*") == []
    with pytest.raises(PermissionError, match="may not be written"):
        files.write(tmp_path / "in" / "new", b"")


# ---------------------------------------------------------------------------------------------------------------- output


def test_what_is_shown_has_no_secret_in_it() -> None:
    masker, out, err, heard = Masker(), io.StringIO(), io.StringIO(), []
    output = StreamOutput(masker, stdout=out, stderr=err, on_event=heard.append)
    Secrets({"T": "hunter22"}, masker).read("env:T")
    output.document("a hunter22 b")
    output.stdout("c")
    output.stderr("d hunter22")
    output.event("e")
    assert (out.getvalue(), err.getvalue(), heard) == (f"a {MASK} bc", f"d {MASK}", ["e"])


async def test_only_the_web_is_loaded() -> None:
    with pytest.raises(OSError, match="neither http nor https"):
        await HostHttp().get("file:///etc/passwd")
    with pytest.raises(OSError, match="cannot be reached"):
        await HostHttp().get("http://127.0.0.1:9/")


# ---------------------------------------------------------------------------------------------------------------- servers

SERVER = """
import json, os, sys
print("a banner, not a message", flush=True)
print("starting", file=sys.stderr, flush=True)
def say(**message): print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message or "method" not in message: continue
    number, method, params = message["id"], message["method"], message.get("params", {})
    if method == "initialize":
        say(id="q", method="roots/list")
        say(id=number, result={"capabilities": {"tools": {}}})
    elif method == "tools/list":
        page = int(params.get("cursor", 0))
        tool = {"name": f"tool_{page}", "inputSchema": {"type": "object"}}
        say(id=number, result={"tools": [tool], **({"nextCursor": str(page + 1)} if page < 2 else {})})
    elif params["name"] == "die":
        print("I die", file=sys.stderr, flush=True); sys.exit(9)
    elif params["name"] == "fail":
        say(id=number, result={"content": [{"type": "text", "text": "no"}], "isError": True})
    elif params["name"] == "env":
        say(id=number, result={"content": [{"type": "text", "text": os.environ.get("X", "")}]})
    elif params["name"] == "unknown":
        say(id=number, error={"code": -32602, "message": "Unknown tool: unknown"})
    else:
        text = [{"type": "text", "text": params["name"]}, {"type": "image"}, {"type": "text", "text": "2"}]
        say(id=number, result={"content": text, "structuredContent": params["arguments"]})
"""


@pytest.fixture
def server(tmp_path: Path) -> str:
    (tmp_path / "server.py").write_text(SERVER)
    return f"{sys.executable} {tmp_path}/server.py"


@pytest.fixture
def tools(tmp_path: Path) -> HostTools:
    return HostTools({"PATH": os.environ["PATH"]}, tmp_path)


async def test_a_server_is_opened_listed_and_called(tools: HostTools, server: str) -> None:
    connection = await tools.open(server)
    assert [tool.name for tool in connection.tools] == ["tool_0", "tool_1", "tool_2"]
    result = await connection.call("tool_0", {"a": [1]})
    assert (result.text, result.structured, result.is_error) == ("tool_0\n2", {"a": [1]}, False)
    assert (await connection.call("fail", {})).is_error
    unknown = await connection.call("unknown", {})
    assert (unknown.text, unknown.is_error) == ("Unknown tool: unknown", True)
    await tools.close()


async def test_one_spec_is_one_process(tools: HostTools, server: str) -> None:
    assert await tools.open(server) is await tools.open(server)
    other = await tools.open(server, env={"X": "x"})
    assert other is not await tools.open(server)
    assert (await other.call("env", {})).text == "x"
    await tools.close()


async def test_a_server_that_dies_in_a_call_says_that_the_outcome_is_unknown(tools: HostTools, server: str) -> None:
    connection = await tools.open(server)
    with pytest.raises(ServerFailed, match="whether the call took effect is unknown") as caught:
        await connection.call("die", {})
    assert "I die" in caught.value.detail
    with pytest.raises(ServerFailed):
        await connection.call("tool_0", {})
    await tools.close()


def spec(code: str) -> str:
    return f"{sys.executable} -c '{textwrap.dedent(code)}'"


async def test_a_server_that_fails_shows_its_stderr(tools: HostTools) -> None:
    with pytest.raises(ServerFailed, match="it ended with 3") as caught:
        await tools.open(spec('import sys; print("no config found", file=sys.stderr); sys.exit(3)'))
    assert "no config found" in caught.value.detail
    assert caught.value.exit_code == 5


async def test_a_server_that_never_answers(tools: HostTools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START_SECONDS", 0.3)
    with pytest.raises(ServerSilent, match=r"did not answer within 0\.3 s"):
        await tools.open(spec("import time; time.sleep(60)"))


async def test_a_program_that_is_not_there(tools: HostTools) -> None:
    with pytest.raises(ServerFailed, match="cannot be started: No such file"):
        await tools.open("no-such-program --stdio")


@pytest.mark.parametrize(
    ("given", "argv"),
    [
        ("node server.cjs --x 'a b'", ("node", "server.cjs", "--x", "a b")),
        ("mcp-server-x", ("npx", "-y", "mcp-server-x")),
        ("./tools.mld", (*OURSELVES, "mcp", "./tools.mld")),
        ("tools.mld", (*OURSELVES, "mcp", "tools.mld")),
        ("@local/tickets", (*OURSELVES, "mcp", "@local/tickets")),
        ("echo $(id); x", ("echo", "$(id);", "x")),
    ],
)
def test_a_spec_becomes_a_command_without_a_shell(given: str, argv: Sequence[str]) -> None:
    assert argv_for(given) == argv


def test_specs_that_cannot_be_started() -> None:
    with pytest.raises(ServerFailed, match="empty"):
        argv_for(" ")
    with pytest.raises(ServerFailed, match="split"):
        argv_for("node 'x")
    with pytest.raises(Unsupported, match="remote MCP server"):
        argv_for("https://example.com/mcp")


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    (tmp_path / "fine").write_bytes(b"text")
    files = HostFiles([tmp_path, Path("/dev")])
    assert files.read(tmp_path / "fine") == b"text"
    for name in ("pipe", "zeros"):
        with pytest.raises(PermissionError, match="not a regular file"):
            files.read(tmp_path / name)
    with pytest.raises(IsADirectoryError):
        files.read(tmp_path)

"""The agent without a model: a real client against a real HTTP server in this process."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import PATIENCE

PROGRAM = Path(__file__).parents[3] / "images" / "agent" / "scripted.py"

STRING = {"type": "string"}
TOOLS: list[dict[str, Any]] = [
    {
        "name": "list_tickets",
        "description": "List the tickets (issues) of the project",
        "inputSchema": {"type": "object", "properties": {"status": {"type": "string", "enum": ["open", "closed"]}}},
    },
    {
        "name": "get_ticket",
        "description": "One ticket with its text",
        "inputSchema": {"type": "object", "properties": {"id": STRING}, "required": ["id"]},
    },
    {
        "name": "close_ticket",
        "description": "Close a ticket",
        "inputSchema": {"type": "object", "properties": {"id": STRING}, "required": ["id"]},
    },
    {
        "name": "git_log",
        "description": "The latest commits of a repository",
        "inputSchema": {"type": "object", "properties": {"repo_path": STRING}, "required": ["repo_path"]},
    },
]
TICKETS = [
    {"id": "T-1", "title": "Slow start", "status": "open"},
    {"id": "T-2", "title": "Key leak", "status": "open"},
]


@dataclass
class Server:
    """A streamable-HTTP MCP server of a few lines. `sse`: answers come as event streams, with a request of its own."""

    sse: bool = False
    url: str = ""
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    declined: list[dict[str, Any]] = field(default_factory=list)
    ended: int = 0

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        params = message.get("params", {})
        match message["method"]:
            case "initialize":
                return {"result": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}}}
            case "tools/list":
                at = int(params.get("cursor", 0))
                more = {"nextCursor": str(at + 2)} if at + 2 < len(TOOLS) else {}
                return {"result": {"tools": TOOLS[at : at + 2], **more}}
            case "tools/call":
                self.calls.append((params["name"], params["arguments"]))
                return self.call(params["name"], params["arguments"])
        return {"error": {"code": -32601, "message": "Unknown method"}}

    def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if name == "list_tickets":
            return {"result": {"content": [{"type": "text", "text": json.dumps(TICKETS)}]}}
        if name == "get_ticket" and arguments["id"] == "T-1":
            ticket = TICKETS[0] | {"body": "It takes two seconds to start. Nobody knows why."}
            return {"result": {"content": [{"type": "text", "text": json.dumps(ticket)}]}}
        if name == "get_ticket":
            return {"error": {"code": -32000, "message": "denied by guard @embargo: under embargo"}}
        if name == "git_log":
            return {"result": {"content": [{"type": "text", "text": f"log of {arguments['repo_path']}"}]}}
        return {"error": {"code": -32602, "message": f"Unknown tool: {name}"}}


@pytest.fixture(params=[False, True], ids=["json", "sse"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    state = Server(sse=request.param)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.headers.append(dict(self.headers))
            if "method" not in message:
                state.declined.append(message)
                self.reply(202, b"")
            elif "id" not in message:
                self.reply(202, b"")
            else:
                answer = json.dumps({"jsonrpc": "2.0", "id": message["id"], **state.answer(message)}).encode()
                if state.sse:
                    asks = b'{"jsonrpc":"2.0","id":"q1","method":"roots/list"}'
                    answer = b"event: message\ndata: " + asks + b"\n\nid: 2\ndata: " + answer + b"\n\n"
                self.reply(200, answer)

        def do_DELETE(self) -> None:
            state.ended += 1
            self.reply(204, b"")

        def reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Mcp-Session-Id", "s1")
            self.send_header("Content-Type", "text/event-stream" if state.sse else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        state.url = f"http://127.0.0.1:{http.server_port}/mcp"
        yield state
        http.shutdown()


def run(prompt: str, url: str = "", *, argv: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    env = {"MCP_SERVER_URL": url, "MLLD_MCP_TOKEN": "t0ken", "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        [sys.executable, str(PROGRAM), *argv],
        input=prompt,
        env=env,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_it_chooses_a_tool_follows_the_list_and_answers(server: Server) -> None:
    done = run("Summarize open tickets", server.url)
    assert done.returncode == 0, done.stderr
    assert server.calls == [
        ("list_tickets", {"status": "open"}),
        ("get_ticket", {"id": "T-1"}),
        ("get_ticket", {"id": "T-2"}),
    ]
    assert done.stdout.splitlines() == [
        "2 open tickets:",
        "* T-1: Slow start (open) - It takes two seconds to start.",
        "* T-2: Key leak (open)",
        "Not shown to me:",
        "* T-2: denied by guard @embargo: under embargo",
    ]


def test_the_same_prompt_gives_the_same_answer(server: Server) -> None:
    assert run("Summarize open tickets", server.url).stdout == run("Summarize open tickets", server.url).stdout


def test_descriptions_count_too(server: Server) -> None:
    run("Summarize open issues", server.url)
    assert server.calls[0] == ("list_tickets", {"status": "open"})


def test_what_changes_things_is_called_only_when_its_verb_is_said(server: Server) -> None:
    run('close ticket "T-9"', server.url)
    assert ("close_ticket", {"id": "T-9"}) in server.calls


def test_it_is_a_proper_client(server: Server) -> None:
    run("Summarize open tickets", server.url)
    assert all(headers["Authorization"] == "Bearer t0ken" for headers in server.headers)
    assert all(headers.get("Mcp-Session-Id") == "s1" for headers in server.headers[1:])
    assert all("text/event-stream" in headers["Accept"] for headers in server.headers)
    assert server.ended == 1
    if server.sse:
        assert server.declined[0]["id"] == "q1"
        assert server.declined[0]["error"]["code"] == -32601


def test_a_plan_is_obeyed_line_by_line(server: Server) -> None:
    plan = 'say hello\ncall get_ticket {"id": "T-1"}\ncall nothing\ncall get_ticket {broken}\nexit 7'
    done = run(plan, server.url)
    assert done.returncode == 7
    assert server.calls == [("get_ticket", {"id": "T-1"}), ("nothing", {})]
    lines = done.stdout.splitlines()
    assert lines[0] == "hello"
    assert "two seconds" in lines[1]
    assert lines[2] == "nothing was refused: Unknown tool: nothing"
    assert "not JSON" in lines[3]


def test_prose_that_begins_like_a_plan_is_not_one(server: Server) -> None:
    run("call my mother\nand list tickets", server.url)
    assert ("list_tickets", {}) in server.calls


def test_a_prompt_of_a_megabyte(server: Server) -> None:
    done = run("Summarize open tickets. " + "'\"$(touch /tmp/x) @y \n" * 50_000, server.url)
    assert done.returncode == 0, done.stderr
    assert server.calls[0] == ("list_tickets", {"status": "open"})


def test_the_prompt_may_be_arguments(server: Server) -> None:
    assert run("", server.url, argv=("Summarize", "open", "tickets")).stdout.startswith("2 open tickets")


def test_without_an_endpoint_it_says_so() -> None:
    done = run("Summarize open tickets")
    assert done.returncode == 0
    assert "I have no tools here" in done.stdout


def test_an_empty_prompt_is_refused() -> None:
    assert run(" \n").returncode == 2


def test_an_endpoint_that_does_not_answer_is_an_error() -> None:
    done = run("Summarize open tickets", "http://127.0.0.1:9/mcp")
    assert done.returncode == 3
    assert "http://127.0.0.1:9/mcp failed" in done.stderr


def test_fetch_says_how_it_ended(server: Server) -> None:
    assert "not reached" in run("fetch http://127.0.0.1:9/").stdout

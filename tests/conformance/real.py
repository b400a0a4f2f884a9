"""Real MCP servers, called directly and through the sidecar: `python -m tests.conformance.real [NAME...]`.

Each server gets the same requests twice, in the same folder made anew: on its own pipes, and through a whole sidecar that
filters nothing. Every answer has to be the same, byte for byte: each member of a result, each item of a list, the code and
text of an error. Names that no server has are not asked for, since the sidecar itself answers that; and what it says under
its own name in `_meta` is taken out before. The packages come from npm and PyPI into the user's cache directory.
"""

from __future__ import annotations

import argparse
import asyncio
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw

from images.sidecar.jsonrpc import OURS
from tests.bench.whole import sidecar
from tests.conformance.__main__ import CACHE, alone, install, node
from tests.unit.sidecar.sidecar_process import Agent

Step = tuple[str, dict[str, Any]]
LIFECYCLE = {"startupTimeoutMs": 60_000, "callTimeoutMs": 60_000}
PAGE = (
    "<html><head><title>A page</title></head><body><h1>Naïve façade</h1><p>Some <b>text</b> — done.</p></body></html>"
)
NAMELESS = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "TZ": "UTC"}
DATED = {
    **NAMELESS, "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.com", "GIT_AUTHOR_DATE": "2026-01-02T03:04:05Z",
    "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.com", "GIT_COMMITTER_DATE": "2026-01-02T03:04:05Z",
}  # fmt: skip


def call(name: str, **arguments: Any) -> Step:
    return "tools/call", {"name": name, "arguments": arguments}


@dataclass(frozen=True)
class Real:
    """A server of a package registry, what it is started with, and what it is asked. `{folder}` and `{port}` are put in."""

    registry: str
    package: str
    program: str
    """Below `node_modules`, or in `bin`."""
    arguments: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    beside: tuple[str, ...] = ()
    """What has to be installed with it."""


EVERYTHING = (
    call("echo", message="naïve \u2028 \"quoted\" \\ \n\t — 💡"), call("get-sum", a=2, b=0.1), call("get-sum", a="two"),
    call("get-tiny-image"), call("get-structured-content", location="New York"), call("get-resource-links", count=3),
    call("get-annotated-message", messageType="error", includeImage=True),
    ("prompts/get", {"name": "simple-prompt"}), ("prompts/get", {"name": "args-prompt", "arguments": {"city": "Bern"}}),
    ("resources/read", {"uri": "demo://resource/static/document/features.md"}),
    ("completion/complete", {"ref": {"type": "ref/prompt", "name": "completable-prompt"},
                             "argument": {"name": "department", "value": "E"}}),
)  # fmt: skip
REAL = {
    "everything": Real(
        "npm", "@modelcontextprotocol/server-everything@2026.8.31", "server-everything/dist/index.js", ("stdio",), EVERYTHING
    ),
    "filesystem": Real(
        "npm", "@modelcontextprotocol/server-filesystem", "server-filesystem/dist/index.js", ("{folder}",),
        (
            call("list_directory", path="{folder}"), call("read_text_file", path="{folder}/text.md"),
            call("write_file", path="{folder}/new.txt", content="línea\n" * 20_000),
            call("read_text_file", path="{folder}/new.txt"), call("directory_tree", path="{folder}/docs"),
            call("edit_file", path="{folder}/text.md", edits=[{"oldText": "first", "newText": "1st"}], dryRun=True),
            call("search_files", path="{folder}", pattern="**/*.md"), call("read_media_file", path="{folder}/dot.png"),
            call("read_multiple_files", paths=["{folder}/text.md", "{folder}/absent"]),
            call("read_text_file", path="/etc/hostname"), call("list_allowed_directories"),
        ),
    ),
    "memory": Real(
        "npm", "@modelcontextprotocol/server-memory", "server-memory/dist/index.js", (),
        (
            call("create_entities", entities=[
                {"name": "Ada", "entityType": "person", "observations": ["writes programs", "naïve"]},
                {"name": "Engine", "entityType": "machine", "observations": []},
            ]),
            call("create_relations", relations=[{"from": "Ada", "to": "Engine", "relationType": "programs"}]),
            call("add_observations", observations=[{"entityName": "Engine", "contents": ["has gears"]}]),
            call("search_nodes", query="gears"), call("open_nodes", names=["Ada"]), call("read_graph"),
            call("delete_entities", entityNames=["Ada"]), call("read_graph"),
            ("resources/read", {"uri": "memory://knowledge-graph"}),
        ),
    ),
    "sequential-thinking": Real(
        "npm", "@modelcontextprotocol/server-sequential-thinking", "server-sequential-thinking/dist/index.js", (),
        (
            *(
                call("sequentialthinking", thought=f"thought {i}", thoughtNumber=i, totalThoughts=3, nextThoughtNeeded=i < 3)
                for i in (1, 2, 3)
            ),
            call("sequentialthinking", thought="half"),
        ),
    ),
    "git": Real(
        "pypi", "mcp-server-git==2026.10.19", "mcp-server-git", ("--repository", "{folder}"),
        (
            call("git_status", repo_path="{folder}"), call("git_log", repo_path="{folder}", max_count=3),
            call("git_show", repo_path="{folder}", revision="HEAD"), call("git_diff_unstaged", repo_path="{folder}"),
            call("git_branch", repo_path="{folder}", branch_type="local"),
            call("git_create_branch", repo_path="{folder}", branch_name="topic"),
            call("git_add", repo_path="{folder}", files=["text.md"]), call("git_diff_staged", repo_path="{folder}"),
            call("git_show", repo_path="{folder}", revision="no-such-revision"), call("git_log", repo_path="/"),
        ),
    ),
    "time": Real(
        "pypi", "mcp-server-time==2026.10.19", "mcp-server-time", ("--local-timezone", "UTC"),
        (
            call("convert_time", source_timezone="Europe/Zurich", time="12:30", target_timezone="Asia/Kathmandu"),
            call("convert_time", source_timezone="Nowhere", time="12:30", target_timezone="UTC"),
            call("get_current_time", timezone="No/Where"),
        ),
    ),
    "fetch": Real(
        "pypi", "mcp-server-fetch==2026.10.24", "mcp-server-fetch", (),
        (
            call("fetch", url="http://127.0.0.1:{port}/page.html"),
            call("fetch", url="http://127.0.0.1:{port}/page.html", raw=True, max_length=40, start_index=5),
            call("fetch", url="http://127.0.0.1:{port}/absent"), call("fetch", url="no url"),
            ("prompts/get", {"name": "fetch", "arguments": {"url": "http://127.0.0.1:{port}/page.html"}}),
        ),
    ),
    "sqlite": Real(
        "pypi", "mcp-server-sqlite==2025.4.25", "mcp-server-sqlite", ("--db-path", "{folder}/data.db"),
        (
            call("create_table", query="CREATE TABLE t (n INTEGER, s TEXT)"),
            call("write_query", query="INSERT INTO t VALUES (1, 'naïve'), (2, NULL)"),
            call("read_query", query="SELECT * FROM t"), call("describe_table", table_name="t"), call("list_tables"),
            call("read_query", query="SELEC"), call("append_insight", insight="two rows"),
            ("resources/read", {"uri": "memo://insights"}),
            ("prompts/get", {"name": "mcp-demo", "arguments": {"topic": "rows"}}),
        ),
        ("mcp<2",),
    ),
}  # fmt: skip


def installed(real: Real) -> list[str]:
    """The server's command; its package is installed if it is not there yet."""
    place = CACHE / "real" / real.package.replace("/", "-")
    with alone():
        if real.registry == "npm":
            program = node()
            entry = place / "node_modules" / "@modelcontextprotocol" / real.program
            if not entry.exists():
                install(program, real.package, place)
            return [program, str(entry), *real.arguments]
        entry = place / "bin" / real.program
        if not entry.exists():
            subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
            wanted = [real.package, *real.beside]
            subprocess.run([str(place / "bin" / "python"), "-m", "pip", "install", "-qq", *wanted], check=True)
        return [str(entry), *real.arguments]


def fill(folder: Path) -> None:
    """The same folder each time: files, and a repository with one commit and a change."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "docs").mkdir(parents=True)
    (folder / "text.md").write_text("# Naïve\n\nfirst line\n")
    (folder / "docs" / "more.md").write_text("more\n")
    (folder / "dot.png").write_bytes(bytes(range(256)))
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run(["git", *words], cwd=folder, env=os.environ | DATED, check=True)
    (folder / "text.md").write_text("# Naïve\n\nfirst line\nand a second\n")
    for path in folder.rglob("*"):
        os.utime(path, (1_767_323_045, 1_767_323_045))


class Direct:
    """A server on its own pipes."""

    def __init__(self, command: list[str], **how: Any) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **how
        )
        self._count = 0

    async def ask(self, method: str, params: dict[str, Any]) -> bytes:
        assert self._process.stdout is not None
        self._count += 1
        self._send({"id": self._count, "method": method, "params": params})
        while True:
            line = await asyncio.to_thread(self._process.stdout.readline)
            said = json.loads(line)
            if said.get("id") == self._count and "method" not in said:
                return line

    def notify(self, method: str) -> None:
        self._send({"method": method})

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self._process.stdin.flush()

    def close(self) -> None:
        self._process.communicate()


class Through:
    """The same server behind a sidecar."""

    def __init__(self, path: str) -> None:
        self._agent = Agent(path)
        self._count = 0

    async def ask(self, method: str, params: dict[str, Any]) -> bytes:
        self._count += 1
        body = json.dumps({"jsonrpc": "2.0", "id": self._count, "method": method, "params": params}).encode()
        _, headers, answer = await self._agent.http(body)
        self._agent.session = headers.get("mcp-session-id", self._agent.session)
        if headers.get("content-type", "").startswith("text/event-stream"):
            return [line for line in answer.split(b"\n") if line.startswith(b"data: {")][-1].partition(b": ")[2]
        return answer


Answer = dict[str, Any]


def plain(answer: bytes) -> Answer:
    """An answer taken apart as far as the protocol names its parts; all else stays bytes. What is ours is left out."""
    parts = msgspec.json.decode(answer, type=dict[str, Raw])
    if "error" in parts:
        error = msgspec.json.decode(parts["error"], type=dict[str, Raw])
        return {"code": bytes(error["code"]), "message": bytes(error["message"])}
    result = members(parts["result"])
    for key in ("tools", "prompts", "resources", "resourceTemplates"):
        if key in result:
            result[key] = [members(item) for item in msgspec.json.decode(result[key], type=list[Raw])]
    return result


def members(value: Raw) -> dict[str, Any]:
    """The first level of an object; its `_meta` without our keys, and gone if nothing else was in it."""
    found: dict[str, Any] = {key: bytes(part) for key, part in msgspec.json.decode(value, type=dict[str, Raw]).items()}
    if "_meta" in found:
        theirs = msgspec.json.decode(found.pop("_meta"), type=dict[str, Raw])
        if kept := {key: bytes(part) for key, part in theirs.items() if not key.startswith(OURS)}:
            found["_meta"] = kept
    return found


async def converse(
    server: Direct | Through, steps: tuple[Step, ...], put: Callable[[Any], Any]
) -> list[tuple[str, Answer]]:
    """Every list that the server has, then the steps; each question with its answer."""
    about = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    hello = json.loads(await server.ask("initialize", about))["result"]
    if isinstance(server, Direct):
        server.notify("notifications/initialized")
    lists = [("tools", "tools/list"), ("prompts", "prompts/list"), ("resources", "resources/list")]
    asked: list[Step] = [(method, {}) for group, method in lists if group in hello["capabilities"]]
    said = {"instructions": hello.get("instructions", "")}
    answers: list[tuple[str, Answer]] = [("instructions", said)]
    for method, params in (*asked, *steps):
        answers.append((f"{method} {json.dumps(params)[:100]}", plain(await server.ask(method, put(params)))))
    return answers


@contextmanager
def web() -> Iterator[int]:
    """A page on loopback; the port."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/page.html"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(PAGE.encode() if found else b"")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


async def differences(name: str) -> tuple[int, list[str]]:
    """How many answers of a server were compared, and what is not the same."""
    real = REAL[name]
    with tempfile.TemporaryDirectory(prefix="mlld-real-") as base, web() as port:
        folder = Path(base) / "work"

        def put(value: Any) -> Any:
            text = json.dumps(value).replace("{folder}", str(folder)).replace("{port}", str(port))
            return json.loads(text)

        command = put(installed(real))
        how = {"env": os.environ | NAMELESS | {"MEMORY_FILE_PATH": str(folder / "memory.jsonl")}}
        fill(folder)
        server = Direct(command, cwd=folder, **how)
        direct = await converse(server, real.steps, put)
        server.close()
        fill(folder)
        sockets = Path(base) / "s"
        sockets.mkdir()
        with sidecar(sockets, {name: command}, LIFECYCLE, cwd=folder, **how) as tested:
            while not os.path.exists(tested.path):
                await asyncio.sleep(0.05)
            through = await converse(Through(tested.path), real.steps, put)
    wrong = [
        f"{asked}\n  direct  {a}\n  through {b}" for (asked, a), (_, b) in zip(direct, through, strict=True) if a != b
    ]
    return len(direct), wrong


def main(arguments: list[str]) -> int:
    """0 if every answer of every server is the same."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.real", description=__doc__)
    parser.add_argument("server", nargs="*", choices=[*REAL, []], help="only these")
    bad = 0
    for name in parser.parse_args(arguments).server or REAL:
        count, wrong = asyncio.run(differences(name))
        bad += len(wrong)
        print(
            f"{'FAILED' if wrong else 'ok':>6}  {name:<20} {count - len(wrong)} of {count} answers are the same",
            flush=True,
        )
        for each in wrong:
            print(each[:2000])
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

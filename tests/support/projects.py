"""Projects with an environment module, and `mlld` as a person types it: a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]

MANIFEST = "name: {name}\ntype: environment\nentry: index.mld\nversion: 0.1.0\n"
SPAWN = "exe @spawn(prompt) = cmd { scripted } with { stdin: @prompt }\nexport { @spawn }\n"

# An MCP server in twenty lines: `echo` gives its arguments back, `where` what the server can see of itself.
SERVER = """
import json, os, sys
TOOLS = [
    {"name": "echo_text", "description": "Give the text back", "inputSchema":
        {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}},
    {"name": "show_env", "description": "The names in the environment", "inputSchema": {"type": "object", "properties": {}}},
]
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    method, params, result = message["method"], message.get("params") or {}, {}
    if method == "initialize":
        result = {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}},
                  "serverInfo": {"name": "small", "version": "1"}}
    elif method == "tools/list":
        result = {"tools": TOOLS}
    elif method == "tools/call" and params["name"] == "echo_text":
        result = {"content": [{"type": "text", "text": params["arguments"]["text"]}]}
    elif method == "tools/call":
        result = {"content": [{"type": "text", "text": " ".join(sorted(os.environ))}]}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""
SMALL = '{ name: "small", command: "python3 server.py", fs: { read: ["."] } }'


class Started(subprocess.Popen[str]):
    """A command that goes on. A test that failed beside it does not wait for its end."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            self.terminate()  # it cleans up
        super().__exit__(kind, error, at)


@dataclass
class Done:
    """How a command line ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Project:
    """A directory with environment modules, and a home of its own."""

    path: Path
    home: Path

    @classmethod
    def make(cls, base: Path) -> Project:
        project = cls(path=base / "project", home=base / "home")
        project.path.mkdir()
        project.home.mkdir()
        # Whoever lives in the containers is not root, and has to be able to look in.
        for directory in (base, project.path):
            directory.chmod(0o755)
        project.write("server.py", SERVER)
        (project.path / ".mlld").mkdir()
        return project

    def write(self, name: str, text: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def module(self, name: str, body: str, *, manifest: str | None = None) -> str:
        """An environment module; returns its reference."""
        self.write(f".mlld/env/{name}/module.yml", MANIFEST.format(name=name) if manifest is None else manifest)
        self.write(f".mlld/env/{name}/index.mld", body)
        return f"@local/{name}"

    def servers(self, name: str, *servers: str, more: str = "", lifecycle: str = "") -> str:
        """A module with these servers and the built-in agent."""
        cycle = f", lifecycle: {lifecycle}" if lifecycle else ""
        config = f"exe @mcpConfig() = {{ servers: [{', '.join(servers)}]{cycle} }}\n"
        return self.module(name, more + config + SPAWN.replace("@spawn }", "@spawn, @mcpConfig }"))

    def environment(self, **more: str) -> dict[str, str]:
        kept = {
            key: value for key, value in os.environ.items() if key in ("PATH", "DOCKER_HOST", "LANG", "SSL_CERT_FILE")
        }
        # The images' cache is the machine's: a second one would only be slow.
        cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
        own = {"HOME": str(self.home), "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": cache, "NO_COLOR": "1"}
        return {**kept, **own, **more}

    def mlld(self, *arguments: str, stdin: str = "", timeout: float = 120, **env: str) -> Done:
        """Run `mlld ARGUMENTS` in the project."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "runner", *arguments],
            cwd=self.path, env=self.environment(**env), input=stdin, capture_output=True, text=True, timeout=timeout,
            check=False,
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str, **env: str) -> Started:
        """The same, not waited for."""
        return Started(
            [sys.executable, "-P", "-m", "runner", *arguments],
            cwd=self.path, env=self.environment(**env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def spawn(self, prompt: str, ref: str, *more: str, **env: str) -> Done:
        return self.mlld("sandbox", "spawn", prompt, "--env", ref, *more, **env)

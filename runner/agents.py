"""The adapter table: each agent as data. A new agent is a new entry in `agents.toml`, not a new class."""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from runner.errors import UnknownAgent

_TABLE = Path(__file__).with_name("agents.toml")


@dataclass(frozen=True, kw_only=True)
class Agent:
    """How one agent's program is installed, started, and told about the MCP endpoint."""

    name: str
    about: str
    prompt: tuple[str, ...]  # reads the prompt from standard input
    shell: tuple[str, ...]
    package: Mapping[str, str] = field(default_factory=dict)  # npm or python → package
    files: Mapping[str, str] = field(default_factory=dict)  # path below the agent's home → text
    env: Mapping[str, str] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()
    key: str | None = None
    endpoint: str | None = None

    def command(self, *, shell: bool = False) -> str:
        """The command line that starts it in its seat: for one prompt on standard input, or for a person."""
        argv = list(self.shell if shell else self.prompt)
        if not self.files and not self.env:
            return shlex.join(argv)
        # {url}, {token} and {home} are filled in by `adapter` inside: see images/agent/adapter.py.
        return shlex.join(["adapter", json.dumps({"files": dict(self.files), "env": dict(self.env), "argv": argv})])


@cache
def agents() -> Mapping[str, Agent]:
    """All of the table, by name."""
    table = tomllib.loads(_TABLE.read_text(encoding="utf-8"))
    return {
        name: Agent(
            name=name,
            about=entry["about"],
            prompt=tuple(entry["prompt"]),
            shell=tuple(entry["shell"]),
            package=entry.get("package", {}),
            files=entry.get("files", {}),
            env=entry.get("env", {}),
            hosts=tuple(entry.get("hosts", ())),
            key=entry.get("key"),
            endpoint=entry.get("endpoint"),
        )
        for name, entry in table.items()
    }


def agent(name: str) -> Agent:
    """The agent of that name. Errors: `UnknownAgent`, with the nearest name."""
    try:
        return agents()[name]
    except KeyError:
        raise UnknownAgent(name, agents()) from None

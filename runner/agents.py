"""The adapter table: each agent as data. A new agent is a new entry in `agents.toml`, not a new class."""

from __future__ import annotations

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

    def filled(self, *, url: str, token: str, home: str) -> Agent:
        """The same with `{url}`, `{token}` and `{home}` put in."""

        def fill(text: str) -> str:
            # Not str.format: the files are JSON and full of braces.
            return text.replace("{url}", url).replace("{token}", token).replace("{home}", home)

        return Agent(
            name=self.name,
            about=self.about,
            prompt=tuple(map(fill, self.prompt)),
            shell=tuple(map(fill, self.shell)),
            package=self.package,
            files={path: fill(text) for path, text in self.files.items()},
            env={name: fill(value) for name, value in self.env.items()},
            hosts=self.hosts,
            key=self.key,
            endpoint=self.endpoint,
        )


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

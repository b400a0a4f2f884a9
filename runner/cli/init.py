"""`mlld sandbox init`: a module that works, with comments."""

from __future__ import annotations

import re
from pathlib import Path

import click

from runner import environ
from runner.cli.lazy import Command
from runner.cli.project import find_project
from runner.errors import BadName, UsageFailure

_NAME = re.compile(r"[A-Za-z0-9_-]+")

MANIFEST = """\
name: {name}
type: environment
entry: index.mld
about: "What this environment is for"
version: 0.1.0
"""

MODULE = """\
>> An environment: who runs in it, which tools it has, what may be reached.
>> See it before it runs:  mlld sandbox plan --env @local/{name}
>> Run it:                 mlld sandbox spawn "List the latest commits" --env @local/{name}

>> What must be permitted. The first profile that policy permits is chosen; the last one is the fall-back.
profiles {{
  full: {{ requires: {{ network }}, description: "tools that reach out" }},
  readonly: {{ requires: {{ }}, description: "nothing but reading" }}
}}

>> Which hosts a granted network means. Without this list it would be every public address.
policy @reach = {{ env: {{ net: {{ allow: ["api.github.com"] }} }} }}

>> The MCP servers, each in a container of its own. A profile without network gets no network at all.
exe @mcpConfig() = when [
  @mx.profile == "full" => {{
    servers: [
      {{ name: "git", python: "mcp-server-git", fs: {{ read: ["."] }}, tools: ["git_log", "git_status", "git_show"] }}
    ]
  }}
  * => {{
    servers: [
      {{ name: "git", python: "mcp-server-git", fs: {{ read: ["."] }}, tools: ["git_log"] }}
    ]
  }}
]

>> The agent: any command of the agent's container. `scripted` is built in and needs no model.
exe @spawn(prompt) = cmd {{ scripted }} with {{ stdin: @prompt }}

export {{ @spawn, @mcpConfig }}
"""


@click.command(cls=Command, examples="\nExamples:\n  mlld sandbox init review\n")
@click.argument("name")
def init(name: str) -> None:
    """Make the environment module .mlld/env/NAME in this project."""
    if not _NAME.fullmatch(name):
        raise BadName(name)
    env = environ.snapshot()
    project = find_project(Path.cwd(), home=Path(env.get("HOME") or Path.home()))
    directory = project / ".mlld" / "env" / name
    if directory.exists():
        raise UsageFailure(f"{directory} is there already", remedy="give another name, or remove it first")
    directory.mkdir(parents=True)
    (directory / "module.yml").write_text(MANIFEST.format(name=name), encoding="utf-8")
    (directory / "index.mld").write_text(MODULE.format(name=name), encoding="utf-8")
    click.echo(f"made {directory}/module.yml and index.mld")
    click.echo(environ.typed(f"next: mlld sandbox plan --env @local/{name}"), err=True)

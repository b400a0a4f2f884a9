"""The adapter table, and the program that starts an agent with its configuration in place."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from runner.agents import Agent, agent, agents
from runner.errors import UnknownAgent

ADAPTER = Path(__file__).parents[3] / "images" / "agent" / "adapter.py"
ENV = {"MCP_SERVER_URL": "http://127.0.0.1:7000/mcp", "MLLD_MCP_TOKEN": "t0ken", "PATH": "/usr/bin:/bin"}


def start(setup: dict[str, object], home: Path, prompt: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ADAPTER), json.dumps(setup)],
        input=prompt, env={**ENV, "HOME": str(home), **env}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_agents_we_know() -> None:
    assert {"scripted", "claude", "codex"} <= set(agents())
    assert agent("scripted").command() == "scripted"
    with pytest.raises(UnknownAgent) as caught:
        agent("claud")
    assert "did you mean 'claude'" in caught.value.detail


@pytest.mark.parametrize("name", sorted(set(agents()) - {"scripted"}))
def test_every_real_agent_has_a_key_hosts_and_a_lawful_configuration(name: str, tmp_path: Path) -> None:
    found = agent(name)
    assert found.key
    assert found.hosts
    assert found.package
    word, setup = shlex.split(found.command())
    assert word == "adapter"
    shown = json.loads(setup)
    assert "t0ken" not in setup
    assert start({**shown, "argv": ["true"]}, tmp_path).returncode == 0
    for path in found.files:
        text = (tmp_path / path).read_text()
        config = tomllib.loads(text) if path.endswith(".toml") else json.loads(text)
        assert ENV["MCP_SERVER_URL"] in json.dumps(config)
        assert (tmp_path / path).stat().st_mode & 0o777 == 0o600


def test_the_prompt_and_the_exit_code_are_the_agents(tmp_path: Path) -> None:
    done = start({"argv": ["sh", "-c", "cat; echo $X; exit 3"], "env": {"X": "{home}/x"}}, tmp_path, "a 'prompt'\n")
    assert (done.stdout, done.returncode) == (f"a 'prompt'\n{tmp_path}/x\n", 3)


def test_without_an_endpoint_nothing_is_configured(tmp_path: Path) -> None:
    assert start({"argv": ["true"], "files": {"x.json": "{url}"}}, tmp_path, MCP_SERVER_URL="").returncode == 0
    assert not (tmp_path / "x.json").exists()


def test_a_program_that_is_not_there_is_said(tmp_path: Path) -> None:
    done = start({"argv": ["no-such-agent"]}, tmp_path)
    assert done.returncode == 127
    assert "no-such-agent cannot be started" in done.stderr


def test_a_shell_has_its_own_command() -> None:
    plain = Agent(name="x", about="", prompt=("x", "-p"), shell=("x",))
    assert (plain.command(), plain.command(shell=True)) == ("x -p", "x")

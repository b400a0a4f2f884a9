"""An agent of the table in a declaration: its name and its key."""

from __future__ import annotations

from interpreter.declarations import AuthDecl, EnvironmentSpec
from interpreter.ports import Witnessed
from runner.agents import agent
from runner.cli.environment import with_agent
from runner.cli.spawn import taint_of


def test_the_modules_own_auth_gives_the_key() -> None:
    auth = {"mine": AuthDecl(name="mine", variable="ANTHROPIC_API_KEY", source="keychain:a/b")}
    spec = with_agent(EnvironmentSpec(name="x", auth=auth, agent_auth=("other",)), agent("claude"))
    assert (spec.agent, spec.agent_auth) == ("claude", ("other", "mine"))
    assert spec.auth == auth


def test_without_one_it_is_the_variable_of_whoever_asks() -> None:
    spec = with_agent(EnvironmentSpec(name="x"), agent("codex"))
    assert spec.agent_auth == ("codex-key",)
    assert spec.auth["codex-key"].source == "env:OPENAI_API_KEY"


def test_the_built_in_agent_has_no_key() -> None:
    assert with_agent(EnvironmentSpec(name="x"), agent("scripted")).auth == {}


def test_an_answer_carries_who_asked_and_what_its_agent_saw() -> None:
    seen = Witnessed(calls=(("github", "list_issues", ("pii",)),), egress=True)
    # The prompt is the user's, whoever answers it: a rule about `src:user` must not depend on which agent was chosen.
    assert taint_of(seen) == ("mcp:github:list_issues", "pii", "src:cmd", "src:mcp", "src:network", "src:user")
    assert taint_of(Witnessed()) == ("src:cmd", "src:user")

"""What is handed over says what the plan says, and is only handed to whom it is meant for."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from images.sidecar import config as sidecar_config
from interpreter.declarations import McpConfig, ToolBinding
from runner.errors import SandboxFailure, SecretMissing
from runner.handover import Handover, environment_block, sidecar_line
from runner.plan import AGENT, SandboxPlan
from runner.planner import plan
from runner.report_plan import plan_text
from tests.support.plans import full, good, options, readonly, server

TOKEN = "t" * 32


def handover(**changes: object) -> Handover:
    spec = full()
    given = Handover(token=TOKEN, secrets={"gh": "ghp_value"}, module=spec.module, policy=spec.policy)
    return replace(given, **changes)


def read(made: SandboxPlan, given: Handover) -> sidecar_config.SidecarConfig:
    """As the sidecar itself reads it."""
    line = sidecar_line(made, given)
    assert line.count(b"\n") == 1
    return sidecar_config.parse(line)


def test_the_sidecar_understands_what_it_gets() -> None:
    config = read(good(), handover())
    assert config.run == "quiet-otter"
    assert [server.name for server in config.servers] == ["tickets", "github"]
    assert config.links == {name: f"/.mlld/links/{name}" for name in ("agent", "tickets", "github")}
    assert set(config.egress) == {AGENT, "github"}
    assert [rule.source for rule in config.egress["github"].allow] == ["index.mld:22:3"]
    assert config.rules["github"].tools == ("list_issues",)
    assert config.module is not None
    assert config.module.profile == "full"


def test_bindings_labels_and_remote_servers_go_through() -> None:
    binding = ToolBinding(exposed="mine", server="a", tool="echo", bind={"x": 1}, labels=("destructive",))
    remote = server("b", source="url", target="https://mcp.example.com/x")
    made = plan(
        full(mcp=McpConfig(servers=(server("a", labels={"echo": ("pii",)}), remote), bindings=(binding,))), options()
    )
    config = read(made, handover())
    assert config.rules["a"].shapes["echo"].bind == {"x": 1}
    assert config.rules["a"].labels["echo"] == ("pii", "destructive")
    assert config.servers[1].url == "https://mcp.example.com/x"
    assert config.servers[1].link is None


def test_whose_arguments_are_checked_goes_through() -> None:
    binding = ToolBinding(exposed="mine", server="a", tool="echo", validate=True)
    for changes, validated, told in (
        ({}, ("echo",), "arguments of echo are held against the schema"),
        ({"validate": True}, "*", "arguments are held against the schema"),
    ):
        made = plan(full(mcp=McpConfig(servers=(server("a", **changes),), bindings=(binding,))), options())
        assert read(made, handover()).rules["a"].validate == validated
        assert told in plan_text(made)


def test_another_text_than_the_planned_one_is_not_handed_over() -> None:
    module = full().module
    assert module is not None
    changed = replace(module, files={"index.mld": "exe @spawn(p) = cmd { evil }"})
    for given in (handover(module=changed), handover(module=None), handover(policy={"deny": ["*"]})):
        with pytest.raises(SandboxFailure, match="not the one that was planned"):
            sidecar_line(good(), given)


def test_an_environment_block_holds_what_its_member_was_granted() -> None:
    assert environment_block(good(), handover(), "github") == b"GITHUB_TOKEN=ghp_value\0\0"
    assert environment_block(good(), handover(), "tickets") == b"\0"
    assert environment_block(good(), handover(), AGENT) == b"\0"


def test_a_secret_that_is_missing_or_impossible_is_told() -> None:
    with pytest.raises(SecretMissing, match="auth:gh"):
        environment_block(good(), handover(secrets={}), "github")
    with pytest.raises(SandboxFailure, match="NUL"):
        environment_block(good(), handover(secrets={"gh": "a\0b"}), "github")


def test_nothing_of_it_is_shown() -> None:
    given = handover()
    assert TOKEN not in repr(given)
    assert "ghp_value" not in repr(given)
    assert {TOKEN, "ghp_value"} == given.values()


def test_a_profile_without_network_gives_the_sidecar_no_rules() -> None:
    spec = readonly()
    config = read(plan(spec, options()), Handover(token=TOKEN, module=spec.module, policy=spec.policy))
    assert config.egress == {}
    assert json.loads(sidecar_line(good(), handover()))["version"] == 1

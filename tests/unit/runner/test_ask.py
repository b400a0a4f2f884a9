"""Questions to a plan."""

from __future__ import annotations

import pytest

from runner.cli.ask import answered
from runner.errors import BadOption
from runner.planner import plan
from tests.support import plans


@pytest.mark.parametrize(
    ("member", "question", "allowed", "rule"),
    [
        ("agent", "net api.example.com:443", True, "allow api.example.com"),
        ("agent", "net API.Example.com.", True, "allow api.example.com"),
        ("agent", "net api.example.com:22", False, "no host of its list"),
        ("agent", "net example.com", False, "no host of its list"),
        ("github", "net x.github.com", True, "allow *.github.com"),
        ("github", "net github.com", False, "no host of its list"),
        ("github", "net evilgithub.com", False, "no host of its list"),
        ("github", "net x.github.com:80", False, "no host of its list"),
        ("tickets", "net api.example.com", False, "it has no network at all"),
        ("agent", "tool github.list_issues", True, "listed for github"),
        ("agent", "tool github.listIssues", True, "listed for github"),
        ("agent", "tool github.delete_repo", False, "not listed for github"),
        ("agent", "tool nobody.x", False, "no server nobody in this profile"),
        ("agent", "fs write src/main.py", True, "/code/project at /workspace"),
        ("agent", "fs write .git/hooks/pre-commit", False, "/workspace/.git/hooks is read-only"),
        ("agent", "fs read .env", False, "it is masked"),
        ("agent", "fs read ../../etc/shadow", False, "nothing of this machine is there"),
        ("github", "fs read README.md", False, "nothing of this machine is there"),
        ("tickets", "fs write tickets/1.md", True, "/code/project/tickets at /workspace/tickets"),
    ],
)
def test_an_answer_has_its_rule(member: str, question: str, allowed: bool, rule: str) -> None:
    verdict = answered(plans.good(), member, question)
    assert (verdict.allowed, verdict.rule) == (allowed, rule)


def test_without_grants_nothing_is_reached_or_written() -> None:
    made = plan(plans.readonly(), plans.options())
    assert not answered(made, "agent", "net api.example.com").allowed
    assert not answered(made, "agent", "fs write x").allowed
    assert answered(made, "agent", "fs read x").allowed


def test_what_is_no_question_is_an_error() -> None:
    with pytest.raises(BadOption, match="cannot be answered"):
        answered(plans.good(), "agent", "may I?")

"""What labels take away from whoever has seen them: layers only add to it, and a rule is asked in the words of its author."""

from __future__ import annotations

import pytest

from interpreter.labels import Labels, from_flat
from interpreter.policy import Policy, confining, effective_taint, withdrawn
from interpreter.policy_parse import from_json, parse_policy
from interpreter.policy_subjects import Operation


def policy(value: object, name: str = "p") -> Policy:
    return parse_policy(value, name=name)


def test_what_a_label_closes_no_other_layer_opens() -> None:
    close = policy({"labels": {"secret": {"deny": ["op:mcp:mail"]}}}, "a")
    opens = policy({"labels": {"secret": {"allow": ["op:mcp:mail:send"], "deny": ["exfil"]}}}, "b")
    send = Operation(kind="mcp", name="send", server="mail", tool="send", labels=("exfil",))
    assert withdrawn(opens, send, ("secret",)) is None, "the control: alone it makes an exception"
    for both in (close | opens, opens | close):
        denied = withdrawn(both, send, ("secret",))
        assert denied is not None
        assert (denied.rule, denied.label) == ("policy @a: labels.secret.deny", "secret")
        assert withdrawn(both, send, ("pii",)) is None


def test_a_rule_about_the_first_argument_withdraws_nothing() -> None:
    """What it says depends on the call."""
    known = policy({"defaults": {"rules": ["no-send-to-unknown", "no-secret-exfil"]}})
    send = Operation(kind="mcp", name="send", server="mail", tool="send", labels=("exfil:send",))
    assert withdrawn(known, send, ("src:mcp",)) is None
    denied = withdrawn(known, send, ("secret",))
    assert denied is not None
    assert denied.rule == "rule no-secret-exfil of policy @p"


@pytest.mark.parametrize(
    ("said", "seen", "telling"),
    [
        ("mcp:github", "mcp:github:get_issue", True),
        ("mcp:github:*", "mcp:github:get_issue", True),
        ("mcp:github:get_issue", "mcp:github:get_issue", True),
        ("mcp:git", "mcp:github:get_issue", False),
        ("mcp:github:get", "mcp:github:get_issue", False),
        ("*", "pii", True),
        ("src:mcp", "src:cmd", False),
    ],
)
def test_which_labels_matter(said: str, seen: str, telling: bool) -> None:
    rule = policy({"labels": {said: {"deny": ["op:mcp"]}}})
    assert confining(rule, (seen,)) == (frozenset({seen}) if telling else frozenset())


def test_what_came_through_a_tool_is_matched_and_is_no_label_of_the_value() -> None:
    value = from_flat(["src:mcp", "mcp:github:get_issue", "pii"])
    assert value.labels == ("pii",)
    assert value.taint == ("pii", "src:mcp")
    assert value.marks == ("pii", "src:mcp", "mcp:github:get_issue")
    assert Labels.of(sources=["file.txt"]).marks == ()
    unlabelled = policy({"defaults": {"unlabeled": "untrusted"}})
    assert "untrusted" in effective_taint(unlabelled, from_flat(["src:mcp", "mcp:github:get_issue"]))


def test_one_layer_makes_it_run_wide() -> None:
    wide, narrow = policy({"defaults": {"taint": "run"}}, "a"), policy({"defaults": {"taint": "session"}}, "b")
    assert (wide | narrow).run_wide
    assert (narrow | wide).run_wide
    assert not narrow.run_wide
    assert from_json((narrow | wide).json()).run_wide

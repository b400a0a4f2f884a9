"""What labels take away from whoever has seen them: layers only add to it, and a rule is asked in the words of its author."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
        ("mcp:github", "mcp:github:get_issue", "mcp:github"),
        ("mcp:github:*", "mcp:github:get_issue", "mcp:github"),
        ("mcp:github:get_issue", "mcp:github:get_issue", "mcp:github:get_issue"),
        ("mcp:git", "mcp:github:get_issue", None),
        ("mcp:github:get", "mcp:github:get_issue", None),
        ("*", "pii", "*"),
        ("src:mcp", "src:cmd", None),
    ],
)
def test_which_labels_matter(said: str, seen: str, telling: str | None) -> None:
    rule = policy({"labels": {said: {"deny": ["op:mcp"]}}})
    assert confining(rule, (seen,)) == (frozenset({telling}) if telling else frozenset())


WORDS = ["secret", "mcp", "mcp:a", "mcp:a:x", "mcp:b", "*", "pii", "src:mcp"]
SEEN = ["secret", "secret:key", "mcp:a:x", "mcp:a:y", "mcp:ab:x", "mcp:b:z:1", "pii", "pii:mail", "src:mcp"]


@given(
    words=st.dictionaries(st.sampled_from(WORDS), st.sampled_from(["deny", "allow"]), min_size=1),
    rules=st.lists(st.sampled_from(["no-secret-exfil"]), unique=True),
    seen=st.lists(st.sampled_from(SEEN), unique=True),
)
def test_in_the_words_of_the_rules_labels_close_the_same(
    words: dict[str, str], rules: list[str], seen: list[str]
) -> None:
    made = policy({"labels": {w: {how: ["op:mcp:s:t"]} for w, how in words.items()}, "defaults": {"rules": rules}})
    for tool in ("t", "u"):
        operation = Operation(kind="mcp", name=tool, server="s", tool=tool, labels=("exfil",))
        whole, short = withdrawn(made, operation, seen), withdrawn(made, operation, sorted(confining(made, seen)))
        assert (whole is None) == (short is None)


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

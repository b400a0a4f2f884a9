"""Labels grow, share, and are lost only to privilege (semantics §6, part of A16)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interpreter.labels import NONE, LabelConflict, Labels, ProtectedLabel, ToolUse, joined

SOME = st.lists(st.sampled_from(["pii", "secret", "untrusted", "trusted", "net:w"]), max_size=4)
AUTOMATIC = st.lists(st.sampled_from(["src:mcp", "src:cmd", "dir:/tmp"]), max_size=3)


@st.composite
def labels(draw: st.DrawFn) -> Labels:
    declared = draw(SOME)
    if "untrusted" in declared:
        declared = [label for label in declared if label != "trusted"]
    return Labels.of(*declared, automatic=draw(AUTOMATIC))


@given(labels(), labels(), labels())
def test_join_is_a_join(a: Labels, b: Labels, c: Labels) -> None:
    assert a | a == a
    assert a | NONE == a == NONE | a
    assert a | b == b | a
    assert (a | b) | c == a | (b | c) == joined([a, b, c])


@given(labels(), labels())
def test_a_join_loses_nothing_but_trust(a: Labels, b: Labels) -> None:
    assert (set(a.taint) | set(b.taint)) - set((a | b).taint) <= {"trusted"}
    assert not {"trusted", "untrusted"} <= set((a | b).taint)


def test_a_join_of_like_labels_shares() -> None:
    a = Labels.of("pii", "secret", automatic=["src:mcp"])
    b = Labels.of("pii")
    assert a | b is a
    assert b | a is a
    assert joined([a, a, NONE, a]) is a
    assert joined([]) is NONE
    assert a.declare("pii") is a


def test_untrusted_displaces_trusted() -> None:
    assert (Labels.of("trusted") | Labels.of("untrusted")).labels == ("untrusted",)
    assert Labels.of("untrusted").declare("trusted").labels == ("untrusted",)
    assert joined([Labels.of("trusted"), Labels.of("pii"), Labels.of("untrusted")]).labels == ("pii", "untrusted")
    with pytest.raises(LabelConflict, match="both trusted and untrusted"):
        Labels.of("trusted", "untrusted")


@pytest.mark.parametrize("label", ["secret", "untrusted", "src:mcp"])
def test_protected_labels_need_privilege(label: str) -> None:
    held = Labels.of("pii") | (Labels.of(automatic=[label]) if ":" in label else Labels.of(label))
    with pytest.raises(ProtectedLabel, match=label):
        held.without("pii", label, privileged=False)
    assert label in held
    assert "pii" in held
    assert held.without(label, privileged=True).taint == ("pii",)


def test_other_labels_go_without_privilege() -> None:
    assert Labels.of("pii", "secret").without("pii", "absent", privileged=False).labels == ("secret",)


def test_only_privilege_makes_untrusted_data_trusted() -> None:
    with pytest.raises(ProtectedLabel):
        Labels.of("untrusted").trust(privileged=False)
    assert Labels.of("untrusted").trust(privileged=True).labels == ("trusted",)


def test_what_scripts_see() -> None:
    value = Labels.of("secret", "pii", automatic=("src:mcp",), sources=("mcp:list_issues",))
    value = value.used(ToolUse("list_issues", ("repo",), "7"))
    assert value.json() == {
        "labels": ["secret", "pii"],
        "taint": ["secret", "pii", "src:mcp"],
        "sources": ["mcp:list_issues"],
        "tools": [{"name": "list_issues", "args": ["repo"], "auditRef": "7"}],
    }


def test_a_long_lineage_is_joined_in_one_pass() -> None:
    many = [NONE.used(ToolUse("t", (), str(n))) for n in range(2000)]
    assert len(joined(many).tools) == 2000

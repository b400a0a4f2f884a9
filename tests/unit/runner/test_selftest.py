"""The fence is proved fact by fact; silence, a contradiction and a late word prove nothing."""

from __future__ import annotations

import pytest

from runner.errors import FenceBroken
from runner.plan import AGENT, SIDECAR
from runner.selftest import ABSENT, SelfTest
from tests.support.plans import good


def tell(test: SelfTest, member: str, **wrong: str) -> None:
    """All facts of a seat, some of them bad."""
    for name in sorted(test.expected(member)):
        bad = wrong.get(name.replace("-", "_"))
        test.take(member, {"event": "canary", "name": name, "ok": bad is None, "saw": bad or "fine"})
    test.take(member, {"event": "ready"} if member == SIDECAR else {"event": "canary-done", "ok": not wrong})


def proved() -> SelfTest:
    test = SelfTest(plan=good())
    for container in test.plan.containers:
        tell(test, container.member)
    return test


def test_a_fence_that_is_proved_is_accepted() -> None:
    test = proved()
    assert test.complete
    test.judge()


@pytest.mark.parametrize("fact", sorted(ABSENT))
@pytest.mark.parametrize("member", [AGENT, "github"])
def test_one_wrong_fact_is_enough(member: str, fact: str) -> None:
    test = SelfTest(plan=good())
    for container in test.plan.containers:
        tell(test, container.member, **({fact.replace("-", "_"): "a route"} if container.member == member else {}))
    with pytest.raises(FenceBroken, match=f"around {member}") as caught:
        test.judge()
    assert f"{fact}: saw a route" in caught.value.detail


@pytest.mark.parametrize("fact", ["tcp-metadata", "link-stdio.sock", "read-only-egress.sock"])
def test_silence_is_no_proof(fact: str) -> None:
    test = proved()
    del test.facts["github", fact]
    with pytest.raises(FenceBroken) as caught:
        test.judge()
    assert f"{fact}: not told" in caught.value.detail


def test_a_network_nobody_was_granted_is_seen() -> None:
    test = proved()
    other = SelfTest(plan=test.plan)
    tell(other, SIDECAR, sidecar_network="eth0")
    assert other.wrong(SIDECAR) == ["sidecar-network: saw eth0"]


def test_a_fact_cannot_be_made_good_afterwards() -> None:
    test = SelfTest(plan=good())
    test.take(AGENT, {"event": "canary", "name": "root", "ok": False, "saw": "writable"})
    test.take(AGENT, {"event": "canary", "name": "root", "ok": True, "saw": "read-only"})
    assert "root: saw writable" in test.wrong(AGENT)


def test_what_is_said_after_the_end_counts_for_nothing() -> None:
    test = proved()
    assert test.take(AGENT, {"event": "canary", "name": "root", "ok": False, "saw": "forged"}) is None
    test.judge()


def test_it_is_complete_only_with_every_seat() -> None:
    test = SelfTest(plan=good())
    tell(test, AGENT)
    assert not test.complete
    with pytest.raises(FenceBroken):
        test.judge()

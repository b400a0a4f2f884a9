"""Guards: which fire, and what decisions come to (semantics §8, A16, P9)."""

from __future__ import annotations

import asyncio

import pytest

from interpreter.check import check_source
from interpreter.declarations import Place
from interpreter.guards import (
    Allow,
    Deny,
    Guard,
    GuardCall,
    GuardDecision,
    Guarded,
    Guards,
    Retry,
    UseEnvironment,
    Verdict,
    filter_fault,
    settle,
)
from interpreter.labels import NONE, Labels
from interpreter.policy import Allowed, Denied, judge
from interpreter.policy_parse import parse_policy
from interpreter.policy_subjects import Operation
from interpreter.source import Source


def guard(written: str, *decisions: GuardDecision, **more: object) -> Guard:
    """A guard whose filter is spelt as in a script and which answers with the decisions in turn."""
    answers = iter(decisions) if len(decisions) > 1 else None

    async def decide(call: GuardCall) -> GuardDecision:
        return next(answers) if answers else decisions[0] if decisions else None

    kind, name = ("operation", written[3:]) if written.startswith("op:") else ("label", written)
    if written.startswith("@"):
        kind, name = "function", written[1:]
    return Guard(decide=decide, kind=kind, filter=name, **more)


PUSH = Operation(kind="cmd", command="git push origin", directive="run")
CALL = Operation(kind="mcp", name="createIssue", server="github", tool="create_issue", labels=("net:w",))
DELETE = Operation(kind="exe", name="deleteFile", labels=("destructive", "fs:w"))
PLAIN = Guarded(value="x", labels=NONE)
MCP = Guarded(value="x", labels=Labels.of("pii", automatic=["src:mcp", "dir:/tmp"]))


async def before(guards: Guards | Guard, operation: Operation, *inputs: Guarded) -> Verdict:
    return await (guards if isinstance(guards, Guards) else Guards(all=(guards,))).before(operation, inputs or (PLAIN,))


# ── Every filter that parses fires ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("written", "operation", "fires"),
    [
        ("op:cmd", PUSH, True),
        ("op:cmd:git", PUSH, True),
        ("op:cmd:git:push", PUSH, True),
        ("op:cmd:git:*", PUSH, True),
        ("op:cmd:git:pull", PUSH, False),
        ("op:cmd:gi", PUSH, False),
        ("op:run", PUSH, True),
        ("op:exe", PUSH, False),
        ("op:sh", Operation(kind="sh"), True),
        ("op:js", Operation(kind="js"), True),
        ("op:show", Operation(kind="show"), True),
        ("op:output", Operation(kind="output"), True),
        ("op:mcp", CALL, True),
        ("op:mcp:github", CALL, True),
        ("op:mcp:github:*", CALL, True),
        ("op:mcp:github:create_issue", CALL, True),
        ("op:mcp:gitlab", CALL, False),
        ("op:exe", CALL, True),
        ("op:exe", DELETE, True),
        ("op:cmd", DELETE, False),
        ("op:net:w", CALL, True),
        ("net:w", CALL, True),
        ("net", CALL, True),
        ("destructive", DELETE, True),
        ("destructive", CALL, False),
        ("@deleteFile", DELETE, True),
        ("@createIssue", CALL, True),
        ("@create_issue", CALL, True),
        ("@createIssues", CALL, False),
    ],
)
async def test_filters_on_operations(written: str, operation: Operation, fires: bool) -> None:
    assert (await before(guard(written, Deny(reason="no")), operation)).kind == ("deny" if fires else "allow")


@pytest.mark.parametrize("written", ["pii", "src:mcp", "src", "dir", "dir:/tmp"])
async def test_filters_on_labels_fire_on_what_is_declared_and_on_taint(written: str) -> None:
    assert (await before(guard(written, Deny(reason="no")), PUSH, PLAIN, MCP)).kind == "deny"
    assert (await before(guard(written, Deny(reason="no")), PUSH, PLAIN)).kind == "allow"


async def test_all_commands_of_a_pipeline_are_seen() -> None:
    piped = Operation(kind="cmd", command="cat x | git push")
    assert (await before(guard("op:cmd:git:push", Deny(reason="no")), piped)).kind == "deny"


# ── What decisions come to ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("decisions", "kind"),
    [
        ([None], "allow"),
        ([Allow()], "allow"),
        ([Allow(), Allow(value="y", replaces=True)], "transform"),
        ([Allow(value="y", replaces=True), Retry(hint="again")], "retry"),
        ([Retry(hint="again"), Allow(), Deny(reason="no")], "deny"),
        ([Deny(reason="no"), Allow()], "deny"),
    ],
)
async def test_deny_retry_allow_with_a_value_allow(decisions: list[GuardDecision], kind: str) -> None:
    guards = Guards(all=tuple(guard("op:cmd", decision, name=f"g{n}") for n, decision in enumerate(decisions)))
    verdict = await before(guards, PUSH)
    assert verdict.kind == kind
    assert len(verdict.heard) == len(decisions)


async def test_a_denial_names_the_guard_the_line_and_the_reason() -> None:
    place = Place(file="index.mld", line=12, column=1)
    verdict = await before(
        guard("op:cmd", Deny(reason="No secrets to network operations"), name="noSecrets", place=place), PUSH
    )
    assert (verdict.rule, verdict.reason) == ("guard @noSecrets (index.mld:12:1)", "No secrets to network operations")
    anonymous = await before(guard("net:w", Deny(reason="no")), CALL)
    assert anonymous.rule == "guard before net:w"


async def test_a_guard_that_raises_denies() -> None:
    async def broken(call: GuardCall) -> GuardDecision:
        raise ZeroDivisionError("the secret is 42")

    verdict = await before(Guard(decide=broken, kind="operation", filter="cmd"), PUSH)
    assert verdict.kind == "deny"
    assert verdict.reason == "the guard failed: ZeroDivisionError"


async def test_an_interrupt_is_no_verdict() -> None:
    async def interrupted(call: GuardCall) -> GuardDecision:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await before(Guard(decide=interrupted, kind="operation", filter="cmd"), PUSH)


async def test_before_guards_chain_and_say_what_they_changed() -> None:
    seen = []

    def replacing(value: str) -> Guard:
        async def decide(call: GuardCall) -> GuardDecision:
            seen.append(call.inputs[0].value)
            return Allow(value=value, replaces=True)

        return Guard(decide=decide, kind="operation", filter="cmd", name=value)

    verdict = await before(Guards(all=(replacing("a"), replacing("b"))), PUSH, MCP)
    assert seen == ["x", "x", "a"], "each is asked about the original too: no change hides what it denies"
    assert verdict.inputs[0].value == "b"
    assert [(step.guard.name, step.kind) for step in verdict.heard] == [("a", "transform"), ("b", "transform")]
    assert verdict.heard[0].replacement == Guarded(value="a", labels=MCP.labels)
    assert verdict.inputs[0].labels == MCP.labels


async def test_a_label_guard_changes_only_what_carries_the_label() -> None:
    verdict = await before(guard("pii", Allow(value="masked", replaces=True)), PUSH, PLAIN, MCP)
    assert [each.value for each in verdict.inputs] == ["x", "masked"]


async def test_a_change_of_many_inputs_needs_as_many_values() -> None:
    fits = guard("op:cmd", Allow(value=["a", "b"], replaces=True))
    assert [each.value for each in (await before(fits, PUSH, PLAIN, MCP)).inputs] == ["a", "b"]
    wrong = guard("op:cmd", Allow(value="a", replaces=True))
    assert (await before(wrong, PUSH, PLAIN, MCP)).kind == "deny"


async def test_after_guards_chain() -> None:
    def adding(text: str) -> Guard:
        async def decide(call: GuardCall) -> GuardDecision:
            assert call.output
            return Allow(value=f"{call.output.value}{text}", replaces=True)

        return Guard(decide=decide, kind="operation", filter="cmd", name=text, timing="after")

    guards = Guards(all=(adding("1"), adding("2"), guard("op:cmd", Deny(reason="never"), timing="before")))
    verdict = await guards.after(PUSH, (PLAIN,), PLAIN)
    assert verdict.output
    assert verdict.output.value == "x12"


@pytest.mark.parametrize(("timing", "moments"), [("before", "b"), ("after", "a"), ("always", "ba")])
async def test_timing(timing: str, moments: str) -> None:
    guards = Guards(all=(guard("op:cmd", Deny(reason="no"), timing=timing),))
    assert (await guards.before(PUSH, (PLAIN,))).kind == ("deny" if "b" in moments else "allow")
    assert (await guards.after(PUSH, (PLAIN,), PLAIN)).kind == ("deny" if "a" in moments else "allow")


async def test_a_result_is_judged_by_its_own_labels() -> None:
    guards = Guards(all=(guard("src:mcp", Deny(reason="no"), timing="after"),))
    assert (await guards.after(PUSH, (PLAIN,), MCP)).kind == "deny"
    assert (await guards.after(PUSH, (PLAIN,), PLAIN)).kind == "allow"


async def test_an_environment_is_handed_on() -> None:
    assert (await before(guard("op:cmd", UseEnvironment(config={"net": "none"})), PUSH)).environment == {"net": "none"}


# ── Privilege: A16 ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("label", ["secret", "untrusted", "src:mcp"])
async def test_A16_only_privilege_removes_protected_labels(label: str) -> None:
    value = Guarded(value="x", labels=Labels.of("secret", "untrusted", automatic=["src:mcp"]))
    plain = await before(guard("op:cmd", Allow(remove=(label,))), PUSH, value)
    assert plain.kind == "deny"
    assert "privileged" in plain.reason
    strong = await before(guard("op:cmd", Allow(remove=(label,)), privileged=True), PUSH, value)
    assert label not in strong.inputs[0].labels


async def test_A16_trust_is_given_by_privilege_only() -> None:
    value = Guarded(value="x", labels=Labels.of("untrusted"))
    assert (await before(guard("op:cmd", Allow(add=("trusted",))), PUSH, value)).kind == "deny"
    strong = await before(guard("op:cmd", Allow(add=("trusted",)), privileged=True), PUSH, value)
    assert strong.inputs[0].labels.labels == ("trusted",)
    assert (await before(guard("op:cmd", Allow(add=("pii",))), PUSH, value)).inputs[0].labels.labels == (
        "untrusted",
        "pii",
    )


async def test_A16_a_privileged_guard_lifts_label_rules_unless_locked() -> None:
    rules = {"labels": {"src:mcp": {"deny": ["destructive"]}}}
    operation = Operation(kind="exe", name="wipe", labels=("destructive",), inputs=(MCP.labels,))
    lifted = await before(guard("destructive", Allow(), privileged=True, name="boss"), operation, MCP)
    plain = await before(guard("destructive", Allow()), operation, MCP)
    silent = await before(guard("destructive", None, privileged=True), operation, MCP)
    open_policy, locked = parse_policy(rules, name="p"), parse_policy({**rules, "locked": True}, name="p")
    decision = settle(judge(open_policy, operation), lifted)
    assert isinstance(decision, Allowed)
    assert decision.reason == "Label 'src:mcp' cannot flow to 'destructive': lifted by guard @boss"
    assert isinstance(settle(judge(open_policy, operation), plain), Denied)
    assert isinstance(settle(judge(open_policy, operation), silent), Denied)
    assert isinstance(settle(judge(locked, operation), lifted), Denied)


async def test_A16_no_guard_lifts_a_capability() -> None:
    verdict = await before(guard("op:cmd", Allow(), privileged=True), PUSH)
    assert isinstance(settle(judge(parse_policy({"deny": ["cmd:git"]}, name="p"), PUSH), verdict), Denied)


async def test_another_guards_denial_takes_the_lift_away() -> None:
    guards = Guards(all=(guard("op:cmd", Allow(), privileged=True), guard("op:cmd", Deny(reason="no"))))
    assert not (await before(guards, PUSH)).privileged


def test_a_bypass_spares_privileged_guards() -> None:
    a, b, boss = (guard("op:cmd", name=name, privileged=name == "boss") for name in ("a", "b", "boss"))
    guards = Guards(all=(a, b, boss))
    assert guards.without(only=()).all == (boss,)
    assert guards.without(only=("@a",)).all == (a, boss)
    assert guards.without(names=("a", "boss")).all == (b, boss)
    assert guards.without().all == (a, b, boss)


# ── A21: verdicts stay with their calls ─────────────────────────────────────────────────────────────


async def test_A21_a_thousand_mixed_calls_keep_their_verdicts() -> None:
    async def decide(call: GuardCall) -> GuardDecision:
        number = int(str(call.inputs[0].value))
        for _ in range(number % 5):
            await asyncio.sleep(0)  # lets the others overtake
        if number % 3 == 0:
            return Deny(reason=f"no {number}")
        return Allow(value=f"seen {number}", replaces=True) if number % 3 == 1 else Allow()

    guards = Guards(all=(Guard(decide=decide, kind="operation", filter="mcp", name="g"),))
    inputs = [Guarded(value=n, labels=NONE) for n in range(1000)]
    verdicts = await asyncio.gather(*(guards.before(CALL, (each,)) for each in inputs))
    for number, verdict in enumerate(verdicts):
        expected = ("deny", f"no {number}", number) if number % 3 == 0 else (
            ("transform", "", f"seen {number}") if number % 3 == 1 else ("allow", "", number)
        )  # fmt: skip
        assert (verdict.kind, verdict.reason, verdict.inputs[0].value) == expected


# ── Filters that can match nothing ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "name", "message", "hint"),
    [
        ("operation", "js:foo", "op:js:foo can match nothing: op:js has no further level", "write op:js"),
        ("operation", "mcp:a:b:c", "op:mcp:a:b:c can match nothing: op:mcp has 2 further levels", "write op:mcp"),
        ("label", "src:mpc", "no value ever has the label src:mpc", "did you mean src:mcp?"),
    ],
)
def test_a_filter_that_can_match_nothing_is_a_check_error(kind: str, name: str, message: str, hint: str) -> None:
    assert filter_fault(kind, name) == (message, hint)
    written = f"op:{name}" if kind == "operation" else name
    source = Source(name="x.mld", text=f"show 1\nguard before {written} = when [ * => allow ]\n")
    (found,) = check_source(source)
    assert (found.code, found.severity, found.message, found.hint) == ("filter-matches-nothing", "error", message, hint)
    assert found.span is not None
    assert found.span.line == 2


@pytest.mark.parametrize(
    ("kind", "name"),
    [("operation", "cmd:git:push"), ("operation", "mcp:github:*"), ("operation", "mcp:github:create_issue"),
     ("operation", "net:w"), ("operation", "exe"), ("label", "src:mcp"), ("label", "src:mcp:github"), ("label", "pii")],
)  # fmt: skip
def test_filters_that_can_match(kind: str, name: str) -> None:
    assert filter_fault(kind, name) is None

"""Choosing: `when` in its three forms, and `if`."""

from __future__ import annotations

from interpreter import nodes as n
from interpreter.errors import EvaluationError
from interpreter.labels import NONE, Labels
from interpreter.values import NULL, UNDEFINED, Undefined, Value, nothing, truthy

from .blocks import block, calls, evaluate_statement, gives_value, result_of, statements
from .core import Env, Returned, evaluate, handles
from .functions import settled
from .lookup import decides, lenient, operand
from .methods import call_method
from .observing import announce_statement, observes
from .operators import apply_operator, equal


class Chosen:
    """The branch of a `when` that matched, with the block scope in which it runs."""

    __slots__ = ("body", "env", "labels")

    def __init__(self, body: n.Node | None, env: Env, labels: Labels) -> None:
        self.body, self.env, self.labels = body, env, labels


async def choose(node: n.When, env: Env) -> Chosen | None:
    """The first branch that matches. The labels of the conditions that were asked flow into what it gives."""
    subject = None if node.subject is None else await settled(await evaluate(node.subject, env), env, node.subject.span)
    inside = env.block()
    labels = NONE if subject is None else subject.labels
    denied = bool(env.mx.get("denied"))
    handles_denial = denied and any(isinstance(case, n.Case) and asks_denial(case.condition) for case in node.cases)
    for case in node.cases:
        if not isinstance(case, n.Case):
            await evaluate(case, inside)
            continue
        if handles_denial and not asks_denial(case.condition):
            continue  # what was denied must not happen after all
        verdict = await matches(case.condition, subject, inside)
        if verdict.labels is not NONE:
            labels = labels | verdict.labels
        if truthy(verdict):
            chosen = Chosen(case.body, branch_of(inside, labels), labels)
            if handles_denial and ANSWERS in env.mx:
                env.mx[ANSWERS].append(chosen)
            return chosen
    return None


# In the context of a function that was denied: the branches with which it answered.
ANSWERS = "\0answers"


def asks_denial(condition: n.Node) -> bool:
    """Does the condition ask `denied` or `@mx.denied`?"""
    if isinstance(condition, n.Field) and condition.name == "denied":
        return isinstance(condition.target, n.Variable) and condition.target.name == "mx"
    return isinstance(condition, n.WasDenied) or any(asks_denial(child) for child in condition.children())


async def matches(condition: n.Node, subject: Value | None, env: Env) -> Value:
    if isinstance(condition, n.Anything | n.NoMatch):
        return Value(True)
    if subject is None:
        return await decides(condition, env)
    return await pattern(condition, subject, env)


async def pattern(condition: n.Node, subject: Value, env: Env) -> Value:
    """Does the subject fit? A pattern is a value to equal, a comparison without its left side, or some of them joined."""
    if isinstance(condition, n.Unary) and condition.operator == "!":
        inner = await pattern(condition.operand, subject, env)
        return Value(not truthy(inner), inner.labels)
    if isinstance(condition, n.Binary):
        if condition.operator in ("&&", "||"):
            left = await pattern(condition.left, subject, env)
            if truthy(left) == (condition.operator == "||"):
                return left
            right = await pattern(condition.right, subject, env)
            return right.with_labels(left.labels)
        if isinstance(condition.left, n.Placeholder):
            return apply_operator(condition.operator, subject, await lenient(condition.right, env))
        return await lenient(condition, env)
    if isinstance(condition, n.Regex):
        return Value(call_method(subject, "match", [await evaluate(condition, env)]).data is not None, subject.labels)
    wanted = await operand(condition, env)
    return Value(equal(subject, wanted), wanted.labels)


@handles(n.When)
async def when(node: n.When, env: Env) -> Value:
    """The value of the branch that matched; null when none does."""
    chosen = await choose(node, env)
    if chosen is None or chosen.body is None:
        return NULL
    return await take(chosen)


async def take(chosen: Chosen) -> Value:
    assert chosen.body is not None
    if isinstance(chosen.body, n.Command):
        from .effects import print_result

        result = await evaluate(chosen.body, chosen.env)
        print_result(result, chosen.env)
    else:
        result = await result_of(chosen.body, chosen.env)
    if isinstance(result.data, Undefined) or isinstance(chosen.body, n.Let | n.Augment):
        result = nothing(result.labels)
    return result.with_labels(chosen.labels) if chosen.labels is not NONE else result


async def when_statement(node: n.When, env: Env, *, leaves: bool = True) -> None:
    """A `when` as a statement of a block: what it does is done, and a value that it gives leaves the function (`leaves`)."""
    await announce_statement("when", node, env, lambda: take_statement(node, env, leaves=leaves))


async def take_statement(node: n.When, env: Env, *, leaves: bool) -> None:
    chosen = await choose(node, env)
    if chosen is None or chosen.body is None:
        return
    if isinstance(chosen.body, n.Block):
        await block(chosen.body, chosen.env)  # its `=>` leaves the function by itself
        return
    if isinstance(chosen.body, n.When | n.If | n.For | n.Loop):
        await evaluate_statement(chosen.body, chosen.env)
        return
    result = await take(chosen)
    if not leaves and isinstance(chosen.body, n.Run | n.Stream) and not calls(chosen.body.value):
        from .effects import print_result

        print_result(result, chosen.env)
    if leaves and gives_value(chosen.body) and result.data is not None and not isinstance(result.data, Undefined):
        raise Returned(result)


@handles(n.If)
@observes("if")
async def if_(node: n.If, env: Env) -> Value:
    condition = await decides(node.condition, env)
    branch = node.then if truthy(condition) else node.otherwise
    if branch is None:
        return Value(UNDEFINED)
    inside = branch_of(env, condition.labels)
    if isinstance(branch, n.Block):
        return await statements(branch.body, inside, leaves=False)
    return await evaluate(branch, inside)


def branch_of(env: Env, labels: Labels) -> Env:
    """The inside of a branch that was taken because of data with these labels: they go with what is assigned or returned there,
    since that tells about the data. Loops in it are not those of a parallel loop around."""
    inside = env.block()
    if labels is not NONE or env.mx.get("spread") is not None:
        inside.mx = {name: entry for name, entry in env.mx.items() if name != "spread"}
        if labels is not NONE:
            inside.mx["flow"] = labels | env.mx.get("flow", NONE)
    return inside


@handles(n.WasDenied)
async def was_denied(node: n.WasDenied, env: Env) -> Value:
    return Value(bool(env.mx.get("denied")))


@handles(n.Anything)
async def anything(node: n.Anything, env: Env) -> Value:
    return Value(True)


@handles(n.NoMatch)
async def no_match(node: n.NoMatch, env: Env) -> Value:
    raise EvaluationError(
        "The 'none' keyword can only be used as a condition within /when directives", span=node.span, code="none"
    )

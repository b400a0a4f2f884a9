"""Repeating a block or a stage until it says that it is done: `loop` and `while`."""

from __future__ import annotations

import asyncio
import itertools
import sys

from interpreter import nodes as n
from interpreter.errors import EvaluationError, LimitReached
from interpreter.operations import observed
from interpreter.policy_subjects import Operation
from interpreter.source import Span
from interpreter.values import NULL, Value, record, truthy

from .blocks import evaluate_statement
from .core import Env, LoopContinue, LoopDone, at, evaluate, handles
from .lookup import decides
from .loops import seconds_of
from .observing import observes


async def loop_limit(node: n.Node | None, env: Env, what: str) -> int | None:
    """How many rounds at most; None is endless."""
    if node is None:
        return None
    if isinstance(node, n.Variable) and node.name == "endless":
        return None
    value = (await evaluate(node, env)).data
    if value == "endless":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise EvaluationError(f"{what} limit expects a number.", span=node.span, code="type")
    if value < 0 or value != value or value % 1:
        raise EvaluationError(f"{what} limit expects a non-negative whole number.", span=node.span, code="type")
    return int(value)


@handles(n.Loop)
async def loop(node: n.Loop, env: Env) -> Value:
    """What its `done` gives; null where the limit or `until` ends it."""
    limit = await loop_limit(node.limit, env, "loop")
    pace = await seconds_of(node.rate, env, "loop pacing")
    state = NULL
    bound = sys.maxsize if env.run.limits.endless else env.run.limits.iterations
    for iteration in itertools.count(1):
        if limit is not None and iteration > limit:
            break
        if iteration > bound:
            raise LimitReached(f"the loop did not end within {bound:,} rounds", span=node.span)
        if iteration > 1 and pace:
            await env.ports.clock.sleep(pace)
        inside = env.block(
            {"input": state}, apart=True, loop={"iteration": iteration, "limit": limit, "active": True}, input=state,
            spread=None,
        )  # fmt: skip
        if node.until is not None and truthy(await decides(node.until, inside)):
            break
        status, state = await loop_round(node, inside, state)
        if status == "done":
            return state
        if not iteration & 63:
            await asyncio.sleep(0)
    return NULL


async def loop_round(node: n.Loop, env: Env, state: Value) -> tuple[str, Value]:
    """One round: whether to go on, and with what."""
    answer = ("continue", state)

    async def run() -> Value:
        nonlocal answer
        try:
            for statement in node.body.body:
                await evaluate_statement(statement, env, leaves=False)
        except LoopDone as done:
            answer = ("done", done.value or NULL)
        except LoopContinue as again:
            answer = ("continue", again.value or state)
        return record({"status": Value(answer[0]), "value": answer[1]})

    await observed(Operation(kind="loop", name="loop", inputs=(state.labels,)), (state,), node.span, env, run)
    return answer


async def run_while(
    state: Value, function: n.Node, limit_node: n.Node, rate: n.Node | None, env: Env, span: Span
) -> Value:
    """`| while(limit, rate) @f`: the function again and again, until it says `done`."""
    from .pipelines import call_stage, stage_function

    named = function.function if isinstance(function, n.Call) else function
    if isinstance(named, n.Variable):
        await stage_function(named, env, "While processor '@{}' is not defined")
    limit = await loop_limit(limit_node, env, "while")
    limit = env.run.limits.iterations if limit is None else limit
    pace = await seconds_of(rate, env, "while pacing")
    for iteration in range(1, limit + 1):
        if iteration > 1 and pace:
            await env.ports.clock.sleep(pace)
        context = {"iteration": iteration, "limit": limit, "active": True}
        mx = {k: v for k, v in env.mx.items() if k not in ("pipeline", "retryable")}
        inside = env.copy(mx={**mx, "while": context})
        try:
            state = await call_stage(function, state, inside)
        except LoopDone as done:
            return done.value or state
        except LoopContinue as again:
            state = again.value or state
        except EvaluationError as error:
            raise at(error, span) from None
    raise EvaluationError(
        f"While loop reached cap ({limit}) without 'done'", span=span, code="while-cap",
        hint="a branch of the function must end it: `@n >= 5 => done @n`; or raise the cap",
    )  # fmt: skip


@handles(n.While)
@observes("while")
async def while_(node: n.While, env: Env) -> Value:
    return await run_while(NULL, node.function, node.limit, node.rate, env, node.span)

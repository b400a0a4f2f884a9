"""Parallel groups of pipelines: `| @a || @b`, `|| @a() || @b()`, a list inside `pipeline: [...]`."""

from __future__ import annotations

import asyncio
from typing import Any

from interpreter import nodes as n
from interpreter import values_text as vt
from interpreter.errors import EvaluationError, MlldError, UserBail
from interpreter.values import Value, array

from .core import Env, RetryAsked, handles
from .loops import DEFAULT_PARALLEL, limit_of, publish, seconds_of
from .pipelines import Context, grouped, run_effect, run_stage, run_stages, stage_function


async def run_parallel(
    stage: n.ParallelStage, value: Value, env: Env, context: Context, hint: Value | None, node: n.Pipeline | None
) -> Value:
    """All branches at once on the same value. A branch that fails gives an error marker; the others go on. An effect
    between two of them belongs to the one before it.
    """
    limit = (await limit_of(node.parallel, env, "parallel") if node is not None else None) or DEFAULT_PARALLEL
    pace = await seconds_of(node.delay, env, "parallel pacing") if node is not None else 0.0
    branches, effects = grouped(stage.stages, env)
    for each in branches:
        name = each.function if isinstance(each, n.Call) else each
        if isinstance(name, n.Variable):
            await stage_function(name, env)  # a name that nobody defined is no branch that fails
    slots = asyncio.Semaphore(limit)
    errors: list[dict[str, Any]] = []

    async def branch(index: int, each: n.Node) -> Value:
        if pace and index:
            await env.ports.clock.sleep(pace * index)
        async with slots:
            try:
                result = vt.structured(await run_stage(each, value, env, context, hint, node))
                for effect in effects[index + 1]:
                    await run_effect(effect, result, env, context, apart=True)
                return result
            except UserBail:
                raise
            except MlldError as error:
                message = env.run.mask(error.plain)
                marker = {
                    "index": index,
                    "key": index,
                    "message": message,
                    "error": message,
                    "value": vt.to_plain(value),
                }
                errors.append(marker)
                env.ports.output.stderr(f"  ⚠ parallel branch {index} error: {message}\n")
                return Value(marker, value.labels, meta={"failed": f"value: {message}"})

    for effect in effects[0]:
        await run_effect(effect, value, env, context, apart=True)
    tasks = [asyncio.ensure_future(branch(i, each)) for i, each in enumerate(branches)]
    try:
        results = await asyncio.gather(*tasks)
    except BaseException as error:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(error, RetryAsked):
            raise EvaluationError("retry not supported in parallel stage", span=stage.span, code="retry") from None
        raise
    publish(errors, env)
    if not errors:
        return array(results)
    first = errors[0]
    return array(results).with_meta(errors=errors, failed=f"value[{first['index']}]: {first['message']}")


@handles(n.ParallelStage)
async def stray_parallel(node: n.ParallelStage, env: Env) -> Value:
    return await run_stages(Value(""), (node,), env, node.span)

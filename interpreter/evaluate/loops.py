"""Repeating: `for` (in order or parallel), `foreach`, `loop`, `while`."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from interpreter import nodes as n
from interpreter import values_text as vt
from interpreter.errors import EvaluationError, LimitReached, MlldError, UserBail
from interpreter.labels import NONE, joined
from interpreter.names import FIXED
from interpreter.operations import observed, watched
from interpreter.policy_subjects import Operation
from interpreter.source import Span
from interpreter.values import NULL, Undefined, Value, array, record, truthy, type_name

from .blocks import block_value, evaluate_statement
from .core import Env, LoopContinue, LoopDone, Returned, Skipped, at, evaluate, handles, optional
from .expressions import written
from .functions import CALLABLES
from .lookup import callee_of, lenient
from .observing import observes
from .operators import to_number
from .scope import reserved_name

DEFAULT_PARALLEL = 4
MAX_PARALLEL = 64


def pairs(source: Value, span: Span) -> Iterator[tuple[Value, Value]]:
    """Key and element of each element; elements know their place as `.mx.key` and `.mx.index`."""
    data = source.data
    if isinstance(data, str):
        parsed = vt.parse_loosely(data)
        if not isinstance(parsed, str):
            source, data = Value(parsed, source.labels), parsed
    if isinstance(data, list):
        for index, item in enumerate(source.items()):
            yield Value(str(index)), item.with_meta(index=index, key=str(index))
    elif isinstance(data, dict):
        for key in list(data):
            yield Value(key), source.item(data[key]).with_meta(key=key)
    else:
        hint = "an object works, too: `for @key, @value in @object`"
        if isinstance(data, str):
            hint = 'text is split first: `@text.split("\\n")`'
        elif data is None or isinstance(data, Undefined):
            hint = "`?? []` is for what may be missing"
        shown = f" ({vt.text(source)[:40]})" if isinstance(data, str | int | float) else ""
        raise EvaluationError(
            f"Type mismatch: for expects an array. Received: {type_name(source)}{shown}",
            span=span,
            code="type",
            hint=hint,
        )


class Round:
    """One iteration: its environment, made when it starts."""

    __slots__ = ("env", "index", "item", "key")

    def __init__(self, index: int, key: Value, item: Value, env: Env) -> None:
        self.index, self.key, self.item, self.env = index, key, item, env


def rounds(node: n.For, source: Value, env: Env) -> list[Round]:
    members = list(pairs(source, node.iterable.span))
    is_object = isinstance(source.data, dict)
    made = []
    parallel = node.parallel is not None
    for index, (key, item) in enumerate(members):
        names = bind(node, key, item, is_object)
        context = {"index": index, "total": len(members), "key": key.data, "parallel": parallel}
        inside = env.block(names, barrier=parallel)
        inside.mx = {**env.mx, "for": context}
        made.append(Round(index, key, item, inside))
    return made


def bind(node: n.For, key: Value, item: Value, is_object: bool) -> dict[str, Value]:
    names = {node.variable: item}
    if node.key is not None:
        names[node.key] = key
    elif is_object:
        names[f"{node.variable}_key"] = key
    if node.path:
        for step in node.path:
            if not isinstance(item.data, dict) or step not in item.data:
                raise EvaluationError(
                    f'Field "{step}" not found in object in for binding @{node.variable}.{".".join(node.path)} (key {key.data})',
                    span=node.span, code="field-not-found",
                )  # fmt: skip
            item = item.item(item.data[step])
    return names


Body = Callable[[Round], Awaitable[Value | None]]


async def run_rounds(node: n.For, env: Env, body: Body) -> list[Value]:
    """The results of all iterations in order of the elements; left-out ones are not there."""
    source = await evaluate(node.iterable, env)
    for name in (node.variable, node.key):
        if name in FIXED:
            raise reserved_name(name, node.span)
    todo = rounds(node, source, env)
    results: list[Value] = []

    async def every() -> Value:
        if node.parallel is not None:
            results.extend(await in_parallel(node, todo, env, body))
            return array(results)
        for each in todo:
            try:
                result = await one(node, each, body)
            except LoopDone:
                break
            if result is not None:
                results.append(result)
        return array(results)

    if watched(env):
        await observed(Operation(kind="for", inputs=(source.labels,)), (source,), node.span, env, every)
    else:
        await every()
    return results


async def one(node: n.For, each: Round, body: Body) -> Value | None:
    if each.env.authority.hooks:
        return await observed_round(node, each, body)
    return await one_round(node, each, body)


async def observed_round(node: n.For, each: Round, body: Body) -> Value | None:
    found: list[Value | None] = []

    async def run() -> Value:
        found.append(await one_round(node, each, body))
        return found[0] or NULL

    operation = Operation(kind="for:iteration", name=node.variable, inputs=(each.item.labels,))
    await observed(operation, (each.item,), node.span, each.env, run)
    return found[0]


async def one_round(node: n.For, each: Round, body: Body) -> Value | None:
    try:
        if node.condition is not None and not truthy(await lenient(node.condition, each.env)):
            return None
        return await body(each)
    except (Skipped, LoopContinue):
        return None


async def in_parallel(node: n.For, todo: list[Round], env: Env, body: Body) -> list[Value]:
    """Up to `limit` iterations at once. One that fails becomes an error marker; the others go on."""
    assert node.parallel is not None
    limit = await limit_of(node.parallel.limit, env, "for parallel") or DEFAULT_PARALLEL
    pace = await seconds_of(node.parallel.rate, env, "for parallel")
    results: dict[int, Value] = {}
    errors: list[dict[str, Any]] = []
    queue = iter(todo)
    stop = False
    gate = asyncio.Lock()
    last_start = 0.0

    async def worker() -> None:
        nonlocal stop, last_start
        for each in queue:
            if stop:
                return
            if env.authority.hooks and not each.index % limit:
                await observed(Operation(kind="for:batch", name=node.variable), (), node.span, env, nothing_yet)
            if pace:
                async with gate:
                    wait = last_start + pace - env.ports.clock.monotonic()
                    if last_start and wait > 0:
                        await env.ports.clock.sleep(wait)
                    last_start = env.ports.clock.monotonic()
            try:
                result = await one(node, each, body)
            except LoopDone:
                stop = True
                return
            except UserBail:
                raise
            except MlldError as error:
                if error.code == "parallel-write":  # a mistake of the loop, not of one element
                    raise
                marker = error_marker(error, each)
                errors.append(marker)
                env.ports.output.stderr(f"  ⚠ for iteration {each.index} error: {env.run.mask(marker['message'])}\n")
                results[each.index] = Value(marker)
            else:
                if result is not None:
                    results[each.index] = result

    tasks = [asyncio.ensure_future(worker()) for _ in range(min(limit, len(todo), MAX_PARALLEL))]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    env.scope.define("\0errors", Value(sorted(errors, key=lambda e: e["index"])))
    return [results[index] for index in sorted(results)]


async def nothing_yet() -> Value:
    """What a batch has given when it begins."""
    return NULL


def error_marker(error: MlldError, each: Round) -> dict[str, Any]:
    return {
        "index": each.index,
        "key": each.key.data,
        "message": getattr(error, "plain", None) or error.message,
        "error": getattr(error, "plain", None) or error.message,
        "value": vt.to_plain(each.item),
    }


async def limit_of(node: n.Node | None, env: Env, what: str) -> int | None:
    """How many at once; None where nothing, or null, is said."""
    said = None if node is None else (await evaluate(node, env)).data
    if node is None or said is None or isinstance(said, Undefined):
        return None
    value = to_number(said)
    if value != value or value < 1:
        raise EvaluationError(f"{what} cap expects a number. It must be at least 1", span=node.span, code="type")
    return min(int(value), MAX_PARALLEL)


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


async def seconds_of(node: n.Node | None, env: Env, what: str) -> float:
    """A pause: `1s`, or text or a number of milliseconds."""
    if node is None:
        return 0.0
    if isinstance(node, n.Duration):
        return node.seconds
    value = await evaluate(node, env)
    text = vt.text(value).strip()
    for unit in ("ms", "s", "m", "h", "d", "w"):
        if text.endswith(unit) and text[: -len(unit)].replace(".", "", 1).isdigit():
            return float(text[: -len(unit)]) * _UNITS[unit]
    number = to_number(value.data)
    if number != number or number < 0:
        message = f"{what} pacing expects a duration like 1s or 500ms. This is {text!r}"
        raise EvaluationError(message, span=node.span, code="type")
    return float(number) / 1000


@handles(n.For)
async def for_(node: n.For, env: Env) -> Value:
    """The results of a `for`, after its batch pipeline."""

    async def body(each: Round) -> Value | None:
        return await body_value(node.body, each.env)

    results = await run_rounds(node, env, body)
    value = array(results)
    source_labels = joined(r.labels for r in results)
    if source_labels is not NONE:
        value = value.with_labels(source_labels)
    if node.batch:
        from .pipelines import run_stages

        value = await run_stages(value, node.batch, env, node.span)
    return value


async def for_statement(node: n.For, env: Env) -> None:
    """A loop in a block, whose results nobody takes: a `=>` of its own ends the round, one in an `if` or `when` inside of it
    gives the value of the function around."""

    from .control import when_statement

    async def body(each: Round) -> Value | None:
        if not isinstance(node.body, n.Block):
            return await body_value(node.body, each.env)
        inside = each.env.block()
        for statement in node.body.body:
            if isinstance(statement, n.Return):
                return await optional(statement.value, inside)
            if isinstance(statement, n.When):
                await when_statement(statement, inside, leaves=False)
            else:
                await evaluate_statement(statement, inside)
        return NULL

    if node.batch:
        await for_(node, env)
    else:
        await run_rounds(node, env, body)


async def body_value(body: n.Node, env: Env) -> Value:
    if isinstance(body, n.Block):
        try:
            value = await block_value(body, env)
        except Returned as returned:
            value = returned.value or NULL
        return Value(None, value.labels) if isinstance(value.data, Undefined) else value
    try:
        value = await evaluate(body, env)
    except Returned as returned:
        value = returned.value or NULL
    return Value(None, value.labels) if isinstance(value.data, Undefined) else value


@handles(n.Foreach)
@observes("foreach")
async def foreach(node: n.Foreach, env: Env) -> Value:
    """`foreach @f(@xs, @ys)`: the function over every combination of elements."""
    from .calls import invoke

    if node.function is None:
        return await evaluate(node.arguments[0], env)
    callee = await callee_of(node.function, env)
    if not isinstance(callee.data, CALLABLES):
        message = f"Variable '{written(node.function).removeprefix('@')}' cannot be used with foreach (type: {type_name(callee)})"
        raise EvaluationError(message, span=node.function.span, code="not-a-function", hint="foreach @function(@list)")
    sources = [await evaluate(argument, env) for argument in node.arguments]
    axes = []
    for place, (source, argument) in enumerate(zip(sources, node.arguments, strict=True), 1):
        if isinstance(source.data, str):
            source = Value(vt.parse_loosely(source.data), source.labels)
        if not isinstance(source.data, list):
            message = f"Argument {place} to foreach must be an array, got {type_name(source)}"
            raise EvaluationError(message, span=argument.span, code="type")
        axes.append(list(source.items()))
    names = getattr(callee.data, "names", ())
    if len(axes) > len(names) and names:
        wanted = f"{len(names)} parameter{'' if len(names) == 1 else 's'}"
        message = (
            f"'{written(node.function).removeprefix('@')}' expects {wanted}, but foreach is passing {len(axes)} arrays"
        )
        raise EvaluationError(message, span=node.span, code="arity")
    results = [await invoke(callee, list(combination), env, node.span) for combination in itertools.product(*axes)]
    value = array(results)
    if node.batch:
        from .pipelines import run_stages

        value = await run_stages(value, node.batch, env, node.span)
    return value


# ── loop and while ──────────────────────────────────────────────────────────────────────────────────


async def loop_limit(node: n.Node | None, env: Env, what: str) -> int | None:
    if node is None:
        return None
    if isinstance(node, n.Variable) and node.name == "endless":
        return None
    value = (await evaluate(node, env)).data
    if isinstance(value, str) and value == "endless":
        return None
    if (
        (isinstance(value, str) and not value.strip().isdigit())
        or isinstance(value, bool | list | dict)
        or value is None
    ):
        raise EvaluationError(f"{what} limit expects a number.", span=node.span, code="type")
    number = to_number(value)
    if number != number or number < 0 or number % 1:
        raise EvaluationError(f"{what} limit expects a non-negative whole number.", span=node.span, code="type")
    return int(number)


@handles(n.Loop)
async def loop(node: n.Loop, env: Env) -> Value:
    limit = await loop_limit(node.limit, env, "loop")
    pace = await seconds_of(node.rate, env, "loop")
    state = NULL
    bound = sys.maxsize if env.run.limits.endless else env.run.limits.iterations
    for iteration in itertools.count(1):
        if limit is not None and iteration > limit:
            break
        if iteration > bound:
            raise LimitReached(f"the loop did not end within {bound:,} rounds", span=node.span)
        if iteration > 1 and pace:
            await env.ports.clock.sleep(pace)
        inside = env.block({"input": state}, loop={"iteration": iteration, "limit": limit, "active": True}, input=state)
        if node.until is not None and truthy(await lenient(node.until, inside)):
            break
        status, state = await loop_round(node, inside, state)
        if status == "done":
            return state
        if not iteration & 63:
            await asyncio.sleep(0)
    return state


async def loop_round(node: n.Loop, env: Env, state: Value) -> tuple[str, Value]:
    """One round: whether to go on, and with what."""
    from .blocks import statements

    answer = ("continue", state)

    async def run() -> Value:
        nonlocal answer
        try:
            await statements(node.body.body, env)
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
    from .pipelines import call_stage

    said = await loop_limit(limit_node, env, "while")
    limit = env.run.limits.iterations if said is None else said
    pace = await seconds_of(rate, env, "while")
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

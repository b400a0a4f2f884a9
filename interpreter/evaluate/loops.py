"""Going over the elements of a value: `for` (in order or parallel) and `foreach`."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from interpreter import nodes as n
from interpreter import values_text as vt
from interpreter.errors import EvaluationError, MlldError, UserBail
from interpreter.labels import NONE, joined
from interpreter.names import FIXED
from interpreter.operations import observed, watched
from interpreter.policy_subjects import Operation
from interpreter.source import Span
from interpreter.values import NULL, Undefined, Value, array, truthy, type_name

from .blocks import calls, evaluate_statement, result_of, statement_value
from .core import Env, LoopContinue, LoopDone, Returned, Skipped, evaluate, handles, optional
from .expressions import written
from .functions import CALLABLES, settled
from .lookup import callee_of, decides
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

    __slots__ = ("asked", "env", "index", "item", "key")

    def __init__(self, index: int, key: Value, item: Value, env: Env) -> None:
        self.index, self.key, self.item, self.env = index, key, item, env
        self.asked: bool | None = None  # what the filter has said about it

    async def passes(self, condition: n.Node | None) -> bool:
        """Does the filter let it through? Asked once: what a condition does, it does once."""
        if self.asked is None:
            self.asked = condition is None or truthy(await decides(condition, self.env))
        return self.asked


def rounds(node: n.For, source: Value, env: Env) -> list[Round]:
    members = list(pairs(source, node.iterable.span))
    is_object = isinstance(source.data, dict)
    made = []
    parallel = spread(node, env)
    for index, (key, item) in enumerate(members):
        names = bind(node, key, item, is_object)
        context = {"index": index, "total": len(members), "key": key.data, "parallel": parallel is not None}
        inside = env.block(names, barrier=parallel is not None, apart=True)
        inside.mx = {**env.mx, "for": context}
        if parallel is not None:
            inside.mx["spread"] = parallel
        made.append(Round(index, key, item, inside))
    return made


def bind(node: n.For, key: Value, item: Value, is_object: bool) -> dict[str, Value]:
    names = {node.variable: item}
    if node.key is not None:
        names[node.key] = key
    else:
        names[f"{node.variable}_key"] = key if is_object else Value(str(key.data))
    if node.path:
        for step in node.path:
            if not isinstance(item.data, dict) or step not in item.data:
                raise EvaluationError(
                    f'Field "{step}" not found in object in for binding @{node.variable}.{".".join(node.path)} (key {key.data})',
                    span=node.span, code="field-not-found",
                )  # fmt: skip
            item = item.item(item.data[step])
    return names


def spread(node: n.For, env: Env) -> n.Parallel | None:
    """How a loop runs in parallel: as it says, or as the parallel loop does of which it is the body, or the beginning of it."""
    inherited: n.Parallel | None = env.mx.get("spread")
    return node.parallel or inherited


def behind(statement: n.Node, env: Env) -> Env:
    """What comes behind a statement in the block of a round: a loop that uses what was worked out there runs in order."""
    if isinstance(statement, n.Let | n.Augment) and env.mx.get("spread") is not None:
        return env.ambient(spread=None)
    return env


Body = Callable[[Round], Awaitable[Value | None]]


async def run_rounds(node: n.For, env: Env, body: Body) -> list[Value]:
    """The results of all iterations in order of the elements; left-out ones are not there."""
    source = await settled(await evaluate(node.iterable, env), env, node.iterable.span)
    for name in (node.variable, node.key):
        if name in FIXED:
            raise reserved_name(name, node.span)
    todo = rounds(node, source, env)
    results: list[Value] = []

    async def every() -> Value:
        if (parallel := spread(node, env)) is not None:
            results.extend(await in_parallel(node, parallel, todo, env, body))
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
        if not await each.passes(node.condition):
            return None
        return await body(each)
    except (Skipped, LoopContinue):
        return None


async def in_parallel(node: n.For, parallel: n.Parallel, todo: list[Round], env: Env, body: Body) -> list[Value]:
    """Up to `limit` iterations at once. One that fails becomes an error marker; the others go on.

    The first one that the filter lets through goes alone and before the others: what it fails at would fail in all of
    them, and so it fails the loop.
    """
    limit = await limit_of(parallel.limit, env, "for parallel") or DEFAULT_PARALLEL
    pace = await seconds_of(parallel.rate, env, "for parallel pacing")
    results: dict[int, Value] = {}
    errors: list[dict[str, Any]] = []
    publish(errors, env)
    stop = False
    gate = asyncio.Lock()
    last_start = 0.0

    async def batch_begins(each: Round) -> None:
        if env.authority.hooks and not each.index % limit:
            await observed(Operation(kind="for:batch", name=node.variable), (), node.span, env, nothing_yet)

    async def attempt(each: Round) -> None:
        nonlocal stop
        try:
            result = await one(node, each, body)
        except LoopDone:
            stop = True
            return
        if result is not None:
            results[each.index] = result

    async def worker() -> None:
        nonlocal last_start
        for each in queue:
            if stop:
                return
            await batch_begins(each)
            if pace:
                async with gate:
                    wait = last_start + pace - env.ports.clock.monotonic()
                    if last_start and wait > 0:
                        await env.ports.clock.sleep(wait)
                    last_start = env.ports.clock.monotonic()
            try:
                await attempt(each)
            except UserBail:
                raise
            except MlldError as error:
                marker = error_marker(error, each)
                errors.append(marker)
                env.ports.output.stderr(f"  ⚠ for iteration {each.index} error: {env.run.mask(marker['message'])}\n")
                results[each.index] = Value(marker, meta={"failed": f"value: {marker['message']}"})

    first = await canary(node, todo)
    if first is not None:
        await batch_begins(first)
        await attempt(first)
    queue = iter([each for each in todo if each is not first])
    tasks = [asyncio.ensure_future(worker()) for _ in range(min(limit, len(todo), MAX_PARALLEL))]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    publish(errors, env)
    return [results[index] for index in sorted(results)]


def publish(errors: list[dict[str, Any]], env: Env) -> None:
    """What `@mx.errors` is after a parallel loop or stage: here, and wherever none has run itself."""
    env.run.errors = sorted(errors, key=lambda e: e["index"])
    env.scope.define("\0errors", Value(env.run.errors))


async def canary(node: n.For, todo: list[Round]) -> Round | None:
    """The first iteration that the filter lets through, if any."""
    for each in todo:
        if await each.passes(node.condition):
            return each
    return None


async def nothing_yet() -> Value:
    """What a batch has given when it begins."""
    return NULL


def error_marker(error: MlldError, each: Round) -> dict[str, Any]:
    message = error.plain
    if error.code == "parallel-write" and error.span is not None:
        message += f" at line {error.span.line}, column {error.span.column}"  # where the script is wrong
    return {
        "index": each.index,
        "key": each.key.data,
        "message": message,
        "error": message,
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
        message = f"{what} expects a duration like 1s or 500ms. Invalid duration format: {text}"
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
    for index, each in enumerate(results):
        if each.meta is not None and (failed := each.meta.get("failed")) is not None:
            value = value.with_meta(failed=f"value[{index}]{failed.removeprefix('value')}")
            break
    if node.batch:
        from .pipelines import run_stages

        value = await run_stages(value, node.batch, env, node.span)
    return value


async def for_statement(node: n.For, env: Env) -> None:
    """A loop in a block, whose results nobody takes: a `=>` of its own ends the round, one in an `if` or `when` inside of it
    gives the value of the function around. `for … => @f()` and `for … => cmd {…}` print what they give."""

    async def body(each: Round) -> Value | None:
        if isinstance(node.body, n.Block):
            return await statement_round(node.body, each.env)
        if isinstance(node.body, n.Run | n.Stream | n.Command) or calls(node.body):
            from .effects import print_result

            print_result(await evaluate(node.body, each.env), each.env)
            return NULL
        return await body_value(node.body, each.env)

    if node.batch:
        await for_(node, env)
    else:
        await run_rounds(node, env, body)


async def statement_round(body: n.Block, env: Env) -> Value:
    inside = env.block()
    for statement in body.body:
        if isinstance(statement, n.Return):
            return await optional(statement.value, inside)
        await evaluate_statement(statement, inside, leaves=False)
        inside = behind(statement, inside)
    return NULL


async def body_value(body: n.Node, env: Env) -> Value:
    """What one round gives; a text that is JSON gives its data. A block without `=>` gives what its last statement does."""
    try:
        if isinstance(body, n.Block):
            inside = env.block()
            value = NULL
            for statement in body.body:
                value = await statement_value(statement, inside)
                inside = behind(statement, inside)
        else:
            value = await result_of(body, env)
    except Returned as returned:
        value = returned.value or NULL
    if isinstance(value.data, str) and not isinstance(read := vt.parse_loosely(value.data), str):
        return Value(read, value.labels)
    return Value(None, value.labels) if isinstance(value.data, Undefined) else value


@handles(n.Foreach)
@observes("foreach")
async def foreach(node: n.Foreach, env: Env) -> Value:
    """`foreach @f(@xs, @ys)`: the function over every combination of elements."""
    if node.function is None:
        return await evaluate(node.arguments[0], env)
    callee = await callee_of(node.function, env)
    if not isinstance(callee.data, CALLABLES):
        message = f"Variable '{written(node.function).removeprefix('@')}' cannot be used with foreach (type: {type_name(callee)})"
        raise EvaluationError(message, span=node.function.span, code="not-a-function", hint="foreach @function(@list)")
    if not node.arguments:
        raise EvaluationError(
            "Foreach requires at least one array argument",
            span=node.span,
            code="arity",
            hint="foreach @function(@list)",
        )
    sources = [await evaluate(argument, env) for argument in node.arguments]
    axes: list[list[Value]] = []
    for source, argument in zip(sources, node.arguments, strict=True):
        if isinstance(source.data, str):
            source = Value(vt.parse_loosely(source.data), source.labels)
        if not isinstance(source.data, list):
            raise EvaluationError(
                f"Argument {len(axes) + 1} to foreach must be an array, got {type_name(source)}", span=argument.span,
                code="type",
            )  # fmt: skip
        axes.append(list(source.items()))
    names = getattr(callee.data, "names", ())
    if len(axes) != len(names) and names:
        raise EvaluationError(
            f"Command '{getattr(callee.data, 'name', '')}' expects {counted(len(names), 'parameter')}, but foreach is passing "
            f"{counted(len(axes), 'array')}", span=node.span, code="arity",
        )  # fmt: skip
    results = [
        await foreach_round(callee, combination, number, names, node, env)
        for number, combination in enumerate(itertools.product(*axes), start=1)
    ]
    value = array(results)
    if node.batch:
        from .pipelines import run_stages

        value = await run_stages(value, node.batch, env, node.span)
    return value


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


async def foreach_round(
    callee: Value, arguments: tuple[Value, ...], number: int, names: tuple[str, ...], node: n.Foreach, env: Env
) -> Value:
    """One call. What fails says in which round, and with what."""
    from .calls import invoke

    try:
        return await invoke(callee, list(arguments), env, node.span)
    except UserBail:
        raise
    except EvaluationError as error:
        given = ", ".join(f"{name}: {vt.text(value)[:40]}" for name, value in zip(names, arguments, strict=False))
        error.message = env.run.mask(f"Error in foreach iteration {number} ({given}): {error.message}")
        raise

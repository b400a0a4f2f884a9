"""Pipelines: `source | @a | @b(1)`, parallel groups, `while` stages, effects in between, `retry`.

A stage gets what flows as its first argument. `retry` in a stage asks the one before it again (the source, for the
first), with `@mx.try` counted up in both and `@mx.hint` in the one that is asked. Effects (`| show`, `| log`) belong to
the stage before them and happen again with it. Text that is JSON flows on as data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

from interpreter import nodes as n
from interpreter import values_text as vt
from interpreter.errors import EvaluationError
from interpreter.guards import Verdict
from interpreter.labels import Labels
from interpreter.operations import MAX_RETRIES, RetryWanted
from interpreter.source import Span
from interpreter.values import NULL, UNDEFINED, Undefined, Value, array, is_plain_text, number, record

from .calls import HINTS, CallOptions, call_with, invoke, opaque
from .core import Env, RetryAsked, evaluate, handles
from .functions import CALLABLES, Function
from .guarding import decided
from .lookup import Missing, callee_of

EFFECTS = (n.Show, n.Log, n.Output, n.Append)
CALLED: dict[str, type[n.Show] | type[n.Log]] = {"show": n.Show, "log": n.Log}


class Context:
    """`@p`, also called `@pipeline`: where the pipeline stands, and what came out of each stage."""

    kind = "object"
    __slots__ = ("called", "contexts", "form", "guards", "hints", "outputs", "stage", "tries", "try_")

    def __init__(
        self, stage: int, try_: int, outputs: list[Value], tries: list[Value] | None, contexts: list[list[Value]],
        guards: list[Verdict], hints: list[Value], called: bool, form: Value,
    ) -> None:  # fmt: skip
        self.stage, self.try_, self.outputs, self.tries, self.contexts = stage, try_, outputs, tries, contexts
        self.guards = guards  # decisions so far, of all stages
        self.hints = hints  # what was said with each `retry` that led to `tries`
        self.called = called  # is the source a call?
        self.form = form  # what `with { format }` says of the texts that flow

    def get_field(self, name: str, env: Env, own: Labels) -> Value | None:
        if name.lstrip("-").isdigit():
            index = int(name)
            # [0] is the source, [-1] the stage before; the source itself cannot be reached from behind.
            position = index if index >= 0 else len(self.outputs) + index
            inside = (index >= 0 or position >= 1) and position < len(self.outputs)
            return self.outputs[position] if inside else Value(UNDEFINED)
        if name == "stage":
            return Value(self.stage)
        if name == "try":
            return Value(self.try_)
        if name == "length":
            return Value(len(self.outputs) - 1)
        if name == "tries":
            return self._all() if self.tries is None else array(Value(vt.text(v), v.labels) for v in self.tries)
        if name == "retries":
            return Value({"all": self._all()})
        if name == "input":
            return self.outputs[-1]
        if name == "guards":
            return array(decided(verdict) for verdict in self.guards)
        return None

    def attempts(self) -> Value:
        """`@mx.tries`: each answer that was asked for again, with the hint that it was asked for with."""
        return array(
            record({"attempt": Value(i), "result": Value("retry"), "hint": hint, "output": output})
            for i, (hint, output) in enumerate(zip(self.hints, self.tries or (), strict=False), 1)
        )

    def ambient(self) -> Value:
        """`@mx.pipe`: where the pipeline stands, in one object."""
        return record(
            {
                "try": Value(self.try_), "tries": self.attempts(), "stage": Value(self.stage),
                "length": Value(len(self.outputs) - 1), "input": self.outputs[-1], "format": self.form,
                "guards": array(decided(verdict) for verdict in self.guards),
            }
        )  # fmt: skip

    def _all(self) -> Value:
        return array(array(context) for context in self.contexts)

    def describe(self) -> dict[str, Any]:
        plain: dict[str, Any] = {str(i): vt.to_plain(v) for i, v in enumerate(self.outputs)}
        for back in range(1, len(self.outputs)):
            plain[str(-back)] = vt.to_plain(self.outputs[-back])
        tries = [vt.text(v) for v in self.tries] if self.tries is not None else vt.to_plain(self._all())
        return {
            **plain, "stage": self.stage, "try": self.try_, "length": len(self.outputs) - 1, "tries": tries,
            "retries": {"all": vt.to_plain(self._all())}, "input": vt.to_plain(self.outputs[-1]),
        }  # fmt: skip


@handles(n.Pipeline)
async def pipeline(node: n.Pipeline, env: Env, *, fixed: bool = False) -> Value:
    source = node.source
    if source is None:
        flowing = env.mx.get("flowing")
        return await run_stages(flowing if flowing is not None else Value(""), node.stages, env, node.span, node=node)

    if isinstance(source, n.FileLoad):
        return await pipe_loaded(await evaluate(source, env), node, env)

    async def produce(inside: Env) -> Value:
        value = await evaluate(source, inside)
        if isinstance(source, n.Variable) and isinstance(value.data, CALLABLES):
            return await invoke(value, [], inside, source.span)  # `@start | @next`: the first stage is called
        return value

    fixed = fixed or isinstance(source, n.Command | n.Code)
    return await flow(produce, node.stages, env, node.span, node=node, fixed=fixed)


async def pipe_loaded(loaded: Value, node: n.Pipeline, env: Env) -> Value:
    """`<file> | @f`: what it gives is still said to come from that file. Functions behind a glob are asked about each file."""
    meta = loaded.meta or {}
    if loaded.data is None and "file" not in meta:
        return loaded  # of an optional load that found nothing, nothing can flow
    if meta.get("each") and all(isinstance(stage, n.Variable | n.Field | n.Call) for stage in node.stages):
        results = [
            of_file(await run_stages(item, node.stages, env, node.span, node=node), item) for item in loaded.items()
        ]
        return array(results, loaded.own).with_meta(**meta)
    return of_file(await run_stages(loaded, node.stages, env, node.span, node=node), loaded)


def of_file(result: Value, loaded: Value) -> Value:
    info = (loaded.meta or {}).get("file")
    return result if info is None or "file" in (result.meta or {}) else result.with_meta(file=info)


async def run_stages(
    value: Value, stages: tuple[n.Node, ...], env: Env, span: Span, *, node: n.Pipeline | None = None
) -> Value:
    async def produce(inside: Env) -> Value:
        return value

    return await flow(produce, stages, env, span, node=node)


def effect_called(stage: n.Node, env: Env) -> n.Node:
    """`@show`, `@log("…")`: the effect in the place of a function, unless somebody has defined one of that name."""
    called = stage.function if isinstance(stage, n.Call) else stage
    if not isinstance(called, n.Variable) or called.name not in CALLED or env.scope.find(called.name) is not None:
        return stage
    given: tuple[Any, ...] = stage.arguments if isinstance(stage, n.Call) else ()
    if len(given) > 1:
        raise EvaluationError(f"`{called.name}` in a pipeline takes one value", span=stage.span, code="arity")
    return CALLED[called.name](value=given[0] if given else None, span=stage.span)


def grouped(stages: tuple[n.Node, ...], env: Env) -> tuple[list[n.Node], list[list[n.Node]]]:
    """The stages proper, and the effects after each; the first list of effects belongs to the source."""
    proper: list[n.Node] = []
    effects: list[list[n.Node]] = [[]]
    for stage in (effect_called(each, env) for each in stages):
        if isinstance(stage, EFFECTS):
            effects[-1].append(stage)
        else:
            proper.append(stage)
            effects.append([])
    return proper, effects


async def flow(
    produce: Callable[[Env], Awaitable[Value]], stages: tuple[n.Node, ...], env: Env, span: Span,
    *, node: n.Pipeline | None = None, fixed: bool = False,
) -> Value:  # fmt: skip
    """Runs the stages. `fixed`: the source cannot be asked again (a literal that is shown, the output of a command)."""
    proper, effects = grouped(stages, env)
    called = node is not None and isinstance(node.source, n.Call | n.With)
    repeatable = called and bool(proper)
    tries: dict[int, int] = {}  # position → attempt; 0 is the source
    hints: dict[int, Value | None] = {}
    contexts: dict[int, list[Value]] = {}  # of the stage that asks → outputs of the stage asked
    said: dict[int, list[Value]] = {}  # of the stage that asks → its hints
    outputs: list[Value] = []
    guards: list[Verdict] = []
    guarded: dict[int, tuple[str, ...]] = {}  # position → what guards said when they had it made again
    position = 0
    while position <= len(proper):
        attempt = tries.get(position, 1)
        asking = next((k for k in (position, position + 1) if k in contexts and tries.get(k, 1) > 1), None)
        context = Context(position, attempt, outputs[:position] or [NULL], contexts.get(asking) if asking else None,
                          list(contexts.values()), guards, said.get(asking, []) if asking else [], called,
                          env.mx.get("format", NULL))  # fmt: skip
        try:
            if position == 0:
                inside = env.ambient(**{"try": attempt, "hint": hints.get(0), "retryable": repeatable,
                                        HINTS: guarded.get(0, ())})  # fmt: skip
                value = await produce(inside)
                if proper and value.data is None and not value.text:
                    value = Value("", value.labels)
            else:
                here = env.ambient(**{HINTS: guarded.get(position, ())})
                value = await run_stage(
                    proper[position - 1], outputs[position - 1], here, context, hints.get(position), node
                )
                if is_plain_text(value) and value.data == "retry":
                    raise RetryAsked
                if isinstance(value.data, dict) and value.data.get("value") == "retry":
                    raise RetryAsked(value.item(value.data["hint"]) if "hint" in value.data else None)
        except EvaluationError as error:
            name_stage(error, position)
            raise
        except (RetryAsked, RetryWanted) as asked:
            wanted = asked.value if isinstance(asked, RetryAsked) else Value(asked.hint)
            if isinstance(asked, RetryWanted) or position == 0:
                # A guard wants the stage itself again; before the source there is nothing to ask.
                if attempt >= MAX_RETRIES:
                    raise EvaluationError(
                        f"Maximum retry attempts ({MAX_RETRIES}) exceeded at pipeline stage {position}",
                        span=span,
                        code="retry",
                    ) from None
                tries[position] = attempt + 1
                hints = {position: wanted}
                if isinstance(asked, RetryWanted):
                    guarded[position] = (*guarded.get(position, ()), asked.hint)
                    if position and not asked.after:  # what came in will not do: it is made again, too
                        tries[position - 1], hints[position - 1] = attempt + 1, wanted
                        position -= 1
                continue
            if fixed and position == 2:
                raise EvaluationError(
                    "Cannot retry stage 0: input is not a function", span=span, code="retry",
                    hint="a function as the source can be asked again: `@source() | @check`",
                ) from None  # fmt: skip
            if not (fixed and position == 1):
                again = attempt + 1
                if again > MAX_RETRIES:
                    raise EvaluationError(
                        f"Stage {position} exceeded retry limit for stage {position - 1} ({MAX_RETRIES} attempts; "
                        f"max {MAX_RETRIES})", span=span, code="retry",
                        hint="a last branch such as `* => \"fallback\"` ends the retries",
                    ) from None  # fmt: skip
                contexts.setdefault(position, [])
                said.setdefault(position, []).append(Value("Stage requested retry") if wanted is None else wanted)
                tries[position] = tries[position - 1] = again
                hints = {position - 1: wanted}
                position -= 1
                continue
            value = outputs[0]  # nothing can be asked again, so what there is goes on
        del outputs[position:]
        value = vt.structured(value) if position else value
        outputs.append(value)
        if position + 1 in contexts and tries.get(position + 1, 1) > 1 and attempt > 1:
            contexts[position + 1].append(value)
        of_each = position > 0 and isinstance(proper[position - 1], n.ParallelStage)
        for each in value.items() if of_each and effects[position] else (value,):
            for effect in effects[position]:
                await run_effect(effect, each, env, context, apart=bool(proper))
        if value.data == "" and (position or called):
            break  # an answer without a word has nothing for the stages to come
        if position and tries.get(position, 1) > 1:
            tries.pop(position - 1, None)
        position += 1
    return outputs[-1]


_OF_THE_SCRIPT = frozenset({"undefined-variable", "not-a-function", "retry", "bail"})
"""Codes of mistakes that were made in writing the stage, and not while it worked."""


def name_stage(error: EvaluationError, position: int) -> None:
    """Has the error of a stage say which it was; that of the source is the source's own."""
    begins = "Pipeline failed at stage "
    if position and error.code not in _OF_THE_SCRIPT and not error.message.startswith(begins):
        error.message = f"{begins}{position}: {error.plain}"


def stage_env(value: Value, env: Env, context: Context, hint: Value | None) -> Env:
    here = Value(context)
    around = {
        "pipeline": here, "input": value, "stage": context.stage, "hint": hint, "isPipeline": True, "retryable": True,
        "try": context.try_,
    }  # fmt: skip
    inside = env.block({"p": here, "pipeline": here})
    inside.mx = {**env.mx, **around}
    return inside


async def run_stage(
    stage: n.Node, value: Value, env: Env, context: Context, hint: Value | None, node: n.Pipeline | None
) -> Value:
    if isinstance(stage, n.ParallelStage):
        from .parallel_stages import run_parallel

        return await run_parallel(stage, value, env, context, hint, node)
    inside = stage_env(value, env, context, hint)
    if isinstance(stage, n.WhileStage):
        from .repeating import run_while

        return await run_while(value, stage.function, stage.limit, stage.rate, inside, stage.span)
    return await call_stage(stage, value, inside)


async def call_stage(stage: n.Node, value: Value, env: Env, options: CallOptions | None = None) -> Value:
    """One stage: a function gets the value as its first argument, a command as its standard input."""
    options = options or CallOptions(options={"stdin": spoken(value)})
    options.stage = True
    spelt = is_plain_text(value)
    value = vt.unanswered(vt.structured(value))
    around = env.mx.get("pipeline")
    source = around is not None and around.data.stage == 1 and not around.data.called
    if isinstance(stage, n.With | n.Stream | n.Run):
        from .running import with_options

        if isinstance(stage, n.With):
            return await call_stage(stage.value, value, env, await with_options(stage, env))
        return await call_stage(stage.value, value, env, options)
    if isinstance(stage, n.Variable):
        callee = await stage_function(stage, env)
        if not isinstance(callee.data, CALLABLES):
            callee = _shadowed(stage.name) or callee
        taken = given(in_format(value, callee, env, stage), callee, spelt, source)
        return answer(await invoke(callee, [taken], env, stage.span, options=options), callee)
    if isinstance(stage, n.Field | n.Index):
        try:
            callee = await evaluate(stage, env)
        except EvaluationError as error:
            if error.code != "field-not-found":
                raise
            raise EvaluationError(
                f"Pipeline function '{stage.span.text.strip()}' is not defined", span=stage.span, hint=error.hint
            ) from None
        return await invoke(callee, [value], env, stage.span, options=options)
    if isinstance(stage, n.Call):
        names_input = (
            bool(stage.arguments) and isinstance(stage.arguments[0], n.Variable) and stage.arguments[0].name == "input"
        )
        inside = env.block({"input": value}) if any(_mentions_input(a) for a in stage.arguments) else env
        if names_input:
            return await call_with(stage, inside, (), options)
        callee = await stage_function(stage.function, env) if isinstance(stage.function, n.Variable) else NULL
        taken = given(in_format(value, callee, env, stage), callee, spelt, source)
        return answer(await call_with(stage, inside, (taken,), options), callee)
    if isinstance(stage, n.Command | n.Code):
        from .commands import run_node

        return await run_node(stage, env.block({"input": value}), stdin=spoken(value), options=options)
    if isinstance(stage, n.Retry):
        return await evaluate(stage, env)
    inside = env.block({"input": value})
    inside.mx = {**inside.mx, "flowing": value}
    result = await evaluate(stage, inside)
    return await invoke(result, [value], inside, stage.span) if isinstance(result.data, CALLABLES) else result


def answer(value: Value, callee: Value) -> Value:
    """What a function gave a pipeline: nothing at all, and a `when` that decided nothing, are the empty text. A number or
    a truth value flows on as its text, as what a command says does; that of a block or a `when` was written by the script
    and stays what it is.
    """
    if isinstance(callee.data, Function) and isinstance(value.data, bool | int | float):
        decided = isinstance(callee.data.body, n.Block | n.When)
        return value if decided else Value(vt.text(value), value.labels)
    undecided = isinstance(callee.data, Function) and isinstance(callee.data.body, n.When)
    nothing = value.data is None and (undecided or value.text == "")
    return Value("", value.labels) if nothing or isinstance(value.data, Undefined) else value


async def stage_function(node: n.Node, env: Env, unknown: str = "Pipeline function '@{}' is not defined") -> Value:
    """The function of a stage. One that nobody defined is an error in text, too, where other unknown names stay as written."""
    try:
        return await callee_of(node, env, unknown)
    except Missing as missing:
        raise EvaluationError(missing.message, span=missing.span, code=missing.code, hint=missing.hint) from None


_SCALAR = re.compile(r"\s*(?:null|true|false|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*", re.ASCII)


def given(value: Value, callee: Value, spelt: bool, source: bool) -> Value:
    """What flows, as a function takes it: JavaScript computes with the numbers that a text spells, a template says a text
    as it was `spelt` at the source, and data of a stage as data. `source`: it flows from the script itself, not from a call.
    """
    function = callee.data
    if not isinstance(function, Function):
        return value
    if not opaque(function.body):
        return value if spelt else as_data(value)
    if source and isinstance(value.data, list) and code_language(function.body) in (None, "sh"):
        return Value(vt.text(value), value.labels)  # to a shell, a list that the script names is JSON, not its lines
    if is_plain_text(value) and code_language(function.body) in ("js", "node") and _SCALAR.fullmatch(value.data):
        return Value(number_or_word(value.data), value.labels)
    return value


def in_format(value: Value, callee: Value, env: Env, stage: n.Node) -> Value:
    """What flows, read as `with { format: "csv", pipeline: […] }` says that its text is: rows of texts, a document, data."""
    wanted = env.mx.get("format")
    if wanted is None or not isinstance(callee.data, Function) or not is_plain_text(value):
        return value
    form = vt.text(wanted)
    if form == "text":
        return value
    if form == "csv":
        return Value(rows_of(value.data, stage), value.labels, meta={"text": value.data})
    if form == "xml":
        from .transformers import to_xml

        return to_xml(value)
    if form != "json":
        raise EvaluationError(
            f"Unknown format for a pipeline: {form}", span=stage.span, hint='there are "json", "csv", "xml" and "text"'
        )
    try:
        return Value(json.loads(value.data), value.labels, meta={"text": value.data}) if value.data.strip() else value
    except ValueError as error:
        raise EvaluationError(f"Failed to parse JSON: {error}", span=stage.span, code="not-json") from None


def rows_of(text: str, stage: n.Node) -> list[list[str]]:
    import csv
    import io

    try:
        return list(csv.reader(io.StringIO(text.strip())))
    except csv.Error as error:
        raise EvaluationError(f"Failed to parse CSV: {error}", span=stage.span) from None


def number_or_word(text: str) -> Any:
    data = json.loads(text)
    return number(data) if isinstance(data, int | float) else data


def code_language(body: n.Node) -> str | None:
    while isinstance(body, n.Run | n.Stream | n.With):
        body = body.value
    return body.language if isinstance(body, n.Code) else None


def with_input(node: n.Pipeline, env: Env) -> n.Expression:
    """`run @x | { … }` is the command with `{ stdin: @x }`, which gives a list as its lines: a stage would get JSON."""
    source, command = node.source, node.stages[0]
    held = env.scope.find(source.name) if isinstance(source, n.Variable) else None
    data = isinstance(source, n.Field | n.Index | n.Literal | n.Array | n.Object | n.Template) or (
        held is not None and not isinstance(held.data, CALLABLES)
    )
    if source is None or not data or not isinstance(command, n.Command):
        return node
    options = n.Object(entries=(n.Entry(key="stdin", value=source, span=source.span),), span=source.span)
    first = n.With(value=command, options=options, span=node.span)
    if len(node.stages) == 1:
        return first
    return n.Pipeline(source=first, stages=node.stages[1:], parallel=node.parallel, delay=node.delay, span=node.span)


def spoken(value: Value) -> Value:
    """What flows as text: between stages a list is JSON, also for a command."""
    return Value(vt.text(value), value.labels) if isinstance(value.data, list) else value


def as_data(value: Value) -> Value:
    """A structure that says itself compactly; only methods still ask about the text that it was read from."""
    if value.meta is None or "text" not in value.meta or not isinstance(value.data, list | dict):
        return value
    kept = {("spelt" if key == "text" else key): held for key, held in value.meta.items()}
    return Value(value.data, value.own, labels=value.labels, meta=kept)


def _mentions_input(node: n.Node) -> bool:
    if isinstance(node, n.Variable):
        return node.name == "input"
    return any(_mentions_input(child) for child in node.children())


def _shadowed(name: str) -> Value | None:
    from .builtins import BUILTINS

    return BUILTINS.get(name)


async def run_effect(effect: n.Node, value: Value, env: Env, context: Context, *, apart: bool) -> None:
    from .effects import effect_stage

    inside = stage_env(value, env, context, None)
    inside.scope.define("input", value)
    await effect_stage(effect, value, inside, apart=apart)


@handles(n.WhileStage)
async def stray_while(node: n.WhileStage, env: Env) -> Value:
    raise EvaluationError("`while` is a stage: `@x | while(10) @f`", span=node.span)

"""`run …`, `stream …` and `… with { … } using …`: how something is run, and how the result looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from interpreter import nodes as n
from interpreter import values_text as vt
from interpreter.errors import EvaluationError
from interpreter.values import Value, type_name

from .calls import CallOptions, call_with, invoke
from .commands import run_node
from .core import Env, evaluate, handles
from .functions import CALLABLES, Function
from .guarding import guard_choice
from .lookup import callee_of
from .observing import observes


def quoted_command(source: n.Node | None) -> n.Command | None:
    """The command of `run "echo hi" | @f`; a text in backticks is what flows into the first stage."""
    if not isinstance(source, n.Template | n.Literal) or source.span.text.startswith("`"):
        return None
    return as_command(source)


def as_command(text: n.Template | n.Literal) -> n.Command:
    """A command that was written as a text in quotes."""
    parts = text.parts if isinstance(text, n.Template) else (n.Text(text=str(text.value), span=text.span),)
    return n.Command(parts=parts, span=text.span)


@handles(n.Run)
async def run(node: n.Run, env: Env) -> Value:
    """`run …` as a value; as a statement `effects` prints what it gives."""
    value = node.value
    if isinstance(value, n.Pipeline):
        from .pipelines import with_input

        value = replace(value, source=quoted) if (quoted := quoted_command(value.source)) else with_input(value, env)
    function = env.mx.get("exe")
    # Where it is the whole body of a function, the call of that is what was stated.
    stated = CallOptions(stated=not (isinstance(function, Function) and function.body is node))
    if isinstance(value, n.Template | n.Literal):  # `run "echo hi"`
        return await run_node(as_command(value), env, options=stated)
    if isinstance(value, n.Command | n.Code):
        around = env.mx.get("call")  # the call of the function that this stands in: its input, its credentials
        return await run_node(value, env, options=around.said(stated) if isinstance(around, CallOptions) else stated)
    if isinstance(value, n.With):
        target = value.value
        if isinstance(target, n.Template | n.Literal):  # `run "echo hi" with { … }`
            value = n.With(value=as_command(target), options=value.options, using=value.using, span=value.span)
        elif isinstance(target, n.Pipeline) and (quoted := quoted_command(target.source)):
            value = replace(value, value=replace(target, source=quoted))
        return await with_(value, env, stated=stated.stated)
    if isinstance(value, n.Call):
        return await call_with(value, env, (), stated)
    missing = "Executable variable not found: {}"
    result = await (callee_of(value, env, missing) if isinstance(value, n.Variable) else evaluate(value, env))
    if isinstance(result.data, CALLABLES):  # `run @task` without parentheses
        return await invoke(result, [], env, node.span, options=stated)
    if isinstance(value, n.Variable):
        raise EvaluationError(
            f"Executable variable not found: {value.name}",
            span=value.span,
            code="not-a-function",
            hint=f"show @{value.name}",
        )
    return result


@handles(n.Stream)
@observes("stream")
async def stream(node: n.Stream, env: Env) -> Value:
    return await evaluate(node.value, env.ambient(stream=True))


async def with_options(node: n.With, env: Env) -> CallOptions:
    """The `with { … }` and `using …` of a call or command."""
    entries: dict[str, Value] = {}
    guards: Any = None
    policy: Any = None
    for entry in node.options.entries if node.options is not None else ():
        if not isinstance(entry, n.Entry):
            continue
        if entry.key == "guards":
            guards = await guard_choice(entry.value, env)
            continue
        value = await evaluate(entry.value, env)
        if entry.key == "policy":
            from .declarations import policy_of

            if not isinstance(value.data, dict) and not hasattr(value.data, "policy"):
                told = f"with {{ policy }} expects a policy object, got {type_name(value)}"
                raise EvaluationError(told, span=entry.span, code="config")
            policy = policy_of(value, "with", entry.value)
        else:
            entries[entry.key] = value
    using: list[Any] = [node.using] if node.using is not None else []
    if "auth" in entries:
        using.append(n.Using(auth=vt.text(entries["auth"]), span=node.span))
    return CallOptions(guards=guards, policy=policy, using=using, options=entries)


@handles(n.With)
async def with_(node: n.With, env: Env, *, stated: bool = False) -> Value:
    piped = node.value
    if isinstance(piped, n.Pipeline) and isinstance(piped.source, n.Call | n.Command | n.Code) and for_source(node):
        # `@f() with { pipeline: […], guards: false }`: the call is made so, and what it gives flows on.
        return await evaluate(replace(piped, source=replace(node, value=piped.source)), env)
    options = await with_options(node, env)
    if isinstance(piped, n.Pipeline) and options.options and "format" in options.options:
        env = env.ambient(format=options.options["format"])  # of what its stages get
    options.stated = stated or isinstance(node.value, n.Run)
    target: n.Node = node.value
    while isinstance(target, n.Run | n.Stream):
        target = target.value
    if isinstance(target, n.Call):
        inside = env.ambient(stream=True) if isinstance(node.value, n.Stream) else env
        value = await call_with(target, inside, (), options)
    elif isinstance(target, n.Command | n.Code):
        value = await run_node(target, env, options=options)
    elif isinstance(target, n.Template | n.Literal) and isinstance(node.value, n.Run):
        value = await run_node(as_command(target), env, options=options)
    elif isinstance(target, n.Variable | n.Field):
        value = await evaluate(target, env)
        if isinstance(value.data, CALLABLES):
            value = await invoke(value, [], env, node.span, options=options)
    else:
        value = await evaluate(target, env.ambient(call=options))
    return await shaped(value, options, env, node)


def for_source(node: n.With) -> bool:
    """Does it say how something is run, and nothing about how the result looks?"""
    said = (
        {entry.key for entry in node.options.entries if isinstance(entry, n.Entry)}
        if node.options is not None
        else set()
    )
    return said <= {"guards", "policy", "auth", "stdin", "timeout"} and bool(said or node.using is not None)


async def shaped(value: Value, options: CallOptions, env: Env, node: n.With) -> Value:
    """`format`, `asSection` and `separator` say how the value is to look."""
    entries = options.options or {}
    if "asSection" in entries:
        from .sections import renamed

        value = Value(renamed(vt.text(value), vt.text(entries["asSection"])), value.labels, meta=value.meta)
    if isinstance(target := node.value, n.Foreach) or isinstance(target, n.For):
        return with_layout(value, entries)
    return value


def with_layout(value: Value, entries: Mapping[str, Value]) -> Value:
    """`foreach … with { separator, template }`: one text instead of an array."""
    if not isinstance(value.data, list) or not ({"separator", "template"} & entries.keys()):
        return value
    texts = list(map(vt.spread, value.items()))
    if "template" in entries:
        pattern = vt.text(entries["template"])
        texts = [pattern.replace("{{result}}", text).replace("{{index}}", str(i)) for i, text in enumerate(texts)]
    separator = vt.text(entries["separator"]).replace("\\n", "\n") if "separator" in entries else "\n"
    return Value(separator.join(texts), value.labels)

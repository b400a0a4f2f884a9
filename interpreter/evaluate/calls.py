"""Calling functions: arguments, defaults, recursion, guards around the call, `denied =>`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

from interpreter import nodes as n
from interpreter import values_text as vt
from interpreter.errors import Denied, EvaluationError, LimitReached, MlldError
from interpreter.guards import Guard
from interpreter.labels import Labels
from interpreter.operations import MAX_CALLS, Request, RetryWanted, perform, spent
from interpreter.policy_subjects import Operation
from interpreter.source import Span
from interpreter.values import NULL, UNDEFINED, Undefined, Value, nothing, sequence_labels, type_name

from .core import Env, Returned, at, evaluate, handles
from .denials import handles_denial, run_denied
from .expressions import conditional, defined, written
from .functions import CALLABLES, BuiltIn, Function, ToolFunction
from .lookup import Missing, callee_of, get_field, lenient, projecting
from .methods import TYPE_CHECKS, call_method, find_method, is_method, suggestion
from .scope import Scope


@handles(n.Call)
async def call(node: n.Call, env: Env) -> Value:
    return await call_with(node, env, ())


async def call_with(node: n.Call, env: Env, first: tuple[Value, ...], options: CallOptions | None = None) -> Value:
    """Call what `node.function` names; `first` comes before the written arguments (what flows through a pipeline)."""
    function = node.function
    if isinstance(function, n.Field):
        found = await method_or_member(function, node, env)
        if isinstance(found, tuple):
            target, name = found
            arguments = await call_arguments(node.arguments, env)
            if not is_method(target, name):
                told = f"Method not found: {name}{owner(function)}"
                if isinstance(function.target, n.Call):
                    told = f"Only builtin methods are supported on exec results (got: {name})"
                raise EvaluationError(
                    told, span=node.span, code="unknown-method",
                    hint=suggestion(target, name),
                )  # fmt: skip
            try:
                return vt.answer(call_method(target, name, arguments))
            except EvaluationError as error:
                raise at(error, node.span) from None
        callee = found
    else:
        unknown = "Command not found: {}"
        if options is not None and options.stage:
            unknown = "Pipeline function '@{}' is not defined"
        elif options is not None and options.stated:
            unknown = "Executable variable not found: {}"
        callee = await callee_of(function, env, unknown)
    target_function = callee.data
    if isinstance(target_function, BuiltIn) and target_function.ask is not None and not first:
        return await target_function.ask(env, node.arguments[0] if node.arguments else None)
    arguments = [*first, *await call_arguments(node.arguments, env, written(function))]
    by_name = None
    if isinstance(target_function, ToolFunction) and not first:
        by_name = [a.name if isinstance(a, n.Variable) else None for a in node.arguments]
    return await invoke(callee, arguments, env, node.span, options=options, by_name=by_name)


async def method_or_member(function: n.Field, node: n.Call, env: Env) -> Any:
    """`(target, name)` for a method, or the function held in a field of an object."""
    name = function.name
    if projecting(function.target):
        return await evaluate(function.target, env), name
    if name in TYPE_CHECKS or function.optional:
        target = await lenient(function.target, env)
        if isinstance(target.data, Undefined) or target.data is None:
            if name in TYPE_CHECKS:
                return target, name
            if function.optional:
                return target, "isDefined"
    else:
        target = await callee_of(function.target, env, "Object not found: {}")
    data = target.data
    if isinstance(data, dict) and name in data:
        return target.item(data[name])
    if find_method(target, name) is not None:
        return target, name
    if isinstance(data, (*CALLABLES, dict)) or hasattr(data, "get_field"):
        try:
            return get_field(target, name, env)
        except Missing as error:
            if isinstance(data, dict):
                told = f"Method not found: {name}{owner(function)}"
                raise EvaluationError(told, span=node.span, code=error.code, hint=error.hint) from None
    return target, name


def owner(function: n.Field) -> str:
    """The variable on which a method is called, for a message: ` on api` for `@api.v1.get`."""
    inner: n.Node = function.target
    while isinstance(inner, n.Field | n.Index):
        inner = inner.target
    return f" on {inner.name}" if isinstance(inner, n.Variable) else ""


async def call_arguments(nodes: tuple[n.Node, ...], env: Env, whose: str = "") -> list[Value]:
    arguments: list[Value] = []
    for argument in nodes:
        if isinstance(argument, n.Spread):
            spread = await evaluate(argument.value, env)
            if not isinstance(spread.data, list):
                raise EvaluationError(f"`...` in arguments needs an array, got {type_name(spread)}", span=argument.span)
            arguments.extend(spread.items())
        elif isinstance(argument, n.Conditional):
            value = await conditional(argument, env)
            arguments.append(NULL if value is None else value)
        else:
            try:
                arguments.append(await evaluate(argument, env))
            except Missing as missing:
                if missing.code == "undefined-variable" and isinstance(argument, n.Variable) and whose:
                    raise EvaluationError(
                        f"Undefined variable '@{argument.name}' passed to function {whose}",
                        span=argument.span, code="undefined-variable", hint=missing.hint,
                    ) from None  # fmt: skip
                raise
    return arguments


class CallOptions:
    """What a call site adds: `with { guards, policy, stdin … } using auth:x`."""

    __slots__ = ("guards", "options", "policy", "stage", "stated", "using")

    def __init__(
        self, *, guards: Any = None, policy: Any = None, using: Any = None, options: Any = None, stage: bool = False,
        stated: bool = False,
    ) -> None:  # fmt: skip
        self.guards, self.policy, self.using, self.options, self.stage = guards, policy, using, options, stage
        self.stated = stated  # `run @f()`, `run cmd {…}`: the word `run` is there

    def said(self, other: CallOptions) -> CallOptions:
        """The same options, stated as the other is."""
        return CallOptions(
            guards=self.guards, policy=self.policy, using=self.using, options=self.options, stage=self.stage,
            stated=other.stated,
        )  # fmt: skip


async def invoke(
    callee: Value,
    arguments: list[Value],
    env: Env,
    span: Span,
    *,
    options: CallOptions | None = None,
    by_name: list[str | None] | None = None,
) -> Value:
    """Call a function value."""
    function = callee.data
    if isinstance(function, BuiltIn):
        try:
            return await function.call(env, arguments)
        except MlldError as error:
            raise at(error, span) from None
    if isinstance(function, Function):
        return await call_function(function, arguments, env, span, options)
    if isinstance(function, ToolFunction):
        from .mcp_calls import call_tool_function

        return await call_tool_function(function, arguments, env, span, by_name)
    external = getattr(function, "call_external", None)
    if external is not None:
        return await external(arguments, env, span)  # type: ignore[no-any-return]
    called = span.text.split("(")[0].strip()
    told = f"Variable {called.removeprefix('@')} is not executable (type: {type_name(callee)})"
    if options is not None and options.stage:
        told = f"'{called}' is not a function, it's a {type_name(callee)} variable"
    raise EvaluationError(told, span=span, code="not-a-function", hint="functions are made with `exe @name(a, b) = …`")


async def bind(function: Function, arguments: list[Value], scope: Scope, env: Env, *, stage: bool = False) -> None:
    """Names the arguments. What is missing is undefined, and in a stage of a pipeline the empty text."""
    for index, parameter in enumerate(function.parameters):
        if index < len(arguments) and not isinstance(arguments[index].data, Undefined):
            scope.names[parameter.name] = arguments[index]
        elif parameter.default is not None:
            scope.names[parameter.name] = await evaluate(parameter.default, env)
        else:
            scope.names[parameter.name] = Value("") if stage else Value(UNDEFINED)


def enter(function: Function, env: Env, span: Span) -> Any:
    """The chain of calls with this one at its head. Errors: recursion that nobody asked for, or too deep."""
    depth = 1
    chain = env.calls
    while chain is not None:
        if chain[0] is function:
            if "recursive" not in function.labels:
                raise EvaluationError(
                    f"Circular reference detected: executable '@{function.name}' calls itself recursively without a "
                    "terminating condition",
                    span=span, code="recursion", hint=f"say that you mean it: `exe recursive @{function.name}(…) = …`",
                )  # fmt: skip
            depth += 1
        chain = chain[1]
    limit = env.run.limits.recursion
    if depth > limit:
        raise LimitReached(
            f"'@{function.name}' exceeded maximum recursion depth ({limit})", span=span,
            hint="add a base case, or raise MLLD_RECURSION_DEPTH",
        )  # fmt: skip
    if env.depth >= env.run.limits.depth:
        raise LimitReached(f"calls are nested more than {env.run.limits.depth} deep", span=span)
    return (function, env.calls)


# What is asked about the caller's situation by the body of a function, and so goes along into it.
_CARRIED = ("try", "stage", "hint", "isPipeline", "pipeline", "input", "denied", "guard",
            "errors", "llm", "for", "loop", "while", "checkpoint", "retryable", "profile")  # fmt: skip


# In the context of a body: the guards that changed the arguments of its call.
CHANGED_BY = "\0changed_by"
# Of a stage: what guards said when they had it made again.
HINTS = "\0hints"
# Calls that `@mx.tools.calls` can name.
REMEMBERED = 10_000
# Functions of an environment module that are meant to run inside its environment, wherever they are called.
OPENING = ("spawn", "shell")


# What a call does, with what guards said about its results so far: a function of its arguments.
Attempt = Callable[[tuple[str, ...]], Callable[[tuple[Value, ...]], Awaitable[Value]]]


async def attempts(request: Request, env: Env, run: Attempt) -> Value:
    """A call, and again as long as a guard will not have the result. In a pipeline, that asks again."""
    in_stage = bool(env.mx.get("retryable"))
    hints: tuple[str, ...] = env.mx.get(HINTS, ()) if in_stage else ()
    while True:
        tried = env.mx.get("try", 1) if in_stage else len(hints) + 1
        attempt = replace(request, attempt=tried, hints=hints, retryable=in_stage)
        try:
            return await perform(attempt, env, run(hints))
        except RetryWanted as wanted:
            hints = (*hints, wanted.hint)
            if in_stage:
                raise
            if len(hints) >= MAX_CALLS:
                raise spent(wanted, request.span) from None


async def call_function(
    function: Function, arguments: list[Value], env: Env, span: Span, options: CallOptions | None = None
) -> Value:
    home = function.env
    if env.box is None and function.name in OPENING and home.module.is_environment and home.module is not env.module:
        from .boxes import call_in_own_environment

        async def again(inside: Env) -> Value:
            return await call_function(function, arguments, inside, span, options)

        return await call_in_own_environment(function, arguments, env, span, again)
    calls = enter(function, env, span)
    authority = env.authority.joined_by(home.module)
    if options is not None and options.policy is not None:
        authority = authority.narrowed(options.policy)
    names = function.names
    # Where a tool collection lends a function to a block, its labels hold, too: for policy, guards, and what comes back.
    lent = env.box.labelled.get(function, ()) if env.box is not None else ()
    labels = tuple(dict.fromkeys((*function.labels, *lent))) if lent else function.labels
    operation = Operation(
        kind="exe",
        name=function.name,
        labels=labels,
        inputs=tuple(v.labels for v in arguments),
        parameters=names,
        stage=options is not None and options.stage,
        directive="run" if options is not None and options.stated else "",
    )
    about = {"name": function.name, "labels": list(labels), "type": "exe"}
    changed_by: list[Guard] = []
    memo: dict[str, Any] | None = None
    if "llm" in function.labels and env.ports.checkpoints is not None:
        memo = {"hit": False, "key": None}  # `@mx.checkpoint`, also of hooks
        env = env.ambient(checkpoint=memo)

    async def run(hints: tuple[str, ...], inputs: tuple[Value, ...]) -> Value:
        scope = Scope(home.scope, apart=True)
        carried = {key: env.mx[key] for key in _CARRIED if key in env.mx} if env.mx else {}
        if "llm" in function.labels:
            from .llm_tools import tools_of_call

            carried.pop("llm", None)  # what a model may use is said in the call of that model
            if (offered := tools_of_call(inputs, env, span)) is not None:
                carried["llm"] = offered
        carried["op"] = about
        carried["exe"] = function
        carried["call"] = options
        carried[CHANGED_BY], carried[HINTS] = changed_by, hints
        inside = home.copy(
            scope=scope, mx=carried, calls=calls, depth=env.depth + 1, authority=authority, ports=env.ports, box=env.box,
            run=env.run, top=False,
        )  # fmt: skip
        await bind(function, list(inputs), scope, inside, stage=operation.stage)
        if names:
            carried["args"] = scope.names.copy()

        async def body() -> Value:
            try:
                result = await run_body(function, list(inputs), inside, span)
            except Returned as returned:
                result = returned.value or NULL
            if isinstance(result.data, Undefined) and isinstance(function.body, n.Block | n.When):
                result = nothing(result.labels)
            if isinstance(function.body, n.Template | n.Literal):
                result = vt.structured(result)  # a template that writes JSON gives data
            result = defined(result).with_labels(function.taint)
            if result.data is None and result.text is None:
                result = result.with_meta(
                    text="null"
                )  # the answer that there is none is shown; a variable with null is not
            if opaque(function.body):
                # What a program makes of its arguments nobody sees: its answer carries all of them.
                result = result.with_labels(sequence_labels(inputs))
            return result

        if memo is None:
            result = await body()
        else:
            from .checkpointing import remembered

            result = await remembered(function, inputs, inside, body, memo)
        result = vt.answer(result)
        if len(env.run.tool_calls) < REMEMBERED:
            env.run.tool_calls.append({"name": function.name, "args": list(names), "ok": True})
        if lent:
            result = result.with_labels(Labels.of(*lent))
        return result.with_labels(function.result_labels) if function.labels else result

    request = Request(
        operation=operation, inputs=tuple(arguments), span=span,
        user_guards=options.guards if options is not None else None, repeatable=True, changed_by=changed_by,
        history=env.mx["pipeline"].data.guards if "pipeline" in env.mx else None,
    )  # fmt: skip
    try:
        return await attempts(request, env.copy(authority=authority), lambda hints: partial(run, hints))
    except Denied as denied:
        if not handles_denial(function.body) or not getattr(denied, "catchable", False):
            raise
        answer = await run_denied(function, arguments, env.copy(authority=authority), denied, calls)
        if answer is None:
            raise
        return answer


async def run_body(function: Function, inputs: list[Value], inside: Env, span: Span) -> Value:
    """What the body of a function gives. A name of another function alone (`exe @short(x) = @other`), or before stages
    (`= @other | @next`), is called with the same arguments; into parallel stages (`= || @a || @b`) flows the first.
    """
    body = function.body
    source = body.source if isinstance(body, n.Pipeline) else body
    if source is None:
        return await evaluate(body, inside.ambient(flowing=inputs[0]) if inputs else inside)
    root = source.target if isinstance(source, n.Field) else source
    if not isinstance(root, n.Variable) or root.name in function.names:
        return await evaluate(body, inside)
    named = await evaluate(source, inside)
    if not isinstance(named.data, CALLABLES):
        return await evaluate(body, inside)
    if not isinstance(body, n.Pipeline):
        return await invoke(named, inputs, inside, span)
    from .pipelines import flow

    async def produce(env: Env) -> Value:
        return await invoke(named, inputs, env, span)

    return await flow(produce, body.stages, inside, body.span, node=body)


def opaque(body: n.Node) -> bool:
    """Is the body a program, or a command, of which only the output is known?"""
    while isinstance(body, n.Run | n.Stream | n.With):
        body = body.value
    return isinstance(body, n.Command | n.Code | n.Prose)

"""What runs: `cmd {…}`, `sh {…}`, `js {…}`, `node {…}`, `py {…}`, with their input, directory, secrets and labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from interpreter import events, operations
from interpreter import nodes as n
from interpreter import values_text as vt
from interpreter.errors import CommandFailed, EvaluationError, LimitReached
from interpreter.labels import NONE, Labels, joined
from interpreter.operations import Request, perform
from interpreter.policy_subjects import Operation
from interpreter.ports import Command, CommandResult, ScriptEngineError, ScriptFunction
from interpreter.source import Span
from interpreter.values import Undefined, Value, nothing, number

from . import programs
from .calls import CHANGED_BY, HINTS, CallOptions
from .core import Env, absent, evaluate, handles
from .credentials import Secrets, no_secrets, resolve_using
from .functions import CALLABLES, Function, settled
from .live import listener
from .working import started_in, working_directory, workspace_of

MAX_STDERR = 4000


@handles(n.Command, n.Code)
async def run_here(node: n.Command | n.Code, env: Env) -> Value:
    options = env.mx.get("call")
    return await run_node(node, env, options=options if isinstance(options, CallOptions) else None)


async def run_node(
    node: n.Command | n.Code, env: Env, *, stdin: Value | None = None, options: CallOptions | None = None
) -> Value:
    """Run a command or code body, inside the env block if there is one."""
    if stdin is None and options is not None and options.options is not None:
        stdin = options.options.get("stdin")
    function = env.mx.get("exe")
    directory = await working_directory(node.directory, env)
    secrets = await secrets_for(function, options, env)
    if isinstance(node, n.Command):
        return await run_command(node, env, directory, stdin, secrets, function, options)
    inside = env.box is not None and env.box.spec.provider != "local"
    if node.language == "js" and not inside:
        return await run_js(node, env, secrets, function, options, stdin)
    return await run_code(node, env, directory, stdin, secrets, function, options)


async def secrets_for(function: Any, options: CallOptions | None, env: Env) -> Secrets:
    held = (
        await resolve_using(function.using, env) if isinstance(function, Function) and function.using else no_secrets()
    )
    if options is not None and options.using:
        held = held.joined(await resolve_using(options.using, env))
    if env.box is not None:
        held = held.joined(await env.box.secrets(env))
    return held


def function_labels(function: Any) -> tuple[str, ...]:
    return function.labels if isinstance(function, Function) else ()


def is_body(function: Any, span: Span) -> bool:
    """Is the command or code at that place all that the function consists of?"""
    if not isinstance(function, Function):
        return False
    body = function.body
    while isinstance(body, n.Run | n.Stream | n.With):
        body = body.value
    return body.span is span


def attempt_of(operation: Operation, env: Env) -> dict[str, Any]:
    """Of a request: which attempt it is, where the operation is the body of a call that a guard may want again."""
    hints = env.mx.get(HINTS, ()) if operation.body else ()
    return {"attempt": len(hints) + 1, "hints": hints}


async def run_command(
    node: n.Command, env: Env, directory: Value | None, stdin: Value | None, secrets: Secrets, function: Any,
    options: CallOptions | None,
) -> Value:  # fmt: skip
    text, labels, echoes = await programs.command_line(node, env)
    if not text:
        raise EvaluationError("the command is empty", span=node.span)
    # `$name` in a command is a parameter of its function, as in a shell body, or an argument of `cmd (@name) { … }`.
    named = {
        str(getattr(each, "name", "value")): await settled(await evaluate(each, env), env, each.span)
        for each in node.arguments
    }
    for name in function.names if isinstance(function, Function) else ():
        if (f"${name}" in text or f"${{{name}" in text) and (found := env.scope.find(name)) is not None:
            named.setdefault(name, found)
    extra = {name: programs.shell_variable(value) for name, value in named.items()}
    flowing = Value(text, joined((labels, *(value.labels for value in named.values()))))
    return await execute(
        env, kind="cmd", text=flowing, inputs=(flowing,), names=("command",), directory=directory, stdin=stdin,
        secrets=secrets, function=function, options=options, span=node.span, extra=extra, automatic="src:cmd",
        plain_echo=echoes,
    )  # fmt: skip


async def code_values(node: n.Code, env: Env, function: Any) -> tuple[dict[str, Value], dict[str, Value]]:
    """The parameters of a code body, and what it names of the scope around."""
    values: dict[str, Value] = {}
    if node.arguments:
        for argument in node.arguments:
            value = await settled(await evaluate(argument, env), env, argument.span)
            # Data is handed over as data: to a shell its JSON, not the text that it was read from.
            kept = not isinstance(value.data, list | dict) or (value.meta is not None and "keep" in value.meta)
            values[str(getattr(argument, "name", "value"))] = value if kept else value.without_meta()
    elif isinstance(function, Function):
        for name in function.names:
            found = env.scope.find(name)
            if found is not None:
                values[name] = found
    return values, programs.around(node.text, env, values)


async def run_code(
    node: n.Code, env: Env, directory: Value | None, stdin: Value | None, secrets: Secrets, function: Any,
    options: CallOptions | None,
) -> Value:  # fmt: skip
    values, ambient = await code_values(node, env, function)
    functions = shadow_functions(node.language, env)
    extra: dict[str, str] = {}
    if node.language == "sh":
        text, extra = programs.shell_program(node.text, {**ambient, **values})
    elif node.language == "py":
        plain = {k: v for k, v in {**ambient, **values}.items() if not isinstance(v.data, CALLABLES)}
        text = programs.python_program(node.text, plain, functions)
    else:
        around = {k: vt.to_plain(v) for k, v in ambient.items() if not isinstance(v.data, CALLABLES)}
        around.update(context_values(node.text, env))
        text = programs.node_program(node.text, values, around, functions)
    inputs = tuple({**values, **ambient}.values())
    kind = "node" if node.language == "js" else node.language  # in a sandbox, js runs there as well
    return await execute(
        env, kind=kind, text=Value(text, joined(v.labels for v in inputs)), inputs=inputs,
        names=tuple({**values, **ambient}), directory=directory, stdin=stdin, secrets=secrets, function=function,
        options=options, span=node.span, extra=extra, automatic=f"src:{node.language}",
    )  # fmt: skip


_SITUATION = ("try", "stage", "hint", "input", "for", "loop", "while", "isPipeline")


def context_values(text: str, env: Env) -> dict[str, Any]:
    """`mx` and `p` inside code: the context of the pipeline or loop, as plain data."""
    wanted = programs.identifiers(text)
    found: dict[str, Any] = {}
    if "mx" in wanted:
        shown = {k: v for k, v in env.mx.items() if k in _SITUATION}
        found["mx"] = {"try": 1, **{k: vt.to_plain(v) for k, v in shown.items()}}
    pipeline = env.mx.get("pipeline")
    if pipeline is not None:
        if "mx" in wanted:
            about = pipeline.data
            known = {"tries": about.attempts(), "pipe": about.ambient(), "lastOutput": about.outputs[-1]}
            found["mx"] |= {name: vt.to_plain(value) for name, value in known.items()}
        for name in ("p", "pipeline"):
            if name in wanted:
                found[name] = vt.to_plain(pipeline)
    return found


def shadow_functions(language: str, env: Env) -> list[ScriptFunction]:
    shadows = env.module.shadows.get(language, {})
    found = []
    for name, value in shadows.items():
        function = value.data
        if isinstance(function, Function) and isinstance(function.body, n.Code):
            found.append(ScriptFunction(name=name, parameters=function.names, body=function.body.text))
    return found


async def execute(
    env: Env, *, kind: Any, text: Value, inputs: tuple[Value, ...], names: tuple[str, ...], directory: Value | None,
    stdin: Value | None, secrets: Secrets, function: Any, options: CallOptions | None, span: Span,
    extra: Mapping[str, str], automatic: str, plain_echo: bool = False,
) -> Value:  # fmt: skip
    """One process: judged with everything that flows into it, its output labelled with where it came from."""
    if env.ports.commands is None:
        raise absent(f"`{kind}`", span, env)
    if env.box is not None:
        env.box.check_command(kind, span)
    space = workspace_of(directory, env)
    others = joined((
        secrets.labels, *(NONE if given is None else given.labels for given in (stdin, directory, space)),
        *(value.labels for value in env.run.exported.values()),
    ))  # fmt: skip
    operation = Operation(
        kind=kind, name=function.name if isinstance(function, Function) else "", labels=function_labels(function),
        command=text.data if kind == "cmd" else text.data if kind == "sh" else "",
        inputs=tuple(v.labels for v in inputs), parameters=names, environment=others, directive="run",
        stated=options is not None and options.stated, body=is_body(function, span),
    )  # fmt: skip
    source = Labels.of(automatic=(automatic,), sources=_sources(kind, operation))

    async def run(given: tuple[Value, ...]) -> Value:
        command_text = text.data
        extra_now = {name: programs.shell_variable(value) for name, value in env.run.exported.items()} | dict(extra)
        if given is not inputs and kind == "cmd" and given and isinstance(given[0].data, str):
            command_text = given[0].data
        if kind == "sh" and given is not inputs:
            command_text, _ = programs.shell_program(text.data, {})
            extra_now |= {name: programs.shell_variable(v) for name, v in zip(names, given, strict=False)}
        env.run.secrets.update(v for v in secrets.values.values() if len(v) >= 4)
        began = env.ports.clock.monotonic()
        session = env.box.session if env.box is not None else None
        mark = session.mark() if session is not None else 0
        async with started_in(directory, env, span) as start:
            command = Command(
                kind=kind, text=command_text, plain_echo=plain_echo, cwd=start.path, env=extra_now, secrets=secrets.values,
                stdin=None if stdin is None else input_text(stdin).encode(),
                timeout_seconds=await timeout_of(options), on_output=listener(env, kind, operation, options),
            )  # fmt: skip
            try:
                result = await operations.run_command(env.ports, command)
            except OSError as error:
                raise EvaluationError(f"the command cannot be started: {error}", span=span, code="command") from None
            labels = joined((*(v.labels for v in given), others, source))
            if session is not None:
                labels = labels | (await session.witnessed(mark)).labels
            await start.took(labels)
        env.ports.output.event(events.CommandRan(
            kind=kind, text=env.run.mask(command_text[:2000]), exit_code=result.exit_code,
            seconds=env.ports.clock.monotonic() - began, labels=labels.taint,
        ))  # fmt: skip
        return output_value(result, kind, labels, env, span, heard=command.on_output is not None)

    request = Request(
        operation=operation, inputs=inputs, span=span, user_guards=options.guards if options else None,
        settled=env.mx.get(CHANGED_BY, ()), repeatable=operation.body, **attempt_of(operation, env),
    )  # fmt: skip
    scope = env
    if options is not None and options.policy is not None:
        scope = env.copy(authority=env.authority.narrowed(options.policy))
    return await perform(request, scope, run)


def input_text(value: Value) -> str:
    """A value as the standard input of a program: of a list without lists and objects the lines, of JSON the data."""
    if programs.flat_list(value):
        return "\n".join(vt.text(item) for item in value.items())
    if isinstance(value.data, list | dict) and (value.text or "")[:1] in ("{", "["):
        return vt.to_json(value)
    return "" if isinstance(value.data, Undefined) else vt.text(value)


def _sources(kind: str, operation: Operation) -> tuple[str, ...]:
    if kind != "cmd":
        return ()
    try:
        return tuple(f"command:{words[0]}" for words in operation.commands[:1])
    except ValueError:
        return ()


async def timeout_of(options: CallOptions | None) -> float | None:
    if options is None or options.options is None or "timeout" not in options.options:
        return None
    from .operators import to_number

    return float(to_number(options.options["timeout"].data))


def output_value(result: CommandResult, kind: str, labels: Labels, env: Env, span: Span, *, heard: bool) -> Value:
    stdout = result.stdout.decode(errors="replace")
    stderr = result.stderr.decode(errors="replace")
    if result.timed_out:
        raise LimitReached(
            "the command did not end in time", span=span, hint="`with { timeout: 60 }` gives it a minute"
        )
    if result.exit_code != 0:
        raise failure(result, kind, stdout, stderr, env, span)
    if stderr and not heard and not env.run.quiet:
        env.ports.output.stderr(env.run.mask(stderr if stderr.endswith("\n") else stderr + "\n"))
    if kind in ("py", "node"):
        stdout, returned, has = programs.split_result(stdout)
        if has:
            return text_result(returned, labels) if isinstance(returned, str) else Value(returned, labels)
    if kind == "sh" and not stdout.strip():
        stdout = stderr  # a script that says everything on stderr has said it
    return text_result(stdout, labels, numbers=kind == "py")


def text_result(stdout: str, labels: Labels, *, numbers: bool = False) -> Value:
    """Output as a value: without the space at its end; JSON is data, whose text is what `run` prints."""
    text = stdout.rstrip()
    if numbers and re.fullmatch(r"-?\d+\.\d+(e[+-]?\d+)?", text):
        return Value(number(float(text)), labels)
    data = vt.parse_loosely(text)
    return Value(text, labels) if isinstance(data, str) else Value(data, labels, meta={"stdout": text})


def failure(result: CommandResult, kind: str, stdout: str, stderr: str, env: Env, span: Span) -> CommandFailed:
    detail = env.run.mask(stderr.strip() or stdout.strip())
    if len(detail) > MAX_STDERR:
        detail = f"…{detail[-MAX_STDERR:]}"
    how = "was killed for using too much memory" if result.oom else f"ended with status {result.exit_code}"
    what = {"cmd": "the command", "sh": "the shell code", "py": "the Python code", "node": "the Node code"}.get(
        kind, kind
    )
    return CommandFailed(
        f"{what} {how}" + (f": {detail}" if detail else ""), status=result.exit_code, stderr=detail, span=span,
    )  # fmt: skip


# ── js ──────────────────────────────────────────────────────────────────────────────────────────────


async def run_js(
    node: n.Code, env: Env, secrets: Secrets, function: Any, options: CallOptions | None, stdin: Value | None
) -> Value:
    if env.ports.engine is None:
        raise absent("`js`", node.span, env)
    values, ambient = await code_values(node, env, function)
    inputs = (*values.values(), *ambient.values())
    names = tuple(values)
    operation = Operation(
        kind="js", name=function.name if isinstance(function, Function) else "", labels=function_labels(function),
        inputs=tuple(v.labels for v in inputs), parameters=names, environment=secrets.labels, directive="run",
        stated=options is not None and options.stated, body=is_body(function, node.span),
    )  # fmt: skip

    async def run(given: tuple[Value, ...]) -> Value:
        parameters = {name: plain_argument(value) for name, value in zip(names, given, strict=False)}
        around = {k: plain_argument(v) for k, v in ambient.items() if not isinstance(v.data, CALLABLES)}
        around.update(context_values(node.text, env))
        if not env.run.engines:
            assert env.ports.engine is not None
            env.run.engines.append(env.ports.engine())
        try:
            result = await operations.run_script(
                env.run.engines[0], node.text, parameters, ambient=around, functions=shadow_functions("js", env),
                texts=programs.texts(dict(zip(names, given, strict=False))),
            )  # fmt: skip
        except ScriptEngineError as error:
            raise script_failure(error, node.span, env) from None
        if result.warned:
            env.ports.output.stderr(env.run.mask(result.warned) + "\n")
        labels = joined((*(v.labels for v in given), SRC_JS))
        if result.returned and isinstance(result.value, str):
            return text_result(result.value.strip(), labels)
        if result.printed and not result.returned:
            return text_result(result.printed.strip(), labels)
        if result.value is None:
            return nothing(labels)
        return Value(result.value, labels)

    request = Request(
        operation=operation, inputs=inputs, span=node.span, user_guards=options.guards if options else None,
        settled=env.mx.get(CHANGED_BY, ()), repeatable=operation.body, **attempt_of(operation, env),
    )  # fmt: skip
    return await perform(request, env, run)


SRC_JS = Labels.of(automatic=("src:js",))


def plain_argument(value: Value) -> Any:
    return ... if isinstance(value.data, Undefined) else programs.argument(value)


def script_failure(error: ScriptEngineError, span: Span, env: Env) -> Exception:
    if error.limit:
        return LimitReached(str(error), span=span)
    message = env.run.mask(str(error))
    at_name = re.search(r"(?<!\w)@(\w+)", span.text)
    if at_name and "SyntaxError" in message:
        message = f"Cannot use @{at_name.group(1)} syntax inside JavaScript code blocks: {message}"
    missing = message.partition(" is not defined")[0].removeprefix("ReferenceError: ")
    hint = None
    if missing in ("require", "process", "fetch", "Buffer", "module", "__dirname"):
        hint = f"js runs without files, network and modules; `node {{ … }}` has `{missing}`"
    elif "@" in error.stack or "@" in message:
        hint = "inside code, names are written without @"
    return CommandFailed(f"the JavaScript code failed: {message}", plain=message, span=span, hint=hint)

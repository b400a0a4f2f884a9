"""What leaves a script: `show`, `log`, `run` as a statement, `output`, `append`, `file`, and the same in pipelines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interpreter import events, operations
from interpreter import nodes as n
from interpreter import values_text as vt
from interpreter.errors import EvaluationError
from interpreter.operations import Request, perform
from interpreter.policy_subjects import Operation, spellings
from interpreter.values import NULL, Undefined, Value, nothing

from .blocks import action_value
from .commands import function_labels
from .core import Env, absent, at, evaluate, handles
from .functions import settled
from .guarding import guard_choice
from .paths import resolve, shown
from .pipelines import pipeline
from .templates import completed, filled, part_value


def enclosing_labels(env: Env) -> tuple[str, ...]:
    return function_labels(env.mx.get("exe"))


async def emit(
    kind: Any, value: Value, env: Env, node: n.Node, write: Callable[[Value], None], guards: Any = None
) -> Value:
    """One effect on a value, through guards and policy."""
    if isinstance(value.data, Undefined):
        value = Value(None, value.labels)
    operation = Operation(kind=kind, labels=enclosing_labels(env), inputs=(value.labels,))

    async def run(given: tuple[Value, ...]) -> Value:
        write(given[0])
        return given[0]

    return await perform(Request(operation=operation, inputs=(value,), span=node.span, user_guards=guards), env, run)


def by_its_values(kind: Any, node: n.Node | None, env: Env) -> bool:
    """Is a text judged by the values that are filled into it? Guards on labels are about values: `@input == "ok"` is asked of
    the value in "result: @x", and what such a guard changes is changed inside the text. Guards and hooks on the operation itself,
    and a text whose values are not all plain holes, take the text as a whole.
    """
    authority = env.authority
    if not isinstance(node, n.Template) or not authority.guards or authority.hooks:
        return False
    operation = Operation(kind=kind, labels=enclosing_labels(env))
    whole = any(guard.concerns(operation) for guard in authority.guards.all)
    return not whole and not any(isinstance(part, n.TemplateFor | n.Conditional) for part in node.parts)


async def emit_values(kind: Any, text: n.Template, env: Env, node: n.Node, write: Callable[[Value], None]) -> Value:
    """One effect on a text, judged by the labelled values in it."""
    parts = [Value(part.text) if isinstance(part, n.Text) else await part_value(part, env) for part in text.parts]
    judged = tuple(part for part in parts if part.labels)
    if not judged:
        return await emit(kind, filled(parts), env, node, write)
    operation = Operation(kind=kind, labels=enclosing_labels(env), inputs=tuple(part.labels for part in judged))

    async def run(given: tuple[Value, ...]) -> Value:
        left = iter(given)
        value = filled([next(left) if part.labels else part for part in parts])
        write(value)
        return value

    return await perform(Request(operation=operation, inputs=judged, span=node.span, in_text=True), env, run)


def of_namespace(node: n.Node, env: Env) -> bool:
    """Is it something that a module exports, named by the namespace of its import?"""
    while isinstance(node, n.Field | n.Index):
        node = node.target
    held = env.scope.find(node.name) if isinstance(node, n.Variable) else None
    return held is not None and "namespace" in (held.meta or {})


@handles(n.Show)
async def show(node: n.Show, env: Env) -> Value:
    """Prints a value as a line of the document, and gives the text, so that `for … => show …` collects it."""
    if isinstance(node.value, n.Template) and by_its_values("show", node.value, env):
        value = await emit_values("show", node.value, env, node, lambda v: env.run.document.shown(vt.shown(v)))
        return Value(vt.shown(value), value.labels)
    if node.value is None:
        value = NULL
    elif isinstance(node.value, n.Pipeline) and isinstance(node.value.source, n.Literal):
        value = await pipeline(node.value, env, fixed=True)
    else:
        value = await completed(await action_value(node.value, env), env)
        if isinstance(node.value, n.Field | n.Index) and not of_namespace(node.value, env):
            value = await settled(value, env, node.value.span)  # `@object.function` alone means what it gives
    if isinstance(node.value, n.FileLoad) and value.data is None:
        value = nothing(value.labels)
    if isinstance(node.value, n.Foreach) and isinstance(value.data, list):
        value = Value("\n".join(map(vt.spread, value.items())), value.labels)
    guards = None
    if isinstance(node.value, n.With) and node.value.options is not None:
        said = node.value.options.get("guards")
        guards = await guard_choice(said, env) if said is not None else None
    shown_value = await emit("show", value, env, node, lambda v: env.run.document.shown(vt.shown(v)), guards)
    return Value(vt.shown(shown_value), shown_value.labels)


@handles(n.Log)
async def log(node: n.Log, env: Env) -> Value:
    def write(value: Value) -> None:
        env.ports.output.stderr(env.run.mask(vt.display(value)) + "\n")

    if isinstance(node.value, n.Template) and by_its_values("log", node.value, env):
        return nothing((await emit_values("log", node.value, env, node, write)).labels)
    value = NULL if node.value is None else await settled(await action_value(node.value, env), env, node.value.span)
    await emit("log", value, env, node, write)
    return nothing(value.labels)


def print_result(value: Value, env: Env) -> None:
    """What a command or call prints when it stands as a statement. Judged already: it is the result of that operation."""
    said = value.meta.get("stdout") if value.meta else None
    silent = value.text is None and (value.data is None or isinstance(value.data, Undefined))
    text = said if said is not None else "" if silent else vt.text(value)
    if text.strip():
        env.run.document.printed(text)


async def effect_stage(node: n.Node, value: Value, env: Env, *, apart: bool) -> None:
    """An effect between two stages of a pipeline: on what flows, or on what it names itself. `apart`: lists item by item."""
    assert isinstance(node, n.Show | n.Log | n.Output | n.Append)
    chosen = value if node.value is None else await evaluate(node.value, env)

    def said(given: Value) -> str:
        return flowing_text(given, apart)

    if isinstance(node, n.Show):
        await emit("show", chosen, env, node, lambda v: env.run.document.shown(said(v)))
    elif isinstance(node, n.Log):
        await emit("log", chosen, env, node, lambda v: env.ports.output.stderr(env.run.mask(said(v)) + "\n"))
    else:
        await write_target(chosen, node, env, flowing=True)


def flowing_text(value: Value, apart: bool) -> str:
    """What an effect between two stages says: text as it is, data as JSON on one line, lists perhaps item by item."""
    if apart and isinstance(value.data, list) and value.data:
        return "\n\n".join(flowing_text(item, apart) for item in value.items())
    if isinstance(value.data, list | dict) and not (value.meta and "file" in value.meta):
        return vt.to_json(value)
    return "" if value.data is None or isinstance(value.data, Undefined) else vt.text(value)


@handles(n.Output, n.Append)
async def output(node: n.Output | n.Append, env: Env) -> Value:
    if node.value is None:
        value = Value(env.run.document.text())
    else:
        value = await settled(await evaluate(node.value, env), env, node.value.span)
    await write_target(value, node, env)
    return value


async def write_target(value: Value, node: n.Output | n.Append, env: Env, *, flowing: bool = False) -> None:
    """Writes to where the node says; `flowing`: in a pipeline, where data is said on one line."""
    target = node.target
    if target.stream is not None:
        sink = env.ports.output.stdout if target.stream == "stdout" else env.ports.output.stderr
        form = target.format
        await emit("output", value, env, node, lambda v: sink(env.run.mask(formatted(v, form, "", flowing)) + "\n"))
        return
    if target.variable is not None:
        name = target.variable or f"MLLD_{str(getattr(node.value, 'name', 'OUTPUT')).upper()}"
        await emit("output", value, env, node, lambda v: env.run.exported.update({name: v}))
        return
    assert target.path is not None
    where = await evaluate(target.path, env)
    append = isinstance(node, n.Append)
    word = "Append" if append else "Output"
    if not vt.text(where).strip():
        raise EvaluationError(f"{word} target path cannot be empty", span=target.span, code="path")
    path = resolve(vt.text(where), env)
    suffix = path.suffix.lower()
    write = appended if append else formatted
    try:
        text = write(value, target.format, suffix, flowing)
    except EvaluationError as error:
        raise at(error, node.span) from None
    await write_file(path, text, value, env, node, append=append)


def formatted(value: Value, form: str | None, suffix: str, flowing: bool = False) -> str:
    """The text of a value in the form that was asked for: data is JSON for reading; what was read from text, or from several
    files, is that text.
    """
    if form in ("json", "yaml", "yml"):
        data = vt.to_plain(vt.structured(value))
        if isinstance(data, str):
            return data
        return vt.dump(data, pretty=True) if form == "json" else as_yaml(data)
    if form is None and suffix == ".jsonl" and isinstance(value.data, list):
        return "".join(vt.to_json(item) + "\n" for item in value.data)
    if flowing:
        return flowing_text(value, apart=False)
    written = value.text is not None or (suffix != ".json" and vt.between_files(value) is not None)
    return vt.to_json(value, pretty=True) if isinstance(value.data, list | dict) and not written else vt.text(value)


def as_yaml(plain: Any) -> str:
    """YAML whose lists stand deeper than their keys, as most tools write it."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)

    return str(yaml.dump(plain, Dumper=Dumper, sort_keys=False, allow_unicode=True))


def appended(value: Value, form: str | None, suffix: str, flowing: bool) -> str:
    """One record: a line of JSON for `.jsonl`, else text that ends its line."""
    wrong = None
    if suffix == ".json":
        wrong = "Cannot append to .json files. Use a .jsonl extension for JSON lines output."
    elif form not in (None, "jsonl", "text"):
        wrong = f'Unsupported append format "{form}". Allowed formats: jsonl, text.'
    elif form == "jsonl" and suffix != ".jsonl":
        wrong = "JSONL format requires a .jsonl file extension"
    if wrong is not None:
        raise EvaluationError(wrong, code="append")
    if suffix != ".jsonl":
        text = vt.text(value) if vt.is_answer(value) else formatted(value, None, suffix, flowing)
        return text if text.endswith("\n") else text + "\n"
    if not isinstance(value.data, str):
        return vt.to_json(value) + "\n"
    try:
        return vt.dump(json.loads(value.data)) + "\n"
    except ValueError:
        raise EvaluationError(
            "Content appended to .jsonl must be valid JSON. Provide a variable or template that resolves to JSON data.",
            code="append",
        ) from None


async def write_file(path: Path, text: str, value: Value, env: Env, node: n.Node, *, append: bool = False) -> None:
    """Writes a file: of the workspace of the block around, else of the project."""
    files = env.ports.files
    space = env.box.workspace if env.box is not None and path.is_relative_to(env.run.root) else None
    if files is None and space is None:
        raise absent("files", node.span, env)
    operation = Operation(
        kind="append" if append else "output", labels=enclosing_labels(env), inputs=(value.labels,),
        paths=spellings(str(path), root=str(env.run.root), home=str(env.run.home or "/nonexistent")),
    )  # fmt: skip

    async def run(given: tuple[Value, ...]) -> Value:
        content = text if given[0] is value else formatted(given[0], None, path.suffix.lower())
        if space is not None:
            from .mounting import write_through

            place = path.relative_to(env.run.root).as_posix()
            await write_through(space, place, Value(content, given[0].labels), env, node.span, append=append)
            return given[0]
        data = content.encode()
        try:
            assert files is not None
            operations.write_file(files, path, data, append=append)
        except PermissionError as error:
            raise EvaluationError(
                f"Cannot write {shown(path, env)}: {error}", span=node.span, code="file-permission"
            ) from None
        except OSError as error:
            raise EvaluationError(
                f"Cannot write {shown(path, env)}: {error.strerror or error}", span=node.span, code="file"
            ) from None
        labels = given[0].labels
        if labels:
            # What is read back from here later in the run carries what was written.
            env.run.written[path] = env.run.written[path] | labels if append and path in env.run.written else labels
        env.ports.output.event(events.FileWritten(path=shown(path, env), size=len(data), labels=labels.taint))
        return given[0]

    await perform(Request(operation=operation, inputs=(value,), span=node.span), env, run)

"""Text with holes: templates, template files, `/for` inside them, and the parts of commands and paths."""

from __future__ import annotations

from collections.abc import Iterable

from interpreter import nodes as n
from interpreter import values_text as vt
from interpreter.errors import EvaluationError, LimitReached
from interpreter.labels import NONE, Labels, joined
from interpreter.values import Undefined, Value, truthy, type_name

from .core import Env, evaluate, handles
from .functions import BuiltIn, Function, settled
from .lookup import Missing, lenient


class Builder:
    """Collects pieces of text and the labels of what they came from."""

    __slots__ = ("labels", "pieces", "size")

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.labels: list[Labels] = []
        self.size = 0

    def add(self, text: str, labels: Labels = NONE) -> None:
        self.size += len(text)
        if self.size > vt.MAX_TEXT:
            raise LimitReached(f"the text would be longer than {vt.MAX_TEXT // 2**20} MiB")
        self.pieces.append(text)
        if labels is not NONE:
            self.labels.append(labels)

    def value(self) -> Value:
        text = self.pieces[0] if len(self.pieces) == 1 else "".join(self.pieces)
        return Value(text, joined(self.labels)) if self.labels else Value(text)


def filled(parts: Iterable[Value]) -> Value:
    """The text of a template whose holes have these values."""
    builder = Builder()
    for part in parts:
        builder.add(vt.text(part), part.labels)
    return builder.value()


@handles(n.Template)
async def template(node: n.Template, env: Env) -> Value:
    builder = Builder()
    await fill(node.parts, env, builder)
    return builder.value()


def with_gaps(value: Value, node: n.Node, env: Env) -> Value:
    """A `:::` template under a name that knows its gaps: `show` fills them with names of the place where it is shown, so
    that a module can offer a text for its importer to complete.
    """
    if not isinstance(node, n.Template) or node.quote != ":::" or all(known(part, env) for part in node.parts):
        return value
    return value.with_meta(gaps=(node, env))


async def completed(value: Value, env: Env) -> Value:
    """The text of such a template here. Names of its own place come first."""
    gaps = value.meta.get("gaps") if value.meta else None
    if gaps is None:
        return value
    node, home = gaps
    builder = Builder()
    for part in node.parts:
        await fill((part,), home if known(part, home) else env, builder)
    return builder.value().with_labels(value.labels)


def known(part: n.Node, env: Env) -> bool:
    """Does a part of a template name nothing that is not defined?"""
    named = root(part)
    return not isinstance(named, n.Variable) or env.scope.find(named.name) is not None


async def fill(parts: Iterable[n.Node], env: Env, builder: Builder) -> None:
    for part in parts:
        if isinstance(part, n.Text):
            builder.add(part.text)
        elif isinstance(part, n.TemplateFor):
            await repeat(part, env, builder)
        elif isinstance(part, n.Conditional):
            await optional_part(part, env, builder)
        else:
            value = await part_value(part, env)
            builder.add(vt.text(value), value.labels)


async def part_value(part: n.Node, env: Env) -> Value:
    """The value of a hole. A name that nobody defined stays as it is written: `me@example.com` is text, too."""
    if isinstance(part, n.Placeholder) and "placeholder" not in env.mx:
        return Value("<>")  # outside `as`, these are two characters
    if isinstance(part, n.FileLoad):
        return await file_part(part, env)
    if isinstance(root(part), n.Placeholder):
        value = await lenient(part, env)
        return (
            Value("", value.labels) if isinstance(value.data, Undefined) else value
        )  # not every file has such a field
    try:
        value = await evaluate(part, env)
    except Missing as missing:
        if missing.code == "undefined-variable" and not calls(part, env):
            return as_written(part)
        if missing.code == "field-not-found" and isinstance(root(part), n.FileLoad):
            env.ports.output.stderr(
                f"warning: {part.span}: {env.run.mask(missing.message)}; nothing stands in its place\n"
            )
            return Value("")
        raise
    if isinstance(part, n.Pipeline) and value.meta is not None and "stdout" in value.meta:
        return Value(value.meta["stdout"], value.labels)  # in text, a pipeline is what its last stage said
    if isinstance(value.data, Undefined | BuiltIn) and isinstance(part, n.Variable):
        return as_written(part)  # a parameter that the caller did not give; `@json` in a sentence
    return await settled(value, env, part.span) if isinstance(value.data, Function) else value


def root(part: n.Node) -> n.Node:
    """What the fields and elements of a hole are taken from."""
    while isinstance(part, n.Field | n.Index):
        part = part.target
    return part


def calls(part: n.Node, env: Env) -> bool:
    """Is it certainly no text: `@f(@x)`, or `@x|@f` where there is an @x? An address may stand before a parenthesis, too."""
    if isinstance(part, n.Call):
        return not part.span.source.text[part.span.start - 1 : part.span.start].isalnum()
    source = part.source if isinstance(part, n.Pipeline) else None
    return isinstance(source, n.Variable) and env.scope.find(source.name) is not None


async def file_part(part: n.FileLoad, env: Env) -> Value:
    """A file inside text. One that is not there leaves a gap and a warning: much text only looks like a file."""
    try:
        value = await evaluate(part, env)
    except EvaluationError as error:
        if error.code != "file-not-found":
            raise
        env.ports.output.stderr(f"warning: {error.span}: {env.run.mask(error.message)}; nothing stands in its place\n")
        return Value("")
    return Value("", value.labels) if part.optional and value.data is None else value


def as_written(part: n.Node) -> Value:
    written = part.span.text or f"@{getattr(part, 'name', '')}"
    return Value(f"{written}}}}}" if written.startswith("{{") and not written.endswith("}}") else written)


async def optional_part(part: n.Conditional, env: Env, builder: Builder) -> None:
    try:
        value = await evaluate(part.value, env)
    except Missing:
        return
    if not truthy(value):
        return
    if part.then is not None:
        value = (await evaluate(part.then, env)).with_labels(value.labels)
    builder.add(vt.text(value), value.labels)


async def repeat(node: n.TemplateFor, env: Env, builder: Builder) -> None:
    from .loops import pairs

    try:
        source = await evaluate(node.iterable, env)
    except Missing as missing:
        if not isinstance(node.iterable, n.Variable):
            raise
        # As a name alone stays as it is written: a gap, which is told.
        told = f"warning: {node.iterable.span}: {missing.message}; nothing stands in its place\n"
        env.ports.output.stderr(told)
        return
    if isinstance(source.data, Undefined) or source.data is None:
        return
    if isinstance(source.data, str | int | float) and not isinstance(vt.parse_loosely(vt.text(source)), list | dict):
        # A gap, as a file that is not there leaves one: the text around it is what was asked for.
        told = f"for expects an array. Received: {type_name(source)}"
        env.ports.output.stderr(f"warning: {node.iterable.span}: {told}; nothing stands in its place\n")
        return
    for key, item in pairs(source, node.span):
        names = {node.variable: item, node.key or f"{node.variable}_key": key}
        await fill(node.parts, env.block(names), builder)


async def text_of_parts(parts: tuple[n.Node, ...], env: Env) -> Value:
    """The text of parts that are no template node: a path, a command."""
    builder = Builder()
    await fill(parts, env, builder)
    return builder.value()


async def text_of(node: n.Node, env: Env, what: str) -> Value:
    """A value that must be text. Errors: `EvaluationError` naming what was to be said."""
    value = await evaluate(node, env)
    if isinstance(value.data, str):
        return value
    if isinstance(value.data, int | float):
        return Value(vt.text(value), value.labels)
    raise EvaluationError(f"{what} must be text, got {type_name(value)}", span=node.span)


@handles(n.TemplateFor)
async def stray_repeat(node: n.TemplateFor, env: Env) -> Value:
    builder = Builder()
    await repeat(node, env, builder)
    return builder.value()

"""Names and what hangs below them: `@x`, `@x.field`, `@x[0]`, `@x[1:3]`, `@x[*].name`.

A name that nobody defined is an error with the nearest name offered; so is a name that an imported module does not export. A field
or index that an object or array does not have is null, and so is everything below it. Conditions, `??`, `?` and optional fields
are lenient: there a missing name or field is `undefined`, which is falsy and is told apart from null by `@exists` alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from interpreter import nodes as n
from interpreter import values_text as vt
from interpreter.errors import EvaluationError
from interpreter.labels import NONE as NO_LABELS
from interpreter.labels import Labels
from interpreter.lexer_words import words
from interpreter.source import Span
from interpreter.values import UNDEFINED, Undefined, Value, array, truthy, type_name

from . import metadata
from .builtins import BUILTINS
from .core import Env, at, evaluate, handles
from .functions import Function, settled
from .operators import apply_operator
from .reserved import RESERVED

_MEMBERS = (n.Field, n.Index)
_STEPS = (*_MEMBERS, n.Wildcard)


EXTENSIONS = words("md mld txt json jsonl yaml yml csv js ts py sh html xml toml att mtt pdf log")
"""Names of fields that a text does not have, and that a file may end with."""


class Missing(EvaluationError):
    """A name or a field that is not there; lenient places turn it into `undefined`."""

    code = "not-found"


class Absent(Missing):
    """A field or index of an object or array that has no such member: null, unless somebody asks whether it is there."""

    labels: Labels = NO_LABELS
    shown: str | None = None  # how the null is shown that stands in its place


async def find(name: str, env: Env, span: Span | None = None) -> Value:
    """The value of a name: from the scopes, then the reserved names, then what is built in."""
    found = env.scope.find(name)
    if found is not None:
        return found
    reserved = RESERVED.get(name)
    if reserved is not None:
        value = reserved(env)
        if value is not None:
            return value
    extra = env.run.variables.get(name)
    if extra is not None:
        return extra
    built_in = BUILTINS.get(name)
    if built_in is not None:
        return built_in
    raise Missing(f"Variable not found: {name}", span=span, code="undefined-variable", hint=nearest(name, env))


async def callee_of(node: n.Node, env: Env, message: str = "Command not found: {}") -> Value:
    """What is called. Errors: `Missing` with the message for a name that nobody defined."""
    try:
        return await evaluate(node, env)
    except Missing as missing:
        if missing.code != "undefined-variable" or not isinstance(node, n.Variable):
            raise
        made = "policy @{} = {{ … }}" if message.startswith("Policy") else "exe @{}(…) = …"
        hint = nearest(node.name, env, f"define it before it is used: `{made.format(node.name)}`")
        raise Missing(message.format(node.name), span=node.span, code="undefined-variable", hint=hint) from None


def nearest(name: str, env: Env, otherwise: str | None = None) -> str:
    known = [*env.scope.visible(), *RESERVED, *BUILTINS]
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean @{close[0]}?"
    return otherwise or f"define it before it is used: `var @{name} = …`"


@handles(n.Variable)
async def variable(node: n.Variable, env: Env) -> Value:
    found = env.scope.find(node.name)
    return found if found is not None else await find(node.name, env, node.span)


async def lenient(node: n.Node, env: Env) -> Value:
    """The value, or `undefined` where a name or field is missing."""
    try:
        return await (reach(node, env) if isinstance(node, _MEMBERS) else evaluate(node, env))
    except Missing as missing:
        # In a guard a name that nobody defined is a mistake of its author: the branch that denies must not be skipped.
        if missing.code == "undefined-variable" and getattr(env.authority, "in_guard", False):
            raise
        return Value(UNDEFINED)


async def operand(node: n.Node, env: Env) -> Value:
    """What an operator works on: the value, what a function that is named gives, or `undefined`."""
    value = await lenient(node, env)
    return await settled(value, env, node.span) if isinstance(value.data, Function) else value


async def decides(node: n.Node, env: Env, what: str = "Condition") -> Value:
    """A condition, for its `truthy`. What a parallel loop failed at stands in its results as an object, and would be true."""
    value = await operand(node, env)
    if value.meta is not None and (failed := value.meta.get("failed")) is not None:
        raise EvaluationError(
            f"{what} evaluation received an error-like value at {failed}", span=node.span, code="error-as-condition",
            hint="ask for what you mean: `@mx.errors.length == 0`, `@result.error`",
        )  # fmt: skip
    return value


@handles(n.Field, n.Index)
async def member_access(node: n.Field | n.Index, env: Env) -> Value:
    try:
        return await reach(node, env)
    except Absent as absent:
        return Value(None, absent.labels, meta=None if absent.shown is None else {"text": absent.shown})


async def reach(node: n.Field | n.Index, env: Env) -> Value:
    """The member that a path names. Errors: `Absent` at the first step that leads nowhere, with the labels of the value there."""
    if projecting(node.target):
        return await project(node, env)
    if isinstance(node, n.Field) and node.optional:
        return await optional_field(node, env)
    inner = node.target
    target = await (reach(inner, env) if isinstance(inner, _MEMBERS) else evaluate(inner, env))
    try:
        if isinstance(node, n.Field):
            return get_field(target, node.name, env)
        return get_key(target, await evaluate(node.key, env), env)
    except EvaluationError as error:
        if isinstance(error, Absent):
            error.labels = target.labels
            error.shown = target.meta.get("text") if target.meta and target.data is None else None
        elif isinstance(node, n.Field) and isinstance(target.data, str) and node.name.lower() in EXTENSIONS:
            error.message += f". '{node.span.text}' looks like field access"
            error.hint = (
                f"for the name of a file, escape the dot: {node.span.text[: -len(node.name) - 1]}\\.{node.name}"
            )
        raise at(error, node.span) from None


async def optional_field(node: n.Field, env: Env) -> Value:
    target = await lenient(node.target, env)
    if target.data is None or isinstance(target.data, Undefined):
        return Value(UNDEFINED, target.labels)
    try:
        return get_field(target, node.name, env)
    except Missing:
        return Value(UNDEFINED, target.labels)


def get_field(target: Value, name: str, env: Env) -> Value:
    """One field. `.mx` is metadata; `.length` works on everything that has one; lists take numbers."""
    data = target.data
    if name in ("keep", "keepStructured") and target.meta and ("file" in target.meta or "each" in target.meta):
        return metadata.kept(target)
    if name == "mx" and target.meta and target.meta.get("plain") and isinstance(data, dict) and "mx" in data:
        return target.item(data["mx"])
    if name == "mx" and not isinstance(data, metadata.Quantified):  # `@input.any.mx` asks each input for its own
        if isinstance(data, metadata.Metadata):
            return target
        return Value(metadata.Metadata(target, env))
    if isinstance(data, dict):
        if name in data:
            return target.item(data[name])
        if name == "length":
            return Value(len(data), target.own)
        if target.meta and "file" in target.meta and name in ("content", "text"):
            return Value(vt.text(target), target.labels)
        if name == "__meta__" and target.meta and "namespace" in target.meta:
            return Value(target.meta.get("frontmatter") or {})
        if target.meta and "alias" in target.meta:
            raise Missing(
                f'Namespace @{target.meta["alias"]} does not export "{name}". Available exports: '
                f"{', '.join(data) or 'none'}.", code="field-not-found", hint=f"it was imported from {target.meta['namespace']}",
            )  # fmt: skip
        alternatives = list(data)
        hint = difflib.get_close_matches(name, alternatives, n=1)
        raise Absent(
            f'Field "{name}" not found in object',
            code="field-not-found",
            hint=f"did you mean `.{hint[0]}`?"
            if hint
            else f"it has: {', '.join(map(str, alternatives[:12])) or 'no fields'}",
        )
    if isinstance(data, list):
        if name == "length":
            return Value(len(data), target.own)
        if name.lstrip("-").isdigit():
            return get_index(target, int(name))
        if name in ("any", "all", "none"):
            return metadata.quantified(target, name, env)
        if name == "text":
            return Value(vt.text(target), target.labels)
        raise Absent(
            f'Field "{name}" not found in array', code="field-not-found",
            hint=f"take an element first (`[0]`), or one field of all: `[*].{name}`",
        )  # fmt: skip
    if isinstance(data, str):
        if name == "length":
            return Value(len(data), target.labels)
        if name.isdigit():
            return get_index(target, int(name))
        if target.meta and "file" in target.meta and name in ("content", "text", "data"):
            return target
        parsed = vt.parse_loosely(data)
        if not isinstance(parsed, str):
            raise Missing(
                f'Cannot access field "{name}" on JSON string. Parse with | @parse first', code="field-on-text",
                hint="`var @data = @text | @parse`",
            )  # fmt: skip
        if name in ("text", "data"):  # what a function or a pipeline gave, as a text
            return target
    info = target.meta.get("file") if target.meta else None
    if info is not None and name in metadata.FILE_FIELDS:
        return Value(info.field(name), target.labels)
    if data is None or isinstance(data, Undefined):
        raise Absent(
            f'Cannot access field "{name}" of {type_name(data)}',
            code="field-of-null",
            hint=f"`.{name}?` gives null instead",
        )
    getter = getattr(data, "get_field", None)
    if getter is not None:
        found = getter(name, env, target.own)
        if found is not None:
            return found  # type: ignore[no-any-return]
    raise Missing(
        f'Cannot access field "{name}" on non-object value ({type_name(data)})', code="field-not-found",
        hint=f"`.mx.{name}` is metadata" if name in metadata.NAMES else None,
    )  # fmt: skip


def get_index(target: Value, index: int) -> Value:
    data = target.data
    try:
        if isinstance(data, list):
            return target.item(data[index])
        return Value(data[index], target.labels)
    except IndexError:
        raise Absent(
            f"Array index {index} out of bounds (array length: {len(data)})", code="index",
            hint="`??` gives a default: `@xs[3] ?? \"none\"`",
        ) from None  # fmt: skip


def get_key(target: Value, key: Value, env: Env) -> Value:
    name = key.data
    if isinstance(name, float) and name.is_integer():
        name = int(name)
    if isinstance(target.data, list | str) and isinstance(name, int) and not isinstance(name, bool):
        return get_index(target, name).with_labels(key.labels)
    if isinstance(target.data, dict):
        text = name if isinstance(name, str) else vt.text(key)
        if text in target.data:
            return target.item(target.data[text]).with_labels(key.labels)
        if isinstance(name, int):
            raise Missing(
                f"Cannot access index {name} on non-array value (object)", code="index",
                hint='objects are read by key: `@o["key"]`',
            )  # fmt: skip
    return get_field(target, name if isinstance(name, str) else vt.text(key), env).with_labels(key.labels)


@handles(n.Slice)
async def slice_access(node: n.Slice, env: Env) -> Value:
    target = await evaluate(node.target, env)
    ends: list[int | None] = []
    for end in (node.start, node.stop):
        value = None if end is None else (await evaluate(end, env)).data
        if value is not None and not isinstance(value, int):
            raise EvaluationError(f"Slice index must resolve to a number, got {type_name(value)}", span=node.span)
        ends.append(value)
    if isinstance(target.data, list):
        return array((target.item(i) for i in target.data[slice(*ends)]), target.own)
    if isinstance(target.data, str):
        return Value(target.data[slice(*ends)], target.labels)
    raise EvaluationError(f"Cannot slice {type_name(target)}: only arrays and text have parts in order", span=node.span)


@handles(n.Filtered)
async def filtered(node: n.Filtered, env: Env) -> Value:
    """The elements that a filter lets through; a field that an element does not have is null."""
    target = await evaluate(node.target, env)
    if not isinstance(target.data, list):
        raise EvaluationError(
            f"Cannot filter {type_name(target)}: only arrays have elements to choose from", span=node.span
        )
    wanted = None if node.value is None else await evaluate(node.value, env)
    own = target.own if wanted is None else target.own | wanted.labels
    found: list[Value] = []
    for item in target.items():
        held = along(item, node.path, env)
        own = own | held.labels  # who sees which elements are left knows something of the fields of all
        if passes(held, node, wanted, env):
            found.append(item)
    result = array(found, own)
    between = (target.meta or {}).get("between")  # files that a pattern loaded are shown one below the other
    return result if between is None else result.with_meta(between=between)


def along(item: Value, path: tuple[str, ...], env: Env) -> Value:
    try:
        for name in path:
            item = get_field(item, name, env)
    except Missing:
        return Value(None, item.labels)
    return item


def passes(held: Value, node: n.Filtered, wanted: Value | None, env: Env) -> bool:
    if wanted is None or node.operator is None:
        return truthy(held)
    if node.operator == "~":
        return vt.text(wanted) in vt.text(held)
    if not isinstance(node.value, n.Duration):
        if node.operator in ("==", "!=") and not truthy(held) and not truthy(wanted):
            return node.operator == "=="  # a field that is not there is as good as false
        return bool(apply_operator(node.operator, held, wanted).data)
    age = age_of(held, env)
    return age is not None and bool(apply_operator(node.operator, Value(age), wanted).data)


def age_of(moment: Value, env: Env) -> float | None:
    """How many seconds ago a date was; None for what is no date."""
    from datetime import UTC, datetime

    try:
        found = datetime.fromisoformat(vt.text(moment))
    except ValueError:
        return None
    return env.ports.clock.now() - (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def projecting(node: n.Node) -> int:
    """How many `[*]` stand to the left with only fields and indexes in between: the levels of lists that are gone through."""
    levels = 0
    while isinstance(node, _STEPS):
        levels += isinstance(node, n.Wildcard)
        node = node.target
    return levels


async def project(node: n.Field | n.Index, env: Env) -> Value:
    """`@xs[*].a.b[0]`: the field or index of every element, null where there is none; `@xs[*].ys[*].a` of each list's elements."""
    target = await evaluate(node.target, env)
    key = await evaluate(node.key, env) if isinstance(node, n.Index) else Value(node.name)

    def member(of: Value) -> Value:
        try:
            return get_key(of, key, env) if isinstance(node, n.Index) else get_field(of, node.name, env)
        except Absent:
            return Value(None, of.labels)

    return _each(target, projecting(node.target), member)


def _each(value: Value, levels: int, member: Callable[[Value], Value]) -> Value:
    if levels == 0:
        return member(value)
    items = value.items() if isinstance(value.data, list) else ()
    return array([_each(item, levels - 1, member) for item in items], value.own)


@handles(n.Wildcard)
async def wildcard(node: n.Wildcard, env: Env) -> Value:
    target = await evaluate(node.target, env)
    if not isinstance(target.data, list):
        raise EvaluationError(f"Cannot use [*] on non-array value ({type_name(target)})", span=node.span)
    return target


@handles(n.Placeholder)
async def placeholder(node: n.Placeholder, env: Env) -> Value:
    at_hand: Any = env.mx.get("placeholder")
    if at_hand is None:
        raise EvaluationError(
            "<> stands for a loaded file, and can only be used in the text after `as`", span=node.span
        )
    return at_hand  # type: ignore[no-any-return]

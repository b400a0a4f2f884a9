"""Literals, arrays, objects and operators."""

from __future__ import annotations

from interpreter import nodes as n
from interpreter import values_text as vt
from interpreter.errors import EvaluationError
from interpreter.labels import Labels, is_protected, joined
from interpreter.values import (
    FALSE,
    NULL,
    TRUE,
    UNDEFINED,
    Undefined,
    Value,
    array,
    boolean,
    number,
    record,
    truthy,
    type_name,
)  # fmt: skip

from .core import Env, at, evaluate, handles
from .functions import settled
from .lookup import Missing, decides, lenient, operand
from .metadata import Metadata
from .operators import Pattern, apply_operator, to_number


@handles(n.Literal)
async def literal(node: n.Literal, env: Env) -> Value:
    if node.value is None:
        return NULL
    if node.value is True:
        return TRUE
    if node.value is False:
        return FALSE
    return Value(node.value)


@handles(n.Text)
async def text_node(node: n.Text, env: Env) -> Value:
    return Value(node.text)


@handles(n.Duration)
async def duration(node: n.Duration, env: Env) -> Value:
    """A length of time as data is a number of seconds; pacing clauses read the node itself."""
    return Value(number(node.seconds), meta={"text": f"{vt.number_text(number(node.value))}{node.unit}"})


@handles(n.Regex)
async def regex(node: n.Regex, env: Env) -> Value:
    return Value(Pattern(node.pattern, node.flags))


@handles(n.Array)
async def array_literal(node: n.Array, env: Env) -> Value:
    members: list[Value] = []
    for item in node.items:
        if isinstance(item, n.Spread):
            spread = await evaluate(item.value, env)
            if isinstance(spread.data, list):
                members.extend(spread.items())
            elif spread.data is not None and not isinstance(spread.data, Undefined):
                raise EvaluationError(
                    f"`...` in an array needs an array, got {type_name(spread)}",
                    span=item.span,
                    hint="an object is spread into an object: `{ ...@x }`",
                )
        elif isinstance(item, n.Conditional):
            value = await conditional(item, env)
            if value is not None:
                members.append(value)
        else:
            members.append(defined(await member(item, env)))
    return array(members)


async def member(node: n.Node, env: Env) -> Value:
    """An element or entry. At the top of a file it may name a function that is defined further down: `{ "run": @run }`."""
    try:
        return await evaluate(node, env)
    except Missing:
        document = env.module.document
        if document is None or not isinstance(node, n.Variable) or env.scope is not env.module.scope:
            raise
        later = next((each for each in document.body if isinstance(each, n.Exe) and each.name == node.name), None)
        if later is None or node.name in env.module.defined:
            raise
        await evaluate(later, env)
        env.module.ahead.add(node.name)
    return await evaluate(node, env)


def defined(value: Value) -> Value:
    """Undefined becomes null where it is stored in data."""
    return Value(None, value.labels, meta=value.meta) if isinstance(value.data, Undefined) else value


async def conditional(node: n.Conditional, env: Env) -> Value | None:
    """The value of `@x?`, or None when it is left out."""
    value = await lenient(node.value, env)
    if not truthy(value):
        return None
    return value if node.then is None else await evaluate(node.then, env)


@handles(n.Conditional)
async def conditional_value(node: n.Conditional, env: Env) -> Value:
    value = await conditional(node, env)
    return Value(UNDEFINED) if value is None else value


def entry_name(node: n.Node) -> str:
    """The key of `{ @shown? }`: the name of its variable or last field."""
    while isinstance(node, n.Index | n.Call):
        node = node.target if isinstance(node, n.Index) else node.function
    return getattr(node, "name", "value")


def written(node: n.Node) -> str:
    """A reference as the script spells it, for messages."""
    return node.span.text.strip() or f"@{getattr(node, 'name', '…')}"


@handles(n.Object)
async def object_literal(node: n.Object, env: Env) -> Value:
    entries: dict[str, Value] = {}
    own: list[Labels] = []
    for entry in node.entries:
        if isinstance(entry, n.Spread):
            spread = await lenient(entry.value, env)
            if isinstance(spread.data, Undefined):
                raise EvaluationError(
                    f"Cannot spread undefined variable: {written(entry.value)}",
                    span=entry.span,
                    hint="give a default: `...(@x ?? {})`",
                )
            if isinstance(spread.data, Metadata):
                spread = Value(spread.data.describe(), spread.data.value.labels)
            if not isinstance(spread.data, dict):
                raise EvaluationError(
                    f"Cannot spread {written(entry.value)}: expected object, got {type_name(spread)}",
                    span=entry.span,
                    hint="an array is spread into an array: `[ ...@x ]`",
                )
            own.append(spread.own)
            entries.update((key, spread.item(item)) for key, item in spread.data.items())
        elif isinstance(entry, n.Conditional):
            value = await conditional(entry, env)
            if value is not None:
                entries[entry_name(entry.value)] = value
        elif entry.optional:
            value = await lenient(entry.value, env)
            if truthy(value):
                entries[entry.key] = value
        else:
            key = entry.key if entry.name is None else await filled_key(entry.name, env, own)
            entries[key] = defined(await member(entry.value, env))
    return record(entries, joined(own)) if own else record(entries)


async def filled_key(name: n.Template, env: Env, own: list[Labels]) -> str:
    """The key that a template makes; what it was made of labels the object."""
    made = await evaluate(name, env)
    own.append(made.labels)
    return vt.text(made)


@handles(n.Spread)
async def stray_spread(node: n.Spread, env: Env) -> Value:
    raise EvaluationError("`...` stands in arrays, objects and arguments only", span=node.span)


# ── Operators ───────────────────────────────────────────────────────────────────────────────────────


@handles(n.Unary)
async def unary(node: n.Unary, env: Env) -> Value:
    if node.operator == "!":
        value = await decides(node.operand, env, "Unary !")
        return boolean(not truthy(value), value.labels)
    value = await evaluate(node.operand, env)
    return Value(number(-to_number(value.data)), value.labels)


@handles(n.Ternary)
async def ternary(node: n.Ternary, env: Env) -> Value:
    condition = await decides(node.condition, env, "Ternary condition")
    chosen = await lenient(node.then if truthy(condition) else node.otherwise, env)
    return chosen.with_labels(condition.labels)


def streamed(node: n.Node) -> tuple[n.Stream, ...]:
    """The operands of `stream @a() || stream @b() || …`, which run at once; none if one of them is no stream."""
    if isinstance(node, n.Stream):
        return (node,)
    if not isinstance(node, n.Binary) or node.operator != "||":
        return ()
    left, right = streamed(node.left), streamed(node.right)
    return (*left, *right) if left and right else ()


COMPARISONS = frozenset(["==", "!=", "~=", "!~=", "<", ">", "<=", ">="])  # false for what is not there, and no fault


@handles(n.Binary)
async def binary(node: n.Binary, env: Env) -> Value:
    operator = node.operator
    if operator == "||" and (streams := streamed(node)):
        from .pipelines import run_stages

        return await run_stages(Value(""), (n.ParallelStage(stages=streams, span=node.span),), env, node.span)
    if operator in ("&&", "||", "??"):
        left = await (operand(node.left, env) if operator == "??" else decides(node.left, env, f"Logical {operator}"))
        if operator == "??":
            stay = left.data is not None and not isinstance(left.data, Undefined)
        else:
            stay = truthy(left) == (operator == "||")
        if stay:
            return left
        right = await lenient(node.right, env)
        return right.with_labels(left.labels)
    if operator in COMPARISONS:
        left, right = await operand(node.left, env), await operand(node.right, env)
    else:
        left, right = [await settled(await evaluate(side, env), env, side.span) for side in (node.left, node.right)]
    try:
        return apply_operator(operator, left, right)
    except EvaluationError as error:
        raise at(error, node.span) from None


@handles(n.Labelled)
async def labelled(node: n.Labelled, env: Env) -> Value:
    """`=> pii @x`: labels are added; taking them away (`!pii`, `trusted!`, `clear!`) is for privileged guards."""
    value = await evaluate(node.value, env)
    for label in node.labels:
        if label.startswith("!") or label.endswith("!"):
            if not env.mx.get("privileged"):
                gone = "untrusted" if label == "trusted!" else label.strip("!")
                raise EvaluationError(
                    f"Cannot remove protected label '{gone}' without privilege: only a privileged guard may do `{label}`"
                    if is_protected(gone)
                    else f"Label modification '{'clear' if label == 'clear!' else 'remove'}' requires privilege: only a "
                    f"privileged guard may do `{label}`",
                    span=node.span,
                    code="LABEL_PRIVILEGE_REQUIRED",
                    hint='guard privileged @name after LABEL = when [ * => allow with { removeLabels: ["…"] } ]',
                )
            value = value.relabelled(lambda labels, label=label: _change(labels, label))  # type: ignore[misc]
        else:
            value = value.with_labels(Labels.of(label))
    return value


def _change(labels: Labels, change: str) -> Labels:
    if change == "trusted!":
        return labels.trust(privileged=True)
    if change == "clear!":
        return labels.without(*(x for x in labels.taint if not x.startswith(("src:", "dir:"))), privileged=True)
    return labels.without(change.lstrip("!"), privileged=True)

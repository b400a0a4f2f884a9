"""Blocks and what is declared in them: `[ … ]`, `let`, `+=`, `=>`, `skip`, `done`, `continue`, `bail`."""

from __future__ import annotations

from interpreter import nodes as n
from interpreter import values_text as vt
from interpreter.errors import EvaluationError, LimitReached, UserBail
from interpreter.labels import NONE, LabelConflict, Labels
from interpreter.names import FIXED
from interpreter.policy import unlabelled_as
from interpreter.values import NULL, UNDEFINED, Value, type_name

from .core import Env, LoopContinue, LoopDone, RetryAsked, Returned, Skipped, at, evaluate, handles, optional
from .expressions import defined
from .functions import settled
from .growing import can_grow
from .lookup import nearest
from .operators import apply_operator, to_number
from .scope import reserved_name


@handles(n.Block)
async def block(node: n.Block, env: Env) -> Value:
    """The statements of a block; its value is what `=>` gives. Without one it is undefined."""
    return await statements(node.body, env.block())


async def statements(body: tuple[n.Node, ...], env: Env, *, leaves: bool = True) -> Value:
    for statement in body:
        await evaluate_statement(statement, env, leaves=leaves)
    return Value(UNDEFINED)


async def evaluate_statement(statement: n.Node, env: Env, *, leaves: bool = True) -> None:
    """One statement of a block inside a function: `run` prints, and a `when` that gives a value returns from the function
    (`leaves`; not in an `if`, a loop or a round)."""
    if isinstance(statement, n.When):
        from .control import when_statement

        await when_statement(statement, env, leaves=leaves)
    elif isinstance(statement, n.For):
        from .loops import for_statement

        await for_statement(statement, env)
    else:
        await statement_value(statement, env)


async def statement_value(statement: n.Node, env: Env) -> Value:
    """What a statement that is the last one of a round gives to the list of results."""
    if isinstance(statement, n.ExpressionStatement):
        statement = statement.value
    if isinstance(statement, n.When):
        from .control import when_statement

        await when_statement(statement, env)
        return NULL
    if isinstance(statement, n.For):
        await evaluate_statement(statement, env)
        return NULL
    value = await action_value(statement, env)
    if isinstance(statement, n.Run | n.Stream | n.Command):
        from .effects import print_result

        print_result(value, env)
    return value


def calls(node: n.Node) -> bool:
    """Is this a call of a function, perhaps with a field of what it gives, or piped on?"""
    while isinstance(node, n.Field | n.Index | n.With | n.Pipeline):
        below = (
            node.target
            if isinstance(node, n.Field | n.Index)
            else node.value
            if isinstance(node, n.With)
            else node.source
        )
        if below is None:
            return False
        node = below
    return isinstance(node, n.Call)


def gives_value(node: n.Node) -> bool:
    """Is this action there for its value, and not for what it does?"""
    return not isinstance(node, EFFECTS)


EFFECTS = (
    n.Show,
    n.Log,
    n.Output,
    n.Append,
    n.File,
    n.Files,
    n.Let,
    n.Augment,
    n.Var,
    n.Box,
    n.For,
    n.If,
)


async def block_value(node: n.Block, env: Env) -> Value:
    """A block where a value is wanted: `=>` leaves the block and not what is around it."""
    try:
        return await block(node, env)
    except Returned as returned:
        return returned.value or NULL


async def action_value(node: n.Node, env: Env) -> Value:
    """What stands after `=>`: an expression, a block with a `=>` of its own, or a statement. What writes somewhere else
    gives an empty text, so that `for … => log …` does not collect what it logs."""
    if isinstance(node, n.Block):
        return await block_value(node, env)
    value = await evaluate(node, env)
    return Value("") if isinstance(node, n.Log | n.Output | n.Append) else value


async def result_of(node: n.Node, env: Env) -> Value:
    """The value that is kept or handed back: the result of a function that is named and needs no arguments."""
    return await settled(await action_value(node, env), env, node.span, ready=True)


def declared_labels(labels: tuple[str, ...], node: n.Node) -> Labels:
    try:
        return Labels.of(*labels)
    except LabelConflict as conflict:
        raise EvaluationError(str(conflict), span=node.span, code="label-conflict") from None


_STANCES = frozenset({"trusted", "untrusted"})


def stanced(value: Value, labels: Labels, env: Env) -> Value:
    """What gets a name: with the labels of its declaration, and the one that `defaults.unlabeled` of a policy gives what
    nobody has labelled. Of what is declared, only `trusted` and `untrusted` speak of trust: a name for data is no vetting.
    """
    policy, given = env.authority.policy, value.labels
    if labels:
        value = value.with_labels(labels)
    if not policy.layers or not _STANCES.isdisjoint(labels.labels):
        return value
    label = unlabelled_as(policy, given)
    return value if label is None else value.with_labels(Labels.of(label))


@handles(n.Let)
async def let(node: n.Let, env: Env) -> Value:
    if node.name in FIXED:
        raise reserved_name(node.name, node.span)
    function = env.mx.get("exe")
    of_file = node.name in env.module.defined and node.name in env.module.scope.names
    if of_file or (function is not None and node.name in function.names):
        whose = (
            "names at the top of a file are constant"
            if function is None or of_file
            else f"it is a parameter of @{function.name}"
        )
        raise EvaluationError(
            f"Variable '{node.name}' is already defined and cannot be redefined", span=node.span,
            code="variable-redefinition", hint=f"{whose}; choose another one",
        )  # fmt: skip
    value = defined(await result_of(node.value, env)).with_labels(env.mx.get("flow", NONE))
    labels = declared_labels(node.labels, node) if node.labels else NONE
    env.scope.define(node.name, stanced(value, labels, env))
    return NULL


@handles(n.Augment)
async def augment(node: n.Augment, env: Env) -> Value:
    old = env.scope.peek(node.name)
    if node.operator == "=":
        await assign(node, old, env)
        return NULL
    if old is None:
        raise EvaluationError(
            f'Cannot use {node.operator} on undefined variable @{node.name}. Use "let @{node.name} = ..." first.',
            span=node.span, code="undefined-variable", hint=nearest(node.name, env),
        )  # fmt: skip
    value = defined(await action_value(node.value, env)).with_labels(env.mx.get("flow", NONE))
    scope = env.scope
    try:
        grown = can_grow(old, value)
        done = scope.grow(node.name, value) if grown else scope.assign(node.name, added(old, value, node))
    except (EvaluationError, LimitReached) as error:
        raise at(error, node.span) from None
    if not done:
        raise EvaluationError(f"@{node.name} cannot be changed here", span=node.span)
    return NULL


async def assign(node: n.Augment, old: Value | None, env: Env) -> None:
    """`@x = 1` in a block: a new name, as with `let`. Errors: it has a value, which only `+=` changes."""
    if old is not None or node.name in FIXED:
        raise EvaluationError(
            f"Variable '{node.name}' is already defined and cannot be redefined", span=node.span,
            code="variable-redefinition", hint="names are constant: write `let @next = …`; lists, texts and numbers grow by +=",
        )  # fmt: skip
    env.scope.define(node.name, stanced(defined(await action_value(node.value, env)), NONE, env))


def added(old: Value, new: Value, node: n.Augment) -> Value:
    """Numbers are added; what grows by elements or text is in `growing`."""
    if isinstance(old.data, dict):
        raise EvaluationError(
            f"Cannot += non-object to object @{node.name}. Target is object, source is {type_name(new)}.",
            span=node.span, code="type",
            hint="an object takes over the fields of another one: `@all += { name: @value }`",
        )  # fmt: skip
    if isinstance(old.data, bool) or not isinstance(old.data, int | float):
        raise EvaluationError(
            f"+= requires array, number, string, or object target. @{node.name} is {type_name(old)}.", span=node.span,
            code="type", hint="begin with what grows: `let @all = []`, `\"\"`, `{}` or `0`",
        )  # fmt: skip
    extra = to_number(new.data)
    if extra != extra:
        raise EvaluationError(
            f"Cannot += non-numeric value to number @{node.name}: it is {type_name(new)}", span=node.span, code="type",
            hint="a number grows by a number: `@count += 1`",
        )  # fmt: skip
    return apply_operator("+", old, Value(extra, new.labels))


@handles(n.Return)
async def return_(node: n.Return, env: Env) -> Value:
    value = NULL if node.value is None else defined(await result_of(node.value, env))
    raise Returned(value.with_labels(env.mx.get("flow", NONE)))


@handles(n.Skip)
async def skip(node: n.Skip, env: Env) -> Value:
    raise Skipped


@handles(n.Done)
async def done(node: n.Done, env: Env) -> Value:
    raise LoopDone(
        None if node.value is None else (await evaluate(node.value, env)).with_labels(env.mx.get("flow", NONE))
    )


@handles(n.Continue)
async def continue_(node: n.Continue, env: Env) -> Value:
    raise LoopContinue(
        None if node.value is None else (await evaluate(node.value, env)).with_labels(env.mx.get("flow", NONE))
    )


@handles(n.Bail)
async def bail(node: n.Bail, env: Env) -> Value:
    message = await optional(node.message, env)
    text = "Script terminated by bail directive." if node.message is None else vt.text(message)
    raise UserBail(env.run.mask(text), span=node.span)


@handles(n.Retry)
async def retry(node: n.Retry, env: Env) -> Value:
    where = "loop bodies" if "loop" in env.mx else "while processors" if "while" in env.mx else None
    if where is not None and "pipeline" not in env.mx:
        raise EvaluationError(f"Use 'continue' instead of 'retry' in {where}", span=node.span, code="retry")
    if not env.mx.get("retryable"):
        raise EvaluationError(
            "retry keyword used outside pipeline context: there is no stage before that could be asked again",
            span=node.span, code="retry", hint="`@source() | @check` makes @check a stage, which may `retry`",
        )  # fmt: skip
    raise RetryAsked(None if node.hint is None else await evaluate(node.hint, env))

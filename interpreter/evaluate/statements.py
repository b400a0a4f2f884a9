"""Statements where their result is printed: at the top of a file, and in the bodies of `for`, `when` and `if` there.

Inside functions the same nodes are evaluated for their value; here `run @f()`, `@f()` and `for … => @f()` print it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

from interpreter import nodes as n
from interpreter.values import Undefined, Value, truthy

from .blocks import calls
from .control import branch_of, choose, when_statement
from .core import Env, Returned, evaluate, optional
from .effects import print_result
from .functions import CALLABLES
from .lookup import decides
from .loops import Round, behind, run_rounds
from .observing import announce_statement


async def execute(node: n.Node, env: Env) -> None:
    """One statement of a file, printing what it gives if it is one that runs something."""
    if isinstance(node, n.When):
        await execute_when(node, env)
    elif isinstance(node, n.ExpressionStatement):
        await execute_expression(node.value, env)
    else:
        await execute_inside(node, env)


async def execute_inside(node: n.Node, env: Env) -> None:
    """One statement in a block there. What it calls does its work, and only `run` and commands print what comes of it."""
    if isinstance(node, n.Run | n.Stream):
        print_value(await evaluate(node, env), env)
    elif isinstance(node, n.ExpressionStatement):
        value = await evaluate(node.value, env)
        if isinstance(node.value, n.Command):
            print_value(value, env)
    elif isinstance(node, n.Box):
        from .boxes import run_box

        await run_box(node, env, lambda inside: execute_action(node.body, inside))
    elif isinstance(node, n.For):
        await execute_for(node, env)
    elif isinstance(node, n.When):
        with suppress(Returned):  # a value that nobody takes
            await when_statement(node, env, leaves=False)
    elif isinstance(node, n.If):
        await execute_if(node, env)
    else:
        await evaluate(node, env)


def print_value(value: Value, env: Env) -> None:
    if not isinstance(value.data, Undefined) and not isinstance(value.data, CALLABLES):
        print_result(value, env)


async def execute_expression(node: n.Node, env: Env) -> None:
    if isinstance(node, n.For | n.When | n.If | n.Run | n.Stream):
        await execute(node, env)
        return
    value = await evaluate(node, env)
    if not (isinstance(node, n.Pipeline) and isinstance(node.stages[-1], n.Show | n.Log | n.Output | n.Append)):
        print_value(value, env)


async def execute_called(node: n.Node, env: Env) -> None:
    """One statement in the block of a `when` at the top, where calls print what they give."""
    await (execute(node, env) if isinstance(node, n.ExpressionStatement) else execute_inside(node, env))


async def execute_statements(node: n.Block, env: Env, one: Callable[[n.Node, Env], Awaitable[None]]) -> None:
    inside = env.block()
    for statement in node.body:
        if isinstance(statement, n.Return):
            await optional(statement.value, inside)
            return  # a value that nobody takes
        await one(statement, inside)
        inside = behind(statement, inside)


async def execute_action(node: n.Node, env: Env) -> None:
    """What a loop does in each round, or a branch: a block, one statement, or a call or command, whose result is printed."""
    if isinstance(node, n.Block):
        await execute_statements(node, env, execute_inside)
    elif isinstance(node, STATEMENTS):
        await execute_inside(node, env)
    elif isinstance(node, n.Command) or calls(node):
        await execute_expression(node, env)
    else:
        await evaluate(node, env)


STATEMENTS = (
    n.Run, n.Stream, n.For, n.When, n.If, n.Show, n.Log, n.Output, n.Append, n.Var, n.Let, n.Augment, n.Exe, n.Return,
    n.ExpressionStatement, n.Loop, n.Box, n.File, n.Files, n.Bail, n.Skip, n.Done, n.Continue, n.Retry,
)  # fmt: skip


async def execute_for(node: n.For, env: Env) -> None:
    if node.batch:
        value = await evaluate(node, env)
        print_value(value, env)
        return

    async def body(each: Round) -> None:
        await execute_action(node.body, each.env)

    await run_rounds(node, env, body)


async def execute_if(node: n.If, env: Env) -> None:
    async def run() -> None:
        condition = await decides(node.condition, env)
        branch = node.then if truthy(condition) else node.otherwise
        if isinstance(branch, n.Block):
            inside = branch_of(env, condition.labels)
            for statement in branch.body:
                await execute_inside(statement, inside)  # its `=>` ends the script
        elif branch is not None:
            await execute_action(branch, env)

    await announce_statement("if", node, env, run)


async def execute_when(node: n.When, env: Env) -> None:
    """A text that a branch gives is printed, as what a call gives is; other values nobody takes."""

    async def run() -> None:
        chosen = await choose(node, env)
        if chosen is None or chosen.body is None:
            return
        is_text = isinstance(chosen.body, n.Template) or (
            isinstance(chosen.body, n.Literal) and isinstance(chosen.body.value, str)
        )
        if is_text:
            print_value(await evaluate(chosen.body, chosen.env), chosen.env)
        elif isinstance(chosen.body, n.Block):
            await execute_statements(chosen.body, chosen.env, execute_called)
        else:
            await execute_action(chosen.body, chosen.env)

    await announce_statement("when", node, env, run)

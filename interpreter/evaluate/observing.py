"""Directives that hooks and guards may name (`op:file`), although what they do is made of other operations."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from interpreter import nodes as n
from interpreter.operations import observed, watched
from interpreter.policy_subjects import Operation, OperationKind
from interpreter.values import NULL, Value

from .core import Env

Evaluator = Callable[[Any, Env], Awaitable[Value]]


def observes(kind: OperationKind) -> Callable[[Evaluator], Evaluator]:
    """An evaluator whose every node is announced as an operation of that kind."""

    def around(evaluator: Evaluator) -> Evaluator:
        async def announced(node: Any, env: Env) -> Value:
            if not watched(env):
                return await evaluator(node, env)
            return await announce(kind, node, env, lambda: evaluator(node, env))

        return announced

    return around


async def announce(kind: OperationKind, node: n.Node, env: Env, run: Callable[[], Awaitable[Value]]) -> Value:
    """One directive, announced and done."""
    return await observed(Operation(kind=kind, directive="env" if kind == "box" else ""), (), node.span, env, run)


async def announce_statement(kind: OperationKind, node: n.Node, env: Env, run: Callable[[], Awaitable[None]]) -> None:
    """The same for one that gives no value."""
    if not watched(env):
        await run()
        return

    async def done() -> Value:
        await run()
        return NULL

    await announce(kind, node, env, done)

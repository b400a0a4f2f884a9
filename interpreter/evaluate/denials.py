"""`denied =>`: the answer of a function to a guard or policy that refused it.

Which of its branches ask about the denial says `control`; here is what they are told: `@mx.guard`, `@mx.args`, and the values
that were judged. A branch that prints gives no value, and a function none of whose branches fits has not answered.
"""

from __future__ import annotations

from typing import Any

from interpreter import nodes as n
from interpreter.errors import Denied
from interpreter.guards import Deny, GuardCall, Heard
from interpreter.operations import GuardDenied
from interpreter.values import NULL, Value, array, nothing, record, sequence_labels

from .control import ANSWERS, Chosen, asks_denial
from .core import REDACTED, Env, Returned, evaluate
from .functions import Function
from .guarding import as_value, decided
from .scope import Scope

KINDS = {"label": "data", "operation": "operation", "function": "function"}


def handles_denial(body: n.Node) -> bool:
    """Does the body say what to do when it is denied?"""
    if isinstance(body, n.When):
        return any(isinstance(case, n.Case) and asks_denial(case.condition) for case in body.cases)
    if isinstance(body, n.Block):
        return any(handles_denial(statement) for statement in body.body)
    if isinstance(body, n.Return):
        return body.value is not None and handles_denial(body.value)
    return False


def masked(value: Value) -> Value:
    """A value as `@mx.guard` tells it, which is there for reports: a secret is not told."""
    return Value(REDACTED) if "secret" in value.labels else value


def judged(call: GuardCall) -> tuple[Value, Value]:
    """`@input` and `@output` of the guard that denied."""
    inputs = [as_value(each) for each in call.inputs]
    subject = as_value(call.subject) if call.subject is not None else None
    given = subject if subject is not None and call.moment == "before" else array(inputs)
    output = as_value(call.output) if call.output is not None else subject or (inputs[0] if inputs else NULL)
    return given, output


def about_policy(denied: Denied) -> dict[str, Any]:
    """`@mx.guard` of a policy's denial, which has no guards to trace."""
    about = {"reason": denied.reason, "name": denied.rule, "rule": denied.rule, "decision": "deny", "filter": None,
             "timing": "before", "try": 1, "trace": [], "reasons": [denied.reason], "hints": []}  # fmt: skip
    return {key: Value(held) for key, held in about.items()}


def about_guard(denied: GuardDenied, heard: Heard) -> dict[str, Value]:
    """`@mx.guard` of a guard's denial."""
    verdict, call, guard = decided(denied.verdict), heard.call, heard.guard
    given, output = judged(call)
    return {
        **{key: verdict.item(held) for key, held in verdict.data.items()},
        "name": Value(guard.name), "filter": Value(f"{KINDS[guard.kind]}:{guard.filter}"), "timing": Value(call.moment),
        "try": Value(call.attempt), "input": masked(given), "output": masked(output),
        "labels": Value(list((given.labels | output.labels).labels)),
    }  # fmt: skip


async def run_denied(function: Function, arguments: list[Value], env: Env, denied: Denied, calls: Any) -> Value | None:
    """The body again, in the knowledge that it was denied. None if none of its branches is for that."""
    from .calls import bind

    scope = Scope(function.env.scope)
    answers: list[Chosen] = []
    labels = sequence_labels(arguments)
    inside = function.env.copy(
        scope=scope, calls=calls, depth=env.depth + 1, authority=env.authority, ports=env.ports, box=env.box, run=env.run,
        top=False,
        mx={
            **env.mx, "denied": True, ANSWERS: answers, "exe": function,
            "op": {"name": function.name, "labels": list(function.labels), "type": "exe"},
            "labels": list(labels.labels), "taint": list(labels.taint), "sources": list(labels.sources),
        },
    )  # fmt: skip
    await bind(function, arguments, scope, inside)
    args = record({"names": Value(list(scope.names)), **scope.names})
    heard = _that_denied(denied)
    if isinstance(denied, GuardDenied) and heard is not None:
        about = about_guard(denied, heard)
        given, output = judged(heard.call)
        scope.names = {"input": given, "output": output, **scope.names}
    else:
        about, given = about_policy(denied), array(arguments)
    inside.mx = {**inside.mx, "guard": record({**about, "args": args}), "args": args, "input": given}
    try:
        result = await evaluate(function.body, inside)
    except Returned as returned:
        result = returned.value or NULL
    if not answers:
        return None
    env.ports.output.stderr(f"[Guard Warning] {env.run.mask(denied.reason)}\n")
    return nothing(result.labels) if isinstance(answers[-1].body, n.Show) else result


def _that_denied(denied: Denied) -> Heard | None:
    heard = denied.verdict.heard if isinstance(denied, GuardDenied) else ()
    return next((each for each in heard if isinstance(each.decision, Deny)), None)

"""Guards as functions: the `when` of a guard is evaluated without any effect, and its answer becomes a decision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interpreter import guards as g
from interpreter import nodes as n
from interpreter import values_text as vt
from interpreter.declarations import place_of
from interpreter.errors import EvaluationError
from interpreter.guards import NO_GUARDS, Guards
from interpreter.hints_directive import block_wanted
from interpreter.operations import MAX_CALLS, unguarded
from interpreter.policy import NO_POLICY, Policy
from interpreter.ports import Ports
from interpreter.values import NULL, Undefined, Value, array, record, type_name

from .blocks import action_value
from .control import choose
from .core import REDACTED, Env, Returned, Signal, evaluate, handles
from .guard_helpers import helpers_of, offered
from .scope import Scope

if TYPE_CHECKING:
    from interpreter.policy_subjects import Operation


COMMANDS = ("cmd", "sh", "js", "node", "py")  # what they are part of, `run`, is what guards know them as
SHORTEST_SECRET = 4  # a shorter one is no secret, and its letters are in many words


class Unbound:
    """The authority inside a guard: no guard guards a guard, and no policy judges what has no effect."""

    in_guard = True
    modules: tuple[Any, ...] = ()
    hooks: tuple[Any, ...] = ()

    @property
    def policy(self) -> Policy:
        return NO_POLICY

    @property
    def guards(self) -> Guards:
        return NO_GUARDS

    def joined_by(self, module: Any) -> Unbound:
        return self

    def narrowed(self, policy: Policy) -> Unbound:
        return self

    def describe_policies(self) -> dict[str, Any]:
        return {"configs": {}, "activePolicies": []}


UNBOUND = Unbound()
_ALLOWED = g.Allow()


class Unwatched(Unbound):
    """The authority inside a hook: policy binds what it does; no guard and no hook watches it."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    @property
    def policy(self) -> Policy:
        return self._policy


def powerless(ports: Ports, *, engine: bool = False) -> Ports:
    """Only output and clock: what a declaration, `@mcpConfig` and a guard may use (P13).

    A guard of the script itself may compute in the embedded engine, which has no effects either; one of an environment
    module may not, since the same guard decides in the sidecar, where there is no engine.
    """
    return Ports(output=ports.output, clock=ports.clock, engine=ports.engine if engine else None)


@handles(n.Guard)
async def guard(node: n.Guard, env: Env) -> Value:
    """Declares a guard: from here on it watches."""
    privileged = node.privileged or _says_privileged(node.options)
    module = env.module
    if node.name is not None and node.name in module.own_guards:
        raise EvaluationError(
            f"Guard with name {node.name} already exists",
            span=node.span,
            code="guard",
            hint="give this one another name",
        )
    require_fires(node, env)

    types, helpers = mentions_type(node.body), helpers_of(node.body)

    ports = {engine: powerless(env.ports, engine=engine) for engine in (False, True)}

    async def decide(call: g.GuardCall) -> g.GuardDecision:
        return await judge(node, call, env, ports[not module.is_environment], privileged, types=types, helpers=helpers)

    if node.filter.kind == "label" and any(
        held.kind == "operation" and held.filter == node.filter.name for held in module.guards.all
    ):
        said = node.filter.name
        env.ports.output.stderr(
            f"warning: {node.span}: this guard looks for data that is labelled {said}, while another one here is about "
            f"operations of that label; `op:{said}` is the filter for operations\n"
        )
    made = g.Guard(
        decide=decide, kind=node.filter.kind, filter=node.filter.name, name=node.name, timing=node.timing,
        privileged=privileged, place=place_of(node.span),
    )  # fmt: skip
    module.declare_guard(made)
    return NULL


def require_fires(node: n.Guard, env: Env) -> None:
    """Errors: a guard that nothing would ever ask protects nothing."""
    kind, name = node.filter.kind, node.filter.name
    fault = g.filter_fault(kind, name)
    if kind == "operation" and name in g.UNGUARDED:
        document = env.module.document
        functions = (each for each in document.body if isinstance(each, n.Exe)) if document is not None else ()
        if not any(name in function.labels for function in functions):
            fault = (f"no guard is asked about op:{name}", f"write op:{g.UNGUARDED[name]}")
    if fault is not None:
        raise EvaluationError(fault[0], span=node.filter.span, code="filter-matches-nothing", hint=fault[1])


def _says_privileged(options: n.Object | None) -> bool:
    said = options.get("privileged") if options is not None else None
    return isinstance(said, n.Literal) and said.value is True


def as_value(guarded: g.Guarded) -> Value:
    value = guarded.value
    return value if isinstance(value, Value) else Value(value, guarded.labels)


async def judge(
    node: n.Guard,
    call: g.GuardCall,
    env: Env,
    ports: Ports,
    privileged: bool,
    *,
    types: bool,
    helpers: tuple[str, ...] = (),
) -> g.GuardDecision:
    """The decision of one guard about one operation.

    A stage of a pipeline is the function that it calls, and a stage; a call of a tool is a call: a guard may ask for either
    type, so one that asks for types is asked as both. What it decides first counts, unless that only lets it pass.
    """
    inside = guard_env(node, call, env, ports, privileged)
    if helpers:
        inside.scope.names.update(offered(helpers, env))
    found = await asked(node, call, inside)
    also = "pipeline-stage" if call.operation.stage else "exe" if call.operation.kind == "mcp" else None
    if not types or also is None or not (found is None or found == _ALLOWED):
        return found
    return await asked(node, call, inside.ambient(op={**inside.mx["op"], "type": also}))


def mentions_type(body: n.Node) -> bool:
    """May the guard ask for `@mx.op.type`? So does one that hands `@mx.op` on."""
    if isinstance(body, n.Index) or (isinstance(body, n.Field) and body.name == "op"):
        return True
    return any(mentions_type(child) for child in body.children())


async def asked(node: n.Guard, call: g.GuardCall, inside: Env) -> g.GuardDecision:
    body = node.body
    try:
        if isinstance(body, n.When):
            chosen = await choose(body, inside)
            if chosen is None or chosen.body is None:
                return None
            return await decision(chosen.body, chosen.env, call)
        return await decision(body, inside, call)
    except Signal as signal:
        return g.Allow(value=signal.value, replaces=True) if signal.value is not None else None


def guard_env(node: n.Guard, call: g.GuardCall, env: Env, ports: Ports, privileged: bool) -> Env:
    inputs = [as_value(each) for each in call.inputs]
    whole = array(inputs)
    subject = as_value(call.subject) if call.subject is not None else None
    given = subject if subject is not None and call.moment == "before" else whole
    output = as_value(call.output) if call.output is not None else None
    if output is not None and call.moment == "after":
        given = whole if call.subject is None or node.filter.kind != "label" else output
    shown = output if output is not None else (subject or (inputs[0] if inputs else NULL))
    labels = shown.labels if call.subject is not None or output is not None else whole.labels
    operation = call.operation
    mx: dict[str, Any] = {
        "op": about(operation),
        "guard": {
            "try": call.attempt, "max": MAX_CALLS, "tries": tries(call.hints), "hintHistory": list(call.hints),
            "timing": call.moment, "name": node.name, "reasons": [], "hints": [],
        },
        "labels": list(labels.labels), "taint": list(labels.taint), "sources": list(labels.sources),
        "args": arguments(operation, [as_value(each) for each in call.arguments]), "privileged": privileged,
        "input": given, "output": shown,
        "history": [use.json() for use in (shown.labels | whole.labels).tools],
    }  # fmt: skip
    inside = env.copy(authority=UNBOUND)
    inside.run, inside.ports, inside.calls, inside.depth, inside.mx = env.run.judging(), ports, None, 0, mx
    inside.scope = Scope(env.scope, {"input": given, "output": shown})
    return inside


def tries(hints: tuple[str, ...]) -> list[dict[str, Any]]:
    """`@mx.guard.tries`: the attempts before this one."""
    return [{"attempt": at, "decision": "retry", "hint": hint} for at, hint in enumerate(hints, 1)]


def about(operation: Operation) -> dict[str, Any]:
    """`@mx.op`."""
    kind = operation.directive if operation.kind in COMMANDS else operation.kind
    shown: dict[str, Any] = {
        "type": kind, "subtype": operation.name if operation.kind == "exe" else operation.kind,
        "name": operation.name or operation.tool,
        "labels": list(dict.fromkeys((*operation.labels, *operation.operation_labels))),
    }  # fmt: skip
    if operation.operation_labels:
        shown["opLabels"] = [label for label in operation.operation_labels if label.startswith("op:")]
    if operation.command:
        shown["command"] = operation.command
    if operation.kind in ("output", "append") and operation.paths:
        shown["target"] = operation.paths[0]
    if operation.server:
        shown |= {"server": operation.server, "tool": operation.tool}
    return shown


def decided(verdict: g.Verdict) -> Value:
    """A verdict as scripts see it (`@p.guards`, `@mx.guard`): the decision, and in `trace` what each guard said."""
    trace = [_step(heard) for heard in verdict.heard]
    hints = [step for step, heard in zip(trace, verdict.heard, strict=True) if isinstance(heard.decision, g.Retry)]
    reasons = [heard.decision.reason for heard in verdict.heard if isinstance(heard.decision, g.Deny)]
    about_what: dict[str, Value] = {}
    if verdict.heard:
        operation = verdict.heard[0].call.operation
        stage = {"type": "pipeline-stage"} if operation.stage else {}
        about_what["operation"] = Value({**about(operation), **stage})
    return record({
        **about_what, "decision": Value(word(verdict.kind)), "rule": Value(verdict.rule), "reason": Value(verdict.reason),
        "trace": array(trace), "hints": array(hints), "reasons": Value(reasons),
    })  # fmt: skip


def word(kind: g.VerdictKind) -> str:
    """A verdict in the words of guards, which allow what they change."""
    return "allow" if kind == "transform" else kind


def _step(heard: g.Heard) -> Value:
    said = heard.decision
    return record({
        "guardName": Value(heard.guard.name), "decision": Value(word(heard.kind)),
        "reason": Value(said.reason if isinstance(said, g.Deny) else ""),
        "hint": Value(said.hint if isinstance(said, g.Retry) else ""),
        "replacement": NULL if heard.replacement is None else unguarded(heard.replacement),
    })  # fmt: skip


def arguments(operation: Operation, inputs: list[Value]) -> dict[str, Any]:
    names = operation.parameters or tuple(f"arg{i}" for i in range(len(inputs)))
    return {**dict(zip(names, inputs, strict=False)), "names": list(names)}


async def decision(body: n.Node, env: Env, call: g.GuardCall) -> g.GuardDecision:
    if isinstance(body, n.Allow):
        return await allowed(body, env, call)
    if isinstance(body, n.Deny):
        reason = "" if body.reason is None else vt.text(await evaluate(body.reason, env))
        return g.Deny(reason=without_secrets(reason, call) or "denied")
    if isinstance(body, n.Retry):
        return g.Retry(hint="" if body.hint is None else vt.text(await evaluate(body.hint, env)))
    if isinstance(body, n.EnvDecision):
        return g.UseEnvironment(config=None if body.config is None else vt.to_plain(await evaluate(body.config, env)))
    if isinstance(body, n.Block):
        return await block_decision(body, env, call)
    written = body.value if isinstance(body, n.Labelled) else body
    if isinstance(written, n.Literal | n.Template | n.Array | n.Object):
        # `* => block "why"`, `* => "why"`: a text written for a reader, and not what should go on instead of the data.
        raise EvaluationError(
            "a value is no decision of a guard", span=body.span, code="guard-decision",
            hint='write deny "why", allow, or allow @value to let that go on',
        )  # fmt: skip
    if isinstance(body, n.Labelled):
        if not env.mx.get("privileged") and (taken := taken_away(body.labels)):
            return g.Allow(remove=taken)  # the refusal names the guard
        value = await evaluate(body, env)
        before = await evaluate(body.value, env)
        gone = tuple(label for label in before.labels.taint if label not in value.labels)
        new = tuple(label for label in value.labels.labels if label not in before.labels)
        return g.Allow(value=value, replaces=True, add=new, remove=gone)
    value = await action_value(body, env)
    return None if isinstance(value.data, Undefined) else g.Allow(value=value, replaces=True)


def taken_away(changes: tuple[str, ...]) -> tuple[str, ...]:
    """The labels that `trusted!`, `!pii`, `clear!` take away, of which the last is any."""
    known = {"trusted!": "untrusted", "clear!": "*"}
    return tuple(known.get(change, change.strip("!")) for change in changes if "!" in change)


def without_secrets(reason: str, call: g.GuardCall) -> str:
    """A reason goes to whoever asked, and so may not hold the secret that it was asked about."""
    judged = [*call.inputs, *(each for each in (call.subject, call.output) if each is not None)]
    for each in judged:
        if "secret" in each.labels and len(held := vt.text(as_value(each))) >= SHORTEST_SECRET:
            reason = reason.replace(held, REDACTED)
    return reason


async def block_decision(body: n.Block, env: Env, call: g.GuardCall) -> g.GuardDecision:
    inside = env.block()
    for statement in body.body:
        if isinstance(statement, n.Allow | n.Deny | n.Retry | n.EnvDecision):
            return await decision(statement, inside, call)
        if isinstance(statement, n.Return) and statement.value is not None:
            return await decision(statement.value, inside, call)
        if isinstance(statement, n.When):
            chosen = await choose(statement, inside)
            if chosen is not None and chosen.body is not None:
                found = await decision(chosen.body, chosen.env, call)
                if found is not None:
                    return found
            continue
        try:
            await evaluate(statement, inside)
        except Returned as returned:
            return g.Allow(value=returned.value, replaces=True)
    return None


async def allowed(node: n.Allow, env: Env, call: g.GuardCall) -> g.Allow:
    if node.value is None and node.options is None:
        return _ALLOWED
    value: Any = None if node.value is None else await evaluate(node.value, env)
    if value is not None and call.subject is None and isinstance(value.data, list):
        if value.data is env.mx["input"].data:
            value = None  # `allow @input` of a guard on operations: as they are
        elif len(call.inputs) > 1:
            value = list(value.items())  # one for each input
    options: dict[str, Value] = {}
    for entry in node.options.entries if node.options is not None else ():
        if isinstance(entry, n.Entry):
            options[entry.key] = await evaluate(entry.value, env)

    def names(key: str) -> tuple[str, ...]:
        held = options.get(key)
        return (
            ()
            if held is None
            else tuple(vt.text(item) for item in held.items())
            if isinstance(held.data, list)
            else (vt.text(held),)
        )

    warning = vt.text(options["warning"]) if "warning" in options else ""
    return g.Allow(
        value=value, replaces=value is not None, add=names("addLabels"), remove=names("removeLabels"), warning=warning
    )


@handles(n.Allow, n.Deny, n.EnvDecision)
async def stray_decision(node: n.Node, env: Env) -> Value:
    word = {n.Allow: "allow", n.Deny: "deny", n.EnvDecision: "env"}[type(node)]
    if word == "env":
        spelled = node.span.source.text[node.span.start : node.span.start + 3]
        message = f"{block_wanted(spelled)}: without one, it is a decision of a guard"
        raise EvaluationError(message, span=node.span, hint=f"{spelled} @config [ … ]")
    raise EvaluationError(
        f"`{word}` is a decision of a guard", span=node.span, hint='guard before LABEL = when [ … => deny "…" ]'
    )


def guard_name(item: n.Node) -> str:
    """The guard that `@name` or `"@name"` means; the second reads like text with a hole."""
    if isinstance(item, n.Template) and len(item.parts) == 1:
        item = item.parts[0]
    return str(getattr(item, "name", getattr(item, "value", getattr(item, "text", "")))).lstrip("@")


async def guard_choice(node: n.Node, env: Env) -> Any:
    """`guards: false`, `{ only: [@a] }`, `{ except: [@a] }`: as a pair of what is said and the names."""
    if isinstance(node, n.Object):
        said = [entry for entry in node.entries if isinstance(entry, n.Entry) and entry.key in ("only", "except")]
        if len(said) > 1:
            raise EvaluationError("Guard override cannot specify both only and except", span=node.span)
        for entry in said:
            items = entry.value.items if isinstance(entry.value, n.Array) else (entry.value,)
            for item in items:
                text = item.value if isinstance(item, n.Literal) else ""
                if not isinstance(text, str):
                    told = f"Guard override {entry.key} entries must be strings starting with @"
                    raise EvaluationError(told, span=item.span, code="guard", hint=f"{entry.key}: [@guard]")
                if text and not text.removeprefix("@"):
                    told = f"Guard override {entry.key} entries must include a name after @"
                    raise EvaluationError(told, span=item.span, code="guard")
                if text and not text.startswith("@"):
                    told = f"Guard override {entry.key} entries must start with @"
                    raise EvaluationError(told, span=item.span, code="guard", hint=f'write @{text}, or "@{text}"')
            names = tuple(guard_name(item) for item in items)
            return (entry.key, names)
        raise EvaluationError("guards takes false, { only: […] } or { except: […] }", span=node.span)
    value = await evaluate(node, env)
    if not isinstance(value.data, bool):
        told = f"Guard override must be false or an object, got {type_name(value)}"
        raise EvaluationError(told, span=node.span, code="guard", hint="guards: false, or guards: { except: [@guard] }")
    return None if value.data else ("only", ())

"""Everything that touches the world: the one file that calls a port.

An effect goes through `perform`: guards before → policy → the port → labels of the result → guards after → event. The
evaluator describes what is about to happen (`Operation` with its inputs) and hands over the call as a function; it has
no other way to a port, so that an effect which skips a guard cannot be written by accident.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from interpreter import events
from interpreter.declarations import EnvironmentSpec
from interpreter.errors import Denied, EvaluationError, MlldError
from interpreter.guards import Guard, Guarded, Guards, Verdict
from interpreter.labels import Labels
from interpreter.policy import Denied as Refusal
from interpreter.policy import Policy, added_labels, effective_taint, judge
from interpreter.policy_subjects import Operation
from interpreter.ports import (
    Command,
    CommandResult,
    Denial,
    Directory,
    FilePort,
    Output,
    Ports,
    SandboxSession,
    ScriptEngine,
    ScriptFunction,
    ScriptResult,
    Signed,
    ToolConnection,
    ToolResult,
)  # fmt: skip
from interpreter.source import Span
from interpreter.values import Value


@dataclass(frozen=True, kw_only=True)
class Request:
    """One operation with the values that flow into it."""

    operation: Operation
    inputs: tuple[Value, ...] = ()
    span: Span | None = None
    retryable: bool = False  # a stage of a pipeline, which can be asked again
    repeatable: bool = False  # a call, or its body: whoever calls can call again when the result will not do
    user_guards: Any = None  # `with { guards: … }` as ("only" | "except", names)
    attempt: int = 1
    hints: tuple[str, ...] = ()  # of the attempts before
    history: list[Verdict] | None = None  # of the pipeline that it belongs to: `@p.guards`
    in_text: bool = False  # the inputs are the values in a text, whose result they are, too
    streaming: bool = False  # the result is shown piece by piece, before a guard could see it
    changed_by: list[Guard] | None = None  # a call notes here which guards changed its arguments
    settled: Sequence[Guard] = ()  # of the call whose body this is


class Watcher(Protocol):
    """A hook: sees operations and may change what flows."""

    @property
    def timing(self) -> str: ...

    def concerns(self, request: Request) -> bool: ...

    async def run(
        self,
        request: Request,
        inputs: tuple[Value, ...],
        output: Value | None,
        place: Any,
        errors: list[dict[str, Any]],
        *,
        denied: bool = False,
    ) -> Value | None:
        """The value to go on with, if it gives one. A failure of its own is added to `errors`, those of the hooks before it."""
        ...


class Authority(Protocol):
    """What binds operations here: the composed policy and the guards in force."""

    @property
    def policy(self) -> Policy: ...

    @property
    def guards(self) -> Guards: ...

    @property
    def hooks(self) -> Sequence[Watcher]: ...


class Place(Protocol):
    """Where an operation happens (the evaluator's `Env`)."""

    @property
    def authority(self) -> Authority: ...

    @property
    def ports(self) -> Ports: ...


class GuardDenied(Denied):
    """A guard refused; `denied =>` catches it."""

    catchable = True

    def __init__(self, verdict: Verdict, operation: Operation, span: Span | None) -> None:
        what = operation.directive or operation.kind
        super().__init__(
            f"Guard blocked operation: {verdict.reason}", rule=verdict.rule, reason=verdict.reason, span=span,
            hint=f"{verdict.rule} decided about {what}{f' @{operation.name}' if operation.name else ''}",
        )  # fmt: skip
        self.verdict = verdict
        self.operation = operation


class ToolDenied(Denied):
    """The fence around a sandbox's tools refused a call; `denied =>` catches it."""

    catchable = True

    def __init__(self, tool: str, denial: Denial, span: Span | None) -> None:
        super().__init__(
            f"tool '{tool}' was denied by {denial.rule}: {denial.reason}", rule=denial.rule, reason=denial.reason,
            span=span, hint=f"the rule: {denial.rule}",
        )  # fmt: skip


class PolicyDenied(Denied):
    """A policy refused; `denied =>` catches it when the rule is one about the flow of labels."""

    def __init__(self, decision: Refusal, operation: Operation, span: Span | None) -> None:
        super().__init__(
            told(decision, operation),
            rule=str(decision),
            reason=decision.reason,
            span=span,
            hint=f"the rule: {decision}",
        )
        self.catchable = decision.gate in ("rule", "label")


_ACCESS = {
    "sh": "Shell access", "js": "JavaScript access", "node": "Node access", "py": "Python access", "read": "Filesystem read",
    "output": "Filesystem write", "append": "Filesystem write", "network": "Network access", "secret": "Keychain access",
}  # fmt: skip


def told(decision: Refusal, operation: Operation) -> str:
    """The denial in one line: what was wanted, then the reason in the words of the policy."""
    if decision.gate == "danger":
        return f"Dangerous capability requires allow.danger: {decision.reason}"
    if decision.gate not in ("capability", "keychain"):
        return decision.reason
    access = _ACCESS.get(operation.kind)
    head, _, rest = decision.reason.partition(" ")
    if operation.kind == "sh" and head == "command":
        word, _, matched = rest.partition(" is denied ")[0].partition(" ")
        return f"Command {word} denied by policy in shell block {matched}: {decision.reason}"
    if operation.kind == "cmd":
        access = {"shell": "Shell access", "network": "Network access"}.get(head)
        if access is None and decision.rule.endswith(": deny *"):
            access = "All operations"
        elif access is None:
            try:
                word = next((words[0] for words in operation.commands if f"'{words[0]}'" in decision.reason), "")
            except ValueError:
                word = ""
            access = f"Command '{word}'" if word else "Command"
    return f"{access} denied by policy: {decision.reason}" if access else decision.reason


class GuardRetry(MlldError):
    """A guard wants the operation again, which only a pipeline can give it."""

    code = "guard-retry"
    exit_code = 4


async def perform(request: Request, place: Place, call: Callable[[tuple[Value, ...]], Awaitable[Value]]) -> Value:
    """Run one operation through guards and policy. `call` gets the inputs, as guards may have changed them."""
    authority = place.authority
    policy, guards, hooks = authority.policy, authority.guards, authority.hooks
    if not policy.layers and not guards and not hooks:
        return await call(request.inputs)
    if request.user_guards is not None:
        how, names = request.user_guards
        guards = guards.without(only=names) if how == "only" else guards.without(names=names)
        place.ports.output.stderr("[Guard Override] All guards disabled for this operation\n")
    inputs = await _hooks_before(hooks, request, place)
    if inputs is not request.inputs:
        operation = replace(request.operation, inputs=tuple(v.labels for v in inputs))
        request = replace(request, operation=operation, inputs=inputs)
    try:
        result = await _judged(request, policy, guards, place.ports.output, call)
    except GuardDenied as denied:
        if hooks and denied.operation is request.operation:
            await _hooks_after(hooks, request, inputs, denial(denied), place, denied=True)
        raise
    return await _hooks_after(hooks, request, inputs, result, place)


async def _judged(
    request: Request, policy: Policy, guards: Guards, output: Output, call: Callable[[tuple[Value, ...]], Awaitable[Value]]
) -> Value:  # fmt: skip
    """The operation between what guards and policy say before it, and what guards say behind it."""
    operation, inputs, verdict = request.operation, request.inputs, None
    if guards:
        guarded = [Guarded(value=v, labels=v.labels) for v in inputs]
        verdict = await guards.before(
            operation, guarded, attempt=request.attempt, hints=request.hints, settled=request.settled
        )
        _heed(verdict, request, output)
        if request.changed_by is not None:
            request.changed_by.extend(heard.guard for heard in verdict.heard if heard.kind == "transform")
        if verdict.kind == "transform":
            inputs = tuple(unguarded(g) for g in verdict.inputs)
            operation = replace(operation, inputs=tuple(v.labels for v in inputs))
    _obey(policy, operation, request, output, verdict)
    result = await call(inputs)
    extra = added_labels(policy, operation)
    if extra:
        result = result.with_labels(Labels.of(*extra))
    if guards and any(guard.watches("after") for guard in guards.all):
        if request.streaming:
            raise EvaluationError(
                "Cannot run after-guards when streaming is enabled.", span=request.span, code="guard-streaming",
                hint="`with { stream: false }`, or `before` for `after`: what streams is seen before a guard could judge it",
            )  # fmt: skip
        for came in inputs if request.in_text else (result,):
            verdict = await guards.after(
                operation, [Guarded(value=v, labels=v.labels) for v in ((came,) if request.in_text else inputs)],
                Guarded(value=came, labels=came.labels), attempt=request.attempt, hints=request.hints,
            )  # fmt: skip
            _heed(verdict, request, output, after=True)
            if verdict.kind == "transform" and verdict.output is not None and not request.in_text:
                result = unguarded(verdict.output)
    return result


def denial(denied: GuardDenied) -> Value:
    """`@output` of a hook behind an operation that a guard denied."""
    return Value({"denied": True, "decision": "deny", "reason": denied.reason, "rule": denied.rule})


async def observed(
    operation: Operation,
    inputs: tuple[Value, ...],
    span: Span | None,
    place: Place,
    call: Callable[[], Awaitable[Value]],
) -> Value:
    """Directives that do nothing by themselves: loops, branches, imports, env blocks. Hooks see what goes in and what comes
    out, and change neither. Guards that name the directive (`op:for`) may deny it; values are judged where they go.
    """
    hooks, guards = place.authority.hooks, place.authority.guards.about(operation)
    if not hooks and not guards:
        return await call()
    request = Request(operation=operation, inputs=inputs, span=span)
    await _hooks_before(hooks, request, place)
    if guards:
        _heed(await guards.before(operation, ()), request, place.ports.output)
    result = await call()
    if guards:
        verdict = await guards.after(operation, (), Guarded(value=result, labels=result.labels))
        _heed(verdict, request, place.ports.output, after=True)
    await _hooks_after(hooks, request, inputs, result, place)
    return result


def watched(place: Place) -> bool:
    """Is anything there that `observed` would ask?"""
    return bool(place.authority.hooks or place.authority.guards)


async def _hooks_before(hooks: Sequence[Watcher], request: Request, place: Place) -> tuple[Value, ...]:
    inputs, errors = request.inputs, list[dict[str, Any]]()
    for hook in hooks:
        if hook.timing == "before" and hook.concerns(request):
            changed = await hook.run(request, inputs, None, place, errors)
            if changed is None or not inputs:
                continue
            each = list(changed.items()) if isinstance(changed.data, list) else []
            # A list with one for each argument is the arguments, unless the only argument is a list itself.
            whole = len(each) == len(inputs) and (len(inputs) > 1 or not isinstance(inputs[0].data, list))
            inputs = tuple(each) if whole else (changed, *inputs[1:])
    return inputs


async def _hooks_after(
    hooks: Sequence[Watcher], request: Request, inputs: tuple[Value, ...], result: Value, place: Place,
    *, denied: bool = False,
) -> Value:  # fmt: skip
    errors: list[dict[str, Any]] = []
    for hook in hooks:
        if hook.timing == "after" and hook.concerns(request):
            changed = await hook.run(request, inputs, result, place, errors, denied=denied)
            result = changed if changed is not None else result
    return result


def unguarded(guarded: Guarded) -> Value:
    """The value that goes on after a guard: with exactly the labels that the guard left."""
    value = guarded.value if isinstance(guarded.value, Value) else Value(guarded.value)
    gone = [label for label in value.labels.taint if label not in guarded.labels]
    if gone:
        value = value.relabelled(lambda labels: labels.without(*gone, privileged=True))
    return value.with_labels(guarded.labels)


def _heed(verdict: Verdict, request: Request, output: Output, *, after: bool = False) -> None:
    for warning in verdict.warnings:
        output.stderr(f"[Guard Warning] {warning}\n")
    if not verdict.heard:
        return
    if request.history is not None:
        request.history.append(verdict)
    operation = request.operation
    output.event(events.Decided(
        kind="guard", operation=operation.kind, name=operation.name or operation.tool, decision=verdict.kind,
        rule=verdict.rule, reason=verdict.reason, labels=operation.incoming.taint,
    ))  # fmt: skip
    if verdict.kind == "deny":
        raise GuardDenied(verdict, operation, request.span)
    if verdict.kind == "retry":
        if request.retryable or (after and request.repeatable):
            raise RetryWanted(verdict.reason, after=after)
        lead = "Cannot retry: " if after else ""
        raise GuardRetry(
            f"Guard retry failed: {lead}{verdict.reason or 'retry'}: guard retry requires pipeline context", span=request.span,
            hint="only a stage of a pipeline can be asked again: `@source() | @stage`",
        )  # fmt: skip


MAX_RETRIES = 10
MAX_CALLS = 3  # of a function whose result a guard wants again, outside of pipelines


class RetryWanted(Exception):
    """A guard wants it again, with a hint: what it judged, or, before that happened, what it was to happen to."""

    def __init__(self, hint: str, *, after: bool) -> None:
        super().__init__(hint)
        self.hint = hint
        self.after = after


def spent(wanted: RetryWanted, span: Span | None) -> GuardRetry:
    """The error when the calls that a guard may ask for are spent."""
    return GuardRetry(
        f"Guard retry failed: Cannot retry: {wanted.hint or 'retry'}: Guard retry limit exceeded ({MAX_CALLS})", span=span,
        hint='a last case such as `@mx.guard.try == 3 => deny "…"` says what then',
    )  # fmt: skip


def _obey(policy: Policy, operation: Operation, request: Request, output: Output, verdict: Verdict | None) -> None:
    decision = judge(policy, operation)
    if not isinstance(decision, Refusal) or (decision.overridable and verdict is not None and verdict.privileged):
        return
    output.event(events.Decided(
        kind="policy", operation=operation.kind, name=operation.name or operation.tool, decision="deny",
        rule=str(decision), reason=decision.reason, labels=effective_taint(policy, operation.incoming),
    ))  # fmt: skip
    raise PolicyDenied(decision, operation, request.span)


# ── Ports ───────────────────────────────────────────────────────────────────────────────────────────


async def run_command(ports: Ports, command: Command) -> CommandResult:
    assert ports.commands is not None
    return await ports.commands.run(command)


async def open_directory(ports: Ports, *, project: bool) -> Directory:
    assert ports.commands is not None
    return await ports.commands.directory(project=project)


def read_file(files: FilePort, path: Path) -> bytes:
    return files.read(path)


def write_file(files: FilePort, path: Path, data: bytes, *, append: bool = False) -> None:
    files.write(path, data, append=append)


def find_files(files: FilePort, root: Path, pattern: str) -> Sequence[Path]:
    return files.glob(root, pattern)


def keep_signature(ports: Ports, signed: Signed) -> None:
    assert ports.signatures is not None
    ports.signatures.sign(signed)


def read_signature(ports: Ports, name: str) -> Signed:
    assert ports.signatures is not None
    return ports.signatures.signed(name)


def read_checkpoints(ports: Ports) -> bytes:
    assert ports.checkpoints is not None
    return ports.checkpoints.read()


def keep_checkpoint(ports: Ports, line: bytes) -> None:
    assert ports.checkpoints is not None
    ports.checkpoints.append(line)


async def load_url(ports: Ports, url: str) -> tuple[bytes, str]:
    assert ports.http is not None
    return await ports.http.get(url)


async def call_tool(connection: ToolConnection, tool: str, arguments: dict[str, Any]) -> ToolResult:
    return await connection.call(tool, arguments)


def file_exists(files: FilePort, path: Path) -> bool:
    return files.exists(path)


def is_directory(files: FilePort, path: Path) -> bool:
    return files.is_dir(path)


async def run_script(
    engine: ScriptEngine, body: str, arguments: Mapping[str, object], *, ambient: Mapping[str, object],
    functions: Sequence[ScriptFunction], texts: Mapping[str, str],
) -> ScriptResult:  # fmt: skip
    return await engine.evaluate(body, arguments, ambient=ambient, functions=functions, texts=texts)


def read_secret(ports: Ports, source: str) -> str:
    assert ports.secrets is not None
    return ports.secrets.read(source)


async def open_sandbox(ports: Ports, spec: EnvironmentSpec) -> SandboxSession:
    assert ports.sandboxes is not None
    return await ports.sandboxes.open(spec)


async def open_tools(ports: Ports, spec: str) -> ToolConnection:
    assert ports.tools is not None
    return await ports.tools.open(spec)

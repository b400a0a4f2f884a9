"""Guards: which ones look at an operation, and what their decisions come to.

A guard is data and one callable (its `when` body, which the evaluator hands in); this file neither parses nor
evaluates. Every filter that parses fires: labels are matched against what was declared and what is tainted, operations
at every level of their name (`op:cmd`, `op:cmd:git`, `op:cmd:git:push`). Decisions rank deny > retry > allow with a
value > allow; a guard that raises, or that answers with what it may not do, has denied."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

from interpreter.declarations import Place
from interpreter.errors import MlldError
from interpreter.labels import Labels, ProtectedLabel, is_protected
from interpreter.names import same_name
from interpreter.policy import Allowed, under
from interpreter.policy import Decision as PolicyDecision
from interpreter.policy_patterns import ALIASES, nearest
from interpreter.policy_subjects import Operation

Moment = Literal["before", "after"]
Timing = Literal["before", "after", "always"]
FilterKind = Literal["label", "operation", "function"]
VerdictKind = Literal["allow", "deny", "retry", "transform"]

# What may follow `op:`, and how many more levels its name can have.
_OPERATIONS = {
    "cmd": 9, "sh": 0, "js": 0, "node": 0, "py": 0, "mcp": 2, "exe": 0, "run": 0, "show": 0, "output": 0, "log": 0,
    "append": 0, "read": 0, "network": 0, "secret": 0, "template": 0,
    "var": 0,
}  # fmt: skip
_CODE = ("sh", "js", "node", "py")
# What a script does without a guard being asked, with the operation at which one is.
UNGUARDED = {"load": "read", "let": "var", "prose": "exe"}
SOURCES = (
    "cmd", "sh", "js", "node", "py", "file", "user", "mcp", "network", "keychain", "env", "exe", "template", "dynamic",
    "git",
)  # fmt: skip


class Guarded(NamedTuple):
    """A value under guard with what is known about it; `value` belongs to the evaluator."""

    value: object
    labels: Labels


class GuardCall(NamedTuple):
    """What a guard sees: `@input` (one value, or all for a guard on operations), `@output` after, `@mx.guard.try`."""

    operation: Operation
    moment: Moment
    inputs: tuple[Guarded, ...]
    subject: Guarded | None = None  # the one input that a label filter matched
    output: Guarded | None = None
    attempt: int = 1
    hints: tuple[str, ...] = ()  # of the retries before
    arguments: tuple[
        Guarded, ...
    ] = ()  # `@mx.args`: all inputs, also where `inputs` is the one that a label filter matched


class Allow(NamedTuple):
    """`allow`, `allow V`, and the changes of labels that privileged guards may make."""

    value: object = None
    replaces: bool = False  # whether `value` takes the place of what was guarded
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    warning: str = ""


class Deny(NamedTuple):
    """`deny "…"`, the reason already interpolated."""

    reason: str


class Retry(NamedTuple):
    """`retry "…"`."""

    hint: str


class UseEnvironment(NamedTuple):
    """`env V`: do it in that environment."""

    config: object


GuardDecision = Allow | Deny | Retry | UseEnvironment | None  # None: no branch matched


@dataclass(frozen=True, kw_only=True)
class Guard:
    """A declared guard."""

    decide: Callable[[GuardCall], Awaitable[GuardDecision]]
    kind: FilterKind
    filter: str  # `secret`, `cmd:git` (without `op:`), `deleteFile` (without `@`)
    name: str | None = None  # without `@`
    timing: Timing = "before"
    privileged: bool = False
    place: Place | None = None

    def __str__(self) -> str:
        """The rule as a denial names it: `guard @noSecrets (index.mld:12:1)`."""
        label = f"guard @{self.name}" if self.name else f"guard {self.timing} {self.written}"
        return f"{label} ({self.place})" if self.place else label

    @property
    def written(self) -> str:
        """The filter as a script spells it."""
        return {"label": "", "operation": "op:", "function": "@"}[self.kind] + self.filter

    def watches(self, moment: Moment) -> bool:
        return self.timing in (moment, "always")

    def concerns(self, operation: Operation) -> bool:
        """Whether the filter matches the operation itself, whatever flows in."""
        match self.kind:
            case "function":
                return operation.is_call and bool(operation.name) and same_name(self.filter, operation.name)
            case "operation":
                for wanted, below in self._wanted:
                    for name in operation.guarded_as:
                        if name == wanted or name.startswith(below):
                            return True
                return False
            case "label":
                return any(under(self.filter, label) for label in operation.labels)

    @cached_property
    def _wanted(self) -> tuple[tuple[str, str], ...]:
        """The operations of the filter, in each spelling that they have; with each, how the names of those below it begin."""
        spelt = dict.fromkeys(f"op:{name}" for name in (self.filter, canonical(self.filter)))
        names = dict.fromkeys(name.removesuffix(":*") for name in spelt)
        return tuple((name, f"{name}:") for name in names)

    def asks_after(self, operation: Operation, output: Labels, inputs: Iterable[Labels]) -> bool:
        """Whether the filter matches what came out of an operation. Labels of a function are those of what its call gives, and
        what the whole body of a function gives is what its call gives.
        """
        if self.kind == "operation" or operation.is_call:
            own = operation if operation.is_call else replace(operation, labels=())
            if self.concerns(own):
                return True
        return not operation.body and (self.flags(output) or any(self.flags(each) for each in inputs))

    def flags(self, labels: Labels) -> bool:
        """Whether a label filter matches data: what was declared, all its taint, and the tools that it came through."""
        return self.kind == "label" and any(under(self.filter, label) for label in labels.marks)


class Heard(NamedTuple):
    """What one guard said: a step of `@mx.guard.trace`."""

    guard: Guard
    decision: GuardDecision
    call: GuardCall  # what it was asked about
    replacement: Guarded | None = None  # what went on to the next guard in the place of its input

    @property
    def kind(self) -> VerdictKind:
        match self.decision:
            case Deny():
                return "deny"
            case Retry():
                return "retry"
        return "allow" if self.replacement is None else "transform"


class Verdict(NamedTuple):
    """What the guards decided about one operation. `inputs` and `output` are what goes on, changed or not."""

    kind: VerdictKind = "allow"
    rule: str = ""
    reason: str = ""
    place: Place | None = None
    inputs: tuple[Guarded, ...] = ()
    output: Guarded | None = None
    privileged: bool = False  # a privileged guard allowed it in so many words: lifts label rules of policy
    warnings: tuple[str, ...] = ()
    environment: object = None  # of `env V`
    heard: tuple[Heard, ...] = ()  # every guard that was asked, in order


@dataclass(frozen=True, kw_only=True)
class Guards:
    """The guards in force, in order of declaration: policy's own first, then imported ones, then local ones."""

    all: tuple[Guard, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.all)

    def __or__(self, other: Guards | Guard) -> Guards:
        if isinstance(other, Guard):
            return Guards(all=(*self.all, other))
        known = set(map(id, self.all))  # two modules may share an imported guard: it judges once
        return Guards(all=(*self.all, *(guard for guard in other.all if id(guard) not in known)))

    def without(self, *, names: Iterable[str] = (), only: Iterable[str] | None = None) -> Guards:
        """`with { guards: { except: […] } }` or `{ only: […] }`; `only=()` is `guards: false`. Privileged guards
        stay.
        """
        dropped = {name.removeprefix("@") for name in names}
        kept = None if only is None else {name.removeprefix("@") for name in only}
        return Guards(
            all=tuple(
                guard for guard in self.all
                if guard.privileged or (guard.name not in dropped if kept is None else guard.name in kept)
            )
        )  # fmt: skip

    def about(self, operation: Operation) -> Guards:
        """The guards whose filter names the operation itself: those that are asked where no value is judged."""
        return Guards(all=tuple(guard for guard in self.all if guard.kind == "operation" and guard.concerns(operation)))

    async def before(
        self, operation: Operation, inputs: Sequence[Guarded], *, attempt: int = 1,
        hints: tuple[str, ...] = (), settled: Sequence[Guard] = (),
    ) -> Verdict:  # fmt: skip
        """What is decided before it happens. Each guard changes what the one before it let through, so that a redaction is
        not lost in the next change; but each is asked about the original too, so that no change hides what it denies.

        `settled` are those that changed an argument of the function whose body this is: they decide about the body too, but
        what they put in the place of an argument must not take the place of the command that is made of it.
        """
        given = tuple(inputs)
        result = _Tally(inputs=given)
        call = GuardCall(
            operation=operation, moment="before", inputs=given, attempt=attempt, hints=hints, arguments=given
        )
        for guard in self.all:
            if not guard.watches("before"):
                continue
            if guard.concerns(operation):
                now = call if result.inputs is given else call._replace(inputs=result.inputs, arguments=result.inputs)
                said = await _ask_of_both(guard, call, now)
                result.hear(now, guard, _unchanging(said) if guard in settled else said, None)
            else:
                for index, each in enumerate(inputs):
                    if guard.flags(each.labels):
                        changed = result.inputs[index]
                        first = call._replace(subject=each, inputs=(each,))
                        second = first
                        if changed is not each:
                            second = call._replace(subject=changed, inputs=(changed,), arguments=result.inputs)
                        said = await _ask_of_both(guard, first, second)
                        result.hear(second, guard, _unchanging(said) if guard in settled else said, index)
        return result.verdict()

    async def after(
        self, operation: Operation, inputs: Sequence[Guarded], output: Guarded, *, attempt: int = 1,
        hints: tuple[str, ...] = (),
    ) -> Verdict:  # fmt: skip
        """What is decided about the result. Each guard sees what the one before it let through."""
        result = _Tally(inputs=tuple(inputs), output=output)
        for guard in self.all:
            if not guard.watches("after") or result.output is None:
                continue
            if guard.asks_after(operation, result.output.labels, (each.labels for each in inputs)):
                call = GuardCall(
                    operation=operation, moment="after", inputs=tuple(inputs), output=result.output,
                    subject=result.output, attempt=attempt, hints=hints, arguments=tuple(inputs),
                )  # fmt: skip
                result.hear(call, guard, await _ask(guard, call), None)
        return result.verdict()


NO_GUARDS = Guards()


def settle(policy: PolicyDecision, verdict: Verdict) -> PolicyDecision:
    """Policy and guards together: an explicit allow of a privileged guard lifts a label rule, never anything harder."""
    if isinstance(policy, Allowed) or not (policy.overridable and verdict.privileged):
        return policy
    return Allowed(reason=f"{policy.reason}: lifted by {verdict.rule}")


def _unchanging(decision: GuardDecision) -> GuardDecision:
    """The decision without what it would change."""
    return Allow(warning=decision.warning) if isinstance(decision, Allow) else decision


async def _ask(guard: Guard, call: GuardCall) -> GuardDecision:
    try:
        return await guard.decide(call)
    except MlldError as error:
        return Deny(reason=f"the guard failed: {error.message}")
    except Exception as error:  # whatever went wrong in a guard, the answer is no (P9)
        return Deny(reason=f"the guard failed: {type(error).__name__}")


async def _ask_of_both(guard: Guard, original: GuardCall, current: GuardCall) -> GuardDecision:
    """The decision about the inputs as they are now, unless the original ones are denied."""
    about_original = await _ask(guard, original)
    if current is original or isinstance(about_original, Deny):
        return about_original
    return await _ask(guard, current)


class _Tally:
    """Decisions of one operation as they come in."""

    def __init__(self, *, inputs: tuple[Guarded, ...], output: Guarded | None = None) -> None:
        self.inputs = inputs
        self.output = output
        self.denied: tuple[Guard, str] | None = None
        self.retried: tuple[Guard, str] | None = None
        self.changed: Guard | None = None
        self.lifted: Guard | None = None
        self.environment: object = None
        self.warnings: list[str] = []
        self.heard: list[Heard] = []

    def hear(self, call: GuardCall, guard: Guard, decision: GuardDecision, index: int | None) -> None:
        replacement = None
        match decision:
            case Deny(reason=reason):
                self.denied = self.denied or (guard, reason)
            case Retry(hint=hint):
                self.retried = self.retried or (guard, hint)
            case UseEnvironment(config=config):
                self.environment = config
            case Allow():
                try:
                    replacement = self._allow(guard, decision, index)
                except (ProtectedLabel, ValueError) as error:
                    decision = Deny(reason=str(error))
                    self.denied = self.denied or (guard, decision.reason)
            case None:
                pass
        self.heard.append(Heard(guard=guard, decision=decision, call=call, replacement=replacement))

    def _allow(self, guard: Guard, decision: Allow, index: int | None) -> Guarded | None:
        """Take over what an `allow` changes: the changed value, if it is one."""
        if guard.privileged:
            self.lifted = guard
        if decision.warning:
            self.warnings.append(decision.warning)
        if not (decision.replaces or decision.add or decision.remove):
            return None
        _may_remove(guard, decision.remove)
        if self.output is None and not self.inputs:
            return None  # there is nothing that could be changed
        self.changed = guard
        if self.output is not None:
            self.output = _changed(self.output, guard, decision, decision.value)
            return self.output
        if index is not None:
            self._put(index, _changed(self.inputs[index], guard, decision, decision.value))
            return self.inputs[index]
        values: Sequence[object] = (decision.value,)
        if decision.replaces and len(self.inputs) != 1:
            if not isinstance(decision.value, list | tuple) or len(decision.value) != len(self.inputs):
                raise ValueError(f"allow must give all {len(self.inputs)} inputs as a list")
            values = decision.value
        for at, each in enumerate(self.inputs):
            self._put(at, _changed(each, guard, decision, values[at] if decision.replaces else None))
        return self.inputs[0] if len(self.inputs) == 1 else None

    def _put(self, index: int, value: Guarded) -> None:
        self.inputs = (*self.inputs[:index], value, *self.inputs[index + 1 :])

    def verdict(self) -> Verdict:
        kind: VerdictKind = "allow"
        guard, reason = self.lifted or self.changed, ""
        if self.denied:
            kind, (guard, reason) = "deny", self.denied
        elif self.retried:
            kind, (guard, reason) = "retry", self.retried
        elif self.changed:
            kind, guard = "transform", self.changed
        return Verdict(
            kind=kind, rule=str(guard) if guard else "", reason=reason, place=guard.place if guard else None,
            inputs=self.inputs, output=self.output, privileged=self.lifted is not None and kind in ("allow", "transform"),
            warnings=tuple(self.warnings), environment=self.environment, heard=tuple(self.heard),
        )  # fmt: skip


def _may_remove(guard: Guard, removed: Sequence[str]) -> None:
    """Errors: `ProtectedLabel` if a guard without privilege takes labels away, whichever they are."""
    if guard.privileged or not removed:
        return
    who = f"Guard {guard.name or guard.filter}"
    protected = next((label for label in removed if is_protected(label)), None)
    if "*" in removed:
        raise ProtectedLabel(f"{who} cannot clear labels without privilege: declare it `guard privileged`")
    if protected is not None:
        raise ProtectedLabel(f"{who} cannot remove protected label '{protected}': declare it `guard privileged`")
    raise ProtectedLabel(f"{who} cannot remove labels without privilege: declare it `guard privileged`")


def _changed(guarded: Guarded, guard: Guard, decision: Allow, value: object) -> Guarded:
    """The value and labels that go on. What a guard puts in the place of a value keeps the labels of that value."""
    labels = guarded.labels.without(*decision.remove, privileged=guard.privileged)
    for label in decision.add:
        labels = labels.trust(privileged=guard.privileged) if label == "trusted" else labels.declare(label)
    return Guarded(value=value if decision.replaces else guarded.value, labels=labels)


def canonical(name: str) -> str:
    """The one spelling of an operation, without its `op:`: `bash` is `sh`."""
    head, colon, rest = name.partition(":")
    kind = ALIASES.get(head)
    return f"{kind}{colon}{rest}" if kind in _CODE else name


def filter_fault(kind: FilterKind, name: str) -> tuple[str, str] | None:
    """Why a filter can never match, whatever a script holds, with a hint; None where that cannot be said."""
    head, *rest = canonical(name).split(":") if kind == "operation" else name.split(":")
    levels = _OPERATIONS.get(head)
    if kind == "operation" and levels is not None and len([part for part in rest if part != "*"]) > levels:
        more = f"{levels} further levels" if levels else "no further level"
        return f"op:{name} can match nothing: op:{head} has {more}", f"write op:{head}"
    if kind == "label" and head == "src" and rest and rest[0] not in SOURCES:
        close = nearest(rest[0], SOURCES)
        hint = f"did you mean src:{close}?" if close else f"sources are {', '.join(SOURCES)}"
        return f"no value ever has the label {name}", hint
    return None

"""The guards and the policy of a module inside the sidecar: asked about each message by itself, without any power.

The module travels as text. It is declared here once, with nothing but its own files to read, under limits of steps and
time; afterwards every judgement evaluates guards in a scope of its own. Two judgements share nothing that changes, so
no verdict can meet another call (A21)."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from interpreter.declarations import McpConfig, Profile, ProfileChoice
from interpreter.environment import denied_tool
from interpreter.errors import MlldError
from interpreter.evaluate.sources import reachable
from interpreter.globs import glob_pattern
from interpreter.guards import Guard, Guarded, Guards, Verdict, settle
from interpreter.labels import Labels, from_flat
from interpreter.module_messages import OF_TASKS, Unfit, plain, put_back, text_of
from interpreter.module_read import ReadModule, mcp_config_of, read_module
from interpreter.names import camel, same_name
from interpreter.policy import (
    Decision,
    Denied,
    Policy,
    added_labels,
    confining,
    effective_taint,
    judge,
    under,
    withdrawn,
)
from interpreter.policy_parse import from_json
from interpreter.policy_rules import confined
from interpreter.policy_subjects import Operation
from interpreter.ports import Ports
from interpreter.values import Value

T = TypeVar("T")
ROOT = Path("/module")
MANIFEST = "module.yml"
_MOST_KNOWN = 256
# What a server asks of the agent: its text comes from the server, whatever the request's own labels are.
FROM_SERVERS = ("sampling/createMessage", "elicitation/create")


@dataclass(frozen=True, kw_only=True)
class ModuleVerdict:
    """What is to become of a message. `labels` are those that the judgement adds to the result."""

    kind: Literal["allow", "deny", "retry", "transform"] = "allow"
    value: object = None
    rule: str | None = None
    reason: str | None = None
    labels: frozenset[str] = frozenset()


ALLOWED = ModuleVerdict()
_NOTHING: frozenset[str] = frozenset()
# What an agent can do about a label: nothing that would take it away.
_GO_ON = (
    "What was read cannot be unread, so this stays closed: go on without it, and say in the answer what is left to do"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """What is the same in every judgement about one name and one set of labels, whatever the message says."""

    operation: Operation
    incoming: Labels
    forbidden: str | None
    decision: Decision
    added: frozenset[str]
    watched: bool
    """Whether any guard looks at what comes back."""


def _in_force(read: ReadModule, profile: str | None) -> None:
    """Lets every module that came along see the profile. It was chosen where the run was planned and is a fact by now:
    a script may have it from a module that it imports.
    """
    if profile is None:
        read.choose()
        return
    for module in reachable(read.module):
        declared = next((p for p in module.profiles if p.name == profile), Profile(name=profile))
        module.chosen = ProfileChoice(profile=declared, reason="asked for")


@dataclass(frozen=True, kw_only=True)
class ModuleGuards:
    """The judgement of one module. `active` is False when it has nothing to say about messages."""

    guards: Guards
    policy: Policy
    mcp: McpConfig = field(default_factory=McpConfig)
    _known: dict[object, _Asked] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def load(
        cls, files: Mapping[str, str], entry: str, profile: str | None, policy: Mapping[str, object]
    ) -> ModuleGuards:
        """Declares the module. Errors: `MlldError`; a module that cannot be read must not be served without its
        guards.
        """
        return _finished(cls._load(files, entry, profile, policy))

    @classmethod
    async def _load(
        cls, files: Mapping[str, str], entry: str, profile: str | None, policy: Mapping[str, object]
    ) -> ModuleGuards:
        composed = from_json(policy) if policy else Policy()
        ports = Ports(output=_Silent(), clock=_Clock(), files=MemoryFiles(files, ROOT))
        # An environment module travels with its manifest. Without one it is a script, whose effects were had where it runs.
        module = await read_module(
            ROOT / entry, root=ROOT, project=ROOT, ports=ports, policy=composed, script=MANIFEST not in files
        )
        _in_force(module, profile)
        guards = module.module.guards
        for used in reachable(module.module):
            if used.is_environment:
                guards = guards | used.guards
        mcp = await mcp_config_of(module)
        for used in reachable(module.module):
            used.scope.sealed = True
        return cls(
            guards=guards,
            # What travelled is composed of the module's own policy and its caller's, with the places of their sources.
            policy=composed if composed.layers else module.module.policy,
            mcp=mcp,
        )

    @cached_property
    def active(self) -> bool:
        return bool(self.guards) or any(
            layer.labels or layer.rules or layer.default == "deny"
            or any(entry.pattern.kind in ("mcp", "*") for entry in (*layer.deny, *(layer.allow or ())))
            or layer.env.tools.deny or layer.env.tools.allow is not None
            or layer.env.mcps.deny or layer.env.mcps.allow is not None
            for layer in self.policy.layers
        )  # fmt: skip

    async def judge(
        self,
        direction: Literal["request", "result"],
        method: str,
        server: str,
        name: str,
        value: Any,
        labels: frozenset[str],
        tool_labels: frozenset[str] = frozenset(),
    ) -> ModuleVerdict:
        """The verdict about one message. It never raises: what goes wrong in a guard is a denial.

        `labels` are of the data, `tool_labels` what the endpoint knows of the tool.
        """
        asked = self._asked(direction, method, server, name, labels, tool_labels)
        if direction == "request":
            return await self._request(asked, value)
        return await self._result(asked, method, value)

    def watches(self, method: str, server: str, name: str, labels: frozenset[str]) -> bool:
        """Whether any guard looks at what comes back: if none does, nobody needs to read it."""
        return self._asked("result", method, server, name, labels, _NOTHING).watched

    def _asked(
        self, direction: str, method: str, server: str, name: str, labels: frozenset[str], tool_labels: frozenset[str]
    ) -> _Asked:
        key = (direction, method, server, name, labels, tool_labels)
        known = self._known.get(key)
        if known is None:
            from_server = direction == "result" or method in FROM_SERVERS
            incoming = from_flat(sorted(labels | {"src:mcp"} if from_server else labels))
            is_tool = method == "tools/call" or (direction == "result" and method in OF_TASKS)
            operation = self._operation(method, server, name, incoming, tool_labels, is_tool=is_tool)
            known = _Asked(
                operation=operation,
                incoming=incoming,
                forbidden=denied_tool(self.policy, server, name) if method == "tools/call" else None,
                decision=judge(self.policy, operation),
                added=frozenset(added_labels(self.policy, operation)),
                watched=any(
                    guard.watches("after") and (guard.concerns(operation) or guard.flags(incoming))
                    for guard in self.guards.all
                ),
            )
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[key] = known
        return known

    def _operation(
        self, method: str, server: str, name: str, incoming: Labels, tool_labels: frozenset[str], *, is_tool: bool
    ) -> Operation:
        return Operation(
            kind="mcp",
            name=camel(name) if is_tool else name,
            server=server,
            tool=name if is_tool else method,
            labels=tuple(dict.fromkeys((*self._labels_of(server, name), *sorted(tool_labels)))) if is_tool else (),
            inputs=(incoming,),
            parameters=("arguments",),
        )

    def _labels_of(self, server: str, tool: str) -> tuple[str, ...]:
        """What the module declares the tool to be: the labels that rules and guards see on the operation."""
        found: dict[str, None] = {}
        for spec in self.mcp.servers:
            if spec.name == server:
                for name, labels in spec.labels.items():
                    if same_name(name, tool) or fnmatchcase(tool, name):
                        found.update(dict.fromkeys(labels))
        for binding in self.mcp.bindings:
            if binding.server == server and same_name(binding.tool, tool):
                found.update(dict.fromkeys(binding.labels))
        return tuple(found)

    async def _request(self, asked: _Asked, value: Any) -> ModuleVerdict:
        operation, incoming = asked.operation, asked.incoming
        if asked.forbidden:
            reason = f"tool '{operation.tool}' is not permitted in environments"
            return ModuleVerdict(kind="deny", rule=asked.forbidden, reason=reason)
        verdict = await self.guards.before(operation, (Guarded(value=Value(value, incoming), labels=incoming),))
        if verdict.kind in ("deny", "retry"):
            return _refused(verdict)
        decision = settle(asked.decision, verdict)
        if isinstance(decision, Denied):
            reason = f"{decision.reason}. {_GO_ON}" if decision.label else decision.reason
            return ModuleVerdict(kind="deny", rule=str(decision), reason=reason)
        extra = asked.added | _new(verdict.inputs[0], incoming)
        if verdict.kind == "transform":
            changed = plain(verdict.inputs[0].value)
            if not isinstance(changed, dict):
                return ModuleVerdict(
                    kind="deny", rule=verdict.rule, reason="the guard's value is no object of arguments"
                )
            return ModuleVerdict(kind="transform", value=changed, rule=verdict.rule, labels=extra)
        return ModuleVerdict(rule=verdict.rule or None, labels=extra) if extra or verdict.rule else ALLOWED

    async def _result(self, asked: _Asked, method: str, value: Any) -> ModuleVerdict:
        operation, incoming = asked.operation, asked.incoming
        shown = text_of(value)
        inputs = (Guarded(value=Value(None), labels=Labels()),)
        verdict = await self.guards.after(operation, inputs, Guarded(value=Value(shown, incoming), labels=incoming))
        if verdict.kind in ("deny", "retry"):
            return _refused(verdict)
        assert verdict.output is not None
        extra = _new(verdict.output, incoming)
        if verdict.kind == "transform":
            changed = plain(verdict.output.value)
            if changed != shown:
                try:
                    whole = put_back(value, method, changed)
                except Unfit as error:
                    return ModuleVerdict(kind="deny", rule=verdict.rule, reason=str(error))
                return ModuleVerdict(kind="transform", value=whole, rule=verdict.rule, labels=extra)
        return ModuleVerdict(rule=verdict.rule or None, labels=extra) if extra or verdict.rule else ALLOWED

    # --- what labels take away from whoever has seen them

    @property
    def narrows(self) -> bool:
        """Whether some label withdraws anything."""
        return any(layer.labels for layer in self.policy.layers) or any(map(confined, self.policy.rules))

    @property
    def run_wide(self) -> bool:
        """Whether what one session has seen counts in every session of the run."""
        return self.policy.run_wide

    def telling(self, labels: frozenset[str]) -> frozenset[str]:
        """What of the labels, as the policy counts them, it depends on what is withdrawn."""
        seen = effective_taint(self.policy, from_flat(sorted(labels)))
        lifting = (guard.filter.removesuffix(":*") for guard in self._lifting if guard.kind == "label")
        return confining(self.policy, seen, lifting)

    def withdrawn(
        self, method: str, server: str, name: str, telling: frozenset[str], tool_labels: frozenset[str] = frozenset()
    ) -> ModuleVerdict | None:
        """The denial that every such request now gets; None while it depends on more than the labels.

        `telling` is what `telling` made of the labels that the agent has seen.
        """
        seen = sorted(telling)
        is_tool = method == "tools/call"
        operation = self._operation(method, server, name, from_flat(seen), tool_labels, is_tool=is_tool)
        denied = withdrawn(self.policy, operation, seen)
        if denied is None:
            return None
        asked = any(guard.concerns(operation) for guard in self._lifting) or any(map(self._may_lift, seen))
        if denied.overridable and asked:
            return None  # what a privileged guard says depends on the call
        return ModuleVerdict(kind="deny", rule=str(denied), reason=f"{denied.reason}. {_GO_ON}")

    def _may_lift(self, label: str) -> bool:
        return any(guard.kind == "label" and under(guard.filter, label) for guard in self._lifting)

    @cached_property
    def _lifting(self) -> tuple[Guard, ...]:
        return tuple(guard for guard in self.guards.all if guard.privileged and guard.watches("before"))


def _refused(verdict: Verdict) -> ModuleVerdict:
    kind: Literal["deny", "retry"] = "deny" if verdict.kind == "deny" else "retry"
    return ModuleVerdict(kind=kind, rule=verdict.rule, reason=verdict.reason)


def _new(guarded: Guarded, before: Labels) -> frozenset[str]:
    if guarded.labels is before:
        return _NOTHING
    return frozenset(guarded.labels.taint) - frozenset(before.taint)


class MemoryFiles:
    """The files of a module that travelled as text (`ports.FilePort`)."""

    def __init__(self, files: Mapping[str, str], root: Path) -> None:
        self._files = {root / name: text.encode() for name, text in files.items()}

    def read(self, path: Path) -> bytes:
        try:
            return self._files[path]
        except KeyError:
            raise FileNotFoundError(str(path)) from None

    def write(self, path: Path, data: bytes, *, append: bool = False) -> None:
        raise PermissionError("nothing can be written here")

    def glob(self, root: Path, pattern: str) -> Sequence[Path]:
        fits = glob_pattern(pattern)
        below = (path for path in self._files if path.is_relative_to(root))
        return sorted(path for path in below if fits.fullmatch(path.relative_to(root).as_posix()))

    def exists(self, path: Path) -> bool:
        return path in self._files or self.is_dir(path)

    def is_dir(self, path: Path) -> bool:
        return any(path in file.parents for file in self._files)


class _Silent:
    """An output that nobody reads: what a module shows while it is declared (`ports.Output`)."""

    def document(self, text: str) -> None: ...

    def stdout(self, text: str) -> None: ...

    def stderr(self, text: str) -> None: ...

    def event(self, event: object) -> None: ...


class _Clock:
    """Time passes (`ports.Clock`)."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        raise MlldError("a module cannot wait while it is declared")


def _finished(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, for a caller that cannot wait: in a thread of its own where a loop is running
    already.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    result: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(asyncio.run(work))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="mlld-module")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]

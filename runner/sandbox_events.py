"""What the seats of a run say, understood: facts of the self-test, states, calls, egress, last words.

Everything goes to the sink. A sink that cannot keep it, a sidecar or an agent that ends, stop the run.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from runner.backends.base import Stream
from runner.backends.lines import LONGEST_LINE
from runner.errors import (
    FenceBroken,
    OutOfMemory,
    RunnerError,
    SandboxFailure,
    ServerFailed,
    ServerSilent,
    ToolChanged,
    ToolUnknown,
)
from runner.plan import AGENT, SIDECAR, SandboxPlan
from runner.selftest import SelfTest

_KEPT_WORDS = 4000  # last words of a seat's stderr, for error messages
_LOG_BUDGET = 1 << 20  # bytes of stderr per seat that the record takes: a server cannot fill the disk with it
_LONGEST_LOG_LINE = 4096
_EVENT_ON_ITS_WAY = 5.0  # seconds
_CANARY_EXIT = 97


class Sink(Protocol):
    """Where events go: the record of the run."""

    def append(self, event: str, /, **fields: object) -> None:
        """Errors: any; the run stops then."""
        ...


@dataclass(kw_only=True)
class Hearing:
    """Hears all seats of one run (`backends.base.Listener`)."""

    plan: SandboxPlan
    sink: Sink
    fail: Callable[[Exception], None]
    mask: Callable[[bytes], bytes]  # strikes out what the members were handed
    # Called with a login that replaces the one which was handed over.
    on_credential: Callable[[str, Mapping[str, Any]], None] = lambda *_: None
    remember: Callable[[Mapping[str, Any]], None] = lambda _: None  # takes what servers offer
    selftest: SelfTest = field(init=False)
    witnessed: list[Mapping[str, Any]] = field(default_factory=list)  # what the agent got to see
    pins: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # what a lock is made of, if it was asked for
    own_sessions: set[str] = field(default_factory=set)  # with the endpoint, which are not the agent's
    _opened: set[str] = field(default_factory=set)
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _unfinished: set[tuple[str, Stream]] = field(default_factory=set)  # streams in the middle of an endless line
    _words: dict[str, bytearray] = field(default_factory=lambda: defaultdict(bytearray))
    _logged: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _troubles: list[Mapping[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.selftest = SelfTest(plan=self.plan)

    # ---------------------------------------------------------------------------------------------------- what is said

    def line(self, member: str, stream: Stream, line: bytes) -> None:
        event = _event(line) if stream == "stdout" else None
        if event is None:
            if (member, stream) not in self._unfinished:
                self._log(member, line)
            # What follows belongs to the same line, of which the beginning was kept; a secret may be cut in two there.
            (self._unfinished.add if len(line) >= LONGEST_LINE else self._unfinished.discard)((member, stream))
        elif member == SIDECAR:
            self._from_sidecar(event["event"], event)
        else:
            self._from_bridge(member, event["event"], event)
        self._news.set()

    def ended(self, member: str, exit_code: int, oom: bool) -> None:
        self._tell("state", member=member, state="ended", exit=exit_code, oom=oom)
        self._news.set()
        if member in (AGENT, SIDECAR) or not self.selftest.complete:
            self.fail(self._why(member, exit_code, oom))

    def oom(self, member: str) -> None:
        self._tell("oom", member=member)

    def _from_bridge(self, member: str, kind: str, event: Mapping[str, Any]) -> None:
        if (fact := self.selftest.take(member, event)) is not None:
            self._tell("canary", member=member, name=fact.name, ok=fact.ok, saw=fact.saw)
        elif kind == "canary-done":
            self._tell("state", member=member, state="fenced", ms=event.get("ms"))
        elif kind in ("spawn", "exit"):
            fields = {key: event[key] for key in ("pid", "code", "signal") if key in event}
            self._tell("state", member=member, state="running" if kind == "spawn" else "exited", **fields)

    def _from_sidecar(self, kind: str, event: Mapping[str, Any]) -> None:
        self.selftest.take(SIDECAR, event)
        fields = {key: value for key, value in event.items() if key not in ("event", "t", "n")}
        match kind:
            case "ready":
                self._tell("state", member=SIDECAR, state="ready", ms=event.get("ms"))
                return
            case "credential":
                # The one event that is a secret: it is handed on, and never kept with the others.
                self.on_credential(str(event.get("server")), event.get("credential") or {})
                return
            case "canary":
                fields["member"] = SIDECAR
            case "session" if event.get("state") == "opened":
                self._opened.add(str(event.get("session")))
            case "server" if event.get("state") == "failed":
                self._troubles.append(event)
            case "error" if event.get("kind") == "unknown-tool":
                self._troubles.append(event)
            case "denied" if event.get("rule") == "pin":
                self._troubles.append(event)
            case "pins":
                self.pins[str(event.get("server"))] = event.get("tools") or {}
                return
            case "offers":
                told = msgspec.json.encode(fields)
                if self.mask(told) == told:  # a server may write into a list what it was handed
                    self.remember(fields)
                return
            case "call" if event.get("session") not in self.own_sessions and _reached(event):
                self.witnessed.append(event)
            case "egress" if event.get("member") == AGENT and event.get("decision") == "allow":
                self.witnessed.append(event)
        self._tell(kind, at=event.get("t"), **fields)

    # ------------------------------------------------------------------------------------------------- what follows

    async def tested(self) -> None:
        """Returns once every seat has finished its self-test."""
        while not self.selftest.complete:
            self._news.clear()
            await self._news.wait()

    async def session(self, id: str) -> None:
        """Returns once the sidecar has told of this session, and so of everything before it."""
        try:
            async with asyncio.timeout(_EVENT_ON_ITS_WAY):
                while id not in self._opened:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise SandboxFailure("the sidecar does not tell what it does, so its record cannot be trusted") from None

    def startup_trouble(self) -> RunnerError | None:
        """Why a server is not what it was declared to be, in the words for its author."""
        for event in self._troubles:
            name = str(event.get("server"))
            place = next((s.place for s in self.plan.servers if s.name == name), None)
            if event.get("kind") == "unknown-tool":
                text = str(event.get("error"))
                wrong = re.search(r"names '([^']*)'", text)
                has = text.rpartition("the server has ")[2].split(", ")
                return ToolUnknown(name, wrong[1] if wrong else "?", has, place=place)
            if event.get("rule") == "pin":
                told = str(event.get("reason"))
                tool = "" if event.get("kind") == "instructions" else str(event.get("name"))
                return ToolChanged(name, tool, told, str(event.get("diff", "")), place=place)
            reason = str(event.get("reason")).removeprefix(f"server {name} ").removeprefix(f"server {name}: ")
            if _LATE.search(reason):
                seconds = self.plan.lifecycle.startup_timeout_ms / 1000
                return ServerSilent(name, seconds, self.last_words(name), place=place)
            return ServerFailed(name, reason, self.last_words(name), place=place)
        return None

    def last_words(self, member: str) -> str:
        return bytes(self._words[member]).decode(errors="replace")

    def _why(self, member: str, exit_code: int, oom: bool) -> Exception:
        wrong = self.selftest.wrong(member)
        if oom:
            return OutOfMemory(member, self.plan.container(member).limits.memory_bytes)
        if exit_code == _CANARY_EXIT and wrong:
            return FenceBroken(member, wrong)
        return SandboxFailure(f"{member} ended by itself, with {exit_code}", detail=self.last_words(member))

    def _log(self, member: str, line: bytes) -> None:
        line = self.mask(line)  # before anything is cut: half a secret is not known as one
        words = self._words[member]
        words += line[:_KEPT_WORDS] + b"\n"
        del words[:-_KEPT_WORDS]
        before = self._logged[member]
        line = line[:_LONGEST_LOG_LINE]
        self._logged[member] += len(line) + 1
        if self._logged[member] <= _LOG_BUDGET:
            self._tell("log", member=member, line=line.decode(errors="replace"))
        elif before <= _LOG_BUDGET:
            self._tell("log", member=member, line=f"… more than {_LOG_BUDGET >> 20} MiB: the rest is not kept")

    def _tell(self, event: str, /, **fields: object) -> None:
        try:
            self.sink.append(event, **fields)
        except Exception as error:  # whatever kept it from being kept: nothing may happen unseen
            self.fail(error)


_LATE = re.compile(r"did not connect within|within [0-9.]+ s|timed out|no answer", re.I)


def _event(line: bytes) -> dict[str, Any] | None:
    """The event in a line, or None for a line that is none."""
    try:
        event = msgspec.json.decode(line)
    except msgspec.MsgspecError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


def _reached(event: Mapping[str, Any]) -> bool:
    """Whether something of a server came through to the agent: a denied call taints nothing."""
    return event.get("decision") in ("allow", "transform") and event.get("method") == "tools/call"

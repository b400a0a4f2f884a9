"""A request of the agent on its way through a server, and its result on the way back.

Without guards the result's bytes go out as they came: only the first level of the result is looked at, where `_meta`
gets our labels and loses what a server forged under our name.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, Protocol

import msgspec
from msgspec import Raw, Struct

from images.sidecar import jsonrpc
from images.sidecar.budget import NO_ROOM, Budget
from images.sidecar.catalog import Entry
from images.sidecar.eager import start
from images.sidecar.exchange import Exchange
from images.sidecar.handshake import META
from images.sidecar.jsonrpc import OURS, RawMap
from images.sidecar.narrowing import Sight
from images.sidecar.process import Process
from images.sidecar.receipt import Receipt
from images.sidecar.seams import Audit, Call, Guarding, Verdict
from images.sidecar.trace import PARENT, STATE, RunTrace

_AUDITED_ARGUMENTS, _AUDITED_RESULT = 4096, 2048
_SMALL = 16 << 10
_READER = json.JSONDecoder()
_TEXT_OF_RESULT = re.compile(rb'"text"\s*:\s*"((?:[^"\\]|\\.)*)', re.DOTALL)
_ENVELOPE = frozenset(META + key for key in ("protocolVersion", "clientCapabilities", "clientInfo", "logLevel"))
_keys: dict[str, bytes] = {}
_MARKED = frozenset(("tools/call", "resources/read", "prompts/get", "tasks/result"))
"""Methods whose results are content, and carry labels."""


class Judges(Struct, frozen=True, kw_only=True, eq=False):
    """Who is asked and told about each call."""

    guarding: Guarding
    audit: Audit
    budget: Budget
    result_limit: int
    trace: RunTrace


class Caller(Protocol):
    """Whose request a relay carries."""

    id: str
    modern: bool
    """Speaks 2026-07-28."""
    sight: Sight
    """What was handed to it so far."""

    def envelope(self) -> RawMap:
        """What a stateless server wants in the `_meta` of each request of this caller."""
        ...

    def began(self, relay: Relay) -> None: ...

    def ended(self, relay: Relay) -> None: ...

    def takes(self, relay: Relay, result: RawMap) -> bool:
        """Translates a result between eras, in place; True if it is no answer yet and the caller goes on with it."""
        ...


class Relay(Struct, eq=False):
    """Implements `process.Pending` for a request that came from an agent. Use: `of`."""

    _judges: Judges
    exchange: Exchange
    entry: Entry
    method: str
    _caller: Caller
    _receipt: Receipt
    id: int
    delivered: frozenset[str] = frozenset()
    """Labels of what the agent got to see of the server: none for a call that was denied or lost."""
    process: Process | None = None
    round: int = 0
    """How often the server wanted to know something first."""
    fields: RawMap = {}
    """The params as they were sent, without what was added on the way."""
    _arguments: bytes | None = None
    _error: int | None = None
    _token: Raw | None = None
    _verdict: Verdict | None = None
    _withheld: int = 0
    _progress: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, judges: Judges, exchange: Exchange, entry: Entry, method: str, caller: Caller) -> Relay:
        """The one of an exchange, which it takes the receipt of: the call is told by it, when it ends."""
        receipt, exchange.receipt = exchange.receipt, None
        assert receipt is not None
        relay = cls(judges, exchange, entry, method, caller, receipt, receipt.id)
        caller.began(relay)
        if exchange.held is not None:
            exchange.held.shed = relay.shed
        return relay

    # --- out

    async def judge(self, fields: RawMap) -> RawMap | None:
        """The params as guards leave them; None if they refused, and the agent has been told."""
        spelt = jsonrpc.encode(fields)
        if jsonrpc.countless(spelt):
            self._fail(jsonrpc.INVALID_PARAMS, "Invalid params: they have more values than guards can look at")
            return None
        params = _READER.raw_decode(spelt.decode())[0]  # `json.loads` takes twice the time for what is short
        # Written before it is judged: what a second reading could see differently never leaves, nor what a guard does to
        # its input and does not say.
        judged = jsonrpc.encode(params)
        verdict = self._verdict = await self._judges.guarding.request(self._call(params, self._caller.sight.labels))
        if verdict.kind == "deny":
            self._arguments = _sample(fields, len(spelt))
            self.deny(verdict)
            return None
        return jsonrpc.members(jsonrpc.encode(verdict.value) if verdict.kind == "transform" else judged)

    def refuse(self, rule: str) -> None:
        """A rule closes what was asked for to this agent, because of what it has seen."""
        self._verdict = Verdict(kind="deny", rule=rule, reason="closed by what was read: go on without it")
        self.deny(self._verdict)

    def settle(self) -> None:
        """The answer where no server has to be asked: nothing but yes."""
        self.exchange.result((b"{}",))
        self._audit(2)

    def send(self, process: Process, fields: RawMap) -> None:
        """Puts the request on its way."""
        if self._caller.modern and not process.modern and "requestState" in fields:
            # An older server gave out no state. It would do anew what a ticket of ours that has lapsed stood for.
            self.on_failed(jsonrpc.INVALID_PARAMS, "Invalid requestState")
            return
        number = process.reserve()
        self.process, self.fields = process, fields
        receipt = self._receipt
        onwards = self._judges.trace.onwards(receipt.trace, receipt.span_id)
        if "_meta" in fields or process.modern or onwards:
            fields = fields | {"_meta": Raw(self._meta(fields, number, process, onwards))}
        params = jsonrpc.encode(fields)
        receipt.bytes_in = len(params)
        self._arguments = _sample(fields, len(params))
        if not process.labels >= self.entry.taint:
            process.labels |= self.entry.taint
        if self.method == "tasks/result":
            process.stand(self.method, params, self, number)  # answered when the task ends, whenever that is
        else:
            process.request(number, self.method, params, self)

    def _meta(self, fields: RawMap, number: int, process: Process, onwards: dict[str, str]) -> bytes:
        """The request's `_meta` for this server: our own names dropped, the progress token mapped, the trace as it goes
        on, in its era. Of an envelope only a stateless client's means anything, and only to a stateless server: a
        session has said in its handshake what it is, and its requests cannot say otherwise."""
        given = jsonrpc.members(fields["_meta"]) if "_meta" in fields else {}
        enveloped = self._caller.modern and process.modern
        meta = {
            key: value for key, value in given.items()
            if not key.startswith(OURS) and (enveloped or key not in _ENVELOPE) and key not in (PARENT, STATE)
        }  # fmt: skip
        meta |= {key: Raw(jsonrpc.encode(value)) for key, value in onwards.items()}
        self._token = meta.get("progressToken")
        if self._token is not None:
            meta["progressToken"] = Raw(b"%d" % number)
        if process.modern and not self._caller.modern:
            meta |= self._caller.envelope()
        return jsonrpc.encode(meta)

    def cancel(self, reason: str) -> None:
        """The agent gave up."""
        self._give_up(reason)
        self._fail(jsonrpc.CANCELLED, "Request cancelled")

    def shed(self) -> None:
        """There is no room for the request any more."""
        self._give_up("the sandbox holds too much")
        self._fail(jsonrpc.CROWDED, NO_ROOM)

    def _give_up(self, reason: str) -> None:
        if self.process is not None:
            self.process.cancel(self, reason)
        if self.exchange.task is not None:
            self.exchange.task.cancel()

    # --- back: process.Pending

    def on_result(self, result: RawMap, size: int) -> None:
        if self._caller.takes(self, result):
            return
        guarding = self._judges.guarding
        if guarding.active and guarding.watches(self._returning()):
            copied = {key: Raw(bytes(value)) for key, value in result.items()}
            self.exchange.task = start(self._judge_result(copied, size))
        else:
            self._pass(result, size)

    def on_error(self, error: Raw) -> None:
        if self._judges.guarding.active and self._judges.guarding.watches(self._returning()):
            self.exchange.task = start(self._judge_error(Raw(bytes(error))))
        else:
            self._pass_error(error)

    def _pass_error(self, error: Raw) -> None:
        self.delivered = self.entry.taint
        self.exchange.failed(error)
        self._error = jsonrpc.error_of(error).code
        self._audit(len(bytes(error)), is_error=True, result=bytes(error))

    async def _judge_error(self, error: Raw) -> None:
        """An error carries a server's text too, and a guard that may not see it cannot keep it back."""
        shown = jsonrpc.encode({"content": [{"type": "text", "text": bytes(error).decode()}], "isError": True})
        verdict = await self._judges.guarding.result(self._returning(), shown)
        if verdict.kind == "allow":
            self._pass_error(error)
            return
        reason = verdict.reason if verdict.kind == "deny" else "the server's error is not passed on as it is"
        self._verdict = Verdict(kind="deny", rule=verdict.rule, reason=reason)
        self.deny(self._verdict)

    def on_cut(self, head: bytes, size: int) -> None:
        limit = self._judges.result_limit
        mark = f"[cut by the sandbox: this result has {size} bytes, over the limit of {limit}; ask for less at a time]"
        if self.method != "tools/call":
            self._fail(jsonrpc.INTERNAL_ERROR, mark)
            return
        # What is no whole result cannot be judged, so where guards are it is not shown either.
        watched = self._judges.guarding.active and self._judges.guarding.watches(self._returning())
        shown = [] if watched else [{"type": "text", "text": excerpt(head)}]
        content = [*shown, {"type": "text", "text": mark}]
        meta = b'{%s,"%scut":{"bytes":%d,"limit":%d}}' % (self.entry.mark, OURS.encode(), size, limit)
        self.delivered = self.entry.taint
        parts = (b'{"content":%s,"isError":false,"_meta":%s}' % (jsonrpc.encode(content), meta),)
        self.exchange.result(parts)
        self._audit(size, result=mark.encode())

    def on_failed(self, code: int, message: str) -> None:
        self._fail(code, message)

    def on_progress(self, fields: RawMap) -> None:
        if self._token is None:
            return
        fields["progressToken"] = self._token
        if "message" not in fields or not self._judges.guarding.active:
            self._pass_progress(jsonrpc.encode(fields))
        elif self._progress is None or self._progress.done():  # progress is a state: what comes too soon is passed over
            self._progress = asyncio.get_running_loop().create_task(self._judge_progress(jsonrpc.encode(fields)))

    async def _judge_progress(self, params: bytes) -> None:
        call = msgspec.structs.replace(self._returning(), method="notifications/progress")
        verdict = await self._judges.guarding.result(call, params)
        if verdict.kind == "allow":
            self._pass_progress(params)

    def _pass_progress(self, params: bytes) -> None:
        if not self.exchange.answered:
            self.exchange.send(jsonrpc.notification("notifications/progress", params), droppable=True)
            self._caller.sight.saw(self.entry.taint)

    def on_late(self) -> None:
        self.exchange.commit()

    def on_paused(self) -> None:
        self.exchange.pause()

    # --- answers

    def _pass(self, result: RawMap, size: int) -> None:
        entry = self.entry
        extra = entry.mark if self.method in _MARKED else b""
        self.delivered = entry.taint
        if self._verdict is not None and self._verdict.labels:
            self.delivered |= self._verdict.labels
            extra = b'"%slabels":%s' % (OURS.encode(), jsonrpc.encode(sorted(self.delivered)))
        if self._withheld:
            extra += b'%s"%swithheld":%d' % (b"," if extra else b"", OURS.encode(), self._withheld)
        is_error = "isError" in result and bytes(result["isError"]) == b"true"
        content = result.get("content")
        sample = _head(content, size, _AUDITED_RESULT) if content is not None else b""
        self.exchange.result((result_whole if size <= _SMALL else result_parts)(result, extra))
        self._audit(size, is_error=is_error, result=sample)

    async def _judge_result(self, result: RawMap, size: int) -> None:
        raw = b"".join(result_parts(dict(result), b""))
        before = self._verdict
        verdict = await self._judges.guarding.result(self._returning(), raw)
        if verdict.kind == "deny":
            self._verdict, self._withheld = verdict, len(_items(result))
            self.deny(verdict)
            return
        labels = verdict.labels | (before.labels if before else frozenset())
        if verdict.kind == "allow" and before is not None and before.kind == "transform":
            verdict = before
        self._verdict = Verdict(
            kind=verdict.kind, value=verdict.value, rule=verdict.rule, reason=verdict.reason, labels=labels
        )
        if verdict.kind == "transform" and verdict is not before:
            changed = jsonrpc.members(jsonrpc.encode(verdict.value))
            left = _items(changed)
            self._withheld = sum(item not in left for item in _items(result))
            result = changed
        self._pass(result, size)

    def deny(self, verdict: Verdict) -> None:
        """Tells the agent in words that it can act on."""
        text = f"Denied by {verdict.rule or 'policy'}: {verdict.reason}"
        if self.method == "tools/call":
            content = [{"type": "text", "text": text}]
            denied = {"rule": verdict.rule or "policy", "reason": verdict.reason}
            meta = {f"{OURS}denied": denied, **({f"{OURS}withheld": self._withheld} if self._withheld else {})}
            self.exchange.result((jsonrpc.encode({"content": content, "isError": True, "_meta": meta}),))
        else:
            self.exchange.error(jsonrpc.INVALID_REQUEST, text)
        self._audit(0, is_error=True, result=text.encode())

    def _fail(self, code: int, message: str) -> None:
        self.exchange.error(code, message, {"server": self.entry.member.name})
        self._error = code
        self._audit(0, is_error=True, result=message.encode())

    def _call(self, params: dict[str, Any], labels: frozenset[str]) -> Call:
        return Call(
            id=self.id, session=self._caller.id, server=self.entry.member.name, method=self.method,
            name=self.entry.name, params=params, labels=labels,
        )  # fmt: skip

    def _returning(self) -> Call:
        """The call as those see it who judge what comes back."""
        seen, taint = self._caller.sight.labels, self.entry.taint
        return self._call({}, seen if seen >= taint else seen | taint)

    def _audit(self, size: int, *, is_error: bool = False, result: bytes = b"") -> None:
        self._caller.ended(self)
        entry, verdict, receipt = self.entry, self._verdict, self._receipt
        upstream = entry.member.upstream
        more: dict[str, Any] = {
            "labels": [*entry.labels], "server": upstream.name, "name": entry.name,
            "arguments": self._arguments, "result": result or None,
        }  # fmt: skip
        decision, rule = "allow", None
        if verdict is not None:
            decision, rule = verdict.kind, verdict.rule
            if verdict.labels:
                more["labels"] += sorted(verdict.labels)
        if self._error is not None:
            more["error"] = self._error
        receipt.withheld = self._withheld
        took = receipt.tell("call", size, decision, rule, is_error, more)
        if self.process is not None:
            upstream.health.called(took)


def _items(result: RawMap) -> list[Any]:
    """The pieces of a result, of which a guard may withhold some."""
    try:
        held = next((result[key] for key in ("content", "contents", "messages") if key in result), None)
        items = json.loads(bytes(held)) if held is not None else []
    except ValueError:
        return []
    return items if isinstance(items, list) else []


def _sample(fields: RawMap, size: int) -> bytes | None:
    """The arguments for the record, on one line; one byte over what it keeps tells it that there was more. `size` is that
    of all params.
    """
    arguments = fields.get("arguments")
    return None if arguments is None else jsonrpc.one_line(_head(arguments, size, _AUDITED_ARGUMENTS + 1))


def _head(part: Raw, size: int, most: int) -> bytes:
    """The first bytes of a part of something that has `size` bytes."""
    return bytes(part) if size <= most else bytes(memoryview(part)[:most])


def result_whole(result: RawMap, extra: bytes) -> tuple[bytes]:
    """`result_parts` of what is copied in less time than it takes to keep its parts apart."""
    members = extra
    if (meta := result.pop("_meta", None)) is not None and (foreign := jsonrpc.foreign_meta(meta)):
        members = foreign + b"," + extra if extra else foreign
    spelt = jsonrpc.encode(result)
    if members:
        spelt = b'%s%s"_meta":{%s}}' % (spelt[:-1], b"," if result else b"", members)
    return (spelt,)


def result_parts(result: RawMap, extra: bytes) -> tuple[bytes | memoryview, ...]:
    """A result again, with `extra` members in its `_meta` and without what the server put there under our name."""
    meta = result.pop("_meta", None)
    parts: list[bytes | memoryview] = []
    for key, value in result.items():
        head = _keys.get(key)
        if head is None:
            head = b",%s:" % jsonrpc.encode(key)
            if len(_keys) < 256:
                _keys[key] = head
        parts.append(head if parts else b"{" + head[1:])
        parts.append(memoryview(value))
    members = jsonrpc.foreign_meta(meta)
    if extra:
        members = members + b"," + extra if members else extra
    opening = b"," if parts else b"{"
    if members:
        parts.append(b'%s"_meta":{%s}}' % (opening, members))
    else:
        parts.append(b"}" if parts else b"{}")
    return tuple(parts)


def excerpt(head: bytes) -> str:
    """What can be told of a result that was cut: its first text as far as it is there, else its first bytes."""
    found = _TEXT_OF_RESULT.search(head)
    text = found[1] if found else b""
    for drop in range(min(len(text), 8)):  # an escape or a character may have been cut in two
        try:
            return str(msgspec.json.decode(b'"%s"' % text[: len(text) - drop], type=str))
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    return head[:2048].decode(errors="replace")

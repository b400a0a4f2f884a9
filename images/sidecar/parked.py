"""A call of a stateless agent to a server of the older era, which asks something before it answers.

The server's question becomes an input-required result; the call stays open at the server meanwhile. The agent comes
back with the answers and with the state that we gave it: an unforgeable ticket for the call, nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from msgspec import Raw

from images.sidecar import jsonrpc
from images.sidecar.budget import NO_ROOM, Budget, Held
from images.sidecar.connection import Buffers
from images.sidecar.exchange import Exchange
from images.sidecar.jsonrpc import Malformed, RawMap
from images.sidecar.process import Process
from images.sidecar.relay import Relay

_SECONDS = 600.0
_BREATH_SECONDS = 0.01
_MAX_PARKED, _MAX_QUESTIONS, _MAX_KEY = 64, 16, 256


class Question(msgspec.Struct, eq=False):
    """What a server wants to know."""

    process: Process
    spelt_id: bytes
    method: str
    params: bytes
    reply: Callable[[bytes, bytes], None]
    """Takes the kind of the answer and its JSON."""
    decline: Callable[[int, str], None]
    """Answers in nobody's name: takes the code of an error, and why."""
    handed_out: bool = False

    def answer(self, result: bytes) -> None:
        self.process.held -= 1
        self.reply(b"result", result)

    def refuse(self, reason: str) -> None:
        self.process.held -= 1
        self.decline(jsonrpc.TIMED_OUT, reason)


class _Nowhere:
    """The way of an answer that nobody waits for at present. Implements `exchange.Way`."""

    closed = True
    on_gone: Callable[[], None] | None = None

    def answer(self, status: int, parts: Buffers, *, extra: bytes = b"") -> None: ...


class Waiting(Exchange):
    """Stands where the exchange of a parked call was, and keeps the outcome until the agent comes back for it."""

    outcome: Callable[[Exchange], None] | None = None
    size: int = 0
    """Of the outcome."""

    @property
    def can_stream(self) -> bool:
        return False

    def result(self, parts: Buffers) -> None:
        kept = tuple(bytes(part) for part in parts)
        self.size = sum(map(len, kept))
        self.outcome = lambda exchange: exchange.result(kept)

    def error(self, code: int, message: str, data: Any = None) -> None:
        self.size = 0
        self.outcome = lambda exchange: exchange.error(code, message, data)

    def failed(self, error: Raw) -> None:
        kept = Raw(bytes(error))
        self.outcome = lambda exchange: exchange.failed(kept)

    def send(self, message: bytes, *, droppable: bool = False) -> bool:
        return False

    def commit(self) -> None:
        return None

    def pause(self) -> None:
        return None


class Parking:
    """The parked calls of all stateless agents."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._loop = asyncio.get_running_loop()
        self._key = os.urandom(32)
        self._prefix = f"mlld.{os.urandom(4).hex()}."
        """Tells our tickets from those of a server, which may be one of us, too."""
        self._calls: dict[int, _Parked] = {}

    def ask(self, relay: Relay, question: Question) -> bool:
        """Takes a question for a call; False if there are too many."""
        parked = self._calls.get(relay.id)
        if parked is None:
            if len(self._calls) >= _MAX_PARKED:
                return False
            timer = self._loop.call_later(_SECONDS, self._expired, relay.id)
            held = self._budget.open(relay.entry.member.name, partial(self._shed, relay.id))
            prepared = _prepared(relay.fields)
            parked = self._calls[relay.id] = _Parked(relay, {}, prepared, timer, held)
        if len(parked.questions) >= _MAX_QUESTIONS:
            return False
        if not parked.held.hold(parked.size + len(question.params)):
            self._loop.call_soon(self._shed, relay.id)
            return False
        parked.count += 1
        key = parked.key(question)
        question.process.held += 1
        if key in parked.prepared:
            question.answer(parked.prepared.pop(key))
            return True
        parked.questions[key] = question
        if not isinstance(relay.exchange, Waiting):
            # What a server asks in one breath is one round.
            self._loop.call_later(_BREATH_SECONDS, self._hand_out, relay.id)
        return True

    def ended(self, relay: Relay) -> None:
        """The server answered (or failed) a call that may be parked."""
        parked = self._calls.get(relay.id)
        if parked is None:
            return
        if not isinstance(relay.exchange, Waiting):
            self._forget(relay.id, "the call has ended")
        elif not parked.held.hold(parked.size):
            relay.exchange.error(jsonrpc.CROWDED, NO_ROOM)
            parked.held.hold(parked.size)

    def withdraw(self, process: Process, spelt_id: bytes) -> None:
        """A server gives up a question."""
        for parked in self._calls.values():
            for key, question in list(parked.questions.items()):
                if question.process is process and question.spelt_id == spelt_id:
                    del parked.questions[key]
                    process.held -= 1

    def resume(self, exchange: Exchange, method: str, fields: RawMap) -> bool:
        """Goes on with a parked call if the request carries one of our tickets. Raises Malformed if it is not genuine."""
        state = jsonrpc.text(fields, "requestState") if "requestState" in fields else ""
        if not state.startswith(self._prefix):
            return False
        number = self._opened(state)
        parked = self._calls.get(number) if number is not None else None
        same = parked is not None and parked.relay.method == method and _same_request(parked.relay.fields, fields)
        if parked is None or not same:
            raise Malformed(jsonrpc.INVALID_PARAMS, "Invalid requestState")
        answers = jsonrpc.members(fields.get("inputResponses", b""))
        for key, question in list(parked.questions.items()):
            if question.handed_out and key in answers:
                del parked.questions[key]
                question.answer(bytes(answers[key]))
        exchange.receipt = None  # the call that it goes on with is told when that ends
        waiting, parked.relay.exchange = parked.relay.exchange, exchange
        if isinstance(waiting, Waiting) and waiting.outcome is not None:
            self._forget(parked.relay.id, "the call has ended")
            waiting.outcome(exchange)
        elif parked.questions:
            self._hand_out(parked.relay.id)
        return True

    def _hand_out(self, number: int) -> None:
        """Answers the agent with the questions of a call."""
        parked = self._calls.get(number)
        if parked is None or not parked.questions or isinstance(parked.relay.exchange, Waiting):
            return
        requests = {}
        for key, question in parked.questions.items():
            question.handed_out = True
            params = {"params": Raw(question.params)} if question.params else {}
            requests[key] = {"method": question.method, **params}
        exchange, parked.relay.exchange = parked.relay.exchange, Waiting(_Nowhere(), b"null", None)
        body = {"resultType": "input_required", "inputRequests": requests, "requestState": self._ticket(number)}
        exchange.result((jsonrpc.encode(body),))

    def _ticket(self, number: int) -> str:
        nonce = os.urandom(8).hex()
        return f"{self._prefix}{number}.{nonce}.{self._seal(f'{number}.{nonce}')}"

    def _opened(self, state: str) -> int | None:
        payload, _, seal = state.removeprefix(self._prefix).rpartition(".")
        genuine = hmac.compare_digest(seal.encode(), self._seal(payload).encode())
        return int(payload.partition(".")[0]) if genuine else None

    def _seal(self, payload: str) -> str:
        return hmac.new(self._key, payload.encode(), hashlib.sha256).hexdigest()

    def _expired(self, number: int) -> None:
        parked = self._calls.get(number)
        if parked is not None:
            self._forget(number, "the agent did not come back with an answer")
            parked.relay.cancel("the agent did not come back")

    def _shed(self, number: int) -> None:
        """There is no room for what is asked and answered: the call fails."""
        parked = self._calls.get(number)
        if parked is None:
            return
        if isinstance(parked.relay.exchange, Waiting) and parked.relay.exchange.outcome is not None:
            parked.relay.exchange.error(jsonrpc.CROWDED, NO_ROOM)
            parked.held.hold(parked.size)
        else:
            parked.relay.shed()
            self._forget(number, NO_ROOM)

    def _forget(self, number: int, reason: str) -> None:
        parked = self._calls.pop(number, None)
        if parked is None:
            return
        parked.timer.cancel()
        parked.held.release()
        for question in parked.questions.values():
            question.refuse(reason)


class _Parked(msgspec.Struct, eq=False):
    relay: Relay
    questions: dict[str, Question]
    prepared: dict[str, bytes]
    """Answers that came with the first request already, each good for one question."""
    timer: asyncio.TimerHandle
    held: Held
    count: int = 0

    @property
    def size(self) -> int:
        """Bytes that are kept of the request, of the questions and of the outcome."""
        asked = sum(map(len, self.relay.fields.values())) + sum(len(q.params) for q in self.questions.values())
        return asked + (self.relay.exchange.size if isinstance(self.relay.exchange, Waiting) else 0)

    def key(self, question: Question) -> str:
        """What the agent calls a question: what the server calls it, if that is a name at all."""
        if question.spelt_id[:1] == b'"':
            name = str(msgspec.json.decode(question.spelt_id))
            if name not in self.questions and len(name) <= _MAX_KEY:
                return name
        return f"q{self.count}"


def _prepared(fields: RawMap) -> dict[str, bytes]:
    """Answers that came with a request before anything was asked."""
    try:
        return {key: bytes(answer) for key, answer in jsonrpc.members(fields.get("inputResponses", b"")).items()}
    except Malformed:
        return {}


def _same_request(former: RawMap, now: RawMap) -> bool:
    """Whether a retry is of the same call: a ticket for one tool must not fetch the result of another."""
    return all(bytes(former.get(key, b"")) == bytes(now.get(key, b"")) for key in ("name", "uri"))

"""The record of a run: append-only JSON lines in the user's data directory, each chained to the one before by its hash.

A line is `{"n":…,"t":…,"event":…,…,"prev":"<hash of the line before>","hash":"<sha256 of this line without it>"}`.
Changing, removing or inserting a line breaks the chain; cutting the end removes the `closed` line. Who can write the
file can also forge a whole new chain: the last hash, printed at the end of a run, is what to keep elsewhere.

The events, in the order in which a run has them (`member` = agent, sidecar or the name of a server):

    run     name, env, agent, prompt, pid, owner       what was asked for, and by which process (lease.owner)
    plan    digest, plan                               what was decided, before anything starts
    state   member, state, ms, note                    starting · fenced · ready · running · exited · ended
    ready   ms, tools                                  the agent can list its tools: the run may begin
    canary  member, name, ok, saw                      one fact of the self-test
    call    server, method, name, decision, rule, labels, ms, arguments, result …      as the sidecar tells it
    request method, decision, rule …    a request that the sidecar answers itself: lists, pings, faults of the protocol
    denied  method, name, rule, reason, server …    a use of a name that does not exist for the agent
    asked   server, method, decision, rule, labels, bytesIn, bytesOut, ms, isError     what a server asked of the agent
    egress  member, host, port, decision, rule, address                                as the sidecar tells it
    server  server, state, processes, restarts, reason, retryMs     starting · ready · idle · exited · failed, of an MCP server
    list · session · error                                                             likewise
    log     member, stream, line                       what a server or the agent says on stderr
    answer  text, exit, taint, ms                      how the agent ended
    failed  code, message, detail, next, at            why the run ended before its time
    left    containers, networks, volumes              what the engine still has of the run: nothing
    closed  lines, exit

`call`, `request` and `denied` share `id, session, method, decision, rule, labels, bytesIn, bytesOut, start, ms, isError,
trace, span, parent`: each request of an agent is exactly one of them.

A record that cannot be written stops the run (P14): a run nobody can look back at did not happen in the fence.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from runner.errors import AmbiguousRun, RecordFailed, RunnerError, UnknownRun

Event = Mapping[str, object]

GENESIS = "0" * 64
# `,"hash":"` + 64 digits + `"}`: the end of each line, cut off before hashing.
_TAIL = len(',"hash":""}') + 64
_FILE = re.compile(r"(?P<stamp>\d{8}T\d{6}\.\d{3}Z)-(?P<name>[a-z]+)\.jsonl")
_CONSONANTS, _VOWELS = "bdfghjklmnprstvz", "aiou"


def new_name() -> str:
    """A name that can be said on the telephone: `kubodan`. Four million of them."""
    return "".join(secrets.choice(_CONSONANTS if index % 2 == 0 else _VOWELS) for index in range(7))


class RunRecord:
    """The open record of one run. Safe to use from several threads."""

    def __init__(self, path: Path, name: str, *, now: Callable[[], float], mask: Callable[[object], object]) -> None:
        self.path, self.name = path, name
        self.head = GENESIS  # hash of the last line
        self.events: list[Event] = []
        self._now, self._mask = now, mask
        self._lock = threading.Lock()
        self._listeners: list[Callable[[Event], None]] = []
        try:
            # O_EXCL: a name is taken once; O_APPEND: two writers could not overwrite each other either.
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RecordFailed(str(path), error.strerror or str(error)) from error

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        now: Callable[[], float],
        mask: Callable[[object], object] = lambda value: value,
        name: str | None = None,
    ) -> RunRecord:
        """A new record in `directory`, under `name` or a fresh one. Errors: `RecordFailed`."""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise RecordFailed(str(directory), error.strerror or str(error)) from error
        taken = {run.name for run in runs(directory)}
        if name in taken:
            raise RecordFailed(str(directory), f"there is a run {name} already")
        while (chosen := name or new_name()) in taken:
            continue
        stamp = datetime.fromtimestamp(now(), UTC).strftime("%Y%m%dT%H%M%S.%f")[:-3]
        return cls(directory / f"{stamp}Z-{chosen}.jsonl", chosen, now=now, mask=mask)

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Also hand every event, after it was written, to `listener`: progress and transcript read the record."""
        self._listeners.append(listener)

    def append(self, event: str, /, **fields: object) -> None:
        """Write one event. Errors: `RecordFailed`; the caller must stop the run then."""
        with self._lock:
            line: dict[str, object] = {"n": len(self.events), "t": round(self._now(), 4), "event": event}
            masked = self._mask({key: value for key, value in fields.items() if key not in line})
            assert isinstance(masked, dict)
            line |= masked
            text = json.dumps(line | {"prev": self.head}, separators=(",", ":"), ensure_ascii=False, default=str)
            # A lone surrogate (bytes of an argument that were no text) has no UTF-8; the record takes all text.
            body = text.encode("utf-8", "replace")
            digest = hashlib.sha256(body).hexdigest()
            self._write(body[:-1] + f',"hash":"{digest}"}}\n'.encode())
            self.head = digest
            self.events.append(line)
        for listener in self._listeners:
            listener(line)

    def close(self, **fields: object) -> None:
        """Write the closing line; after it the record is complete."""
        if self._fd < 0:
            return
        try:
            self.append("closed", lines=len(self.events) + 1, **fields)
            os.fsync(self._fd)
        except OSError as error:
            raise RecordFailed(str(self.path), error.strerror or str(error)) from error
        finally:
            os.close(self._fd)
            self._fd = -1

    def _write(self, data: bytes) -> None:
        try:
            if (written := os.write(self._fd, data)) != len(data):
                raise RecordFailed(str(self.path), f"only {written} of {len(data)} bytes of a line could be written")
        except OSError as error:
            raise RecordFailed(str(self.path), error.strerror or str(error)) from error


# -------------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True, kw_only=True, order=True)
class Run:
    """A record on disk."""

    stamp: str
    name: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a record is whole: `faults` in words, empty when it is."""

    lines: int
    head: str
    faults: tuple[str, ...]


def runs(directory: Path) -> list[Run]:
    """All records, oldest first."""
    if not directory.is_dir():
        return []
    found = ((_FILE.fullmatch(path.name), path) for path in directory.iterdir())
    return sorted(Run(stamp=match["stamp"], name=match["name"], path=path) for match, path in found if match)


def find(directory: Path, name: str) -> Run:
    """The run of that name; a unique prefix or `last` will do. Errors: `UnknownRun`, `AmbiguousRun`."""
    known = runs(directory)
    if name == "last" and known:
        return known[-1]
    fits = [run for run in known if run.name == name] or [run for run in known if name and run.name.startswith(name)]
    if not fits:
        raise UnknownRun(name, [run.name for run in reversed(known)])
    if len(fits) > 1:
        raise AmbiguousRun(name, [run.name for run in fits])
    return fits[0]


def read(path: Path) -> Iterator[dict[str, object]]:
    """The events of a record, as far as they can be read: a torn last line is left to `verify`."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                return
            if isinstance(event, dict):
                yield event


class Tail:
    """Reads a record that is still written: each event once, as soon as its line is whole."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, path.open("rb")
        self._rest = b""

    def __enter__(self) -> Tail:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def news(self) -> Iterator[dict[str, object]]:
        """The events since the last time. Errors: `RunnerError` at a line that no runner wrote."""
        while chunk := self._file.read(1 << 20):
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            for line in lines:
                try:
                    event = json.loads(line)
                except ValueError:
                    name = self._path.stem.rpartition("-")[2]
                    raise RunnerError(
                        f"the record of {name} cannot be read on from here", remedy=f"mlld sandbox verify {name}"
                    ) from None
                if isinstance(event, dict):
                    yield event


def verify(path: Path) -> Verdict:
    """Follow the chain from the first line to the last."""
    faults: list[str] = []
    head, count, last = GENESIS, 0, None
    for number, raw in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        count = number
        try:
            event = json.loads(raw)
            body, claimed = raw[:-_TAIL] + b"}", event["hash"]
        except (ValueError, KeyError, TypeError):
            faults.append(f"line {number} cannot be read")
            continue
        if hashlib.sha256(body).hexdigest() != claimed:
            faults.append(f"line {number} was changed: its hash does not fit its text")
        if event.get("prev") != head:
            faults.append(f"line {number} does not follow the line before it: something was removed or put in")
        head, last = claimed, event
    if not path.read_bytes().endswith(b"\n"):
        faults.append("the last line is torn")
    if last is None or last.get("event") != "closed":
        faults.append(
            "there is no closing line: the end was cut off, or the runner was killed, or the run still goes on"
        )
    elif last.get("lines") != count:
        faults.append(f"the closing line speaks of {last.get('lines')} lines, there are {count}")
    return Verdict(lines=count, head=head, faults=tuple(faults))

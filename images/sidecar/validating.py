"""Arguments held against the schemas of their tools, for servers and tools that are declared with `validate: true`.

The check runs in a process of its own (`validator`), started at the first call that needs it: what a schema costs is for
its server to say, and its server is not trusted. It is counted in processor time of that process, so that a busy machine
says nothing about a schema. Servers take turns in one process as long as each check is done in no time; a server with one
that is not has its checks in a second process from then on, where only others of that kind wait for it. A schema that
takes too long there, twice, is closed for a while, longer each time; one that cannot be used refuses its tool for good.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import orjson

from images.sidecar import jsonrpc
from images.sidecar.joint import outcome

AT_ONCE, AT_MOST = 0.1, 1.0
"""Seconds of processor time that a check may take among all servers, and among the slow ones."""
_PATIENCE = 30.0
"""Seconds that pass on a busy machine before nobody waits any longer."""
_LOOK = 0.01
_TRIES = 2
_BACK_OFF, _BACK_OFF_MOST = 10.0, 600.0
_MOST_CLOSED = 10_000
_LONGEST_SCHEMA = 256 << 10
_LONGEST_ANSWER = 1 << 20
_TICKS = os.sysconf("SC_CLK_TCK")
_ROOT = str(Path(__file__).parents[2])


class Misfit(ValueError):
    """The arguments are not as the schema says, or the schema cannot be used; the text is for the agent."""


class _Overrun(Exception):
    """A check took more processor time than it may."""


class _Lost(Exception):
    """There is no answer, and that is no fault of a schema's time: the validator died, did not start, or got no turn."""


@dataclass
class _Closed:
    """What a schema has done, and when it is tried again (seconds of `monotonic`)."""

    times: int = 0
    until: float = 0.0


class Validating:
    """The validators of a run."""

    def __init__(self, *, at_once: float = AT_ONCE, at_most: float = AT_MOST) -> None:
        self._all, self._slow = Lane(at_once), Lane(at_most)
        self._slow_servers: set[str] = set()
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._useless: dict[str, str] = {}
        self._closed: dict[tuple[str, str], _Closed] = {}
        self._checks: set[asyncio.Task[None]] = set()

    async def check(self, server: str, schema: bytes, value: Mapping[str, Any]) -> None:
        """Returns if the value fits the schema of a server. Errors: `Misfit`."""
        if len(schema) > _LONGEST_SCHEMA:
            raise Misfit(f"its schema has {len(schema)} bytes, which is more than anyone would read")
        # In a task of its own, which goes on when the caller gives up: the next check must not read the answer of this one.
        task = asyncio.get_running_loop().create_task(self._check(server, schema, jsonrpc.encode(value)))
        self._checks.add(task)
        task.add_done_callback(self._done)
        await outcome(task)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._checks.discard(task)
        if not task.cancelled():
            task.exception()  # told to whoever waits; nobody may

    async def _check(self, server: str, schema: bytes, value: bytes) -> None:
        key = hashlib.sha256(schema).hexdigest()
        async with self._turns[server]:  # one of each server stands in line with the others
            if key in self._useless:
                raise Misfit(f"its schema cannot be used ({self._useless[key]})")
            closed = self._closed.get((server, key), _Closed())
            if (wait := closed.until - monotonic()) > 0:
                raise Misfit(f"its schema takes too long to check against; it is tried again in {wait:.0f} s")
            try:
                said = await self._asked(server, key, schema, value)
            except _Overrun:
                self._overran(server, key, closed)
                raise Misfit("its schema took too long to check against, so the call was not made") from None
            except _Lost as lost:
                raise Misfit(f"its schema could not be checked against ({lost}), so the call was not made") from None
            self._closed.pop((server, key), None)
            if said.get("refused"):
                self._useless[key] = str(said["refused"])
                raise Misfit(f"its schema cannot be used ({self._useless[key]})")
            if said.get("failed"):
                raise Misfit(f"its schema could not be checked against ({said['failed']}), so the call was not made")
            if said.get("faults"):
                raise Misfit("; ".join(map(str, said["faults"])))

    async def _asked(self, server: str, key: str, schema: bytes, value: bytes) -> dict[str, Any]:
        if server not in self._slow_servers:
            try:
                return await self._all.ask(key, schema, value)
            except (_Overrun, _Lost):
                self._slow_servers.add(server)  # whatever it did there, it does not do it to the others again
        return await self._slow.ask(key, schema, value)

    def _overran(self, server: str, key: str, closed: _Closed) -> None:
        closed.times += 1
        if closed.times >= _TRIES:
            back_off = _BACK_OFF * 2 ** min(closed.times - _TRIES, 16)
            closed.until = monotonic() + min(_BACK_OFF_MOST, back_off)
        if len(self._closed) < _MOST_CLOSED:
            self._closed[server, key] = closed

    async def close(self) -> None:
        """Ends the validators."""
        for task in self._checks:
            task.cancel()
        if self._checks:
            await asyncio.wait(self._checks)
        await self._all.close()
        await self._slow.close()


class Lane:
    """One validator, in which checks come one after another. Each gets so many seconds of processor time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._turn = asyncio.Lock()
        self.process: asyncio.subprocess.Process | None = None
        self._known: set[str] = set()

    async def ask(self, key: str, schema: bytes, value: bytes) -> dict[str, Any]:
        """What the validator says of a value. Errors: `_Overrun`, `_Lost`; the next check begins with a new one then."""
        async with self._turn:
            try:
                process = await self._started()
                body: dict[str, Any] = {"key": key, "value": orjson.Fragment(value)}
                whole = orjson.dumps({**body, "schema": orjson.Fragment(schema)})
                said = await self._told(process, orjson.dumps(body) if key in self._known else whole, self._seconds)
                if said.get("unknown"):
                    said = await self._told(process, whole, self._seconds)
            except BaseException as error:
                await self.close()
                if isinstance(error, OSError | ValueError | asyncio.IncompleteReadError | TimeoutError):
                    raise _Lost(type(error).__name__) from error
                raise
            if not said.get("refused"):
                self._known.add(key)
            return said

    async def _started(self) -> asyncio.subprocess.Process:
        if self.process is None:
            self._known.clear()
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "images.sidecar.validator",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
                env={"PYTHONPATH": _ROOT, "PYTHONDONTWRITEBYTECODE": "1"}, limit=_LONGEST_ANSWER,
            )  # fmt: skip
            # The first answer is its sign of life: starting is not part of anybody's time.
            await self._told(self.process, b'{"key":"","schema":true,"value":0}', _PATIENCE)
        return self.process

    @staticmethod
    async def _told(process: asyncio.subprocess.Process, line: bytes, seconds: float) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        until, spent = monotonic() + _PATIENCE, _processor_time(process.pid)
        process.stdin.write(line + b"\n")
        answered = asyncio.ensure_future(process.stdout.readuntil(b"\n"))
        try:
            while not (await asyncio.wait((answered,), timeout=_LOOK))[0]:
                if _processor_time(process.pid) - spent > seconds:
                    raise _Overrun
                if monotonic() > until:
                    raise TimeoutError
        finally:
            answered.cancel()
        answer = orjson.loads(answered.result())
        return answer if isinstance(answer, dict) else {}

    async def close(self) -> None:
        """Ends the validator."""
        process, self.process = self.process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _processor_time(pid: int) -> float:
    """Seconds that a process has run so far (proc(5): `utime` and `stime`). Errors: OSError if it is gone."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS

"""Arguments held against the schemas of their tools, for servers and tools that are declared with `validate: true`.

The check runs in a process of its own (`validator`), started at the first call that needs it and killed when it takes
too long: what a schema costs is for its server to say, and its server is not trusted. A schema that cannot be used, or
was not done in time, refuses the calls of its tool.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

SECONDS = 1.0
_START_SECONDS = 10.0
_LONGEST_SCHEMA = 256 << 10
_LONGEST_ANSWER = 1 << 20
_MOST_SLOW = 3
_ROOT = str(Path(__file__).parents[2])


class Misfit(ValueError):
    """The arguments are not as the schema says, or the schema cannot be used; the text is for the agent."""


class Validating:
    """The one validator of a run. Checks come one after another, each in bounded time."""

    def __init__(self, *, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._known: set[str] = set()
        self._useless: dict[str, str] = {}
        self._slow: dict[str, int] = {}

    async def check(self, server: str, schema: bytes, value: Mapping[str, Any]) -> None:
        """Returns if the value fits the schema of a server. Errors: `Misfit`."""
        await asyncio.sleep(0)  # from here on in a task, as the clocks below want it
        key = hashlib.sha256(schema).hexdigest()
        if len(schema) > _LONGEST_SCHEMA:
            raise Misfit(f"its schema has {len(schema)} bytes, which is more than anyone would read")
        async with self._turn:
            if self._slow.get(server, 0) >= _MOST_SLOW:
                raise Misfit(f"schemas of {server} take too long, so nothing is checked against them any more")
            if key not in self._useless:
                said = await self._asked(server, key, schema, value)
                if said.get("refused"):
                    self._useless[key] = str(said["refused"])
                elif said.get("faults"):
                    raise Misfit("; ".join(map(str, said["faults"])))
            if key in self._useless:
                raise Misfit(f"its schema cannot be used ({self._useless[key]})")

    async def _asked(self, server: str, key: str, schema: bytes, value: Mapping[str, Any]) -> dict[str, Any]:
        body = {"key": key, "value": value}
        try:
            process = await self._started()
            if key not in self._known:
                body["schema"] = orjson.Fragment(schema)
            async with asyncio.timeout(self._seconds):
                said = await self._told(process, orjson.dumps(body))
                if said.get("unknown"):
                    said = await self._told(process, orjson.dumps({**body, "schema": orjson.Fragment(schema)}))
        except TimeoutError:
            self._slow[server] = self._slow.get(server, 0) + 1
            await self.close()
            return {"refused": f"it takes more than {self._seconds:g} s"}
        except (OSError, ValueError, asyncio.IncompleteReadError) as error:
            # It died of what it was given, or of its limit: the next check begins with a new one.
            await self.close()
            return {"refused": f"checking it failed: {type(error).__name__}"}
        if not said.get("refused"):
            self._known.add(key)
        return said

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            self._known.clear()
            async with asyncio.timeout(_START_SECONDS):
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "images.sidecar.validator",
                    stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
                    env={"PYTHONPATH": _ROOT, "PYTHONDONTWRITEBYTECODE": "1"}, limit=_LONGEST_ANSWER,
                )  # fmt: skip
                # The first answer is its sign of life: starting is not part of anybody's time.
                await self._told(self._process, b'{"key":"","schema":true,"value":0}')
        return self._process

    @staticmethod
    async def _told(process: asyncio.subprocess.Process, line: bytes) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line + b"\n")
        await process.stdin.drain()
        answer = orjson.loads(await process.stdout.readuntil(b"\n"))
        return answer if isinstance(answer, dict) else {}

    async def close(self) -> None:
        """Ends the validator."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

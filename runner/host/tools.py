"""MCP servers as child processes of the host: what `import tools … from mcp "SPEC"` opens outside an environment.

The client is our own: `mcp` would add half a second to every script that imports a tool, and what is needed here is an
opening, a list and calls. Lines of JSON over the child's stdin and stdout; its stderr goes to ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interpreter.declarations import EMPTY
from interpreter.ports import ToolInfo, ToolResult
from runner.backends.processes import ended, started
from runner.errors import ServerFailed, ServerSilent, Unsupported

PROTOCOL = "2025-11-25"
START_SECONDS = 10.0
CALL_SECONDS = 60.0
MOST_PAGES = 200
# -P: a directory `runner` of the project must not be taken for ours.
OURSELVES = (sys.executable, "-P", "-m", "runner")
_LINE = 32 << 20  # bytes of one message
_KEPT_STDERR = 4000


def argv_for(spec: str) -> tuple[str, ...]:
    """The command behind a SPEC: a module or path is served by ourselves, one word is an npm package, else a command line.

    No shell is ever run. Errors: `ServerFailed`.
    """
    if not spec.strip():
        raise ServerFailed(spec, "its SPEC is empty")
    if spec.startswith(("http://", "https://")):
        raise Unsupported(
            f"{spec} is a remote MCP server; outside an environment only programs can be started",
            remedy="name it as `url:` of a server in @mcpConfig: there its host is granted or refused",
        )
    if spec.startswith(("@", "./", "../", "/")) and (" " not in spec or spec.endswith((".mld", ".md"))):
        # `@scope/name` alone is a module of ours; the npm package of that name is "npx -y @scope/name".
        return (*OURSELVES, "mcp", spec)
    try:
        words = shlex.split(spec)
    except ValueError as error:
        raise ServerFailed(spec, f"it cannot be split into words: {error}") from None
    if len(words) == 1 and spec.endswith((".mld", ".md")):
        return (*OURSELVES, "mcp", spec)
    return ("npx", "-y", words[0]) if len(words) == 1 else tuple(words)


class HostTools:
    """Starts servers on the host (`ports.ToolPort`): one process per SPEC, shared by all imports of it."""

    def __init__(self, env: Mapping[str, str], cwd: Path) -> None:
        self._env, self._cwd = env, cwd
        self._open: dict[tuple[str, tuple[tuple[str, str], ...]], asyncio.Future[StdioConnection]] = {}

    async def open(self, spec: str, *, env: Mapping[str, str] = EMPTY) -> StdioConnection:
        key = (spec, tuple(sorted(env.items())))
        if key not in self._open:
            self._open[key] = asyncio.ensure_future(self._start(spec, env))
        try:
            return await asyncio.shield(self._open[key])
        except (ServerFailed, ServerSilent):
            self._open.pop(key, None)
            raise

    async def _start(self, spec: str, env: Mapping[str, str]) -> StdioConnection:
        connection = StdioConnection(spec)
        await connection.start(argv_for(spec), env={**self._env, **env}, cwd=self._cwd)
        return connection

    async def close(self) -> None:
        """End every server."""
        for future in self._open.values():
            if future.done() and not future.cancelled() and not future.exception():
                await future.result().close()
        self._open.clear()


class StdioConnection:
    """An open connection to one server (`ports.ToolConnection`)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._tools: list[ToolInfo] = []
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._stderr = b""
        self._tasks: list[asyncio.Task[None]] = []
        self._process: asyncio.subprocess.Process | None = None

    @property
    def tools(self) -> Sequence[ToolInfo]:
        return self._tools

    async def start(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> None:
        """Start the server and read its list of tools. Errors: `ServerFailed`, `ServerSilent`."""
        pipe = asyncio.subprocess.PIPE
        try:
            self._process = await started(
                *argv, stdin=pipe, stdout=pipe, stderr=pipe, env=dict(env), cwd=cwd, limit=_LINE
            )
        except OSError as error:
            raise ServerFailed(self.name, f"{argv[0]} cannot be started: {error.strerror}") from None
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._read_stderr())]
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._handshake()
        except TimeoutError:
            await self.close()
            raise ServerSilent(self.name, START_SECONDS, self._last_words()) from None
        except ConnectionError:
            code = await self._ended()
            raise ServerFailed(self.name, f"it ended with {code}", self._last_words()) from None
        except ToolError as error:
            await self.close()
            raise ServerFailed(self.name, f"it answered with an error: {error}", self._last_words()) from None
        except BaseException:
            await self.close()
            raise

    async def call(self, tool: str, arguments: Mapping[str, object]) -> ToolResult:
        """Call a tool. Errors: `ServerFailed` when the server is gone; a tool's own error is a result."""
        try:
            async with asyncio.timeout(CALL_SECONDS):
                result = await self._request("tools/call", {"name": tool, "arguments": dict(arguments)})
        except TimeoutError:
            return ToolResult(text=f"{tool} did not answer within {CALL_SECONDS:g} s", is_error=True)
        except ConnectionError:
            reason = f"it ended while {tool} was called; whether the call took effect is unknown"
            raise ServerFailed(self.name, reason, self._last_words()) from None
        except ToolError as error:
            return ToolResult(text=str(error), is_error=True)
        content = result.get("content") or []
        texts = [item.get("text", "") for item in content if isinstance(item, dict) and item.get("type") == "text"]
        return ToolResult(
            text="\n".join(map(str, texts)),
            structured=result.get("structuredContent"),
            is_error=result.get("isError") is True,
        )

    async def close(self) -> None:
        """End the server and what it has started: its stdin first, then TERM, then KILL."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin:
            process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await process.wait()
        await ended(process)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _handshake(self) -> None:
        about = {"name": "mlld", "version": "0.1.0"}
        opening = {"protocolVersion": PROTOCOL, "capabilities": {}, "clientInfo": about}
        opened = await self._request("initialize", opening)
        await self._send({"method": "notifications/initialized"})
        if "tools" not in (opened.get("capabilities") or {}):
            return
        cursor: object = None
        for _ in range(MOST_PAGES):
            page = await self._request("tools/list", {"cursor": cursor} if cursor else {})
            self._tools += [_tool(self.name, item) for item in page.get("tools") or [] if isinstance(item, dict)]
            if not (cursor := page.get("nextCursor")):
                return
        raise ServerFailed(self.name, f"its list of tools has more than {MOST_PAGES} pages")

    async def _request(self, method: str, params: Mapping[str, object]) -> dict[str, Any]:
        number = next(self._ids)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            if self._tasks and self._tasks[0].done():
                raise ConnectionResetError
            await self._send({"id": number, "method": method, "params": params})
            message = await answer
        finally:
            self._waiting.pop(number, None)
        if "error" in message:
            error = message["error"]
            raise ToolError(str(error.get("message", error)) if isinstance(error, dict) else str(error))
        result = message.get("result")
        return result if isinstance(result, dict) else {}

    async def _send(self, message: Mapping[str, object]) -> None:
        if self._process is None or self._process.stdin is None:
            raise ConnectionResetError
        self._process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        await self._process.stdin.drain()

    async def _read(self) -> None:
        """Every line of the server: answers, its own requests (declined), notifications (not wanted here)."""
        assert self._process
        assert self._process.stdout
        try:
            while line := await self._process.stdout.readline():
                try:
                    message = json.loads(line)
                except ValueError:
                    continue  # servers print banners on stdout; a line that is no message is nobody's answer
                if not isinstance(message, dict):
                    continue
                if "method" in message:
                    if "id" in message:
                        await self._send({"id": message["id"], **_own_answer(message["method"])})
                elif (answer := self._waiting.get(message.get("id", 0))) and not answer.done():
                    answer.set_result(message)
        except (ConnectionError, ValueError):  # ValueError: a line longer than the limit
            pass
        finally:
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(ConnectionResetError())

    async def _read_stderr(self) -> None:
        assert self._process
        assert self._process.stderr
        while chunk := await self._process.stderr.read(4096):
            self._stderr = (self._stderr + chunk)[-_KEPT_STDERR:]

    async def _ended(self) -> int | None:
        process = self._process
        if process is None:
            return None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await process.wait()
                await self._tasks[1]
        await self.close()
        return process.returncode

    def _last_words(self) -> str:
        return self._stderr.decode("utf-8", "replace")


class ToolError(Exception):
    """An error object of the server."""


def _own_answer(method: str) -> dict[str, object]:
    if method == "ping":
        return {"result": {}}
    return {"error": {"code": -32601, "message": f"{method} is not offered by this client"}}


def _tool(server: str, item: Mapping[str, Any]) -> ToolInfo:
    return ToolInfo(
        server=server,
        name=str(item.get("name", "")),
        description=str(item.get("description") or ""),
        input_schema=item.get("inputSchema") or {},
        annotations=item.get("annotations") or {},
    )

"""An MCP server with everything that the official conformance suite looks for, over stdio, in either era.

    python -m tests.conformance.fixture [--era both|handshake|stateless]

In the stateless era a `Wanted` of a tool is an input-required result; in the era of handshakes the client is asked in the
middle of the call. So the suite can be run against either kind of server.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import sys
from typing import Any

from tests.conformance.offers import (
    META,
    PROMPTS,
    RESOURCES,
    STATELESS,
    TOOLS,
    Fault,
    Json,
    Use,
    Wanted,
    prompt,
    resource,
    text,
)

KEY = b"the fixture's own key, which nobody else has"


class Line:
    """The one connection of a server on stdio."""

    stateless = False
    """Whether the last request was of the stateless era."""

    def __init__(self, era: str) -> None:
        self._era = era
        self._capabilities: Json = {}
        self._asked: dict[str, asyncio.Future[Json]] = {}
        self._listening: dict[Any, Json] = {}

    def send(self, message: Json) -> None:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()

    def notify(self, method: str, params: Json | None = None) -> None:
        self.send({"method": method, "params": params or {}})

    def changed(self, what: str) -> None:
        method = f"notifications/{what}/list_changed"
        if not Line.stateless:
            self.notify(method)
        for identity, wanted in self._listening.items():
            if wanted.get(f"{what}ListChanged"):
                self.notify(method, {"_meta": {META + "subscriptionId": identity}})

    async def ask(self, name: str, request: Json) -> Json:
        """Asks the client; the id is the name of what is wanted, so that a bridge can keep it."""
        key = name if name not in self._asked else f"{name}-{len(self._asked)}"
        future: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._asked[key] = future
        self.send({"id": key, **request})
        try:
            return await future
        finally:
            del self._asked[key]

    async def serve(self) -> None:
        reader = asyncio.StreamReader(limit=1 << 24)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        tasks: set[asyncio.Task[None]] = set()
        while data := await reader.readline():
            message = json.loads(data)
            if "method" not in message:
                future = self._asked[message["id"]]
                future.set_result(message.get("result") or {"refused": message.get("error")})
            elif "id" in message:
                task = asyncio.create_task(self._answer(message))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

    async def _answer(self, message: Json) -> None:
        params = message.get("params") or {}
        meta = params.get("_meta") or {}
        stateless = META + "protocolVersion" in meta
        Line.stateless = stateless
        try:
            if self._era not in ("both", "stateless" if stateless else "handshake"):
                raise Fault(-32601, "Method not found")
            result = await self._result(message, params, meta, stateless)
        except Fault as e:
            error = {"code": e.code, "message": str(e), **({"data": e.data} if e.data else {})}
            self.send({"id": message["id"], "error": error})
            return
        if result is not None:
            self.send({"id": message["id"], "result": result})

    async def _result(self, message: Json, params: Json, meta: Json, stateless: bool) -> Json | None:
        method = message["method"]
        if method == "initialize":
            self._capabilities = params["capabilities"]
            info = {"name": "fixture", "version": "1"}
            return {"protocolVersion": "2025-11-25", "capabilities": abilities(False), "serverInfo": info}
        if method == "subscriptions/listen":
            self._listening[message["id"]] = params["notifications"]
            told = {"notifications": params["notifications"], "_meta": {META + "subscriptionId": message["id"]}}
            self.notify("notifications/subscriptions/acknowledged", told)
            return None
        if method in ("tools/call", "prompts/get"):
            capabilities = meta.get(META + "clientCapabilities", {}) if stateless else self._capabilities
            use = Use(self, params["name"], params, capabilities)
            return await self._used(use, method, stateless)
        result = simple(method, params)
        if stateless:
            result = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private", **result}
            if method == "server/discover":
                result["_meta"] = {META + "serverInfo": {"name": "fixture", "version": "1"}}
        return result

    async def _used(self, use: Use, method: str, stateless: bool) -> Json:
        if stateless:
            use.answers = use.params.get("inputResponses") or {}
            use.state = opened(use.params["requestState"]) if "requestState" in use.params else None
        while True:
            outcome = await run(use, method)
            if not isinstance(outcome, Wanted):
                return {**({"resultType": "complete"} if stateless else {}), **outcome}
            if stateless:
                state = {"requestState": sealed(outcome.state)} if outcome.state is not None else {}
                return {"resultType": "input_required", "inputRequests": outcome.requests, **state}
            requests = outcome.requests
            answers = await asyncio.gather(*(self.ask(key, request) for key, request in requests.items()))
            use.answers, use.state = dict(zip(requests, answers, strict=True)), outcome.state


async def run(use: Use, method: str) -> Any:
    if method == "prompts/get":
        if use.name not in PROMPTS:
            raise Fault(-32602, f"Unknown prompt: {use.name}")
        outcome = prompt(use)
        return outcome if isinstance(outcome, Wanted) else {"messages": outcome}
    if use.name not in TOOLS:
        return {"content": [text(f"Unknown tool: {use.name}")], "isError": True}
    try:
        outcome = await TOOLS[use.name][0](use)
    except (ValueError, KeyError, TypeError) as e:
        return {"content": [text(f"{e}")], "isError": True}
    return outcome if isinstance(outcome, Wanted) else {"content": outcome}


def simple(method: str, params: Json) -> Json:
    """What needs nothing but its params."""
    match method:
        case "server/discover":
            return {"supportedVersions": [STATELESS], "capabilities": abilities(True)}
        case "ping" | "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe":
            return {}
        case "tools/list":
            shown = {name: schema for name, (_, schema) in TOOLS.items()}
            return {"tools": [{"name": k, "description": f"Fixture {k}", "inputSchema": v} for k, v in shown.items()]}
        case "prompts/list":
            arguments = {k: [{"name": name, "required": True} for name in v] for k, v in PROMPTS.items()}
            return {
                "prompts": [{"name": k, "description": f"Fixture {k}", "arguments": v} for k, v in arguments.items()]
            }
        case "resources/list":
            return {"resources": [{"uri": k, "name": k[7:], "mimeType": v} for k, v in RESOURCES.items()]}
        case "resources/templates/list":
            template = {"uriTemplate": "test://template/{id}/data", "name": "template", "mimeType": "application/json"}
            return {"resourceTemplates": [template]}
        case "resources/read":
            return {"contents": [resource(params["uri"], Line.stateless)]}
        case "completion/complete":
            return {"completion": {"values": ["paris"], "total": 1, "hasMore": False}}
    raise Fault(-32601, f"Method not found: {method}")


def abilities(stateless: bool) -> Json:
    known: Json = {name: {"listChanged": True} for name in ("tools", "prompts", "resources")}
    known["resources"]["subscribe"] = True
    return known | {"completions": {}} | ({} if stateless else {"logging": {}})


def seal(state: str) -> str:
    return hmac.new(KEY, state.encode(), hashlib.sha256).hexdigest()


def sealed(state: str) -> str:
    return f"{seal(state)}.{state.encode().hex()}"


def opened(token: str) -> str:
    mark, _, hexed = token.partition(".")
    try:
        state = bytes.fromhex(hexed).decode()
    except ValueError:
        state = ""
    if not hmac.compare_digest(mark, seal(state)):
        raise Fault(-32602, "Invalid requestState")
    return state


if __name__ == "__main__":
    asyncio.run(Line(sys.argv[sys.argv.index("--era") + 1] if "--era" in sys.argv else "both").serve())

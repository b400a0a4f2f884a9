#!/usr/bin/env python3
"""scripted: an agent without a model. Same prompt, same tools, same results: same answer.

    scripted "Summarize open tickets"        scripted < prompt.txt

It is a real MCP client (streamable HTTP, one session): it reads MCP_SERVER_URL and MLLD_MCP_TOKEN, lists the tools,
chooses those whose names and descriptions fit the words of the prompt, fills their parameters from the prompt, follows
a list to its entries, and writes an answer from the results. A prompt with lines of a plan is obeyed line by line:

    call TOOL {"argument": "value"}      call a tool; a denial is part of the answer, not the end
    fetch URL                            load a URL through whatever proxy the environment names
    say TEXT · sleep SECONDS · exit CODE

Standard library only: it runs wherever there is Python, and starts in a fraction of a second.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

PROTOCOL = "2025-06-18"
TIMEOUT = 120
MOST_TOOLS = 3  # that one prompt may choose
MOST_ENTRIES = 25  # of a list that are followed
Json = dict[str, Any]


class Refused(Exception):
    """The endpoint, a guard or a server said no, in its own words."""


class Client:
    """A session with one MCP endpoint over streamable HTTP."""

    def __init__(self, url: str, token: str) -> None:
        parts = urllib.parse.urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._http = kind(parts.hostname or "127.0.0.1", parts.port, timeout=TIMEOUT)
        self._path = parts.path or "/"
        self._headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._id = 0
        self.request(
            "initialize",
            {
                "protocolVersion": PROTOCOL,
                "capabilities": {},
                "clientInfo": {"name": "scripted", "version": "1"},
            },
        )
        self._headers["MCP-Protocol-Version"] = PROTOCOL
        self._post({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def tools(self) -> list[Json]:
        """All tools, every page of them."""
        found: list[Json] = []
        params: Json = {}
        while True:
            page = self.request("tools/list", params)
            found += page.get("tools", [])
            if not (cursor := page.get("nextCursor")):
                return found
            params = {"cursor": cursor}

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """The text of a tool's result. Errors: `Refused`."""
        result = self.request("tools/call", {"name": name, "arguments": dict(arguments)})
        texts = [item.get("text", "") for item in result.get("content", []) if item.get("type") == "text"]
        text = "\n".join(texts) or json.dumps(result.get("structuredContent", ""))
        if result.get("isError"):
            raise Refused(text or "the tool failed without a word")
        return text

    def request(self, method: str, params: Json) -> Json:
        self._id += 1
        answer = self._post({"jsonrpc": "2.0", "id": self._id, "method": method, "params": params}, wanted=self._id)
        if answer is None:
            raise Refused(f"no answer to {method}")
        if "error" in answer:
            raise Refused(str(answer["error"].get("message", answer["error"])))
        result = answer.get("result")
        return result if isinstance(result, dict) else {}

    def close(self) -> None:
        """End the session; a server that knows no sessions answers 405, which is fine."""
        if "Mcp-Session-Id" in self._headers:
            self._http.request("DELETE", self._path, headers=self._headers)
            self._http.getresponse().read()
        self._http.close()

    def _post(self, message: Json, *, wanted: int | None = None) -> Json | None:
        self._http.request("POST", self._path, body=json.dumps(message).encode(), headers=self._headers)
        response = self._http.getresponse()
        if session := response.headers.get("Mcp-Session-Id"):
            self._headers["Mcp-Session-Id"] = session
        if "text/event-stream" in (response.headers.get("Content-Type") or ""):
            found = None
            for event in _events(response):
                if "method" in event and "id" in event:
                    self._decline(event)
                elif wanted is not None and event.get("id") == wanted:
                    found = event
            response.read()  # nothing is left, but only this gives the connection free for the next request
            return found
        body = response.read()
        if response.status >= 400:
            try:
                answer = json.loads(body)
            except ValueError:
                answer = None
            if isinstance(answer, dict) and "error" in answer:
                return answer
            raise Refused(f"HTTP {response.status}: {body[:300].decode('utf-8', 'replace')}")
        return json.loads(body) if body.strip() else None

    def _decline(self, request: Json) -> None:
        """A server asked us something (sampling, elicitation, roots). There is nobody here who could answer."""
        other = Client.__new__(Client)  # the stream that asks occupies this connection: answer on another one
        other.__dict__.update(self.__dict__)
        other._http = type(self._http)(self._http.host, self._http.port, timeout=TIMEOUT)
        error = {"code": -32601, "message": "this agent has no user and no model"}
        other._post({"jsonrpc": "2.0", "id": request["id"], "error": error})
        other._http.close()


def _events(response: http.client.HTTPResponse) -> Iterator[Json]:
    """The JSON of each event of an SSE stream."""
    data: list[str] = []
    for raw in response:
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            text, data = "\n".join(data), []
            if text.strip():
                yield json.loads(text)


# ------------------------------------------------------------------------------------------------------ choosing tools

READING = {"list", "get", "read", "show", "search", "find", "log", "status", "summary", "view", "fetch", "query"}
ASKING = {"summarize", "summarise", "summary", "show", "list", "what", "which", "tell", "describe", "report", "give"}
IGNORED = ASKING | {"the", "a", "an", "of", "and", "or", "all", "my", "our", "me", "in", "on", "to", "for", "with"}
IGNORED |= {"from", "about", "is", "are", "please", "latest", "new"}
TEXTS = ("query", "q", "text", "message", "pattern", "search", "content", "prompt")
PLACES = ("path", "repo_path", "repository", "directory", "dir", "root", "folder")


def words(text: str) -> list[str]:
    """Lower-case words without the plural's s; camelCase and snake_case come apart."""
    found = re.findall(r"[a-z]+|[0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text).lower())
    return [word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in found]


def choose(prompt: str, tools: list[Json]) -> list[tuple[Json, Json]]:
    """The tools that fit best, with their arguments; best first."""
    said = [word for word in words(prompt) if word not in IGNORED]
    ranked = []
    for place, tool in enumerate(tools):
        name = set(words(tool["name"]))
        if not name & READING and not name & set(said) & _verbs(tool):
            continue  # what changes things is called only when the prompt says its verb
        told = set(words(tool.get("description") or ""))
        score = sum(3 * (word in name) + (word in told) for word in dict.fromkeys(said))
        arguments = fill(tool.get("inputSchema") or {}, prompt)
        score += len(arguments or {})
        if score >= 2 and arguments is not None:
            listing = 2 * ("list" in name) + len(arguments)
            ranked.append((-score, -listing, place, tool, arguments))
    ranked.sort(key=lambda entry: entry[:3])
    best = [entry for entry in ranked if entry[0] * 3 <= ranked[0][0] * 2][:MOST_TOOLS]
    chosen, servers = [], set()
    for *_, tool, arguments in best:
        topic = frozenset(words(tool["name"])) - READING
        if topic not in servers:  # list_tickets and search_tickets would say the same twice
            servers.add(topic)
            chosen.append((tool, arguments))
    return chosen


def _verbs(tool: Json) -> set[str]:
    return set(words(tool["name"])[:1] + words(tool["name"])[-1:])


def fill(schema: Json, prompt: str) -> Json | None:
    """Arguments from the words of the prompt; None when a required one cannot be found there."""
    arguments: Json = {}
    quoted = [a or b for a, b in re.findall(r"\"([^\"]+)\"|'([^']+)'", prompt)]
    numbers = re.findall(r"\b\d+\b", prompt)
    said = set(re.findall(r"\w+", prompt.lower()))
    required = schema.get("required") or []
    for name, about in (schema.get("properties") or {}).items():
        kind = about.get("type")
        hint = words(f"{name} {about.get('description') or ''}")
        if options := [option for option in about.get("enum") or [] if str(option).lower() in said]:
            arguments[name] = options[0]
        elif kind == "string" and name in ("status", "state") and said & {"open", "closed"}:
            arguments[name] = "open" if "open" in said else "closed"
        elif name not in required:
            continue
        elif name in PLACES or "path" in hint[:3]:
            arguments[name] = os.getcwd()
        elif kind in ("integer", "number") and (numbers or "default" in about):
            arguments[name] = int(numbers.pop(0)) if numbers else about["default"]
        elif kind == "string" and (quoted or (numbers and "id" in hint)):
            arguments[name] = quoted.pop(0) if quoted else numbers.pop(0)
        elif kind == "string" and name in TEXTS:
            arguments[name] = " ".join(word for word in words(prompt) if word not in IGNORED)
        elif kind == "boolean":
            arguments[name] = False
        else:
            return None
    return arguments


def entries(text: str) -> list[Json]:
    """The objects of a result that is a JSON list of objects, or holds one."""
    try:
        value = json.loads(text)
    except ValueError:
        return []
    if isinstance(value, dict):
        value = next((item for item in value.values() if isinstance(item, list)), [value])
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def detail_tool(tool: Json, tools: list[Json], keys: set[str]) -> tuple[Json, str, str] | None:
    """The tool that shows one entry of what `tool` lists: (tool, its parameter, key of the entry that fills it)."""
    topic = set(words(tool["name"])) - READING
    for other in tools:
        name = set(words(other["name"]))
        required = (other.get("inputSchema") or {}).get("required") or []
        if other is not tool and name & {"get", "read", "show", "view"} and topic <= name and len(required) == 1:
            parameter = required[0]
            key = next((k for k in (parameter, "id", "number", "name", "key", "uri") if k in keys), None)
            if key:
                return other, parameter, key
    return None


# ----------------------------------------------------------------------------------------------------------- answering


def sentence(entry: Json, text: str = "") -> str:
    """One line about an entry: its title, its state, and the first sentence of its text."""
    title = next((str(entry[key]) for key in ("title", "name", "subject", "summary") if entry.get(key)), "")
    mark = next((str(entry[key]) for key in ("id", "number", "key") if entry.get(key) is not None), "")
    state = ", ".join(str(entry[key]) for key in ("status", "state", "priority", "kind") if entry.get(key))
    body = re.sub(r"(?s)\A---\n.*?\n---\n", "", text)
    prose = " ".join(line for line in body.splitlines() if line.strip() and not line.startswith(("#", "-", "`")))
    first = re.match(r".{10,240}?[.!?](?=\s|$)", prose)
    parts = [f"{mark}: {title}" if mark and title else mark or title or json.dumps(entry)[:120]]
    parts += [f"({state})"] if state else []
    parts += [f"- {first.group(0)}"] if first else []
    return " ".join(parts)


def answer(prompt: str, client: Client | None) -> Iterator[str]:
    """The answer, line by line."""
    tools = client.tools() if client else []
    if client is None or not tools:
        yield "I have no tools here, so this is all that I can say about:"
        yield prompt.strip()[:200]
        return
    chosen = choose(prompt, tools)
    if not chosen:
        yield f"None of my {len(tools)} tools fits that: {', '.join(tool['name'] for tool in tools)}."
        return
    for tool, arguments in chosen:
        try:
            text = client.call(tool["name"], arguments)
        except Refused as refused:
            yield f"{tool['name']} was refused: {refused}"
            continue
        found = entries(text)
        if not found:
            yield f"From {tool['name']}:"
            yield from (f"  {line}" for line in text.splitlines()[:20])
            continue
        yield from follow(client, tools, tool, arguments, found)


def follow(client: Client, tools: list[Json], tool: Json, arguments: Json, found: list[Json]) -> Iterator[str]:
    """A list, each entry looked up where there is a tool for that."""
    which = " ".join(str(value) for value in arguments.values() if isinstance(value, str) and len(value) < 20)
    topic = " ".join(word for word in re.findall(r"[a-z]+", tool["name"].lower()) if word not in READING) or "entries"
    yield f"{len(found)} {f'{which} ' if which else ''}{topic}:"
    look = detail_tool(tool, tools, set.intersection(*(set(entry) for entry in found)))
    refusals = []
    for entry in found[:MOST_ENTRIES]:
        text = ""
        if look:
            other, parameter, key = look
            try:
                text = client.call(other["name"], {parameter: entry[key]})
            except Refused as refused:
                refusals.append(f"{entry[key]}: {refused}")
        inner = entries(text)
        yield f"* {sentence({**entry, **inner[0]}, str(inner[0].get('body', ''))) if inner else sentence(entry, text)}"
    if len(found) > MOST_ENTRIES:
        yield f"* and {len(found) - MOST_ENTRIES} more"
    if refusals:
        yield "Not shown to me:"
        yield from (f"* {refusal}" for refusal in refusals)


PLAN = re.compile(r"^[ \t]*(call|fetch|say|sleep|exit)[ \t]+(\S.*)$", re.MULTILINE)


def is_plan(prompt: str) -> bool:
    """Whether every line of the prompt is a line of a plan; prose with the word "call" in it is not one."""
    lines = [line for line in prompt.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return bool(lines) and all(
        (match := PLAN.match(line)) and (match[1] != "call" or re.fullmatch(r"\S+\s*(\{.*\})?\s*", match[2]))
        for line in lines
    )


def obey(prompt: str, client: Client | None) -> Iterator[str]:
    """A plan, line by line."""
    for word, rest in PLAN.findall(prompt):
        match word:
            case "say":
                yield rest
            case "sleep":
                time.sleep(float(rest))
            case "exit":
                raise SystemExit(int(rest))
            case "fetch":
                yield fetch(rest.strip())
            case "call":
                yield call(client, rest)


def call(client: Client | None, rest: str) -> str:
    name, _, given = rest.strip().partition(" ")
    if client is None:
        return f"{name} was refused: there is no MCP server here"
    try:
        return f"{name}: {client.call(name, json.loads(given or '{}'))}"
    except ValueError as error:
        return f"{name} was not called: its arguments are not JSON: {error}"
    except Refused as refused:
        return f"{name} was refused: {refused}"


def fetch(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=20) as response:
            return f"{url}: {response.status} {response.read(4000).decode('utf-8', 'replace')}"
    except urllib.error.HTTPError as error:
        return f"{url}: refused with {error.code}: {error.read(1000).decode('utf-8', 'replace').strip()}"
    except OSError as error:
        return f"{url}: not reached: {getattr(error, 'reason', error)}"


def main() -> int:
    arguments = sys.argv[1:]
    prompt = sys.stdin.read() if arguments in ([], ["-"]) else " ".join(arguments)
    if not prompt.strip():
        print("scripted: the prompt is empty", file=sys.stderr)
        return 2
    url = os.environ.get("MCP_SERVER_URL", "")
    try:
        client = Client(url, os.environ.get("MLLD_MCP_TOKEN", "")) if url else None
        for line in obey(prompt, client) if is_plan(prompt) else answer(prompt, client):
            print(line, flush=True)
        if client:
            client.close()
    except (OSError, http.client.HTTPException, Refused) as error:
        print(f"scripted: the MCP endpoint {url} failed: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())

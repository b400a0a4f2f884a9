"""What the fixture server offers: tools, prompts and resources with everything that the official conformance suite looks for.

A tool is a function of its arguments, of the answers it was given so far, and of its own state. What it wants to know
first it returns as `Wanted`: each tool is written once, and the server asks in the way of the era that it speaks.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

Json = dict[str, Any]
META = "io.modelcontextprotocol/"
STATELESS = "2026-07-28"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
SILENCE = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA="


class Fault(Exception):
    """An error of the protocol."""

    def __init__(self, code: int, message: str, data: Json | None = None) -> None:
        super().__init__(message)
        self.code, self.data = code, data


@dataclass
class Wanted:
    """What a tool or a prompt wants to know first, and what it wants to be reminded of."""

    requests: Json
    state: str | None = None


class Line(Protocol):
    """The connection on which it is used."""

    def notify(self, method: str, params: Json | None = None) -> None: ...

    def changed(self, what: str) -> None: ...


@dataclass
class Use:
    """One use of a tool or a prompt."""

    line: Line
    name: str
    params: Json
    capabilities: Json
    answers: Json = field(default_factory=dict)
    state: str | None = None

    @property
    def meta(self) -> Json:
        return dict(self.params.get("_meta") or {})

    def log(self, text: str) -> None:
        stateless = META + "protocolVersion" in self.meta
        if not stateless or META + "logLevel" in self.meta:
            self.line.notify("notifications/message", {"level": "info", "logger": "fixture", "data": text})

    def progress(self, done: int) -> None:
        if "progressToken" in self.meta:
            told = {"progressToken": self.meta["progressToken"], "progress": done, "total": 100}
            self.line.notify("notifications/progress", told)

    def content(self, key: str) -> Json | None:
        """What a person filled in, if that came and was not refused."""
        answer = self.answers.get(key)
        given = answer.get("content") if isinstance(answer, dict) else None
        return given if isinstance(given, dict) else None


Tool = Callable[[Use], Awaitable[Any]]
TOOLS: dict[str, tuple[Tool, Json]] = {}
OBJECT: Json = {"type": "object", "properties": {}}


def tool(schema: Json = OBJECT, name: str = "") -> Callable[[Tool], Tool]:
    def add(function: Tool) -> Tool:
        TOOLS[name or function.__name__] = (function, schema)
        return function

    return add


def takes(**properties: str) -> Json:
    return {"type": "object", "properties": {k: {"type": v} for k, v in properties.items()}, "required": [*properties]}


def text(value: str) -> Json:
    return {"type": "text", "text": value}


def embedded(uri: str, kind: str, value: str) -> Json:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": kind, "text": value}}


def elicit(message: str, **properties: Any) -> Json:
    schema = {"type": "object", "properties": properties, "required": [*properties]}
    return {"method": "elicitation/create", "params": {"mode": "form", "message": message, "requestedSchema": schema}}


def sample(prompt: str) -> Json:
    message = {"role": "user", "content": text(prompt)}
    return {"method": "sampling/createMessage", "params": {"messages": [message], "maxTokens": 100}}


ROOTS: Json = {"method": "roots/list"}
NAME = {"type": "string"}


# --- plain tools


@tool()
async def test_simple_text(use: Use) -> Any:
    return [text("This is a simple text response for testing.")]


@tool()
async def test_image_content(use: Use) -> Any:
    return [{"type": "image", "data": PIXEL, "mimeType": "image/png"}]


@tool()
async def test_audio_content(use: Use) -> Any:
    return [{"type": "audio", "data": SILENCE, "mimeType": "audio/wav"}]


@tool()
async def test_embedded_resource(use: Use) -> Any:
    return [embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")]


@tool()
async def test_multiple_content_types(use: Use) -> Any:
    picture = {"type": "image", "data": PIXEL, "mimeType": "image/png"}
    data = embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}')
    return [text("Multiple content types test:"), picture, data]


@tool()
async def test_tool_with_logging(use: Use) -> Any:
    for said in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        use.log(said)
        await asyncio.sleep(0.03)
    return [text("logged")]


@tool()
async def test_tool_with_progress(use: Use) -> Any:
    for done in (0, 50, 100):
        use.progress(done)
        await asyncio.sleep(0.03)
    return [text(str(use.meta.get("progressToken", "")))]


@tool()
async def test_error_handling(use: Use) -> Any:
    raise ValueError("This tool intentionally returns an error for testing")


@tool()
async def test_reconnection(use: Use) -> Any:
    use.log("before")
    await asyncio.sleep(0.2)
    return [text("Reconnection test completed")]


@tool({"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}})
async def test_x_mcp_header(use: Use) -> Any:
    return [text(str((use.params.get("arguments") or {}).get("region")))]


@tool()
async def test_missing_capability(use: Use) -> Any:
    if "sampling" not in use.capabilities:
        raise Fault(-32021, "This tool needs sampling", {"requiredCapabilities": {"sampling": {}}})
    return [text("sampling is there")]


@tool()
async def test_trigger_tool_change(use: Use) -> Any:
    use.line.changed("tools")
    return [text("changed")]


@tool()
async def test_trigger_prompt_change(use: Use) -> Any:
    use.line.changed("prompts")
    return [text("changed")]


SCHEMA_2020_12 = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


@tool(SCHEMA_2020_12)
async def json_schema_2020_12_tool(use: Use) -> Any:
    return [text("ok")]


# --- tools that want to know something


@tool(takes(prompt="string"))
async def test_sampling(use: Use) -> Any:
    if "it" not in use.answers:
        return Wanted({"it": sample(use.params["arguments"]["prompt"])})
    return [text(f"LLM response: {use.answers['it']['content']['text']}")]


async def form(use: Use, question: Json) -> Any:
    if "it" not in use.answers:
        return Wanted({"it": question})
    answer = use.answers["it"]
    return [text(f"action={answer['action']}, content={json.dumps(answer.get('content') or {})}")]


@tool(takes(message="string"))
async def test_elicitation(use: Use) -> Any:
    question = elicit(use.params["arguments"]["message"], username=NAME, email=NAME)
    return await form(use, question)


@tool()
async def test_elicitation_sep1034_defaults(use: Use) -> Any:
    question = elicit(
        "Please check",
        name={"type": "string", "default": "John Doe"},
        age={"type": "integer", "default": 30},
        score={"type": "number", "default": 95.5},
        status={"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        verified={"type": "boolean", "default": True},
    )
    return await form(use, question)


@tool()
async def test_elicitation_sep1330_enums(use: Use) -> Any:
    titled = [{"const": f"value{i}", "title": f"Option {i}"} for i in (1, 2, 3)]
    plain = ["option1", "option2", "option3"]
    question = elicit(
        "Please choose",
        untitledSingle={"type": "string", "enum": plain},
        titledSingle={"type": "string", "oneOf": titled},
        legacyEnum={"type": "string", "enum": plain, "enumNames": ["One", "Two", "Three"]},
        untitledMulti={"type": "array", "items": {"type": "string", "enum": plain}},
        titledMulti={"type": "array", "items": {"anyOf": titled}},
    )
    return await form(use, question)


@tool()
async def test_input_required_result_elicitation(use: Use) -> Any:
    given = use.content("user_name")
    if given is None:
        return Wanted({"user_name": elicit("What is your name?", name=NAME)})
    return [text(f"Hello, {given.get('name')}!")]


@tool()
async def test_input_required_result_sampling(use: Use) -> Any:
    if "capital_question" not in use.answers:
        return Wanted({"capital_question": sample("What is the capital of France?")})
    return [text(f"Model said: {use.answers['capital_question']['content']['text']}")]


@tool()
async def test_input_required_result_list_roots(use: Use) -> Any:
    if "client_roots" not in use.answers:
        return Wanted({"client_roots": ROOTS})
    return [text(f"{len(use.answers['client_roots']['roots'])} roots")]


@tool()
async def test_input_required_result_request_state(use: Use) -> Any:
    if use.content("confirm") is None or use.state != "remember":
        return Wanted({"confirm": elicit("Please confirm", ok={"type": "boolean"})}, "remember")
    return [text("state-ok: confirmed")]


@tool()
async def test_input_required_result_tampered_state(use: Use) -> Any:
    if use.state != "remember":
        return Wanted({"confirm": elicit("Please confirm", ok={"type": "boolean"})}, "remember")
    return [text("state-ok: untouched")]


@tool()
async def test_input_required_result_multiple_inputs(use: Use) -> Any:
    wanted = {"user_name": elicit("Name?", name=NAME), "greeting": sample("Greet me"), "client_roots": ROOTS}
    return [text("All inputs received.")] if wanted.keys() <= use.answers.keys() else Wanted(wanted, "all")


@tool()
async def test_input_required_result_multi_round(use: Use) -> Any:
    past = json.loads(use.state) if use.state else {}
    if "step2" in use.answers and "name" in past:
        return [text(f"{past['name']} likes {(use.content('step2') or {}).get('color')}.")]
    if "step1" in use.answers and past:
        name = (use.content("step1") or {}).get("name")
        return Wanted({"step2": elicit("Step 2: which colour?", color=NAME)}, json.dumps({"name": name}))
    return Wanted({"step1": elicit("Step 1: what is your name?", name=NAME)}, json.dumps({"round": 1}))


@tool()
async def test_input_required_result_capabilities(use: Use) -> Any:
    wanted = {"sampling": ("sample", sample("Hello")), "elicitation": ("ask", elicit("Name?", name=NAME))}
    return Wanted(dict(value for key, value in wanted.items() if key in use.capabilities), "by capability")


# --- prompts and resources

PROMPTS: dict[str, list[str]] = {
    "test_simple_prompt": [],
    "test_prompt_with_arguments": ["arg1", "arg2"],
    "test_prompt_with_embedded_resource": ["resourceUri"],
    "test_prompt_with_image": [],
    "test_input_required_result_prompt": [],
}


def prompt(use: Use) -> Any:
    given = use.params.get("arguments") or {}
    contents = {
        "test_simple_prompt": [text("This is a simple prompt for testing.")],
        "test_prompt_with_arguments": [text(f"Prompt with arguments: {given.get('arg1')}, {given.get('arg2')}")],
        "test_prompt_with_embedded_resource": [
            embedded(str(given.get("resourceUri")), "text/plain", "Embedded resource content for testing."),
            text("Please process the embedded resource above."),
        ],
        "test_prompt_with_image": [{"type": "image", "data": PIXEL, "mimeType": "image/png"}, text("Look at this.")],
    }
    if use.name == "test_input_required_result_prompt":
        context = use.content("user_context")
        if context is None:
            return Wanted({"user_context": elicit("Which context?", context=NAME)})
        contents[use.name] = [text(f"Use the following context: {context.get('context')}")]
    return [{"role": "user", "content": content} for content in contents[use.name]]


RESOURCES = {
    "test://static-text": "text/plain",
    "test://static-binary": "image/png",
    "test://watched-resource": "text/plain",
}


def resource(uri: str, stateless: bool) -> Json:
    if uri == "test://static-binary":
        return {"uri": uri, "mimeType": "image/png", "blob": PIXEL}
    if uri in RESOURCES:
        return {"uri": uri, "mimeType": "text/plain", "text": "This is the content of the resource."}
    identity = uri.removeprefix("test://template/").removesuffix("/data")
    if uri == f"test://template/{identity}/data":
        body = json.dumps({"id": identity, "templateTest": True, "data": f"Data for ID: {identity}"})
        return {"uri": uri, "mimeType": "application/json", "text": body}
    raise Fault(-32602 if stateless else -32002, f"Resource not found: {uri}", {"uri": uri})

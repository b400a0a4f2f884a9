"""Messages of the protocol as guards see them: the text that a model would read there, and the way back into a message."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from typing import Any

from interpreter import values_text
from interpreter.values import Value

# What comes back of a task is the result of its tool, whichever method fetches it.
OF_TASKS = ("tasks/result", "tasks/get", "tasks/cancel", "tasks/list", "notifications/tasks/status")
_CONTENT = ("tools/call", "tasks/result")
_MEDIA = ("image", "audio")


class Unfit(ValueError):
    """What a guard put in the place of a message is none."""


def text_of(message: Any) -> str:
    """The text of a message, as scripts see it: its content, contents or messages, else the whole as JSON.

    A guard that looks for a word must find it wherever a model would read it, so what has no text of its own is told as
    JSON, and binary data that is text is decoded. Pictures and sound are not.
    """
    found: list[str] = []
    if isinstance(message, dict):
        if message.keys() == {"instructions"} and isinstance(message["instructions"], str):
            return str(message["instructions"])
        for key in ("content", "contents", "messages"):
            if isinstance(message.get(key), list) or (key == "content" and _typed(message.get(key))):
                held = message[key] if isinstance(message[key], list) else [message[key]]
                found.extend(part for item in held for part in _parts(item))
                break
        else:
            return json.dumps(message, ensure_ascii=False)
        for beside in ("structuredContent", "description"):
            if message.get(beside) is not None:
                # What the model would read there must not pass beside a guard that looks at the text.
                said = message[beside] if isinstance(message[beside], str) else _json(message[beside])
                if said not in found:
                    found.append(said)
        return "\n".join(found)
    return _json(message)


def put_back(message: Any, method: str, changed: Any) -> Any:
    """The message with what a guard put in the place of its text. Errors: `Unfit`."""
    if method in OF_TASKS and method not in _CONTENT:
        raise Unfit("the state of a task is no text that a guard could change")
    if method in _CONTENT:
        if isinstance(changed, dict) and isinstance(changed.get("content"), list):
            return changed
        text = changed if isinstance(changed, str) else _json(changed)
        kept = {key: part for key, part in message.items() if key not in ("content", "structuredContent")}
        return {**kept, "content": [{"type": "text", "text": text}]}
    if isinstance(changed, dict):
        return changed
    if method == "resources/read" and isinstance(changed, str):
        first: Any = next(iter(message.get("contents") or ()), {})
        uri = first.get("uri", "") if isinstance(first, dict) else ""
        return {"contents": [{"uri": uri, "mimeType": "text/plain", "text": changed}]}
    if method == "initialize" and isinstance(changed, str):
        return {"instructions": changed}
    if method == "prompts/get" and isinstance(changed, str):
        return {"messages": [{"role": "user", "content": {"type": "text", "text": changed}}]}
    try:
        whole = json.loads(changed) if isinstance(changed, str) else None
    except ValueError:
        whole = None
    if not isinstance(whole, dict):
        raise Unfit(f"what a guard puts in the place of {method} must be an object, or its JSON")
    return whole


def plain(value: object) -> Any:
    """A value of the language as JSON has it."""
    return values_text.to_plain(value) if isinstance(value, Value) else value


def _typed(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("type"), str)


def _parts(item: Any) -> Iterator[str]:
    """The texts of one piece: of a result, of a resource, of a prompt."""
    if not isinstance(item, dict):
        yield _json(item)
    elif item.get("type") == "text" and isinstance(item.get("text"), str):
        yield item["text"]
    elif item.get("type") in _MEDIA:
        return
    elif item.get("type") == "resource" and isinstance(item.get("resource"), dict):
        yield from _contents(item["resource"])
    elif "uri" in item and ("text" in item or "blob" in item):
        yield from _contents(item)
    elif "role" in item and "content" in item:
        for piece in item["content"] if isinstance(item["content"], list) else [item["content"]]:
            yield from _parts(piece)
    else:
        yield _json(item)


def _contents(resource: dict[str, Any]) -> Iterator[str]:
    if "text" in resource:
        yield str(resource["text"])
    elif isinstance(blob := resource.get("blob"), str):
        try:
            yield base64.b64decode(blob, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)

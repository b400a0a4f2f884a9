"""JSON as people and models write it: comments, single quotes, bare keys, trailing commas; and JSON found inside prose."""

from __future__ import annotations

import json
import re
from typing import Any

_SPACE = re.compile(r"(?:\s+|//[^\n]*|/\*.*?\*/|#[^\n]*)*", re.S)
_KEY = re.compile(r"[A-Za-z_$][\w$-]*")
_NUMBER = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|Infinity|NaN)")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "\n": ""}
_WORDS = {"true": True, "false": False, "null": None, "undefined": None, "True": True, "False": False, "None": None}
MAX_DEPTH = 200


class _Reader:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def fail(self, expected: str) -> ValueError:
        line = self.text.count("\n", 0, self.at) + 1
        found = self.text[self.at : self.at + 12] or "the end"
        return ValueError(f"expected {expected} but found {found!r} (line {line})")

    def skip(self) -> None:
        match = _SPACE.match(self.text, self.at)
        if match:
            self.at = match.end()

    def take(self, character: str) -> bool:
        self.skip()
        if self.text.startswith(character, self.at):
            self.at += 1
            return True
        return False

    def value(self, depth: int = 0) -> Any:
        self.skip()
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        head = self.text[self.at : self.at + 1]
        if head == "{":
            return self.object(depth)
        if head == "[":
            return self.array(depth)
        if head and head in "\"'`":
            return self.string(head)
        number = _NUMBER.match(self.text, self.at)
        if number:
            self.at = number.end()
            return self.number(number.group())
        word = _KEY.match(self.text, self.at)
        if word and word.group() in _WORDS:
            self.at = word.end()
            return _WORDS[word.group()]
        raise self.fail("a value")

    @staticmethod
    def number(text: str) -> int | float:
        if "x" in text or "X" in text:
            return int(text, 16)
        text = text.lstrip("+")
        return int(text) if text.lstrip("-").isdigit() else float(text.replace("Infinity", "inf"))

    def object(self, depth: int) -> dict[str, Any]:
        self.at += 1
        found: dict[str, Any] = {}
        while not self.take("}"):
            head = self.text[self.at : self.at + 1]
            if head and head in "\"'":
                key = self.string(head)
            else:
                match = _KEY.match(self.text, self.at) or _NUMBER.match(self.text, self.at)
                if not match:
                    raise self.fail("a key or `}`")
                key, self.at = match.group(), match.end()
            if not self.take(":"):
                raise self.fail("`:`")
            found[key] = self.value(depth + 1)
            if not self.take(","):
                if self.take("}"):
                    break
                raise self.fail("`,` or `}`")
        return found

    def array(self, depth: int) -> list[Any]:
        self.at += 1
        found: list[Any] = []
        while not self.take("]"):
            found.append(self.value(depth + 1))
            if not self.take(","):
                if self.take("]"):
                    break
                raise self.fail("`,` or `]`")
        return found

    def string(self, quote: str) -> str:
        self.at += 1
        out: list[str] = []
        while True:
            end = self.at
            while end < len(self.text) and self.text[end] not in (quote, "\\"):
                end += 1
            out.append(self.text[self.at : end])
            if end >= len(self.text):
                raise self.fail(f"a closing {quote}")
            if self.text[end] == quote:
                self.at = end + 1
                return "".join(out)
            escape = self.text[end + 1 : end + 2]
            self.at = end + 2
            if escape == "u":
                try:
                    out.append(chr(int(self.text[self.at : self.at + 4], 16)))
                except ValueError:
                    raise self.fail("four hexadecimal digits") from None
                self.at += 4
            else:
                out.append(_ESCAPES.get(escape, escape))


def loads(text: str) -> Any:
    """Data of relaxed JSON. Errors: `ValueError` saying what was expected where."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    reader = _Reader(text)
    found = reader.value()
    reader.skip()
    if reader.at < len(text):
        raise reader.fail("the end")
    return found


def is_fenced(text: str) -> bool:
    return text.lstrip().startswith("```")


_FENCE = re.compile(r"```[ \t]*[\w+-]*[ \t]*\n(.*?)```", re.S)


def extract(text: str) -> Any:
    """The first JSON in an answer of a model: in a code fence, else the first balanced object or array. None without."""
    for fence in _FENCE.finditer(text):
        try:
            return loads(fence.group(1).strip())
        except ValueError:
            continue
    try:
        whole = loads(text.strip())
        if isinstance(whole, dict | list):
            return whole
    except ValueError:
        pass
    at, tries = 0, 0
    while (start := _next_opening(text, at)) >= 0 and tries < 100:
        reader = _Reader(text)
        reader.at = start
        tries += 1
        try:
            return reader.value()
        except ValueError:
            at = start + 1
    return None


def _next_opening(text: str, at: int) -> int:
    found = [i for i in (text.find("{", at), text.find("[", at)) if i >= 0]
    return min(found, default=-1)

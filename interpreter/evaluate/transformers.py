"""What `| @name` knows without being told: reading and writing JSON, XML, CSV; text; arrays; checks."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

from interpreter import values_text as vt
from interpreter.errors import EvaluationError
from interpreter.values import NULL, Value, array, is_plain_text, record, strip, truthy, type_name

from . import relaxed_json
from .core import Env
from .functions import Arguments, BuiltIn
from .methods import pick
from .methods import sort as sort_array

Transform = Callable[[Value], Value]


def built_in(name: str, transform: Transform, **variants: Transform) -> BuiltIn:
    """A function of one value."""

    def asynchronous(function: Transform) -> Callable[[Env, Arguments], Awaitable[Value]]:
        async def call(env: Env, arguments: Arguments) -> Value:
            return function(arguments[0] if arguments else NULL)

        return call

    return BuiltIn(
        name=name,
        call=asynchronous(transform),
        parameters=("value",),
        variants={
            key: BuiltIn(name=f"{name}.{key}", call=asynchronous(f), parameters=("value",))
            for key, f in variants.items()
        },
    )


# ── JSON ────────────────────────────────────────────────────────────────────────────────────────────


def parsed(data: Any, source: Value) -> Value:
    """Data read from text: whole it carries what the text carried; null is spelt out where it is shown."""
    if isinstance(data, list | dict):
        return Value(data, source.labels, meta={"text": vt.dump(data, pretty=True)})
    return Value(data, source.labels, meta={"text": "null"} if data is None else None)


def laid_out(value: Value) -> Value:
    """Data as it is, whose text is JSON for reading."""
    if isinstance(value.data, list | dict):
        return Value(value.data, value.own, labels=value.labels, meta={"text": vt.to_json(value, pretty=True)})
    return value.without_meta()


def _parse(value: Value, read: Callable[[str], Any], what: str) -> Value:
    if not is_plain_text(value):
        return laid_out(value)
    text = value.data
    failed = "Strict JSON parsing failed" if what == "parse.strict" else "JSON parsing failed"
    if not text.strip():
        raise EvaluationError(
            f"{failed}: the text is empty", code="not-json", hint="`?? null` or a `when` handles an empty answer"
        )
    try:
        return parsed(read(text), value)
    except (ValueError, RecursionError) as error:
        if relaxed_json.is_fenced(text):
            raise EvaluationError(
                f"{failed} - input appears to be wrapped in markdown code fences. Use @parse.llm", code="not-json",
                hint="@parse.llm finds JSON inside the answer of a model",
            ) from None  # fmt: skip
        shown = text if len(text) <= 60 else f"{text[:57]}…"
        raise EvaluationError(
            f"{failed}: {error}; the text begins {shown!r}", code="not-json",
            hint="@parse.loose accepts comments and single quotes, @parse.llm finds JSON inside prose",
        ) from None  # fmt: skip


def parse(value: Value) -> Value:
    return _parse(value, relaxed_json.loads, "parse")


def parse_strict(value: Value) -> Value:
    return _parse(value, json.loads, "parse.strict")


def parse_llm(value: Value) -> Value:
    return parsed(relaxed_json.extract(value.data), value) if is_plain_text(value) else value.without_meta()


def parse_list(value: Value) -> Value:
    if isinstance(value.data, list):
        return value
    lines = (line.rstrip() for line in vt.text(value).split("\n"))
    return Value([line for line in lines if line], value.labels)


def structured(value: Value) -> Any:
    """The data that a value stands for: text which is JSON counts as its data."""
    return vt.parse_loosely(value.data) if is_plain_text(value) else vt.to_plain(value)


def pretty(value: Value) -> Value:
    data = structured(value)
    return Value(data if isinstance(data, str) else vt.dump(data, pretty=True), value.labels)


# ── Tables and markup ───────────────────────────────────────────────────────────────────────────────


def _table(text: str) -> list[list[str]] | None:
    """The cells of the first Markdown table of a text."""
    rows = [line.strip().strip("|").split("|") for line in text.splitlines() if line.strip().startswith("|")]
    if len(rows) < 2:
        return None
    return [[c.strip() for c in row] for row in rows if not all(re.fullmatch(r"\s*:?-+:?\s*", c) for c in row)]


def to_csv(value: Value) -> Value:
    data = structured(value)
    if isinstance(data, dict):
        data = [data]
    if isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
        names = list(dict.fromkeys(key for row in data for key in row))
        rows = [names, *([_cell(row.get(name)) for name in names] for row in data)]
    elif isinstance(data, list):
        rows = [[_cell(c) for c in row] if isinstance(row, list) else [_cell(row)] for row in data]
    else:
        table = _table(str(data))
        if table is None:
            return Value(str(data), value.labels)
        rows = table
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return Value(out.getvalue().rstrip("\n"), value.labels)


def _cell(data: Any) -> str:
    found = vt.scalar_text(data)
    return "" if data is None else found if found is not None else vt.dump(data)


_HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*\s*$")


def _tag(title: str) -> str:
    return re.sub(r"[^A-Z0-9]+", "_", title.upper()).strip("_") or "SECTION"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _element(name: str, data: Any, indent: str = "") -> str:
    tag = _tag(name)
    if isinstance(data, dict | list):
        inner = indent + "  "
        members = data.items() if isinstance(data, dict) else (("item", item) for item in data)
        body = "\n".join(_element(key, item, inner) for key, item in members)
        return f"{indent}<{tag}>\n{body}\n{indent}</{tag}>"
    return f"{indent}<{tag}>{_escape(_cell(data))}</{tag}>"


def to_xml(value: Value) -> Value:
    """Headings of Markdown become elements around what stands below them; keys of data become elements."""
    data = structured(value)
    if isinstance(data, dict):
        return Value("\n".join(_element(k, v) for k, v in data.items()), value.labels)
    if isinstance(data, list):
        return Value("\n".join(_element("item", item) for item in data), value.labels)
    lines: list[str] = []
    open_tags: list[tuple[int, str]] = []  # level and tag, each with the indentation of its depth
    found = False

    def close() -> None:
        lines.append("  " * (len(open_tags) - 1) + f"</{open_tags[-1][1]}>")
        open_tags.pop()

    for line in str(data).strip().splitlines():
        heading = _HEADING.match(line)
        if not heading:
            lines.append(line)
            continue
        found = True
        level = len(heading.group(1))
        while open_tags and open_tags[-1][0] >= level:
            close()
        open_tags.append((level, _tag(heading.group(2))))
        lines.append("  " * (len(open_tags) - 1) + f"<{open_tags[-1][1]}>")
    while open_tags:
        close()
    body = "\n".join(lines)
    return Value(body if found else f"<DOCUMENT>\n{body}\n</DOCUMENT>", value.labels)


def markdown(value: Value) -> Value:
    """Markdown in an even layout: no space at line ends, one blank line around headings."""
    lines = [line.rstrip() for line in vt.text(value).strip("\n").splitlines()]
    out: list[str] = []
    for line in lines:
        if _HEADING.match(line) and out and out[-1]:
            out.append("")
        if not (line == "" and out and out[-1] == ""):
            out.append(line)
    return Value("\n".join(out), value.labels)


# ── Text and arrays ─────────────────────────────────────────────────────────────────────────────────


def sort(value: Value) -> Value:
    data = value if isinstance(value.data, list) else Value(structured(value), value.labels)
    if isinstance(data.data, list):
        return sort_array(data)
    if isinstance(data.data, dict):
        return Value(dict(sorted(data.data.items())), data.own, labels=data.labels)
    return Value("\n".join(sorted(vt.text(data).splitlines())), data.labels)


def on_text(change: Callable[[str], str]) -> Transform:
    return lambda value: Value(change(vt.text(value)), value.labels)


async def keep(env: Env, arguments: Arguments) -> Value:
    """`@keep(obj, ["a", "b"])`: these keys only. `@keep(<file>)`, also `@file.keep`: code gets it with its metadata."""
    if len(arguments) < 2:
        return arguments[0].with_meta(keep=True) if arguments else NULL
    target, keys = arguments[0], arguments[1]
    names = (
        [vt.text(key) for key in keys.items()] if isinstance(keys.data, list) else [vt.text(k) for k in arguments[1:]]
    )
    if isinstance(target.data, list):
        return array(
            (pick(item, names) if isinstance(item.data, dict) else item for item in target.items()), target.own
        )
    return pick(target, names) if isinstance(target.data, dict) else target


def _shaped(target: Value, schema: Any) -> Value:
    if isinstance(schema, dict) and isinstance(target.data, dict):
        return record(
            {k: _shaped(target.item(target.data[k]), strip(s)) for k, s in schema.items() if k in target.data},
            target.own,
        )
    if isinstance(schema, list) and schema and isinstance(target.data, list):
        return array((_shaped(item, strip(schema[0])) for item in target.items()), target.own)
    return target


async def keep_structured(env: Env, arguments: Arguments) -> Value:
    if len(arguments) < 2:
        return arguments[0].with_meta(keep=True) if arguments else NULL
    return _shaped(arguments[0], arguments[1].data)


async def typeof(env: Env, arguments: Arguments) -> Value:
    return Value(type_name(arguments[0]) if arguments else "undefined")


async def type_info(env: Env, arguments: Arguments) -> Value:
    value = arguments[0] if arguments else NULL
    return Value(
        {
            "type": type_name(value),
            **value.labels.json(),
            "file": str(value.meta["file"].path) if value.meta and "file" in value.meta else None,
        }
    )


async def not_(env: Env, arguments: Arguments) -> Value:
    return Value(not truthy(arguments[0]) if arguments else True)


PARSE = built_in("parse", parse, strict=parse_strict, loose=parse, llm=parse_llm, fromlist=parse_list)
TRANSFORMERS: dict[str, BuiltIn] = {
    "parse": PARSE,
    "json": PARSE,
    "xml": built_in("xml", to_xml),
    "csv": built_in("csv", to_csv),
    "md": built_in("md", markdown),
    "upper": built_in("upper", on_text(str.upper)),
    "lower": built_in("lower", on_text(str.lower)),
    "trim": built_in("trim", on_text(str.strip)),
    "pretty": built_in("pretty", pretty),
    "sort": built_in("sort", sort),
    "keep": BuiltIn(name="keep", call=keep, parameters=("value", "keys")),
    "keepStructured": BuiltIn(name="keepStructured", call=keep_structured, parameters=("value", "schema")),
    "typeof": BuiltIn(name="typeof", call=typeof, parameters=("value",)),
    "typeInfo": BuiltIn(name="typeInfo", call=type_info, parameters=("value",)),
    "not": BuiltIn(name="not", call=not_, parameters=("value",)),
}
SHOUTED = ("parse", "json", "xml", "csv", "md", "upper", "lower", "trim", "pretty", "sort", "typeof")
TRANSFORMERS |= {name.upper(): TRANSFORMERS[name] for name in SHOUTED}

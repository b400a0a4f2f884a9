"""What `| @name` knows without being told: reading and writing JSON, XML, CSV; text; arrays; checks."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

from interpreter import nodes as n
from interpreter import values_text as vt
from interpreter.errors import EvaluationError
from interpreter.values import NULL, Value, array, is_plain_text, record, strip, truthy, type_name

from . import relaxed_json
from .core import Env, evaluate
from .functions import Arguments, BuiltIn, Function
from .metadata import kept
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
    return Value(data, source.labels, meta={"text": "null"} if data is None else None)


def laid_out(value: Value) -> Value:
    """Data with a text for reading, over several lines."""
    if not isinstance(value.data, list | dict):
        return value
    return Value(value.data, value.own, labels=value.labels, meta={"text": vt.to_json(value, pretty=True)})


def _parse(value: Value, read: Callable[[str], Any], what: str, advice: str) -> Value:
    if not is_plain_text(value):
        return value.without_meta()
    text = value.data
    try:
        return parsed(read(text), value)
    except (ValueError, RecursionError) as error:
        strict = "Strict " if what.endswith(".strict") else ""
        if relaxed_json.is_fenced(text):
            raise EvaluationError(
                f"Transformer {what} failed: {strict}JSON parsing failed - input appears to be wrapped in markdown code fences."
                " Use @parse.llm to extract JSON from LLM responses", code="not-json",
                hint="@parse.llm finds JSON inside the answer of a model",
            ) from None  # fmt: skip
        shown = text if len(text) <= 60 else f"{text[:57]}…"
        raise EvaluationError(
            f"Transformer {what} failed: {strict}JSON parsing failed ({advice}): {error}; "
            + (f"the text begins {shown!r}" if text.strip() else "the text is empty"), code="not-json",
            hint="@parse.loose accepts comments and single quotes, @parse.llm finds JSON inside prose",
        ) from None  # fmt: skip


def reader(name: str) -> BuiltIn:
    """What reads JSON, under one of its two names: relaxed unless a variant says otherwise. As `@json` alone it also gives
    what it read a text for reading.
    """

    def relaxed(called: str) -> Transform:
        return lambda value: _parse(
            value, relaxed_json.loads, called, "use @parse.llm for LLM responses with code fences"
        )

    def strict(value: Value) -> Value:
        return _parse(value, json.loads, f"{name}.strict", "use @parse.loose for relaxed syntax")

    read = relaxed(name)
    return built_in(
        name,
        (lambda value: laid_out(read(value))) if name == "json" else read,
        strict=strict,
        loose=relaxed(f"{name}.loose"),
        llm=parse_llm,
        fromlist=parse_list,
    )


def parse_llm(value: Value) -> Value:
    return parsed(relaxed_json.extract(value.data), value) if is_plain_text(value) else value.without_meta()


def parse_list(value: Value) -> Value:
    """One item for each line that says something."""
    if isinstance(value.data, list):
        return value
    return Value([line.rstrip() for line in vt.text(value).split("\n") if line.strip()], value.labels)


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
        rows = _table(str(data)) or [[_cell(data)]]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return Value(out.getvalue().rstrip("\n"), value.labels)


def _cell(data: Any) -> str:
    found = vt.scalar_text(data)
    return "" if data is None else found if found is not None else vt.dump(data)


_HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*\s*$")


def _tag(title: str) -> str:
    """The name of an element: `helloWorld`, `hello-world` and `hello world` are HELLO_WORLD."""
    words = re.sub(r"[\s.-]+", "_", re.sub(r"([a-z])([A-Z])", r"\1_\2", title))
    return re.sub(r"[^A-Z0-9_]+", "", words.upper()).strip("_") or "SECTION"


def _escape(text: str) -> str:
    for character, entity in (("&", "amp"), ("<", "lt"), (">", "gt"), ('"', "quot"), ("'", "apos")):
        text = text.replace(character, f"&{entity};")
    return text


def _elements(members: Iterable[tuple[str, Any]], indent: str = "") -> Iterator[str]:
    """One element for each member; null has none."""
    for name, data in members:
        tag = _tag(name)
        if data == {}:
            yield f"{indent}<{tag} />"
        elif isinstance(data, dict | list):
            yield f"{indent}<{tag}>"
            yield from _elements(data.items() if isinstance(data, dict) else (("item", i) for i in data), indent + "  ")
            yield f"{indent}</{tag}>"
        elif data is not None:
            yield f"{indent}<{tag}>{_escape(_cell(data))}</{tag}>"


def to_xml(value: Value) -> Value:
    """Headings of Markdown become elements around what stands below them; keys of data become elements."""
    data = structured(value)
    if isinstance(data, dict | list):
        members = data.items() if isinstance(data, dict) else [("root", data)]
        return Value("\n".join(_elements(members)), value.labels)
    if not isinstance(data, str):
        return Value(f"<DOCUMENT>{_escape(_cell(data))}</DOCUMENT>", value.labels)
    lines = _sections(data.strip())
    return Value("\n".join(lines) if lines else f"<DOCUMENT>\n{data.strip()}\n</DOCUMENT>", value.labels)


def _sections(text: str) -> list[str]:
    """Markdown with an element for each heading, nested as the headings are; no lines if there is no heading."""
    lines: list[str] = []
    open_tags: list[tuple[int, str]] = []
    found = fenced = False

    def close(level: int) -> None:
        while open_tags and open_tags[-1][0] >= level:
            _, tag = open_tags.pop()
            lines.append(f"{'  ' * len(open_tags)}</{tag}>")
            if not open_tags:
                lines.append("")

    for line in text.splitlines():
        fenced ^= line.lstrip().startswith(("```", "~~~"))
        heading = None if fenced else _HEADING.match(line)
        if heading:
            found = True
            close(len(heading.group(1)))
            lines.append(f"{'  ' * len(open_tags)}<{_tag(heading.group(2))}>")
            open_tags.append((len(heading.group(1)), _tag(heading.group(2))))
        elif line.strip() or fenced or not open_tags:
            lines.append(line)
    close(0)
    return lines[:-1] if found else []


def markdown(value: Value) -> Value:
    """Markdown in an even layout: no space at line ends, a blank line around headings, tables, code and paragraphs, never
    two. Front matter, code and tables stay as they are.
    """
    out: list[str] = []
    before = ""  # what the last line is: "", "text", "heading", "table", "code", "front"
    fence = ""
    for index, raw in enumerate(vt.text(value).strip("\n").split("\n")):
        line = raw if fence else raw.rstrip()
        if fence:
            kind = before
            fence = "" if line.strip().startswith(fence) else fence
        elif line == "---" and index == 0:
            fence, kind = "---", "front"
        elif line.startswith(("```", "~~~")):
            fence, kind = line[:3], "code"
            if before:
                out.append("")
        else:
            kind = "table" if line.startswith("|") else "heading" if _HEADING.match(line) else "text" if line else ""
            if before and kind and _apart(before, kind, out[-1], line):
                out.append("")
        if kind or (before and out):
            out.append(line)
        before = kind
    return Value("\n".join(out) + "\n", value.labels)


def _apart(before: str, kind: str, last: str, line: str) -> bool:
    """Does a blank line belong between two lines? Lists, indented lines and JSON stay together."""
    if before != kind or kind == "heading":
        return True
    return kind == "text" and last[-1] not in "{[" and line[0] not in " \t-}]"


# ── Text and arrays ─────────────────────────────────────────────────────────────────────────────────


def sort(value: Value) -> Value:
    data = value if isinstance(value.data, list) else Value(structured(value), value.labels)
    if isinstance(data.data, list):
        return sort_array(data)
    if isinstance(data.data, dict):
        ordered = dict(sorted(data.data.items()))
        return Value(ordered, data.own, labels=data.labels, meta={"text": vt.dump(vt.to_plain(ordered), pretty=True)})
    return Value("\n".join(sorted(vt.text(data).splitlines())), data.labels)


def on_text(change: Callable[[str], str]) -> Transform:
    return lambda value: Value(change(vt.text(value)), value.labels)


async def keep(env: Env, arguments: Arguments) -> Value:
    """`@keep(obj, ["a", "b"])`: these keys only. `@keep(<file>)`, also `@file.keep`: code gets it with its metadata."""
    if len(arguments) < 2:
        return kept(arguments[0]) if arguments else NULL
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
        return kept(arguments[0]) if arguments else NULL
    return _shaped(arguments[0], arguments[1].data)


async def typeof(env: Env, arguments: Arguments) -> Value:
    return Value(type_name(arguments[0]) if arguments else "undefined")


BODIES: dict[type[n.Node], str] = {
    n.Template: "template", n.Literal: "template", n.TemplateFile: "template", n.Command: "command", n.Prose: "prose",
    n.Variable: "commandRef", n.Call: "commandRef", n.Array: "data", n.Object: "data", n.FileLoad: "data",
}  # fmt: skip


async def type_info(env: Env, arguments: Arguments) -> Value:
    """The type of a value with its size, and whether it came out of a file or a program: for people who look for a mistake."""
    return _type_info(arguments[0] if arguments else NULL, None)


async def asked_type(env: Env, node: n.Node | None) -> Value:
    """`@typeInfo(@x)` says what the name was given, too."""
    if node is None:
        return _type_info(NULL, None)
    given = env.module.written.get(node.name) if isinstance(node, n.Variable) else None
    told = _type_info(await evaluate(node, env), given)
    return told if isinstance(node, n.Variable) else Value(vt.text(told).removesuffix(" [from /var]"), told.labels)


def _type_info(value: Value, given: n.Node | None) -> Value:
    """`given`: what was written for the name of the value, if it has one."""
    data, directive = value.data, "for" if isinstance(given, n.For) else "var"
    if isinstance(data, Function):
        kind = f"executable ({BODIES.get(type(data.body), 'code')})"
    elif isinstance(data, BuiltIn):
        kind = "executable (code)"
    elif isinstance(given, n.Template):
        kind = "template"
    elif isinstance(given, n.Pipeline) or (value.meta and "file" in value.meta) or _came_in(value):
        kind = "structured"
    elif isinstance(data, list):
        kind = f"array ({len(data)} items)"
    elif isinstance(data, dict):
        kind = f"object ({len(data)} properties)"
    else:
        kind = "simple-text" if isinstance(data, str) else f"primitive ({type_name(data)})"
    return Value(f"{kind} [from /{directive}]", value.labels)


def _came_in(value: Value) -> bool:
    return any(label.startswith("src:") for label in value.labels.taint)


async def not_(env: Env, arguments: Arguments) -> Value:
    return Value(not truthy(arguments[0]) if arguments else True)


TRANSFORMERS: dict[str, BuiltIn] = {
    "parse": reader("parse"),
    "json": reader("json"),
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
    "typeInfo": BuiltIn(name="typeInfo", call=type_info, parameters=("value",), ask=asked_type),
    "not": BuiltIn(name="not", call=not_, parameters=("value",)),
}
SHOUTED = ("parse", "json", "xml", "csv", "md", "upper", "lower", "trim", "pretty", "sort", "typeof")
TRANSFORMERS |= {name.upper(): TRANSFORMERS[name] for name in SHOUTED}

"""How values become text: in templates, on the screen, as JSON; and back to plain data for ports and engines.

Three forms: `text` is what a template interpolates (compact JSON for structures), `display` is what `show` prints (structures are
laid out for reading), `to_json` is JSON. A value that was read from text keeps that text where it is interpolated.

A value can be small in memory and huge when written out (each level names the one before ten times): every walk counts what it
visits and stops with `LimitReached` long before the machine does.
"""

from __future__ import annotations

import json
import math
from typing import Any

from interpreter.errors import LimitReached
from interpreter.values import Undefined, Value, number

MAX_NODES = 2_000_000
MAX_TEXT = 128 * 1024 * 1024
MAX_DEPTH = 400


def number_text(x: int | float) -> str:
    """A number as JavaScript writes it."""
    if isinstance(x, int):
        return str(x)
    if math.isnan(x):
        return "NaN"
    if math.isinf(x):
        return "Infinity" if x > 0 else "-Infinity"
    if x.is_integer() and abs(x) < 1e21:
        return str(int(x))
    text = repr(x)
    if "e" in text:
        mantissa, exponent = text.split("e")
        power = int(exponent)
        if -7 <= power < 0:
            return f"{x:.{-power + len(mantissa.replace('-', '').replace('.', '')) - 1}f}"
        return f"{mantissa}e{'+' if power > 0 else '-'}{abs(power)}"
    return text


def scalar_text(data: Any) -> str | None:
    """The text of something that is no structure; None for structures."""
    if isinstance(data, str):
        return data
    if data is None:
        return "null"
    if isinstance(data, Undefined):
        return ""
    if isinstance(data, bool):
        return "true" if data else "false"
    if isinstance(data, int | float):
        return number_text(data)
    return None


class Walk:
    """One walk over a value, with its budget."""

    __slots__ = ("left", "text_left")

    def __init__(self) -> None:
        self.left = MAX_NODES
        self.text_left = MAX_TEXT

    def plain(self, data: Any, depth: int = 0) -> Any:
        if isinstance(data, Value):
            data = data.data
        self.left -= 1
        if self.left < 0 or depth > MAX_DEPTH:
            raise LimitReached(
                "the value is too large to be written out",
                hint=f"a value may have {MAX_NODES:,} parts, {MAX_DEPTH} levels deep",
            )
        if isinstance(data, str):
            self.text_left -= len(data)
            if self.text_left < 0:
                raise LimitReached("the text of the value is too large", hint=f"the limit is {MAX_TEXT // 2**20} MiB")
            return data
        if isinstance(data, dict):
            return {
                key: self.plain(item, depth + 1) for key, item in data.items() if not isinstance(_bare(item), Undefined)
            }
        if isinstance(data, list):
            return [self.plain(item, depth + 1) for item in data]
        if isinstance(data, float):
            if math.isnan(data) or math.isinf(data):
                return data
            return int(data) if data.is_integer() and abs(data) < 1e21 else data
        if data is None or isinstance(data, bool | int):
            return data
        if isinstance(data, Undefined):
            return None
        describe = getattr(data, "describe", None)
        return describe() if describe else str(data)


def _bare(item: Any) -> Any:
    return item.data if isinstance(item, Value) else item


def to_plain(value: Any) -> Any:
    """Data without labels, as JSON has it; functions and the like are described by a string or an object."""
    return Walk().plain(value)


def to_json(value: Any, *, pretty: bool = False) -> str:
    return dump(to_plain(value), pretty=pretty)


def dump(plain: Any, *, pretty: bool = False) -> str:
    """JSON of plain data, laid out as `JSON.stringify` does it."""
    if pretty and isinstance(plain, list | dict) and plain:
        return json.dumps(_finite(plain), ensure_ascii=False, indent=2)
    return json.dumps(_finite(plain), ensure_ascii=False, separators=(",", ":"))


def _finite(plain: Any) -> Any:
    """NaN and the infinities are null in JSON."""
    if isinstance(plain, float) and not math.isfinite(plain):
        return None
    if isinstance(plain, list) and any(isinstance(i, float | list | dict) for i in plain):
        return [_finite(i) for i in plain]
    if isinstance(plain, dict) and any(isinstance(i, float | list | dict) for i in plain.values()):
        return {k: _finite(i) for k, i in plain.items()}
    return plain


def text(value: Any) -> str:
    """What a template shows for a value."""
    data = value
    if isinstance(value, Value):
        if value.meta is not None and (raw := value.meta.get("text")) is not None:
            return str(raw)
        data = value.data
    found = scalar_text(data)
    if found is not None:
        return found
    if isinstance(data, list) and (between := between_files(value)) is not None:
        return joined(data, between)
    if not isinstance(data, list | dict):
        own = getattr(data, "shown", None)
        if own is not None:
            return str(own())
    return to_json(data)


def between_files(value: Any) -> str | None:
    """What stands between the texts of a list that a glob loaded; None for other lists."""
    return value.meta.get("between") if isinstance(value, Value) and value.meta is not None else None


def joined(items: list[Any], between: str) -> str:
    """The texts of what was loaded, one after the other; what was not found leaves no gap."""
    return between.join(text(item) for item in items if _bare(item) is not None)


def spread(value: Value) -> str:
    """The text of one of several results that are shown together: structures over several lines."""
    written = value.meta is not None and value.meta.get("text") is not None
    return to_json(value, pretty=True) if isinstance(value.data, list | dict) and not written else text(value)


def display(value: Any) -> str:
    """What `show` prints for a value."""
    data = value
    if isinstance(value, Value):
        if value.meta is not None and "text" in value.meta and ("file" in value.meta or value.data is None):
            return str(value.meta["text"])
        data = value.data
    if data is None or isinstance(data, Undefined):
        return ""
    found = scalar_text(data)
    if found is not None:
        return found
    if isinstance(data, list) and (between := between_files(value)) is not None:
        return joined(data, between)
    if not isinstance(data, list | dict):
        own = getattr(data, "displayed", None) or getattr(data, "shown", None)
        return str(own()) if own is not None else to_json(data)
    return layout(to_plain(data))


def shown(value: Any) -> str:
    """What `show` prints: `display`, and a text that is JSON is laid out like the data that it stands for."""
    said = display(value)
    data = value.data if isinstance(value, Value) else value
    if isinstance(value, Value) and value.meta and "errors" in value.meta:
        return to_json(value)  # what some branches failed at is for programs
    if isinstance(value, Value) and value.meta and "namespace" in value.meta:
        return layout(exports(to_plain(data), value.meta.get("frontmatter")))
    if not isinstance(data, list | dict) or (isinstance(value, Value) and value.meta and "file" in value.meta):
        read = parse_loosely(said)
        if not isinstance(read, str):
            return layout(read)
    return said


def exports(plain: dict[str, Any], frontmatter: Any) -> dict[str, Any]:
    """An imported module for reading: what it says about itself, its values and its functions."""
    functions = {name: said for name, said in plain.items() if str(said).startswith("<function(")}
    values = {name: said for name, said in plain.items() if name not in functions}
    if not plain and not frontmatter:
        return {}
    about = {"frontmatter": frontmatter} if frontmatter else {}
    return {**about, "exports": {"variables": values, "executables": functions}}


def layout(plain: Any) -> str:
    """JSON for reading: small flat values stay on one line."""
    compact = dump(plain)
    if isinstance(plain, list):
        spread = len(plain) > 1 or any(isinstance(item, list | dict) for item in plain)
    else:
        spread = bool(plain)
        if len(plain) == 1:
            ((key, only),) = plain.items()
            if not isinstance(only, list | dict):
                return f"{{{dump(key)}: {dump(only)}}}"
    return dump(plain, pretty=True) if spread or len(compact) > 60 else compact


def json_float(digits: str) -> int | float:
    """A number of JSON with a point or an exponent: `1.0` is 1."""
    return number(float(digits))


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def parse_loosely(source: str, *, controls: bool = False) -> Any:
    """The data of a text that is a JSON object or array; else the text itself. Output of commands is read like this.
    `controls`: line breaks inside of its texts are taken as they are, as a shell's `printf` writes them.
    """
    stripped = source.strip()
    if stripped[:1] in ("{", "[") and stripped[-1:] in ("}", "]"):
        try:
            return json.loads(stripped, parse_constant=_no_constant, parse_float=json_float, strict=not controls)
        except (ValueError, RecursionError):
            return source
    return source


def answer(value: Value) -> Value:
    """A structure as what a function gave: to a shell and to `append` it is one text, its JSON, and no list of lines."""
    return value.with_meta(answer=True) if isinstance(value.data, list | dict) else value


def unanswered(value: Value) -> Value:
    """The same structure as data again, as it flows between the stages of a pipeline."""
    if value.meta is None or "answer" not in value.meta:
        return value
    rest = {key: held for key, held in value.meta.items() if key != "answer"}
    return Value(value.data, value.own, labels=value.labels, meta=rest or None)


def is_answer(value: Value) -> bool:
    """Is this structure one text where a list that the script made would be its elements?"""
    return value.meta is not None and not value.meta.keys().isdisjoint(("answer", "text", "stdout"))


def structured(value: Value) -> Value:
    """Text that is a JSON object or array as data, which keeps that text; other values as they are."""
    if value.meta is not None and "stdout" in value.meta and "text" not in value.meta:
        return value.with_meta(text=value.meta["stdout"])
    if not isinstance(value.data, str) or value.data[:1] not in "{[ \n":
        return value
    data = parse_loosely(value.data, controls=True)
    return value if isinstance(data, str) else Value(data, value.labels, meta={"text": value.data})

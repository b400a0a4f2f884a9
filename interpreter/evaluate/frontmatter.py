"""The YAML at the top of a file."""

from __future__ import annotations

import datetime
import re
from functools import cache
from typing import Any, ClassVar

from interpreter.errors import EvaluationError

MOST_PARTS = 1_000_000
MOST_LEVELS = 100
FENCE = re.compile(r"\A---[ \t]*\r?\n(.*?)(?:^|\n)---[ \t]*(?:\r?\n|\Z)", re.S | re.M)


def read(text: str) -> tuple[Any, str]:
    """The front matter of a text (None without) and the rest of the text. Errors: `EvaluationError` if it is no YAML."""
    match = FENCE.match(text)
    if match is None:
        return None, text
    try:
        return parse_yaml(match.group(1)), text[match.end() :]
    except ValueError as error:
        raise invalid(error) from None


def read_own(text: str) -> Any:
    """What a script says of itself at its top, given without the lines `---`. Every scalar is text, as it is written: `1.10`
    is a version. Errors: `EvaluationError` if it is no YAML.
    """
    import yaml

    try:
        return parse_yaml(text, getattr(yaml, "CBaseLoader", yaml.BaseLoader))
    except ValueError as error:
        raise invalid(error) from None


def invalid(error: ValueError) -> EvaluationError:
    hint = "what stands between the lines `---` at the top of a file is YAML"
    return EvaluationError(f"Invalid YAML frontmatter: {error}", code="not-yaml", hint=hint)


def parse_yaml(text: str, loader: Any = None) -> Any:
    """Data of a YAML text. Errors: `ValueError`."""
    import yaml  # only scripts with YAML pay for it

    try:
        return _Copy(limit=MOST_PARTS).of(yaml.load(text, Loader=loader or _loader()), 0)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


@cache
def _loader() -> Any:
    """Reads the core schema of YAML 1.2 (section 10.3.2), where `yes`, `on` and `1:30` are text, and numbers with `_` in them.
    Dates stay as they are written.
    """
    import yaml

    class Core(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def integer(loader: Any, node: Any) -> int:
        text: str = loader.construct_scalar(node).replace("_", "")
        digits = text.lstrip("-+")
        number = int(digits, {"0x": 16, "0o": 8, "0b": 2}.get(digits[:2], 10))
        return -number if text.startswith("-") else number

    for tag, pattern, first in (
        ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("int", r"[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)", "-+0123456789"),
        ("float", r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
         "-+.0123456789"),
        ("merge", r"<<", "<"),
    ):  # fmt: skip
        Core.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"(?:{pattern})\Z"), list(first))
    Core.add_constructor("tag:yaml.org,2002:int", integer)
    return Core


class _Copy:
    """Plain data of what YAML gave. Aliases are written out, so parts are counted: ten lines, each of which names the
    one before ten times, would be ten thousand million parts.
    """

    def __init__(self, *, limit: int) -> None:
        self.limit = limit
        self.left = limit

    def of(self, data: Any, depth: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ValueError(f"with its aliases written out the YAML has more than {self.limit:,} parts")
        if depth > MOST_LEVELS:  # an anchor that contains itself
            raise ValueError("the YAML is nested too deeply")
        if isinstance(data, dict):
            return {str(key): self.of(item, depth + 1) for key, item in data.items()}
        if isinstance(data, list | tuple | set):
            return [self.of(item, depth + 1) for item in data]
        if isinstance(data, datetime.date):
            return data.isoformat()
        return data

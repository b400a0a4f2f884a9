"""The YAML at the top of a file."""

from __future__ import annotations

import datetime
import re
from typing import Any

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
        hint = "what stands between the lines `---` at the top of a file is YAML"
        raise EvaluationError(f"the front matter cannot be read: {error}", code="not-yaml", hint=hint) from None


def parse_yaml(text: str) -> Any:
    """Data of a YAML text; dates become text. Errors: `ValueError`."""
    import yaml  # only scripts with YAML pay for it

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _Copy(limit=MOST_PARTS).of(yaml.load(text, Loader=loader), 0)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


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

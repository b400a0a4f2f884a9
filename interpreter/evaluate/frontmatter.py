"""The YAML at the top of a file."""

from __future__ import annotations

import datetime
import re
from typing import Any

FENCE = re.compile(r"\A---[ \t]*\r?\n(.*?)(?:^|\n)---[ \t]*(?:\r?\n|\Z)", re.S | re.M)


def read(text: str) -> tuple[Any, str]:
    """The front matter of a text (None without) and the rest of the text."""
    match = FENCE.match(text)
    if match is None:
        return None, text
    return parse_yaml(match.group(1)), text[match.end() :]


def parse_yaml(text: str) -> Any:
    """Data of a YAML text; dates become text. Errors: `ValueError`."""
    import yaml  # only scripts with YAML pay for it

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _plain(yaml.load(text, Loader=loader), 0)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _plain(data: Any, depth: int) -> Any:
    if depth > 100:  # an anchor that contains itself
        raise ValueError("the YAML is nested too deeply")
    if isinstance(data, dict):
        return {str(key): _plain(item, depth + 1) for key, item in data.items()}
    if isinstance(data, list | tuple | set):
        return [_plain(item, depth + 1) for item in data]
    if isinstance(data, datetime.datetime):
        return data.isoformat()
    if isinstance(data, datetime.date):
        return data.isoformat()
    return data

"""Globs as regular expressions, for files that are not on a disk."""

from __future__ import annotations

import re
from functools import lru_cache

_PARTS = re.compile(r"(\*\*/|\*\*|\*|\?|\[[^\]/]+\])")
_KNOWN = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}


@lru_cache(maxsize=256)
def glob_pattern(pattern: str) -> re.Pattern[str]:
    """What matches a whole path: `*`, `?` and `[…]` stay within one name, `**/` is any number of directories."""
    return re.compile("".join(_KNOWN.get(part) or _plain(part) for part in _PARTS.split(pattern)))


def _plain(part: str) -> str:
    if not part.startswith("[") or not part.endswith("]"):
        return re.escape(part)
    inner = part[1:-1]
    negated = inner[0] in "!^" and len(inner) > 1
    marks = "".join(mark if mark == "-" else re.escape(mark) for mark in inner[negated:])
    return f"[{'^/' if negated else ''}{marks}]"

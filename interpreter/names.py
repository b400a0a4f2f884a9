"""Names that are taken; and names of functions and tools: the form of scripts (`listIssues`), the form of MCP
(`list_issues`), and when two are one.
"""

from __future__ import annotations

import re
from functools import lru_cache

FIXED = frozenset({"mx", "now", "debug", "input", "base", "root", "keychain"})
"""Names of the language that no variable, function or loop may take; a parameter may, for the body that it belongs to."""


def same_name(one: str, other: str) -> bool:
    """Whether two spellings name one function or tool: `createIssue`, `create_issue`, `create-issue`."""
    # Through both forms, since `@tool9` is what scripts call `tool_9`.
    return one == other or camel(snake(one)) == camel(snake(other))


@lru_cache(maxsize=4096)
def snake(name: str) -> str:
    """The MCP form of a name: `listOpenIssues` → `list_open_issues`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name.removeprefix("@"))
    return re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")


@lru_cache(maxsize=4096)
def camel(name: str) -> str:
    """The form of a name in scripts: `list_open_issues` → `listOpenIssues`."""
    head, *rest = [part for part in re.split(r"[^A-Za-z0-9]+", name) if part] or ["_"]
    text = head + "".join(part[:1].upper() + part[1:] for part in rest)
    return f"_{text}" if text[:1].isdigit() else text

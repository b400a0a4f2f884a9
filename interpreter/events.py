"""What happened, as data, for the record: emitted through `Output.event`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Decided:
    """A guard or a policy decided about an operation."""

    kind: Literal["guard", "policy"]
    operation: str
    name: str
    decision: Literal["allow", "deny", "retry", "transform"]
    rule: str
    reason: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CommandRan:
    """A command or code body ended."""

    kind: str
    text: str  # masked
    exit_code: int
    seconds: float
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ToolCalled:
    """A tool of an MCP server was called by the script itself."""

    server: str
    tool: str
    arguments: tuple[str, ...]  # names only
    is_error: bool
    seconds: float
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FileWritten:
    path: str
    size: int
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CheckpointReached:
    """The script named a point of its run."""

    name: str
    place: str | None = None


@dataclass(frozen=True, kw_only=True)
class ResultReused:
    """A call was answered by what an earlier run kept."""

    function: str
    key: str
    labels: tuple[str, ...] = ()

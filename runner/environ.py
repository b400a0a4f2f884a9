"""The process environment: read here and nowhere else, and handed on as a value."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType


def snapshot() -> Mapping[str, str]:
    """The variables of this process as they are now, read-only."""
    return MappingProxyType(dict(os.environ))


def typed(text: str) -> str:
    """A next step with its commands as this user can type them: `./dev` says what stands for an `mlld` not on the path."""
    called = os.environ.get("MLLD_CALLED")
    return _COMMAND.sub(lambda _: f"{called} ", text) if called else text


_COMMAND = re.compile(r"(?<![\w./@-])mlld (?=(?:sandbox|doctor|check|run|mcp|--help)\b)")


def data_directory(env: Mapping[str, str]) -> Path:
    """Where records lie: XDG's data directory. A relative XDG path is ignored, as its specification says."""
    return _xdg(env, "XDG_DATA_HOME", ".local/share")


def cache_directory(env: Mapping[str, str]) -> Path:
    """What can be made again."""
    return _xdg(env, "XDG_CACHE_HOME", ".cache")


def _xdg(env: Mapping[str, str], variable: str, default: str) -> Path:
    given = Path(env.get(variable, ""))
    base = given if given.is_absolute() else Path(env.get("HOME") or Path.home()) / default
    return base / "mlld"

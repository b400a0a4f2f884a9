"""The process environment: read here and nowhere else, and handed on as a value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType


def snapshot() -> Mapping[str, str]:
    """The variables of this process as they are now, read-only."""
    return MappingProxyType(dict(os.environ))


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

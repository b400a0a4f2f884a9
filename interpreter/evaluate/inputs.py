"""What a script gets from outside: `@input` (stdin and permitted variables), `@payload`, `@state`."""

from __future__ import annotations

import json
from typing import Any

from interpreter.labels import Labels
from interpreter.values import Value

from .core import Env

USER = Labels.of(automatic=("src:user",))


def script_input(env: Env) -> Value | None:
    """stdin, parsed if it is JSON, with the environment variables that a script may read. None without any."""
    cached = env.run.variables.get("input")
    if cached is not None:
        return cached
    value = Value(_read(env), USER)
    env.run.variables["input"] = value
    return value


def _read(env: Env) -> Any:
    text = env.ports.stdin() if env.ports.stdin is not None else ""
    data: Any = None
    if text.strip():
        try:
            data = json.loads(text)
        except ValueError:
            data = text.rstrip("\n")
    permitted = dict(env.ports.env)
    if isinstance(data, dict):
        return {**permitted, **data}
    if data is None:
        return permitted
    return {**permitted, "content": data} if permitted else data

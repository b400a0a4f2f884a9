"""What a script gets from outside: `@input` (stdin, and for imports permitted variables), `@payload`, `@state`."""

from __future__ import annotations

import json
from typing import Any

from interpreter.labels import Labels
from interpreter.values import Value

from .core import Env

USER = Labels.of(automatic=("src:user",))


def given(env: Env) -> Value:
    """What came through stdin, parsed if it is JSON; null for nothing."""
    held = env.run.variables.get("stdin")
    if held is None:
        held = env.run.variables["stdin"] = Value(_read(env), USER)
    return held


def importable(env: Env) -> Value:
    """`import { … } from @input`: stdin, with the environment variables that a script may read."""
    held = given(env)
    permitted = dict(env.ports.env)
    if isinstance(held.data, dict):
        return Value({**permitted, **held.data}, USER)
    if held.data is None:
        return Value(permitted, USER)
    return Value({**permitted, "content": held.data}, USER) if permitted else held


def _read(env: Env) -> Any:
    text = env.ports.stdin() if env.ports.stdin is not None else ""
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text.rstrip("\n")

"""`@mx.policy`: the policies in force as plain data, in one normal form whatever spelling they were declared in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from interpreter.policy import Entry, Layer, Policy

_KEYS = (
    "locked", "default", "defaults", "auth", "keychain", "allow", "deny", "danger", "labels", "operations", "env", "limits",
)  # fmt: skip


def shown(policy: Policy) -> dict[str, Any]:
    """`configs`, the composition by key, and `activePolicies`, the names under which it was declared."""
    configs: dict[str, Any] = {}
    for layer in policy.layers:
        for key, value in _normal(layer).items():
            join = {"allow": _common, "danger": _common, "limits": _least}.get(key, _united)
            configs[key] = join(configs[key], value) if key in configs else value
    return {
        "configs": {key: configs[key] for key in _KEYS if key in configs},
        "activePolicies": list(dict.fromkeys(layer.name for layer in policy.layers)),
    }


def _normal(layer: Layer) -> dict[str, Any]:
    found = {key: value for key, value in layer.written.items() if key in _KEYS}
    if layer.allow is not None:
        found["allow"] = True if layer.written.get("allow") is True else _by_capability(layer.allow)
    if layer.deny:
        found["deny"] = True if layer.written.get("deny") is True else _by_capability(layer.deny)
    if layer.danger is not None:
        found["danger"] = list(dict.fromkeys(entry.text for entry in layer.danger))
    if layer.auth:
        found["auth"] = {name: {"from": said.source, "as": said.variable} for name, said in layer.auth.items()}
    return found


def _by_capability(entries: Iterable[Entry]) -> dict[str, Any]:
    """`["cmd:git:*", "sh"]` as `{cmd: ["git:*"], sh: ["*"]}`."""
    found: dict[str, Any] = {}
    for entry in entries:
        kind = entry.pattern.kind
        _, _, rest = entry.text.partition(":")
        if kind == "filesystem":
            mode, *globs = entry.pattern.tokens
            held, said = found.setdefault(kind, {}).setdefault(mode, []), "&".join(globs)
        elif kind == "network":
            held, said = found.setdefault(kind, {}).setdefault("domains", []), rest or "*"
        else:
            held, said = found.setdefault(kind, []), rest or "*"
        if said not in held:
            held.append(said)
    return found


def _common(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return {key: _common(old[key], new[key]) for key in old if key in new}
    if isinstance(old, list) and isinstance(new, list):
        return [item for item in old if item in new]
    return old if new is True else new


def _united(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{key: _united(old[key], value) if key in old else value for key, value in new.items()}}
    if isinstance(old, list) and isinstance(new, list):
        return [*old, *(item for item in new if item not in old)]
    return new


def _least(old: Any, new: Any) -> Any:
    def smaller(key: str) -> Any:
        here, there = old[key], new[key]
        return min(here, there) if isinstance(here, int | float) and isinstance(there, int | float) else there

    return {**old, **{key: smaller(key) if key in old else value for key, value in new.items()}}

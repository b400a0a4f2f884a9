"""Results of earlier runs: what is kept, when it is used again, and what `--resume` throws away.

Each line of a store is one result of a call of an `exe llm`, by the SHA-256 of the function (its name and body), its
arguments, and how many times this run had made the same call before: three equal calls are three answers, not one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from interpreter.labels import Labels, ToolUse

Mode = Literal["auto", "manual", "never"]
MODES: tuple[Mode, ...] = get_args(Mode)
MOST_BYTES = 32 << 20  # of a store that is read
MOST_RESULT = 4 << 20  # of one result


@dataclass(frozen=True, kw_only=True)
class Kept:
    """One result: plain data, its labels, and what the call changed in the workspace of its block."""

    key: str
    function: str
    index: int  # of the function's calls in its run
    first: str  # the text of the first argument
    checkpoint: str | None
    at: float  # seconds since the epoch
    value: Any
    text: str | None  # where the value was made of text, that text
    labels: Mapping[str, Any]
    files: Mapping[str, str | None] = field(default_factory=dict)  # None: removed

    def line(self) -> bytes:
        return json.dumps({"kind": "result", **self.__dict__}, ensure_ascii=False, separators=(",", ":")).encode()


def key_of(function: str, body: str, arguments: Any, before: int) -> str:
    plain = json.dumps([function, body, arguments, before], ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(plain.encode()).hexdigest()


def labels_of(said: Mapping[str, Any]) -> Labels:
    """The labels of a kept result, all of them. Errors: `TypeError`, `KeyError`, `ValueError` for what are no labels."""
    declared = tuple(map(str, said["labels"]))
    automatic = tuple(str(label) for label in said["taint"] if label not in declared)
    labels = Labels.of(*declared, automatic=automatic, sources=tuple(map(str, said["sources"])))
    for tool in said["tools"]:
        labels = labels.used(ToolUse(name=tool["name"], arguments=tuple(tool.get("args", ())), audit=tool["auditRef"]))
    return labels


@dataclass(kw_only=True)
class Store:
    """What earlier runs kept: the latest result of each key, and which checkpoints were complete."""

    results: dict[str, Kept] = field(default_factory=dict)
    complete: dict[str, bool] = field(default_factory=dict)
    broken: int = 0  # lines that say nothing

    @classmethod
    def read(cls, data: bytes) -> Store:
        store = cls()
        for line in data.splitlines():
            try:
                said = json.loads(line)
                kind = said.pop("kind")
                if kind == "result":
                    kept = Kept(**said)
                    labels_of(kept.labels)
                    store.results[kept.key] = kept
                elif kind == "complete":
                    store.complete[str(said["checkpoint"])] = said["complete"] is True
                elif kind == "drop":
                    for key in said["keys"]:
                        store.results.pop(key, None)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                store.broken += 1
        return store


def line_of(kind: str, **said: Any) -> bytes:
    return json.dumps({"kind": kind, **said}, ensure_ascii=False, separators=(",", ":")).encode()


class BadTarget(ValueError):
    """A target of `--resume` that names nothing."""


_TARGET = re.compile(r'@([A-Za-z_][\w-]*)(?::(\d+)|\(\s*"([^"]*)"?\s*\)?)?')


def targeted(target: str, kept: Iterable[Kept], names: list[str]) -> set[str]:
    """The keys that a target throws away: `@fn`, `@fn:2` (its third call), `@fn("prefix")` (of its first argument), or the
    name of a checkpoint, which means everything from there on. Errors: `BadTarget`.
    """
    if found := _TARGET.fullmatch(target):
        name, index, prefix = found.groups()
        return {
            each.key for each in kept
            if each.function == name and (index is None or each.index == int(index))
            and (prefix is None or each.first.startswith(prefix))
        }  # fmt: skip
    name = target.strip("\"'")
    if name not in names:
        known = ", ".join(f'"{each}"' for each in names) or "none"
        raise BadTarget(f"--resume {target}: there is no such checkpoint; the script has {known}")
    after = set(names[names.index(name) :])
    return {each.key for each in kept if each.checkpoint in after}

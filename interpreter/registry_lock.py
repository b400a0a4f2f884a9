"""`mlld-lock.json` and the cache of modules: which text a registry name stands for.

    "@alice/utils": { "version": "1.0.0", "resolved": "<sha256 hex>", "integrity": "sha256:<hex>", … }

The text lies in a cache that is addressed by content, `sha256/ab/cdef…/content.mld`. Its hash is checked before anything of
it is read as a program.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOCK = "mlld-lock.json"
_VERSION = re.compile(r"v?(\d+)(?:\.(\d+))?(?:\.(\d+))?(-[\w.-]+)?(?:\+[\w.-]+)?")


class BadLock(Exception):
    """A lock file, or an entry of it, that says nothing that can be checked."""


@dataclass(frozen=True, kw_only=True)
class Locked:
    """A module that the lock names: its exact version ("" if it has none), and the SHA-256 of its text."""

    name: str
    version: str
    sha256: str

    @property
    def place(self) -> Path:
        """Below a cache."""
        return Path("sha256", self.sha256[:2], self.sha256[2:], "content.mld")

    def fits(self, data: bytes) -> bool:
        return hashlib.sha256(data).hexdigest() == self.sha256


def read_lock(text: str) -> dict[str, Locked]:
    """The modules of a lock file by name. Errors: `BadLock`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadLock(f"it is no JSON: {error}") from None
    modules = value.get("modules", {}) if isinstance(value, dict) else None
    if not isinstance(modules, dict):
        raise BadLock("it has no object `modules`")
    return {name: _locked(name, entry) for name, entry in modules.items()}


def _locked(name: str, entry: Any) -> Locked:
    if not isinstance(entry, dict):
        raise BadLock(f"{name} is no object")
    digest = _digest(entry.get("integrity"))
    resolved = entry.get("resolved", digest)
    if digest is None or resolved != digest:
        # Two hashes that differ would let the one be checked and the other be loaded.
        raise BadLock(f"{name}: `integrity` must be a SHA-256, and `resolved` the same in hexadecimal digits")
    return Locked(name=name, version=_version(entry), sha256=digest)


def _version(entry: Mapping[str, Any]) -> str:
    """The exact version: of the registry, else of the source (`registry://@alice/utils@1.0.0`), else as it was asked for."""
    source = str(entry.get("source") or "").rpartition("@")[2]
    for said in (entry.get("registryVersion"), source, entry.get("version")):
        if isinstance(said, str) and _VERSION.fullmatch(said):
            return said
    return ""


def _digest(integrity: Any) -> str | None:
    """Hexadecimal digits of `sha256:<hex>`, or of `sha256-<base64>` as browsers write it."""
    text = integrity if isinstance(integrity, str) else ""
    if re.fullmatch(r"sha256:[0-9a-f]{64}", text):
        return text[7:]
    if text.startswith("sha256-"):
        try:
            raw = base64.b64decode(text[7:], validate=True)
        except binascii.Error:
            return None
        return raw.hex() if len(raw) == 32 else None
    return None


def satisfies(version: str, wanted: str) -> bool:
    """Whether an exact version is what an import asks for: exact, a prefix of it (`1`, `1.2`), `^`, `~`, or the tag `latest`."""
    if wanted in ("latest", "*"):
        return True
    mark, rest = (wanted[0], wanted[1:]) if wanted[:1] in "^~" else ("", wanted)
    have, want = _VERSION.fullmatch(version), _VERSION.fullmatch(rest)
    if have is None or want is None:
        return version == wanted
    mine, least = _numbers(have), _numbers(want)
    if (have[4] or want[4]) and (mine != least or have[4] != want[4]):
        return False  # a pre-release is asked for by its whole name
    given = sum(part is not None for part in want.groups()[:3])
    if not mark:
        return mine[:given] == least[:given]
    fixed = next((i + 1 for i, number in enumerate(least) if number), 3) if mark == "^" else min(given, 2)
    return mine >= least and mine[:fixed] == least[:fixed]


def _numbers(match: re.Match[str]) -> tuple[int, int, int]:
    return int(match[1]), int(match[2] or 0), int(match[3] or 0)

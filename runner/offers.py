"""What MCP servers offered in earlier runs, on the host: one file for each definition of a server, beside the records.

A run that finds one shows the lists at once and starts no process of the server before its first use. Nothing in a file
decides anything: the sidecar passes it through the same admission and pins as a server's own words, and has the server
say the same before anything of it is used. A file that somebody else could have written, or that is not what this wrote,
is ignored, and written anew by the run.

    <data>/offers/<sha256 of the definition>.json   {"version":1,"situations":{"handshake":{capabilities,instructions,lists}}}
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import msgspec

from runner.plan import Container, SandboxPlan

_LARGEST = 8 << 20
_MOST_SITUATIONS = 8
_UNTOLD = frozenset(("why", "place"))

Kind = Literal["tool", "prompt", "resource", "template"]


class Offers(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a server said in one situation (`images.sidecar.remembered.situation`)."""

    capabilities: dict[str, Any] = {}
    instructions: str = ""
    lists: dict[Kind, list[str]] = {}
    """JSON objects, each in the spelling of its server."""


class _File(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    version: Literal[1]
    situations: dict[str, Offers] = {}


class _Told(msgspec.Struct, kw_only=True):
    """The sidecar's event `offers`."""

    server: str
    situation: str
    kind: Kind
    items: list[str]
    capabilities: dict[str, Any]
    instructions: str


def definition(container: Container, profile: str | None) -> str:
    """The digest of everything that makes a server the program that it is: image, command, environment without the
    values of secrets, what it sees of the host, the profile, and the state of the files that its command names."""
    told = {"container": _plain(msgspec.to_builtins(container)), "profile": profile, "files": _stamps(container)}
    return hashlib.sha256(msgspec.json.encode(told, order="sorted")).hexdigest()


def _stamps(container: Container) -> dict[str, tuple[int, int]]:
    """Time and size of what of the command lies on the host: an edited program is another one."""
    found = {}
    for mount in container.mounts:
        for word in container.argv if mount.kind == "bind" else ():
            inside = PurePosixPath(os.path.normpath(PurePosixPath(container.cwd, word)))
            if inside.is_relative_to(mount.target):
                with contextlib.suppress(OSError, ValueError):
                    status = (Path(mount.source) / inside.relative_to(mount.target)).stat()
                    found[str(inside)] = (status.st_mtime_ns, status.st_size)
    return found


def _plain(value: Any) -> Any:
    """Without what is only said about it: a declaration that moves in its file declares the same."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key not in _UNTOLD}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class OffersStore:
    """The files of one user."""

    directory: Path

    def read(self, plan: SandboxPlan) -> dict[str, dict[str, Offers]]:
        """By server and situation; a server that was never seen has none, one that is remote is not remembered."""
        return {server.name: self._read(self._path(plan, server.name)) for server in plan.servers if server.url is None}

    def keep(self, plan: SandboxPlan, event: Mapping[str, Any]) -> None:
        """Takes a list that a server told in this run. What cannot be kept is not: the next run asks again."""
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            told = msgspec.convert(event, _Told)
            if any(server.name == told.server and server.url is None for server in plan.servers):
                self._keep(self._path(plan, told.server), told)

    def _path(self, plan: SandboxPlan, server: str) -> Path:
        return self.directory / f"{definition(plan.container(server), plan.profile.name)}.json"

    def _read(self, path: Path) -> dict[str, Offers]:
        try:
            file = msgspec.json.decode(_ours(path), type=_File)
            for offers in file.situations.values():
                for item in (item for items in offers.lists.values() for item in items):
                    msgspec.json.decode(item, type=dict)
        except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
            return {}
        return file.situations

    def _keep(self, path: Path, told: _Told) -> None:
        situations = self._read(path)
        found = situations.pop(told.situation, Offers())
        lists = found.lists if found.capabilities == told.capabilities else {}
        situations[told.situation] = Offers(
            capabilities=told.capabilities, instructions=told.instructions, lists=lists | {told.kind: told.items}
        )
        latest = dict(list(situations.items())[-_MOST_SITUATIONS:])
        data = msgspec.json.encode(_File(version=1, situations=latest))
        if len(data) > _LARGEST:
            return
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.directory, delete=False) as fresh:  # mode 0600
            fresh.write(data)
        os.replace(fresh.name, path)


def _ours(path: Path) -> bytes:
    """A file that nobody else could have written. Errors: `OSError`."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise PermissionError(f"{path} may have been written by somebody else")
        return file.read(_LARGEST)

"""Reading a module that may only declare: it sees its own files and has no other power (P13)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from interpreter.errors import LimitReached
from interpreter.ports import FilePort, Ports

from .core import DECLARING, Env
from .modules import Module

MOST_BYTES = 8 << 20  # of all files that one module reads while it is declared


class OwnFiles:
    """The files below one directory, for reading (`ports.FilePort`). `texts` remembers what was read: where the module
    is declared again, in a sidecar, it needs the same.
    """

    def __init__(self, files: FilePort, root: Path, texts: dict[Path, str]) -> None:
        self._files, self._root, self._texts = files, root.resolve(), texts
        self._bytes = 0

    def _inside(self, path: Path) -> Path:
        if not path.resolve().is_relative_to(self._root):
            raise PermissionError(f"{path} lies outside the module, which may only read its own files")
        return path

    def read(self, path: Path) -> bytes:
        data = self._files.read(self._inside(path))
        if path not in self._texts:
            self._bytes += len(data)
            if self._bytes > MOST_BYTES:
                raise LimitReached(f"the files of the module are larger than {MOST_BYTES >> 20} MB together")
            with contextlib.suppress(UnicodeDecodeError):  # a picture: nothing that a guard could need
                self._texts[path] = data.decode("utf-8")
        return data

    def write(self, path: Path, data: bytes, *, append: bool = False) -> None:
        raise PermissionError("a module cannot write while it is read: move it into a function such as @spawn")

    def glob(self, root: Path, pattern: str) -> Sequence[Path]:
        return [p for p in self._files.glob(self._inside(root), pattern) if p.resolve().is_relative_to(self._root)]

    def exists(self, path: Path) -> bool:
        return self._files.exists(self._inside(path))

    def is_dir(self, path: Path) -> bool:
        return self._files.is_dir(self._inside(path))


class ReadOnly:
    """Files that can be read and not written (`ports.FilePort`): inside a block whose profile grants no
    `filesystem`.
    """

    def __init__(self, files: FilePort) -> None:
        self._files = files
        self.read, self.glob, self.exists, self.is_dir = files.read, files.glob, files.exists, files.is_dir

    def write(self, path: Path, data: bytes, *, append: bool = False) -> None:
        raise PermissionError("this environment grants no writing: its profile does not require `filesystem`")


def declaring_ports(ports: Ports, module: Module) -> Ports:
    """Output and clock, and the module's own files to read."""
    root = module.root or module.directory
    files = OwnFiles(ports.files, root, module.texts) if ports.files is not None else None
    return Ports(output=ports.output, clock=ports.clock, files=files)


def declaring(env: Env, module: Module) -> Env:
    """The environment in which an environment module is read: without effects, and within tight limits."""
    run = replace(env.run, limits=DECLARING, steps=0, deadline=None, engines=[])
    return env.copy(run=run, ports=declaring_ports(env.ports, module), mx={}, calls=None, box=None)

"""Reading a module that may only declare: it sees its own files and has no other power (P13)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from interpreter.ports import FilePort, Ports

from .core import DECLARING, Env
from .modules import Module


class OwnFiles:
    """The files below one directory, for reading (`ports.FilePort`)."""

    def __init__(self, files: FilePort, root: Path) -> None:
        self._files, self._root = files, root.resolve()

    def _inside(self, path: Path) -> Path:
        if not path.resolve().is_relative_to(self._root):
            raise PermissionError(f"{path} lies outside the module, which may only read its own files")
        return path

    def read(self, path: Path) -> bytes:
        return self._files.read(self._inside(path))

    def write(self, path: Path, data: bytes, *, append: bool = False) -> None:
        raise PermissionError("a module cannot write while it is read: move it into a function such as @spawn")

    def glob(self, root: Path, pattern: str) -> Sequence[Path]:
        return [p for p in self._files.glob(self._inside(root), pattern) if p.resolve().is_relative_to(self._root)]

    def exists(self, path: Path) -> bool:
        return self._files.exists(self._inside(path))

    def is_dir(self, path: Path) -> bool:
        return self._files.is_dir(self._inside(path))


class ReadOnly:
    """Files that can be read and not written (`ports.FilePort`): inside a block whose profile grants no `filesystem`."""

    def __init__(self, files: FilePort) -> None:
        self._files = files
        self.read, self.glob, self.exists, self.is_dir = files.read, files.glob, files.exists, files.is_dir

    def write(self, path: Path, data: bytes, *, append: bool = False) -> None:
        raise PermissionError("this environment grants no writing: its profile does not require `filesystem`")


def declaring_ports(ports: Ports, root: Path | None) -> Ports:
    """Output and clock, and the module's own files to read."""
    files = OwnFiles(ports.files, root) if ports.files is not None and root is not None else None
    return Ports(output=ports.output, clock=ports.clock, files=files)


def declaring(env: Env, module: Module) -> Env:
    """The environment in which an environment module is read: without effects, and within tight limits."""
    run = replace(env.run, limits=DECLARING, steps=0, deadline=None, engines=[])
    root = module.root or module.directory
    return env.copy(run=run, ports=declaring_ports(env.ports, root), mx={}, calls=None, box=None)

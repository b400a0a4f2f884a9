"""`file` and `files`: files of the project, and workspaces, which are files in memory under a name (`<@ws/notes.md>`)."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from interpreter import nodes as n
from interpreter import values_text as vt
from interpreter.errors import EvaluationError, LimitReached
from interpreter.globs import glob_pattern
from interpreter.labels import Labels, joined
from interpreter.values import NULL, Value, array, record, type_name

from .blocks import action_value
from .core import Env, evaluate, handles
from .effects import formatted, write_file
from .metadata import FileInfo
from .observing import observes
from .templates import text_of_parts

MOST_CHARACTERS = 10_000_000  # of the files of one workspace
MOST_FILES = 4000


class Workspace:
    """Files in memory. What is written to it is an edit against what it began with."""

    kind = "workspace"

    def __init__(self, name: str) -> None:
        self.name = name
        self.files: dict[str, Value] = {}
        self.before: dict[str, str] = {}  # by path of an edit: the text that was there, empty for none
        self.removed: set[str] = set()
        self.descriptions: dict[str, str] = {}
        self.said: set[str] = set()  # what `file` and `files` wrote: each path once
        self._size = 0

    def write(self, path: str, text: Value, *, before: str = "") -> None:
        held = len(vt.text(self.files[path])) if path in self.files else 0
        size = self._size + len(vt.text(text)) - held
        if size > MOST_CHARACTERS or (len(self.files) >= MOST_FILES and path not in self.files):
            raise LimitReached(
                f"@{self.name} cannot hold more than {MOST_FILES:,} files or {MOST_CHARACTERS / 1_000_000:g} MB",
                hint="files of the project need no copy: commands see them too",
            )
        self._size = size
        if path not in self.before:
            self.before[path] = vt.text(self.files[path]) if path in self.files else before
        self.removed.discard(path)
        self.files[path] = text

    def hold(self, path: str, text: Value) -> None:
        """A file that it begins with: no edit."""
        self.write(path, text)
        self.before.pop(path)

    def remove(self, path: str) -> None:
        """A file that a command removed. What was also made here is no edit at all."""
        if path in self.files:
            self._size -= len(vt.text(self.files[path]))
            self.before.setdefault(path, vt.text(self.files[path]))
            del self.files[path]
            self.removed.add(path)
            if not self.before[path]:
                del self.before[path]

    @property
    def labels(self) -> Labels:
        """Of everything in it: a command that starts there can read it all."""
        return joined(value.labels for value in self.files.values())

    def edits(self) -> list[dict[str, Any]]:
        kinds = {path: "modified" if self.before[path] else "created" for path in self.files if path in self.before}
        kinds |= {path: "deleted" for path in self.before if path in self.removed}
        return [{"path": path, "type": kinds[path], "entity": "file"} for path in sorted(kinds)]

    def diff(self, path: str) -> str:
        old = self.before.get(path, "").splitlines(keepends=True)
        new = vt.text(self.files[path]).splitlines(keepends=True) if path in self.files else []
        nothing = "/dev/null"
        return "".join(
            difflib.unified_diff(
                old, new, f"a/{path}" if old else nothing, f"b/{path}" if path in self.files else nothing
            )
        )

    def metadata(self, name: str, env: Env) -> Value:
        """`.mx.edits` of a workspace."""
        return Value(self.edits(), self.labels) if name == "edits" else NULL

    def get_field(self, name: str, env: Env, own: Labels) -> Value | None:
        if name == "type":
            return Value(self.kind)
        return Value(dict(sorted(self.descriptions.items()))) if name == "descriptions" else None

    def describe(self) -> Any:
        """What it holds, without the texts."""
        told = dict(sorted(self.descriptions.items()))
        return {"type": self.kind, "name": self.name, "files": sorted(self.files), "descriptions": told}

    def displayed(self) -> str:
        return vt.dump(self.describe(), pretty=True)


def clean(path: str, node: n.Node) -> str:
    """A path inside a workspace or the project. Errors: it is absolute, or leads out."""
    parts = PurePosixPath(path.strip()).parts
    word = "files" if isinstance(node, n.Files) else "file"
    fault = None
    if path.strip().startswith("/"):
        fault = f"{word} only supports relative paths, and '{path}' is absolute"
    elif ".." in parts:
        fault = f"{word} paths cannot contain '..' traversal: '{path}' leads out"
    elif not parts or "\0" in path:
        fault = f"{word} target path cannot be empty"
    if fault:
        raise EvaluationError(fault, span=node.span, code="path", hint='file "notes/today.md" = …')
    return "/".join(part for part in parts if part != ".")


async def target(path: n.Node, env: Env) -> tuple[Workspace | None, str]:
    """The workspace that a path names (made when it is new), and the path in it."""
    if isinstance(path, n.FileLoad) and path.path and isinstance(path.path[0], n.Variable | n.Field):
        root: n.Node = path.path[0]
        while isinstance(root, n.Field):
            root = root.target
        name = root.name if isinstance(root, n.Variable) else "workspace"
        held = env.scope.find(name)
        if held is None:
            held = Value(Workspace(name))
            env.module.scope.define(name, held)
        if not isinstance(held.data, Workspace) and isinstance(root, n.Variable) and root is path.path[0]:
            raise EvaluationError(
                f"@{name} already exists and is not a workspace value", span=path.span, code="workspace",
                hint="give the workspace a name of its own, or write the path in quotes",
            )  # fmt: skip
        if isinstance(held.data, Workspace):
            rest = await text_of_parts(path.path[1:], env)
            return held.data, vt.text(rest).strip().strip("/")
    if isinstance(path, n.FileLoad):
        return None, vt.text(await text_of_parts(path.path, env)).strip()
    return None, vt.text(await evaluate(path, env)).strip()


async def put(space: Workspace | None, path: str, value: Value, node: n.Node, env: Env) -> None:
    """Writes a file: of a workspace by name, else of the workspace of the block around, else of the project."""
    place = clean(path, node)
    text = formatted(value, None, PurePosixPath(place).suffix.lower())
    shared = space or (env.box.workspace if env.box is not None else None)
    if shared is not None:
        if place in shared.said:
            word = "files" if isinstance(node, n.Files) else "file"
            raise EvaluationError(
                f"{word} cannot overwrite '{place}' in the same workspace scope", span=node.span, code="path",
                hint="write it once, under another name, or with a command",
            )  # fmt: skip
        shared.said.add(place)
    if space is not None:
        space.write(place, Value(text, value.labels))
    elif env.box is not None and env.box.workspace is not None:
        from .mounting import write_through

        await write_through(env.box.workspace, place, Value(text, value.labels), env, node.span)
    else:
        await write_file(env.run.root / place, text, value, env, node)


@handles(n.File)
@observes("file")
async def file(node: n.File, env: Env) -> Value:
    space, path = await target(node.path, env)
    await put(space, path, await action_value(node.value, env), node, env)
    return NULL


@handles(n.Files)
@observes("files")
async def files(node: n.Files, env: Env) -> Value:
    space, base = await target(node.path, env)
    if node.git is not None:
        from .git_files import clone

        for path, value in (await clone(node.git, env)).items():
            place = f"{base.rstrip('/')}/{path}" if base else path
            if space is not None:
                space.hold(clean(place, node), value)
            else:
                await put(None, place, value, node, env)
        return NULL
    entries = NULL if node.value is None else await evaluate(node.value, env)
    if not isinstance(entries.data, list):
        raise EvaluationError(
            f"files requires an array of file entry objects, got {type_name(entries)}",
            span=node.span,
            hint='files "docs/" = [{ "a.md": @a, desc: "…" }]',
        )
    for entry in entries.items():
        if not isinstance(entry.data, dict):
            raise EvaluationError("files entries must be objects", span=node.span, hint='{ "a.md": @a }')
        names = [key for key in entry.data if key != "desc"]
        wrong = None
        if len(names) != 1:
            wrong = "each files entry must contain exactly one file key and optional desc"
        elif "desc" in entry.data and not isinstance(entry.item(entry.data["desc"]).data, str):
            wrong = "files entry desc must be a string"
        if wrong is not None:
            raise EvaluationError(wrong, span=node.span, hint='{ "a.md": @a, desc: "…" }')
        path = f"{base.rstrip('/')}/{names[0]}" if base else names[0]
        await put(space, path, entry.item(entry.data[names[0]]), node, env)
        if space is not None and "desc" in entry.data:
            space.descriptions[path] = vt.text(entry.data["desc"])
    return NULL


async def read(node: n.FileLoad, env: Env) -> Value | None:
    """The file of a workspace that a load names; None when it names none."""
    first = node.path[0] if node.path else None
    if not isinstance(first, n.Variable):
        return None
    held = env.scope.find(first.name)
    if held is None or not isinstance(held.data, Workspace):
        return None
    space = held.data
    path = vt.text(await text_of_parts(node.path[1:], env)).strip().strip("/")
    if not path:
        return array(record({"path": Value(name), "content": value}) for name, value in space.files.items())
    if any(c in path for c in "*?"):
        found = matching({name: name for name in space.files}, path)
        return array(file_of(space, name) for name in found).with_meta(between="\n\n")
    if path in space.files:
        return file_of(space, path)
    if node.optional:
        return NULL
    close = difflib.get_close_matches(path, space.files, n=1)
    raise EvaluationError(
        f"File not found: {path} in @{space.name}", span=node.span, code="file-not-found",
        hint=f"did you mean {close[0]}?" if close else f"it has: {', '.join(space.files) or 'no files'}",
    )  # fmt: skip


def file_of(space: Workspace, path: str) -> Value:
    """A file as a load gives it: data by its type, with its place and its diff as metadata."""
    from .loading import file_data

    found = space.files[path]
    text = vt.text(found)
    info = FileInfo(raw=text, extra={"filename": PurePosixPath(path).name, "relative": path, "diff": space.diff(path)})
    return Value(file_data(path, text, path), found.labels, meta={"file": info, "text": text, "diff": space.diff(path)})


def matching(paths: Mapping[str, str], pattern: str) -> list[str]:
    """The values of the keys that a glob fits."""
    fits = glob_pattern(pattern)
    return sorted(value for key, value in paths.items() if fits.fullmatch(key))

"""A workspace where commands can see it: written into a directory before a command starts, read back after it ends.

What is in memory is the truth; the directory is a copy, and what programs did to it is taken over as text, with the
labels of the commands that ran meanwhile. Nothing of it reaches the project.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from interpreter import operations
from interpreter import values_text as vt
from interpreter.errors import EvaluationError, MlldError
from interpreter.labels import Labels
from interpreter.operations import Request, perform
from interpreter.policy_subjects import Operation, spellings
from interpreter.ports import Directory
from interpreter.source import Span
from interpreter.values import Value

from .core import Env
from .workspaces import Workspace


class Mount:
    """One workspace in one directory. Commands may run beside each other; each takes over what it finds changed."""

    def __init__(self, space: Workspace, directory: Directory) -> None:
        self.space, self.directory = space, directory
        self._seen: dict[str, bytes] = {}  # what the directory held when it was looked at last
        self._changed: dict[str, int] = {}  # by path: at which look a change was found
        self._looks = 0
        self._lock = asyncio.Lock()

    @property
    def path(self) -> str:
        return self.directory.path

    async def write(self, span: Span | None) -> int:
        """Brings the directory up to the workspace; the number of the last look, for `read`."""
        async with self._lock:
            now = {path: vt.text(value).encode("utf-8", "replace") for path, value in self.space.files.items()}
            changed = {path: data for path, data in now.items() if self._seen.get(path) != data}
            gone = [path for path in self._seen if path not in now and path in self.space.removed]
            if changed or gone or not self._looks:
                with _as_fault(span):
                    await self.directory.write(changed, gone)
            self._seen |= changed
            for path in gone:
                del self._seen[path]
            self._looks += 1
            return self._looks

    async def read(self, since: int, labels: Labels, env: Env, span: Span | None) -> None:
        """Takes over what changed since that look, with the labels of the command that looks now."""
        async with self._lock:
            with _as_fault(span):
                found = await self.directory.read()
            self._looks += 1
            for path in [path for path in self._seen if path not in found]:
                del self._seen[path]
                self.space.remove(path)
            for path, data in found.items():
                if self._seen.get(path) == data:
                    continue
                text = _text(path, data)
                self._seen[path] = data
                if text is None:
                    continue
                before = await project_text(path, env, span)
                own = self.space.files[path].labels if path in self.space.files else before.labels
                self.space.write(path, Value(text, own), before=vt.text(before))
                self._changed[path] = self._looks
            for path, look in self._changed.items():
                if look > since and path in self.space.files:
                    self.space.files[path] = self.space.files[path].with_labels(labels)


def _text(path: str, data: bytes) -> str | None:
    """The text of a file; None for one that is no text, which stays where it is."""
    try:
        path.encode()
        return data.decode()
    except UnicodeError:
        return None


@contextlib.contextmanager
def _as_fault(span: Span | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EvaluationError(
            f"the workspace cannot be shown to commands: {error}", span=span, code="workspace"
        ) from None


async def project_text(path: str, env: Env, span: Span | None) -> Value:
    """What the project has at a path of its block's workspace: what an edit there is an edit of. Empty if nothing may be read."""
    files, place = env.ports.files, env.run.root / path
    if env.box is None or files is None:
        return Value("")
    from .loading import file_labels

    operation = Operation(
        kind="read", paths=spellings(str(place), root=str(env.run.root), home=str(env.run.home or "/nonexistent"))
    )

    async def read(given: tuple[Value, ...]) -> Value:
        if not operations.file_exists(files, place) or operations.is_directory(files, place):
            return Value("")
        return Value(operations.read_file(files, place).decode("utf-8", "replace"), file_labels(place, env))

    with contextlib.suppress(MlldError, OSError):
        return await perform(Request(operation=operation, span=span), env, read)
    return Value("")


async def write_through(
    space: Workspace, path: str, value: Value, env: Env, span: Span | None, *, append: bool = False
) -> None:
    """Writes a file of the workspace of the block around, over that of the project; commands see it from now on."""
    before = space.files[path] if path in space.files else await project_text(path, env, span)
    text = vt.text(before) + vt.text(value) if append else vt.text(value)
    space.write(path, Value(text, value.labels | before.labels), before=vt.text(before))
    await env.box.show_workspace(env, span)


async def opened(space: Workspace, env: Env, span: Span | None, *, project: bool) -> Mount:
    with _as_fault(span):
        mount = Mount(space, await operations.open_directory(env.ports, project=project))
    try:
        await mount.write(span)
    except BaseException:
        await mount.directory.close()
        raise
    return mount


@contextlib.asynccontextmanager
async def mounted(space: Workspace, directory: Value | None, env: Env, span: Span) -> AsyncIterator[Mount]:
    """The workspace for one command: that of the block is there already, that of `cmd:@ws` gets a directory for it alone."""
    if directory is None:
        yield env.box.mount
        return
    mount = await opened(space, env, span, project=False)
    try:
        yield mount
    finally:
        await mount.directory.close()

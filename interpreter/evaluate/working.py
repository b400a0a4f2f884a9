"""Where a command starts: in a directory that it names, in a workspace, in that of its block, or with its script."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from interpreter import nodes as n
from interpreter import values_text as vt
from interpreter.errors import EvaluationError
from interpreter.labels import Labels
from interpreter.source import Span
from interpreter.values import Value

from .core import Env, evaluate

if TYPE_CHECKING:
    from .mounting import Mount
    from .workspaces import Workspace


async def working_directory(node: n.Node | None, env: Env) -> Value | None:
    """What `cmd:@dir` names: an absolute path, or a workspace."""
    if node is None:
        return None
    value = await evaluate(node, env)
    if getattr(value.data, "kind", None) == "workspace":
        return value
    text = vt.text(value)
    if text.startswith("~") and env.run.home is not None:
        text = f"{env.run.home}{text[1:]}"
    if not text.startswith(("/", "~")):
        raise EvaluationError(
            f'Working directory must start with "/", and {text!r} does not', span=node.span,
            hint="`@root/sub` is absolute",
        )  # fmt: skip
    return Value(text, value.labels)


def workspace_of(directory: Value | None, env: Env) -> Workspace | None:
    """The workspace whose files a command finds where it starts."""
    if directory is not None:
        return directory.data if getattr(directory.data, "kind", None) == "workspace" else None
    return env.box.mount.space if env.box is not None and env.box.mount is not None else None


class Start:
    """A directory to start in; None is where the commands of a sandbox start anyway."""

    __slots__ = ("path",)

    def __init__(self, path: str | None) -> None:
        self.path = path

    async def took(self, labels: Labels) -> None:
        """The command has ended, and what it left carries these labels."""


class MountedStart(Start):
    """A workspace, brought up to date before the command and taken over after it."""

    __slots__ = ("env", "look", "mount", "span")

    def __init__(self, mount: Mount, look: int, env: Env, span: Span) -> None:
        super().__init__(mount.path)
        self.mount, self.look, self.env, self.span = mount, look, env, span

    async def took(self, labels: Labels) -> None:
        await self.mount.read(self.look, labels, self.env, self.span)


@contextlib.asynccontextmanager
async def started_in(directory: Value | None, env: Env, span: Span) -> AsyncIterator[Start]:
    """The directory of one command, from before it starts until what it left is taken over."""
    space = workspace_of(directory, env)
    if space is not None:
        from .mounting import mounted

        async with mounted(space, directory, env, span) as mount:
            yield MountedStart(mount, await mount.write(span), env, span)
    elif directory is not None:
        yield Start(directory.data)
    else:
        yield Start(None if env.box is not None and env.box.session is not None else str(env.run.directory))

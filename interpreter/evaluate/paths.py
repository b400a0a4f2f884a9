"""Which file a path of a script means."""

from __future__ import annotations

import os.path
from pathlib import Path

from interpreter.errors import EvaluationError

from .core import Env


def resolve(text: str, env: Env) -> Path:
    """An absolute path: relative ones start at the directory of the file that says them, `@root` at the project. `..` is
    taken out here: a label or rule for a directory must not miss what is reached through another one.
    """
    text = text.strip()
    if "\0" in text:
        raise EvaluationError("a path cannot contain a zero byte", code="path")
    for prefix in ("@root", "@base"):
        if text == prefix or text.startswith(prefix + "/"):
            return Path(os.path.abspath(env.run.root / text[len(prefix) :].lstrip("/")))
    if text.startswith("~/") and env.run.home is not None:
        return Path(os.path.abspath(env.run.home / text[2:]))
    path = Path(text)
    inside = env.box.root if env.box is not None else None
    if inside is not None and path.is_relative_to(inside):
        path = env.run.root / path.relative_to(inside)  # `@root` inside a block is where its commands find the project
    return Path(os.path.abspath(env.module.directory / path))


def is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def shown(path: Path, env: Env) -> str:
    """The path for a message: relative to the project where it lies inside."""
    try:
        return str(path.relative_to(env.run.root))
    except ValueError:
        return str(path)

"""Which file a path of a script means."""

from __future__ import annotations

from pathlib import Path

from interpreter.errors import EvaluationError

from .core import Env


def resolve(text: str, env: Env) -> Path:
    """An absolute path: relative ones start at the directory of the file that says them, `@root` at the project."""
    text = text.strip()
    if "\0" in text:
        raise EvaluationError("a path cannot contain a zero byte", code="path")
    for prefix in ("@root", "@base"):
        if text == prefix or text.startswith(prefix + "/"):
            return (env.run.root / text[len(prefix) :].lstrip("/")).absolute()
    if text.startswith("~/") and env.run.home is not None:
        return env.run.home / text[2:]
    path = Path(text)
    inside = env.box.root if env.box is not None else None
    if inside is not None and path.is_relative_to(inside):
        path = env.run.root / path.relative_to(inside)  # `@root` inside a block is where its commands find the project
    return path if path.is_absolute() else (env.module.directory / path).absolute()


def is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def shown(path: Path, env: Env) -> str:
    """The path for a message: relative to the project where it lies inside."""
    try:
        return str(path.relative_to(env.run.root))
    except ValueError:
        return str(path)

"""`mlld sandbox explain`: a page about an error code."""

from __future__ import annotations

import re
from pathlib import Path

import click

from runner import environ, errors
from runner.cli.lazy import Command
from runner.errors import RunnerError, UnknownName

# In a checkout; an installed package has what the classes say of themselves.
_PAGE = Path(__file__).parents[2] / "docs" / "errors.md"


def pages(text: str) -> dict[str, str]:
    """Code → text, from a page with a heading `## code` for each."""
    found = re.split(r"^## `?([a-z-]+)`?\s*$", text, flags=re.MULTILINE)
    return {code: body.strip() for code, body in zip(found[1::2], found[2::2], strict=True)}


def classes() -> dict[str, type[RunnerError]]:
    """Code → class, for every error of the runner."""
    kinds = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, RunnerError)]
    return {kind.code: kind for kind in kinds}


@click.command(cls=Command, examples="\nExamples:\n  mlld sandbox explain engine-stopped\n")
@click.argument("code")
def explain(code: str) -> None:
    """What the error CODE means and what to do about it."""
    written = pages(_PAGE.read_text(encoding="utf-8")) if _PAGE.is_file() else {}
    known = classes()
    if code not in written and code not in known:
        raise UnknownName("error code", code, sorted({*written, *known}), remedy="docs/errors.md has them all")
    if kind := known.get(code):
        click.echo(f"{code} (exit {kind.exit_code}): {(kind.__doc__ or '').strip()}")
        if kind.default_remedy:
            click.echo(environ.typed(f"next: {kind.default_remedy}"))
    if code in written:
        click.echo(f"\n{written[code]}")

"""`mlld check`, `ast`, `tokens`: a script looked at, not run."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from interpreter.check import ast_json, check_source, tokens_json
from interpreter.errors import Diagnostic
from interpreter.parser import parse_or_raise
from interpreter.source import Mode, Source
from runner.cli.lazy import Command
from runner.errors import CheckFailure, UsageFailure
from runner.spelling import nearest

SUFFIXES = (".mld", ".mld.md", ".att", ".mtt")
FOREIGN = frozenset({".git", ".venv", "node_modules", "__pycache__"})
_JSON = click.option("--json", "as_json", is_flag=True, help="JSON is what it prints anyway.")
_MODE = click.option("--document", is_flag=True, help="Read it as a document: lines with /directives in prose.")


def source_of(path: str) -> Source:
    """The text at a path, `-` for stdin. Errors: `UsageFailure`."""
    if path == "-":
        return Source(name="<stdin>", text=sys.stdin.read())
    try:
        return Source(name=path, text=Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        parent = Path(path).parent
        like = nearest(Path(path).name, [p.name for p in parent.iterdir()] if parent.is_dir() else [])
        detail = f"did you mean {parent / like}?" if like else ""
        remedy = "give the path of a script, or - for standard input"
        raise UsageFailure(f"there is no file {path}", detail=detail, remedy=remedy) from None
    except UnicodeDecodeError as error:
        raise CheckFailure(f"{path} is not UTF-8 text: byte {error.start}", remedy="save it as UTF-8") from None
    except OSError as error:
        raise UsageFailure(f"{path} cannot be read: {error.strerror}", remedy="give the path of a script") from None


def files_below(paths: tuple[str, ...]) -> Iterator[str]:
    """The files themselves, and every script below a directory. Errors: `UsageFailure` for one that has none."""
    for path in paths:
        if Path(path).is_dir():
            found = sorted(scripts_below(Path(path)))
            if not found:
                # A check of nothing would be green: in CI, for ever.
                raise UsageFailure(f"there is no script below {path}", remedy=f"scripts end with {', '.join(SUFFIXES)}")
            yield from found
        else:
            yield path


def scripts_below(directory: Path) -> Iterator[str]:
    """Scripts at any depth, without those that others installed."""
    for folder, below, names in os.walk(directory):
        below[:] = [name for name in below if name not in FOREIGN]
        yield from (os.path.join(folder, name) for name in names if name.endswith(SUFFIXES))


@click.command(cls=Command, examples="\nExamples:\n  mlld check hello.mld\n  mlld check .mlld/env/myenv --json\n")
@click.argument("paths", nargs=-1, required=True)
@_MODE
@click.option("--json", "as_json", is_flag=True, help="The diagnostics as one JSON object.")
@click.option(
    "--exit-code", type=click.IntRange(1, 125), metavar="N", default=CheckFailure.exit_code, show_default=True,
    help="How to end where there are errors, for tools that read a code of ours otherwise.",
)  # fmt: skip
@click.option("--error-on-warnings", is_flag=True, help="End as with errors where there are only warnings, too.")
def check(paths: tuple[str, ...], document: bool, as_json: bool, exit_code: int, error_on_warnings: bool) -> int:
    """Look for mistakes in scripts and modules without running anything."""
    mode: Mode | None = "document" if document else None
    found: list[Diagnostic] = []
    number = 0
    for path in files_below(paths):
        number += 1
        found += check_source(source_of(path), mode)
    errors = [diagnostic for diagnostic in found if diagnostic.severity == "error"]
    if as_json:
        shown = {"ok": not errors, "files": number, "diagnostics": [diagnostic.json() for diagnostic in found]}
        click.echo(json.dumps(shown, ensure_ascii=False))
    else:
        for diagnostic in found:
            click.echo(diagnostic.render() + "\n", err=True)
        files, faults, warnings = (
            f"{count} {word}{'s' * (count != 1)}"
            for count, word in ((number, "file"), (len(errors), "error"), (len(found) - len(errors), "warning"))
        )
        click.echo(f"{files}: {faults}, {warnings}", err=True)
    return exit_code if errors or (found and error_on_warnings) else 0


@click.command(cls=Command, examples="\nExamples:\n  mlld ast hello.mld\n")
@click.argument("path")
@_MODE
@_JSON
def ast(path: str, document: bool, as_json: bool) -> None:
    """Print the syntax tree of a script as JSON."""
    tree = parse_or_raise(source_of(path), "document" if document else None)
    click.echo(json.dumps(ast_json(tree), indent=1, ensure_ascii=False, default=str))


@click.command(cls=Command, examples="\nExamples:\n  mlld tokens hello.mld\n")
@click.argument("path")
@_MODE
@_JSON
def tokens(path: str, document: bool, as_json: bool) -> None:
    """Print the tokens of a script as JSON, with their places."""
    found = tokens_json(source_of(path), "document" if document else None)
    click.echo(json.dumps(found, indent=1, ensure_ascii=False, default=str))

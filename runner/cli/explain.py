"""`mlld sandbox explain`: a page about an error code, or one refusal of a run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click

from runner import environ, errors
from runner.cli.lazy import Command
from runner.cli.runs import records
from runner.errors import BadOption, RunnerError, UnknownName
from runner.record import Run, find, read, runs
from runner.report import Summary, denial_line
from runner.report_denial import explained

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


EXAMPLES = """
Examples:
  mlld sandbox explain engine-stopped      what an error means, and what to do about it
  mlld sandbox explain last                the latest refusal of the latest run
  mlld sandbox explain kubo 17             that of the event with this number
"""


@click.command(cls=Command, examples=EXAMPLES)
@click.argument("what", metavar="CODE|RUN")
@click.argument("number", type=int, required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object; for refusals.")
def explain(what: str, number: int | None, as_json: bool) -> None:
    """What the error CODE means; or why RUN refused something: rule, line, labels, and what would have let it through."""
    written = pages(_PAGE.read_text(encoding="utf-8")) if _PAGE.is_file() else {}
    known = classes()
    if number is None and (what in written or what in known):
        _page(what, known.get(what), written.get(what))
        return
    names = [run.name for run in runs(records())]
    if number is None and what != "last" and not any(name.startswith(what) for name in names):
        raise UnknownName(
            "error code or run", what, sorted({*written, *known, *names}), remedy="docs/errors.md has them all"
        )
    _refusal(find(records(), what), number, as_json=as_json)


def _page(code: str, kind: type[RunnerError] | None, text: str | None) -> None:
    if kind is not None:
        click.echo(f"{code} (exit {kind.exit_code}): {(kind.__doc__ or '').strip()}")
        if kind.default_remedy:
            click.echo(environ.typed(f"next: {kind.default_remedy}"))
    if text is not None:
        click.echo(f"\n{text}")


def _refusal(run: Run, number: int | None, *, as_json: bool) -> None:
    events = list(read(run.path))
    summary = Summary.of(events)
    if not summary.denials:
        raise BadOption(f"nothing was denied in the run {run.name}", remedy=f"mlld sandbox show {run.name}")
    chosen = [event for event in summary.denials if number in (None, event.get("n"))]
    if not chosen:
        told = "\n".join(f"#{event.get('n')}{denial_line(event)}" for event in summary.denials[-20:])
        raise BadOption(f"#{number} of {run.name} is no refusal", detail=told, remedy=f"mlld sandbox show {run.name}")
    explanation = explained(chosen[-1], events, summary.plan)
    if as_json:
        click.echo(json.dumps(explanation.json(), ensure_ascii=False))
        return
    click.echo(environ.typed(explanation.text()))
    if others := [f"#{event.get('n')}" for event in summary.denials if event is not chosen[-1]]:
        click.echo(f"\nalso denied in {run.name}: {', '.join(others[-20:])}", err=True)

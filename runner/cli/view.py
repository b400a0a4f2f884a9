"""`mlld sandbox view`: a run as one static page."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from runner.cli.lazy import Command
from runner.cli.runs import RUN, records
from runner.record import find, read
from runner.record import verify as verify_record

EXAMPLES = """
Examples:
  mlld sandbox view last                   writes the page beside the record and prints where
  mlld sandbox view kubo --out run.html    somewhere else, for example as an artifact of a CI job
"""


@click.command(cls=Command, examples=EXAMPLES)
@RUN
@click.option("--out", metavar="FILE", help="Where the page goes; `-` is standard output.")
def view(run: str, out: str | None) -> None:
    """Draw RUN as one HTML file: no script, no network, everything that was said in it is nothing but text."""
    from runner.report_page import page_html  # the template engine is for this command alone

    found = find(records(), run)
    text = page_html(list(read(found.path)), verify_record(found.path))
    if out == "-":
        sys.stdout.write(text)
        return
    path = Path(out) if out else found.path.with_suffix(".html")
    # For the eyes of whoever owns the record, which has the same in it.
    with open(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w", encoding="utf-8"
    ) as file:
        file.write(text)
    click.echo(path.resolve().as_uri())

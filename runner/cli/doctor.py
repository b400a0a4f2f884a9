"""`mlld doctor`: what this machine lacks, and with --fix the cure."""

from __future__ import annotations

import json
import sys

import click

from runner.doctor import Finding, Machine, examine, repair


@click.command()
@click.option(
    "--fix", is_flag=True, help="Repair what can be repaired: install and start the engine, build the images."
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON object.")
def doctor(fix: bool, as_json: bool) -> int:
    """See whether this machine can make sandboxes, and repair it."""
    machine = Machine.here()
    if fix:
        repair(machine, say=_tell)
    findings = list(examine(machine))
    if as_json:
        click.echo(
            json.dumps(
                {"ok": all(f.ok for f in findings), "findings": [_object(f) for f in findings]}, ensure_ascii=False
            )
        )
    else:
        for finding in findings:
            click.echo(_line(finding))
    failed = next((f for f in findings if not f.ok), None)
    return 0 if failed is None else failed.error.exit_code if failed.error else 5


def _tell(line: str) -> None:
    click.echo(line, err=True)


def _line(finding: Finding) -> str:
    mark = "ok  " if finding.ok else "FAIL"
    if sys.stdout.isatty():
        mark = click.style(mark, fg="green" if finding.ok else "red", bold=True)
    remedy = f"\n       next: {finding.remedy}" if finding.remedy and not finding.ok else ""
    return f"{mark} {finding.name}: {finding.saw}{remedy}"


def _object(finding: Finding) -> dict[str, object]:
    told = {"name": finding.name, "ok": finding.ok, "saw": finding.saw}
    return told if finding.ok else told | {"next": finding.remedy}

"""`mlld doctor`: whether this machine can make sandboxes, and the repair."""

from __future__ import annotations

import json

import click

from runner import environ
from runner.cli.lazy import Command


@click.command(cls=Command, examples="\nExamples:\n  mlld doctor\n  mlld doctor --fix\n")
@click.option("--fix", is_flag=True, help="Repair what can be repaired: install or start the engine, make the images.")
@click.option("--json", "as_json", is_flag=True, help="The findings as a JSON list.")
def doctor(fix: bool, as_json: bool) -> int:
    """See whether this machine can make sandboxes."""
    from runner.doctor import Machine, examine, repair

    machine = Machine.here()

    def say(line: str) -> None:
        click.echo(line, err=True)

    if fix:
        repair(machine, say=say)
    code = 0
    findings = []
    for finding in examine(machine, say=say):
        findings.append({"name": finding.name, "ok": finding.ok, "saw": finding.saw, "next": finding.remedy})
        if not as_json:
            mark = click.style("ok", fg="green") if finding.ok else click.style("NO", fg="red", bold=True)
            click.echo(f"{mark}  {finding.name:<10} {finding.saw}")
            if not finding.ok and finding.remedy:
                click.echo(environ.typed(f"    next: {finding.remedy}"))
        if not finding.ok:
            code = finding.error.exit_code if finding.error else 5
    if as_json:
        click.echo(json.dumps(findings, ensure_ascii=False))
    return code

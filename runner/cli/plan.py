"""`mlld sandbox plan`: who can reach what, and which line says so. Nothing is started."""

from __future__ import annotations

import json
from typing import Any

import click

from runner.cli import interrupt
from runner.cli.environment import environment_options, load
from runner.cli.lazy import Command
from runner.cli.runs import records
from runner.errors import CheckFailure, PlanViolated
from runner.invariants import check
from runner.plan import SandboxPlan, from_json, to_json
from runner.record import find, read
from runner.report_plan import plan_diff, plan_text

EXAMPLES = """
Examples:
  mlld sandbox plan --env @local/myenv
  mlld sandbox plan --env @local/myenv --profile readonly --format json
  mlld sandbox plan --env @local/myenv --diff last
"""


@click.command(cls=Command, examples=EXAMPLES)
@environment_options
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--diff", "against", metavar="RUN", help="Only what differs from the plan of that run.")
def plan(form: str, against: str | None, **options: Any) -> int:
    """Print the plan of an environment: per member what it is, reaches, reads, writes and holds."""
    made = interrupt.run(planned(**options))
    if violations := check(made):
        raise PlanViolated([str(violation) for violation in violations])
    if against is not None:
        changed = plan_diff(plan_of(against), made)
        click.echo(changed or "nothing differs")
        return 1 if changed else 0
    click.echo(to_json(made).decode() if form == "json" else plan_text(made))
    return 0


async def planned(*, agent: str | None, **options: Any) -> SandboxPlan:
    environment = await load(agent_name=agent, asked={}, **options)
    try:
        # The name is not part of the digest; a fixed one makes two printed plans comparable.
        return environment.sandboxes.plan(environment.spec(), run="plan")
    finally:
        environment.progress.clear()


def plan_of(run: str) -> SandboxPlan:
    """The plan in the record of a run. Errors: `UnknownRun`, `CheckFailure`."""
    found = find(records(), run)
    for event in read(found.path):
        if event.get("event") == "plan":
            return from_json(json.dumps(event["plan"]).encode())
    raise CheckFailure(f"the record of {found.name} has no plan", remedy="mlld sandbox ps --all")

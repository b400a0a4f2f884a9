"""`mlld sandbox plan`: who can reach what, and which line says so. Nothing is started."""

from __future__ import annotations

import json
from typing import Any

import click

from runner import report_docker
from runner.cli import interrupt
from runner.cli.environment import Environment, environment_options, load
from runner.cli.lazy import Command
from runner.cli.runs import records
from runner.errors import CheckFailure, PlanViolated
from runner.invariants import check
from runner.plan import SandboxPlan, from_json, to_json
from runner.record import find, read
from runner.report_compose import compose_of
from runner.report_plan import plan_diff, plan_text

EXAMPLES = """
Examples:
  mlld sandbox plan --env @local/myenv
  mlld sandbox plan --env @local/myenv --profile readonly --format json
  mlld sandbox plan --env @local/myenv --agent scripted --format compose > compose.yaml
  mlld sandbox plan --env @local/myenv --diff last
"""


@click.command(cls=Command, examples=EXAMPLES)
@environment_options
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "compose", "docker"]), default="text", show_default=True
)
@click.option("--diff", "against", metavar="RUN", help="Only what differs from the plan of that run.")
@click.option("--images-by-name", is_flag=True, help="With compose: images by name, for a file that is committed.")
def plan(form: str, against: str | None, images_by_name: bool, **options: Any) -> int:
    """Print the plan of an environment: per member what it is, reaches, reads, writes and holds."""
    environment, made = interrupt.run(planned_of(**options))
    if violations := check(made):
        raise PlanViolated([str(violation) for violation in violations])
    if against is not None:
        changed = plan_diff(plan_of(against), made)
        click.echo(changed or "nothing differs")
        return 1 if changed else 0
    match form:
        case "compose":
            text = compose_of(
                made, environment.spec(), environment.agent, ref=environment.ref, pinned=not images_by_name
            )
            click.echo(text, nl=False)
        case "docker":
            click.echo(report_docker.script(made), nl=False)
        case "json":
            click.echo(to_json(made).decode())
        case _:
            click.echo(plan_text(made))
    return 0


async def planned(**options: Any) -> SandboxPlan:
    """The plan alone."""
    return (await planned_of(**options))[1]


async def planned_of(*, agent: str | None, **options: Any) -> tuple[Environment, SandboxPlan]:
    """An environment and what a run of it would be."""
    environment = await load(agent_name=agent, asked={}, **options)
    try:
        # The name is not part of the digest; a fixed one makes two printed plans comparable.
        return environment, environment.sandboxes.plan(environment.spec(), run="plan")
    finally:
        environment.progress.clear()


def plan_of(run: str) -> SandboxPlan:
    """The plan in the record of a run. Errors: `UnknownRun`, `CheckFailure`."""
    found = find(records(), run)
    for event in read(found.path):
        if event.get("event") == "plan":
            return from_json(json.dumps(event["plan"]).encode())
    raise CheckFailure(f"the record of {found.name} has no plan", remedy="mlld sandbox ps --all")

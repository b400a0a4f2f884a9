"""`mlld schema`: JSON Schemas of what this program writes."""

from __future__ import annotations

import json

import click

from runner.cli.lazy import Command


@click.command(cls=Command, examples="\nExamples:\n  mlld schema plan > plan.schema.json\n")
@click.argument("what", type=click.Choice(["plan"]))
def schema(what: str) -> None:
    """Print the JSON Schema of WHAT."""
    from runner.plan import json_schema

    click.echo(json.dumps(json_schema(), indent=2))

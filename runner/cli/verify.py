"""`mlld verify NAME…`: what was signed under a name, if it still holds."""

from __future__ import annotations

import json

import click

from runner import environ
from runner.cli.context import Context
from runner.cli.lazy import Command
from runner.errors import UsageFailure
from runner.host.signatures import KEY, HostSignatures, content_hash


@click.command(cls=Command, examples="\nExamples:\n  mlld verify prompt\n  MLLD_VERIFY_VARS=prompt,rules mlld verify\n")
@click.argument("names", nargs=-1)
def verify(names: tuple[str, ...]) -> int:
    """Print the signed text of each NAME as JSON; exit 1 if one does not hold."""
    context = Context.here()
    wanted = [
        name.removeprefix("@") for name in names or context.env.get("MLLD_VERIFY_VARS", "").replace(",", " ").split()
    ]
    if not wanted:
        raise UsageFailure("no name was given", remedy="mlld verify NAME, or MLLD_VERIFY_VARS=NAME mlld verify")
    signatures = HostSignatures(project=context.project, key=environ.data_directory(context.env) / KEY)
    found = [_told(signatures, name) for name in wanted]
    click.echo(json.dumps(found[0] if len(found) == 1 else found, ensure_ascii=False, indent=2))
    return 0 if all(each["verified"] for each in found) else 1


def _told(signatures: HostSignatures, name: str) -> dict[str, object]:
    try:
        signed = signatures.signed(name)
    except LookupError:
        return {"name": name, "verified": False, "error": "it was never signed"}
    except ValueError as error:
        return {"name": name, "verified": False, "error": str(error)}
    return {
        "name": name, "verified": True, "template": signed.text, "hash": content_hash(signed.text),
        "signedBy": signed.by, "signedAt": signed.at,
    }  # fmt: skip

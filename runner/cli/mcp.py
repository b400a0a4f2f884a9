"""`mlld mcp`: the functions of a module as MCP tools, over stdio."""

from __future__ import annotations

import sys

import click

from interpreter import serve_module
from runner import __version__
from runner.cli import interrupt
from runner.cli.context import Context
from runner.cli.lazy import Command
from runner.errors import BadOption
from runner.host.output import StreamOutput
from runner.host.serving import serve_lines

EXAMPLES = """
Examples:
  mlld mcp ./tools.mld
  mlld mcp @local/tickets --tools list_tickets,get_ticket
"""


@click.command(cls=Command, examples=EXAMPLES)
@click.argument("module", default="llm/mcp")
@click.option("--tools", default="*", metavar="A,B", help="Only these tools; * is all of them.")
@click.option("--tools-collection", metavar="@NAME", help="The tools of this collection instead of the exports.")
@click.option("--config", metavar="FILE", help="A module that exports @config: tools and env.")
@click.option("--env", "variables", multiple=True, metavar="K=V", help="A variable (MLLD_*) for the module.")
def mcp(module: str, tools: str, tools_collection: str | None, config: str | None, variables: tuple[str, ...]) -> None:
    """Serve the exported functions of MODULE as MCP tools, over stdin and stdout."""
    context = Context.here()
    extra: dict[str, str] = {}
    for pair in variables:
        name, equals, value = pair.partition("=")
        if not equals or not name.startswith("MLLD_"):
            raise BadOption(f"--env {pair!r} is not MLLD_NAME=VALUE", remedy="mlld mcp --help")
        extra[name] = value
    interrupt.run(_serve(context, module, tools, tools_collection, config, extra), leaving="nothing")


async def _serve(
    context: Context, module: str, tools: str, collection: str | None, config: str | None, extra: dict[str, str]
) -> None:
    # stdout is the wire: what the module shows goes to stderr.
    output = StreamOutput(context.masker, stdout=sys.stderr)
    path = (context.cwd / module).resolve()
    ports = context.ports(output=output, files=[path if path.is_dir() else path.parent])
    server = await serve_module(
        module,
        project=context.project,
        ports=ports,
        tools=None if tools == "*" else [name.strip() for name in tools.split(",") if name.strip()],
        collection=collection,
        config=config,
        variables=extra,
        home=context.home,
        directory=context.cwd,
        version=__version__,
    )
    try:
        await serve_lines(server, sys.stdin.buffer, sys.stdout.buffer)
    finally:
        await context.tools.close()

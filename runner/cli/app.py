"""The top of the command tree, and the one place where an error becomes text and an exit code."""

from __future__ import annotations

from collections.abc import Sequence

import click

from runner.cli.lazy import LazyGroup
from runner.cli.shown import fail

SCRIPT_SUFFIXES = (".mld", ".mld.md", ".md", ".mlld")

COMMANDS = {
    "run": ("runner.cli.run:run", "Run a script (`mlld FILE` does the same)."),
    "check": ("runner.cli.check:check", "Look for mistakes without running anything."),
    "ast": ("runner.cli.check:ast", "Print the syntax tree of a script as JSON."),
    "tokens": ("runner.cli.check:tokens", "Print the tokens of a script as JSON."),
    "sandbox": ("runner.cli.sandbox:sandbox", "Run agents and MCP servers in a fence, and look back at runs."),
    "checkpoint": ("runner.cli.checkpoints:checkpoint", "List or remove the results that runs of a script kept."),
    "verify": ("runner.cli.verify:verify", "Check texts against what was signed under their names."),
    "mcp": ("runner.cli.mcp:mcp", "Serve the functions of a module as MCP tools."),
    "doctor": ("runner.cli.doctor:doctor", "See whether this machine can make sandboxes, and repair it."),
    "schema": ("runner.cli.schema:schema", "Print the JSON Schema of what this program writes."),
    "completion": ("runner.cli.completion:completion", "Print a completion script for bash, zsh or fish."),
}

EXAMPLES = """
Examples:
  mlld hello.mld                                              run a script
  mlld sandbox spawn "Summarize open tickets" --env @local/myenv
  mlld sandbox plan --env @local/myenv                        who can reach what, and which line says so
  mlld sandbox show last                                      look back at the latest run
"""


class Root(LazyGroup):
    """`mlld FILE` is `mlld run FILE`: what is no command but looks like a script is taken for one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if (
            args
            and args[0] not in {*COMMANDS, *ALIASES}
            and (args[0] in ("-", "-e", "--eval") or args[0].endswith(SCRIPT_SUFFIXES))
        ):
            args = ["run", *args]
        return super().parse_args(ctx, args)


ALIASES = {"env": "sandbox", "box": "sandbox", "validate": "check"}

root = Root(
    name="mlld",
    table=COMMANDS,
    aliases=ALIASES,
    examples=EXAMPLES,
    help="A sandbox runner for mlld: scripts, environment modules, agents and MCP servers behind one fence.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    no_args_is_help=True,
)


def execute(arguments: Sequence[str]) -> int:
    """Run a command line; returns its exit code."""
    try:
        code = root.main(args=list(arguments), prog_name="mlld", standalone_mode=False)
    except BaseException as error:  # the one place that judges all of them, Ctrl-C included
        return fail(error, as_json="--json" in arguments)
    return code if isinstance(code, int) else 0

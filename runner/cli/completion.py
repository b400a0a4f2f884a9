"""`mlld completion`: the script by which a shell completes our commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from runner.cli.lazy import Command


@click.command(
    cls=Command,
    examples="""
Examples:
  mlld completion bash > ~/.local/share/bash-completion/completions/mlld
  mlld completion zsh > ~/.zfunc/_mlld
  mlld completion fish > ~/.config/fish/completions/mlld.fish
""",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script for SHELL."""
    from runner.cli.app import root  # at call time: app's table names this module

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(root, {}, "mlld", "_MLLD_COMPLETE").source())

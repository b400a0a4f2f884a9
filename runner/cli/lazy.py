"""Click groups whose commands are imported when they are called, with the nearest name offered for a wrong one."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from runner.errors import UnknownName
from runner.spelling import nearest


class LazyGroup(click.Group):
    """A group over a table: name → ("module:attribute", one line of help). Aliases are left out of the help page."""

    def __init__(
        self,
        *args: Any,
        table: Mapping[str, tuple[str, str]],
        aliases: Mapping[str, str] | None = None,
        examples: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._table, self._aliases, self._examples = table, aliases or {}, examples

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target, _ = self._table.get(self._aliases.get(cmd_name, cmd_name), ("", ""))
        if not target:
            return None
        module, _, attribute = target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            raise UnknownName("command", name, self._table, remedy=f"{ctx.command_path} --help")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._table.items()])

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self._examples:
            formatter.write(self._examples.strip("\n") + "\n\n")
        super().format_help(ctx, formatter)


class Command(click.Command):
    """A command whose help begins with examples."""

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._examples = examples

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self._examples:
            formatter.write(self._examples.strip("\n") + "\n\n")
        super().format_help(ctx, formatter)


def nearest_option(error: click.NoSuchOption, command: click.Command | None) -> str | None:
    """The option that was probably meant."""
    known = [name for param in (command.params if command else ()) for name in param.opts if name.startswith("--")]
    return nearest(error.option_name, known)

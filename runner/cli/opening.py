"""The engine of this machine, for the environments of one project."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from interpreter.environment_modules import find_module
from interpreter.ports import FilePort
from runner.cli.context import Context
from runner.host.sandboxes import Options, Sandboxes
from runner.record import RunRecord
from runner.report import clean
from runner.telemetry import open_telemetry


def sandboxes_for(
    context: Context,
    *,
    options: Options | None = None,
    say: Callable[[str], None] = lambda _: None,
    on_record: Callable[[RunRecord], None] = lambda _: None,
    asked: Mapping[str, object] = MappingProxyType({}),
    files: FilePort | None = None,
) -> Sandboxes:
    """The engine of this machine, for this project."""
    known = context.files(context.cwd) if files is None else files

    def served(reference: str, directory: Path) -> Path:
        found = find_module(
            reference, project=context.project, files=known, home=context.home, directory=directory, kind=None
        )
        # A single file is the whole module: what lies beside it is not the server's to see.
        return found.entry if found.manifest is None else found.root

    def warn(text: str) -> None:
        print(f"warning: {context.masker.text(clean(text))}", file=sys.stderr)

    return Sandboxes(
        env=context.env,
        home=context.home,
        project=context.project,
        secrets=context.secrets,
        options=options or Options(),
        find_module=served,
        say=say,
        warn=warn,
        open_telemetry=lambda: open_telemetry(context.env, warn),
        on_record=on_record,
        asked=asked,
    )

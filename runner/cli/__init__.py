"""The command line: parse, call, print.

This file is imported on every start and imports nothing itself: `mlld --version` is as quick as Python.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command line and leave with its exit code. The console script `mlld`."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments in (["--version"], ["-V"]):
        from runner import __version__  # lazily, like all here: see above

        print(f"mlld {__version__}")
        return
    from runner.cli.app import execute

    sys.exit(execute(arguments))

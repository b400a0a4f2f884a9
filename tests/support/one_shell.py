"""An interactive shell in a seat: `python -m tests.support.one_shell`, in a terminal."""

from __future__ import annotations

import asyncio
import sys

from interpreter.ports import Command
from tests.support.runs import environment, make_runs


async def main() -> int:
    with make_runs() as runs:
        async with runs.sandbox(environment(grants=("sh",))) as sandbox:
            return (await sandbox.run(Command(kind="cmd", text="sh", tty=True))).exit_code


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

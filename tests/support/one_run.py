"""A runner of its own, to be killed: `python -m tests.support.one_run [SERVERS] [RUNS]` prints `ready RUN…` and waits."""

from __future__ import annotations

import asyncio
import contextlib
import sys

from runner.cli.interrupt import run
from runner.errors import Interrupted
from tests.support.runs import environment, make_runs, server


async def main(servers: int, count: int) -> None:
    with make_runs() as runs:
        async with contextlib.AsyncExitStack() as stack:
            spec = environment(*(server(f"s{i}") for i in range(servers)))
            sandboxes = [runs.sandbox(spec) for _ in range(count)]
            await asyncio.gather(*map(stack.enter_async_context, sandboxes))
            print("ready", *(s.run_id for s in sandboxes), flush=True)
            await asyncio.sleep(600)


if __name__ == "__main__":
    try:
        run(main(int(sys.argv[1]), int(sys.argv[2])))
    except Interrupted as error:
        sys.exit(error.exit_code)

"""A module's own @spawn that fails: what its command said last is shown, and shows no secret."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, cast

import pytest

from interpreter import EnvironmentModule
from interpreter.errors import CommandFailed
from interpreter.ports import Ports
from runner.cli.context import Context
from runner.cli.environment import Environment
from runner.cli.live import Live
from runner.cli.spawn import _own_answer
from runner.host.sandboxes import Sandboxes
from runner.report_progress import Progress
from runner.secrets import MASK

SECRET = "hunter2-of-a-server"


@dataclass
class Failing:
    """Stands for the module: its command failed with these last words."""

    stderr: str

    async def spawn(self, prompt: str, ports: Ports) -> Any:
        raise CommandFailed("the command ended with 7", status=7, stderr=self.stderr)


async def test_cannot_show_a_servers_secret(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    # The script never read this secret, so its own masks do not know it; only the runner handed it to a server.
    context = Context(env={"HOME": str(tmp_path)}, cwd=tmp_path, home=tmp_path, project=tmp_path)
    context.masker.add(SECRET)
    progress = Progress(StringIO(), "none", env={})
    environment = Environment(
        ref="./m",
        context=context,
        module=cast(EnvironmentModule, Failing(f"trouble: {SECRET} was refused")),
        ports=context.ports(),
        sandboxes=cast(Sandboxes, None),
        progress=progress,
        records=[],
    )
    answer = await _own_answer(environment, "x", Live(context.masker, progress, stdout=True))
    sys.stderr.flush()
    assert answer.exit_code == 7
    assert capsys.readouterr().err == f"trouble: {MASK} was refused\n"

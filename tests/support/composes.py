"""A compose project in a folder of its own, and the engine's view of what it made."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import docker

from runner.recipes import PROJECT


class Project:
    """Runs compose on the file of a folder; everything is taken down with the block."""

    def __init__(
        self, engine: docker.DockerClient, folder: Path, name: str, env: Mapping[str, str] | None = None
    ) -> None:
        self.engine, self.folder, self.name = engine, folder, name
        self.env = {**os.environ, **(env or {})}

    def compose(self, *args: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        command = [str(PROJECT / ".ci/compose"), "--ansi", "never", "-f", "compose.yaml", "-p", self.name, *args]
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

    def answer(self) -> str:
        """What the agent said: the lines of its container, without compose's own."""
        said = self.compose("logs", "--no-log-prefix", "--no-color", "agent").stdout
        return said.replace("\x1b[2K", "")  # compose clears lines also where there are none

    def containers(self) -> dict[str, dict[str, Any]]:
        """The engine's description of each service's container."""
        found = self.engine.containers.list(all=True, filters={"label": f"com.docker.compose.project={self.name}"})
        return {c.labels["com.docker.compose.service"]: c.attrs for c in found}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.compose("down", "--volumes", "--timeout", "1")

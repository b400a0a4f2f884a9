"""The committed compose.yaml, made anew: `python -m tests.support.demo_compose` (or `./dev compose-file`) writes it.

It is made in a copy that holds the repository's own files only: what else lies in somebody's working copy (a virtual
environment, an editor's settings, a `.env`) would change the plan.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from runner.backends.docker_seccomp import profile
from runner.recipes import PROJECT

COMMAND = (
    "sandbox",
    "plan",
    "--env",
    "@local/myenv",
    "--profile",
    "readonly",
    "--agent",
    "scripted",
    "--format",
    "compose",
)
SECCOMP = "images/base/seccomp.json"
KEPT = {".mlld", ".ci", ".gitignore"}  # of what begins with a dot


def demo_compose() -> str:
    """The text that should be committed. Errors: `CalledProcessError`."""
    with tempfile.TemporaryDirectory(prefix="mlld-compose-") as temporary:
        copy = Path(temporary) / "mlld"
        _copy(copy)
        (copy / ".git").mkdir()  # a mark of a project, as in a clone
        done = subprocess.run(
            [sys.executable, "-m", "runner", *COMMAND, "--images-by-name", "--progress", "none"],
            cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)}, stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    # Whoever owns the copy is whom the containers run as.
    return done.stdout.replace(f"{os.getuid() or 1000}:{os.getgid() or 1000}", "1000:1000")


def seccomp() -> str:
    """The profile of runs, as a file: compose takes a path."""
    return json.dumps(json.loads(profile()), indent=1) + "\n"


def _copy(target: Path) -> None:
    def outside(folder: str, names: list[str]) -> set[str]:
        top = Path(folder) == PROJECT
        return {name for name in names if name == "__pycache__" or (top and name.startswith(".") and name not in KEPT)}

    shutil.copytree(PROJECT, target, ignore=outside)


if __name__ == "__main__":
    (PROJECT / SECCOMP).write_text(seccomp())
    (PROJECT / "compose.yaml").write_text(demo_compose())

"""Two minutes of the soak: a sidecar in its own image and limit of memory stays flat under hostile servers and agents.
(An hour: `python -m tests.bench.soak --container --seconds 3600`.)"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine
ROOT = Path(__file__).parents[2]


def test_memory_stays_flat_under_hostile_servers_and_agents() -> None:
    command = [sys.executable, "-m", "tests.bench.soak", "--container", "--seconds", "120"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert not done.returncode, done.stdout + done.stderr[-4000:]
    assert "grown by" in done.stdout

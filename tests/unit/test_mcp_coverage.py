"""docs/mcp-coverage.md names the test behind each row: every name is a test that is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "mcp-coverage.md").read_text()
TESTS = set(re.findall(r"^(?:async )?def (test_\w+)", "\n".join(
    path.read_text() for path in (ROOT / "tests" / "unit" / "sidecar").glob("test_*.py")
), re.MULTILINE))  # fmt: skip


def test_every_test_in_the_table_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", TABLE))
    assert len(named) > 20
    assert named <= TESTS


def test_every_row_names_a_test() -> None:
    rows = [
        line
        for line in TABLE.splitlines()
        if line.startswith("|") and not line.startswith(("|---", "| method", "| what", "| |"))
    ]
    assert [row for row in rows if "`test_" not in row] == []

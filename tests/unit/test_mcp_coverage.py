"""docs/mcp-coverage.md and the tests say the same: each named test is there, each cell of the matrix is a case of one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.unit.sidecar.crossings import WAYS
from tests.unit.sidecar.test_endpoint_matrix import ABSENT, CELLS, ROWS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "mcp-coverage.md").read_text()
PLACES = ("tests/unit/sidecar", "tests/unit/runner", "tests/integration")
TESTS = set(re.findall(r"^(?:async )?def (test_\w+)", "\n".join(
    path.read_text() for place in PLACES for path in (ROOT / place).glob("test_*.py")
), re.MULTILINE))  # fmt: skip


def tables() -> Iterator[tuple[list[str], list[list[str]]]]:
    """The heads and rows of all tables."""
    for block in re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE):
        head, _, *rows = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in block.splitlines())
        yield head, rows


def test_every_test_in_the_table_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 60
    assert named - TESTS == set()


def test_every_row_outside_the_matrix_names_a_test() -> None:
    rows = [row for head, rows in tables() if "http 2026" not in head for row in rows]
    assert len(rows) > 30
    assert [row for row in rows if not any("`test_" in cell for cell in row)] == []


def test_every_way_of_bad_input_has_a_test() -> None:
    ((_, rows),) = [(head, rows) for head, rows in tables() if head == ["what", "streamable HTTP", "stdio", "HTTP+SSE"]]
    assert [(row[0], cell) for row in rows for cell in row[1:] if "`test_" not in cell] == []


def test_every_cell_of_the_matrix_is_a_case_of_a_test() -> None:
    shown: dict[tuple[str, str], str] = {}
    for head, rows in tables():
        if "http 2026" in head:
            assert head[1:-2] == list(WAYS)
            for row in rows:
                assert len(row) == len(head), row
                shown |= {(row[0].replace("`", ""), way): row[head.index(way)] for way in WAYS}
    assert {name for name, _ in shown} == set(ROWS)
    assert shown == {cell: "–" if cell in ABSENT else "yes" for cell in CELLS}


def test_the_matrix_knows_every_method_that_the_endpoint_does() -> None:
    """A method that is added to the endpoint and not to the matrix is found here."""
    source = "\n".join(path.read_text() for path in (ROOT / "images" / "sidecar").glob("*.py"))
    kinds = "tools|prompts|resources|tasks|sampling|elicitation|roots|completion|logging|subscriptions|server"
    spelt = set(re.findall(rf'"((?:notifications/)?(?:{kinds})/[a-zA-Z/_]+)"', source))
    spelt |= set(re.findall(r'"(notifications/[a-zA-Z/_]+)"', source))
    known = {re.split(r"[ ,]", name)[0] for name in ROWS}
    told_otherwise = {"notifications/initialized", "notifications/subscriptions/acknowledged"}
    assert len(spelt) > 25
    assert spelt - known - told_otherwise == set()

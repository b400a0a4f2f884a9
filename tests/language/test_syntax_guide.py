"""docs/adding-a-directive.md shows code that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "adding-a-directive.md").read_text()
SHOWN = [
    (re.findall(r"`(interpreter/[\w/.]+)`", before)[-1], code)
    for before, code in re.findall(r"(## \d.*?)```\n(.*?)```", GUIDE, re.DOTALL)
]


@pytest.mark.parametrize(("path", "code"), SHOWN, ids=[path for path, _ in SHOWN])
def test_a_fragment_is_in_the_file_named_above_it(path: str, code: str) -> None:
    assert code in (ROOT / path).read_text()


def test_every_file_that_is_named_exists() -> None:
    named = re.findall(r"`((?:interpreter|tests)/[\w/.]+)`", GUIDE)
    assert len(named) >= 8
    assert [name for name in named if not (ROOT / name).exists()] == []

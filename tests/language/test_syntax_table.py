"""The table of the grammar: where it is kept, and what is not believed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from interpreter import parser_table
from interpreter.parser_table import GRAMMAR, build, cache_directory, file_name

WRONG = {"start": 1}
RUN = """
import sys
import interpreter.parser as p
from interpreter.source import Source
print(len(p.parse(Source(text='show 1'))[0].body), 'lark' in sys.modules)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user with an empty cache, and code beside which nothing can be written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(parser_table, "BESIDE_CODE", tmp_path / "absent")
    parser_table.table.cache_clear()
    yield tmp_path
    parser_table.table.cache_clear()


def cached(home: Path) -> Path:
    return home / "cache" / "mlld" / file_name(GRAMMAR.read_text())


def test_a_table_is_made_once_and_kept_for_the_user_alone(home: Path) -> None:
    made = parser_table.table()
    assert cached(home).stat().st_mode & 0o777 == 0o644
    assert cached(home).parent.stat().st_mode & 0o777 == 0o700
    parser_table.table.cache_clear()
    assert parser_table.table() == made


def test_a_warm_start_does_not_import_lark() -> None:
    for expected in (None, "1 False"):
        done = subprocess.run(
            [sys.executable, "-c", RUN], capture_output=True, text=True, check=True, cwd=GRAMMAR.parents[1]
        )
        assert expected in (None, done.stdout.strip())


@pytest.mark.parametrize("harm", ["open to all", "a link", "not JSON"])
def test_cannot_be_given_a_foreign_table(home: Path, harm: str) -> None:
    parser_table.table()
    parser_table.table.cache_clear()
    file = cached(home)
    wrong = json.loads(file.read_text()) | {"starts": WRONG}
    file.write_text("{" if harm == "not JSON" else json.dumps(wrong))
    if harm == "open to all":
        file.chmod(0o666)
    if harm == "a link":
        os.replace(file, home / "elsewhere.json")
        file.symlink_to(home / "elsewhere.json")
    assert parser_table.table().starts != WRONG


def test_the_control_a_table_of_ours_is_believed(home: Path) -> None:
    parser_table.table()
    parser_table.table.cache_clear()
    wrong = json.loads(cached(home).read_text()) | {"starts": WRONG}
    cached(home).write_text(json.dumps(wrong))
    assert parser_table.table().starts == WRONG


def test_a_cache_directory_that_others_can_write_is_not_used(home: Path) -> None:
    (home / "cache" / "mlld").mkdir(parents=True)
    (home / "cache" / "mlld").chmod(0o777)
    assert cache_directory() is None
    assert parser_table.table().starts


def test_the_grammar_builds_without_a_conflict() -> None:
    made = build(GRAMMAR.read_text())  # strict mode: lark raises at the first conflict
    assert made["starts"].keys() == set(parser_table.STARTS)

"""Files that travelled as text are found as those on a disk are."""

from __future__ import annotations

from pathlib import Path

import pytest

from interpreter.globs import glob_pattern
from interpreter.module_guards import MemoryFiles
from runner.host.files import HostFiles

FILES = ("a.md", "b.txt", "[x].md", "one/index.mld", "one/a.md", "one/two/index.mld", "one/two/c.md", "My-File.mld")


@pytest.fixture
def both(tmp_path: Path) -> tuple[HostFiles, MemoryFiles, Path]:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return HostFiles([tmp_path]), MemoryFiles({name: name for name in FILES}, tmp_path), tmp_path


@pytest.mark.parametrize(
    "pattern",
    [
        "*", "*.md", "*/index.mld", "**/*", "**/*.md", "**/index.mld", "one/**/*.md", "?.md", "[ab].*", "[!a].txt", "[mM]y[-_ ]*",
        "[[]x].md", "none/*",
    ],
)  # fmt: skip
def test_a_glob_fits_the_same_files(both: tuple[HostFiles, MemoryFiles, Path], pattern: str) -> None:
    disk, memory, root = both
    assert memory.glob(root, pattern) == disk.glob(root, pattern)


def test_a_bracket_that_is_not_closed_is_plain() -> None:
    assert glob_pattern("a[b.md").fullmatch("a[b.md")

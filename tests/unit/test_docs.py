"""The documentation is true: its links lead somewhere, its commands exist, its modules parse."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from interpreter.check import check_source
from interpreter.source import Source
from runner.cli.app import COMMANDS
from runner.cli.init import MODULE
from runner.cli.sandbox import COMMANDS as BELOW

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    for line in re.findall(r"(?m)^(?:- run: )?mlld .*$", page.read_text()):
        words = line.removeprefix("- run: ").split("#")[0].split()
        assert words[1] in COMMANDS or words[1].endswith(".mld"), line
        assert words[1] != "sandbox" or words[2] in BELOW, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_scripts_in_the_pages_are_scripts(page: Path) -> None:
    for text in re.findall(r"(?s)```mlld\n(.*?)```", page.read_text()):
        assert [fault.render() for fault in check_source(Source(name="page.mld", text=text))] == []


def test_the_module_that_init_writes_and_the_demo_are_without_a_fault() -> None:
    texts = {"init": MODULE.format(name="x")}
    texts |= {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / ".mlld").rglob("*.mld")}
    assert len(texts) == 3
    for name, text in texts.items():
        assert [fault.render() for fault in check_source(Source(name=f"{name}.mld", text=text))] == []


def test_every_promise_of_the_security_page_has_a_row_with_tests() -> None:
    promised = set(re.findall(r"(?m)^\| (P\d+) \|", (ROOT / "SECURITY.md").read_text()))
    rows = re.findall(r"(?m)^\| (P[\d, P]+) \|.*\(tests/", (ROOT / "README.md").read_text())
    assert promised == {name for row in rows for name in row.split(", ")}

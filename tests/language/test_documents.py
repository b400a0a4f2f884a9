"""The document that a script in Markdown writes, with every blank line: what is compared is all of it, as it stands."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from interpreter.evaluate import RunOptions, run_script
from interpreter.source import Source
from tests.support.worlds import Recorder, World


def written(text: str, directory: Path) -> str:
    output = Recorder()
    source = Source(name="page.mld.md", text=text)
    ports = World(directory).ports(output)
    asyncio.run(run_script(source, directory / source.name, ports, RunOptions(root=directory)))
    return output.out.getvalue()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        # A shown line takes the blank lines below it along; other directives leave the end of theirs.
        ('a\n/show "x"\nb\n', "a\nx\nb\n"),
        ('a\n\n/show "x"\n\nb\n', "a\n\nx\nb\n"),
        ("a\n/var @x = 1\nc\n", "a\n\nc\n"),
        ("a\n/run cmd { echo hi }\nb\n", "a\nhi\n\nb\n"),
        ("a\n\n\n\nb\n", "a\n\nb\n"),
        # A comment behind a directive takes the end of its line.
        ("a\n/var @x = 1 >> why\nc\n", "a\nc\n"),
        ("a\n/var @x = 1 << why\n\nc\n", "a\n\nc\n"),
        ('a\n/show "x" >> why\n\nc\n', "a\nx\n\nc\n"),
        ("a\n/run cmd { echo hi } >> why\nc\n", "a\nhi\nc\n"),
        # One below leaves the blank lines be.
        ('/show "x"\n>> why\n\nc\n', "x\n\nc\n"),
        ("a\n>> why\n/var @x = 1\n>> why\nb\n", "a\n\nb\n"),
        # Below text, a directive stands where it was written; text below what is shown begins its line.
        ('- one\n  /show "two"\n- three\n', "- one\n  two\n- three\n"),
        ('one\n\n\t/show "two"\n', "one\n\n\ttwo\n"),
        ('/show "one"\n  /show "two"\n', "one\ntwo\n"),
        ('/show "one"\n\n   two\n     three\n', "one\ntwo\n     three\n"),
        # Of a fence that runs, the document has what is printed there, and the lines around it.
        ('a\n```mlld-run\nshow "x"\nif true [ show "y" ]\n```\n\nb\n', "a\nx\ny\n\nb\n"),
        ("```mlld-run\nfor @x in [1, 2] => show @x\nvar @y = 3\n```\nb\n", "1\n2\nb\n"),
        # Fences are text, whatever they hold.
        ('```\n/show "no"\n>> no comment\n```\n\nb\n', '```\n/show "no"\n>> no comment\n```\n\nb\n'),
    ],
)
def test_the_blank_lines_are_those_that_the_author_meant(text: str, wanted: str, tmp_path: Path) -> None:
    assert written(text, tmp_path) == wanted


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("<k.json>", '{"k": "v"}'),
        ("<k.json>.k", "v"),
        ("<k.json>.k | @upper", "V"),
        ("<*.json>[0].k", "v"),
        ("foreach @f(@xs)", "f 1\nf 2"),
        ('foreach @f(@xs) with { separator: ", " }', "f 1, f 2"),
    ],
)
def test_what_is_loaded_or_shown_for_each_element_leaves_the_end_of_its_line(
    shown: str, printed: str, tmp_path: Path
) -> None:
    (tmp_path / "k.json").write_text('{"k": "v"}')
    setup = "/exe @f(x) = `f @x`\n/var @xs = [1, 2]\n"
    assert written(f"{setup}/show {shown}\nb\n", tmp_path).lstrip() == f"{printed}\n\nb\n"
    assert written(f'{setup}/show {shown}\n/show "b"\n', tmp_path).lstrip() == f"{printed}\n\nb\n"
    assert written(f'{setup}/show "b"\n/show "c"\n', tmp_path).lstrip() == "b\nc\n"


@pytest.mark.parametrize("load", ['<*.md> as "- <>.mx.filename"', "<a.md # ??>"])
def test_lists_of_what_was_found_in_files_stand_apart(load: str, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# One\n\n## Two\n")
    (tmp_path / "b.md").write_text("# One\n")
    one, two = ("- a.md", "- b.md") if " as " in load else ("One", "Two")
    assert written(f"/var @l = {load}\n/show @l\n", tmp_path).lstrip() == f"{one}\n\n{two}\n"


def test_a_file_that_may_be_missing_is_shown_as_nothing(tmp_path: Path) -> None:
    assert written('/show <no.md>?\n/show "b"\n', tmp_path).lstrip() == "b\n"

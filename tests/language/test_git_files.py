"""`files <@ws/> = git …`: the text files of a repository, by a clone that policy and sandbox decide about."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.worlds import World, denied, fine


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.write("repo/README.md", "hello\n")
    world.write("repo/docs/a.md", "A\n")
    world.write("repo/docs/deep/b.md", "B\n")
    (tmp_path / "repo/logo.png").write_bytes(b"\x89PNG\xff\xfe")
    (tmp_path / "repo/link").symlink_to("/etc/hostname")

    def git(*words: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", *words], cwd=tmp_path / "repo", check=True
        )

    git("init", "-q", "-b", "main")
    git("add", "-A")
    git("commit", "-qm", "one")
    git("checkout", "-q", "-b", "other")
    world.write("repo/README.md", "other\n")
    git("commit", "-qam", "two")
    git("checkout", "-q", "main")
    return world


async def test_text_files_are_taken_over(world: World) -> None:
    done = await world.run(f"""
files <@ws/> = git "file://{world.root}/repo"
files <@ws/old/> = git "file://{world.root}/repo" branch:"other" depth:1
for @f in <@ws/**/*> => show @f.mx.relative
show <@ws/README.md>
show <@ws/old/README.md>
show @ws.mx.edits.length
show <@ws/README.md>.mx.taint.includes("src:git")
""")
    assert fine(done) == [
        "README.md", "docs/a.md", "docs/deep/b.md", "old/README.md", "old/docs/a.md", "old/docs/deep/b.md",
        "hello", "other", "0", "true",
    ]  # fmt: skip


async def test_a_part_of_it_is_edited_in_a_block(world: World) -> None:
    done = await world.run(f"""
files <@ws/> = git "file://{world.root}/repo" path:"docs/"
box @ws [ run sh {{ cat a.md deep/b.md; echo more >> a.md; rm deep/b.md }} ]
for @e in @ws.mx.edits => show `@e.type @e.path`
show <@ws/a.md>.mx.diff
""")
    assert fine(done) == [
        "A", "B", "modified a.md", "deleted deep/b.md", "--- a/a.md", "+++ b/a.md", "@@ -1 +1,2 @@", " A", "+more",
    ]  # fmt: skip


async def test_policy_decides_about_the_clone(world: World) -> None:
    script = f'files <@ws/> = git "file://{world.root}/repo"\nshow <@ws/README.md>'
    assert "git" in denied(await world.run(f'policy @p = {{ deny: ["cmd:git:clone"] }}\n{script}'))
    assert fine(await world.run(f'policy @p = {{ deny: ["cmd:git:push"] }}\n{script}')) == ["hello"]
    remote = 'files <@ws/> = git "https://example.invalid/repo"'
    assert "Network" in denied(await world.run(f'policy @p = {{ deny: ["network"] }}\n{remote}'))


@pytest.mark.parametrize(
    ("source", "message", "hint"),
    [
        ('git "ext::sh -c touch% owned"', "is no address of a repository", "https://"),
        ('git "--upload-pack=touch owned"', "is no address of a repository", "https://"),
        ('git "REPO" branch:"--upload-pack=x"', "is no branch or tag", "main"),
        ('git "REPO" depth:0', "depth must be", "depth:1"),
        ('git "REPO" pth:"docs"', "git has no option 'pth'", "did you mean path?"),
        ('git "REPO" path:"none"', "has no text files below 'none'", ""),
        ('git "REPO-that-is-not"', "ended with status 128", ""),
    ],
)
async def test_cannot_ask_git_for_something_else(world: World, source: str, message: str, hint: str) -> None:
    done = await world.run(f"var @x = 1\nfiles <@ws/> = {source.replace('REPO', f'file://{world.root}/repo')}")
    assert done.error is not None
    assert message in done.error.message
    assert hint in (done.error.hint or "")
    assert done.error.span is not None
    assert done.error.span.line == 2
    assert not (world.root / "owned").exists()


async def test_a_token_is_in_no_argument_and_no_output(world: World) -> None:
    world.secrets = {"env:TOKEN": "tok-12345"}
    done = await world.run(f"""
auth @gh = {{ from: "env:TOKEN", as: "TOKEN" }}
var @r = box [
  files <@ws/> = git "file://{world.root}/repo" auth:"gh"
  => <@ws/README.md>
]
show @r.mx.labels
""")
    assert '"secret"' in done.out
    (session,) = done.sessions
    (command,) = session.commands.seen
    assert "tok-12345" not in command.text
    assert "Authorization: Basic " in command.secrets["GIT_CONFIG_VALUE_0"]

"""Workspaces: files in memory that the commands of a block find where they start."""

from __future__ import annotations

from pathlib import Path

import pytest

from interpreter.evaluate import workspaces
from tests.support.worlds import Session, World, denied, fine


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.write("README.md", "the project\n")
    world.write("src/a.py", "A = 1\n")
    return world


async def test_commands_find_the_files_and_the_project_where_they_start(world: World) -> None:
    done = await world.run("""
files <@ws/> = [{ "task.md": "draft" }, { "src/b.py": "B = 2" }]
var @seen = box @ws [
  file "notes.md" = "inside"
  let @all = sh { cat task.md notes.md README.md src/a.py src/b.py; ls }
  => @all
]
show @seen
show <@ws/notes.md>
""")
    assert fine(done) == [
        "draftinsidethe project", "A = 1", "B = 2README.md", "notes.md", "script.mld", "src", "task.md", "inside",
    ]  # fmt: skip
    assert not (world.root / "notes.md").exists()
    assert not (world.root / "src/b.py").exists()


async def test_what_commands_do_is_an_edit_of_the_workspace(world: World) -> None:
    done = await world.run("""
var @ws = box [
  file "a.txt" = "one"
  file "b.txt" = "gone"
  run sh { echo two > a.txt; rm b.txt; mkdir d; echo new > d/n.txt; sed -i s/the/a/ README.md }
  show <a.txt>
  show <@root/d/n.txt>
  for @f in <*.md> => show @f
]
for @e in @ws.mx.edits => show `@e.type @e.path`
show <@ws/README.md>.mx.diff
show <@ws/d/*.txt>.length
""")
    assert fine(done) == [
        "two", "new", "a project", "modified README.md", "created a.txt", "created d/n.txt", "--- a/README.md",
        "+++ b/README.md", "@@ -1 +1 @@", "-the project", "+a project", "1",
    ]  # fmt: skip
    assert (world.root / "README.md").read_text() == "the project\n"


@pytest.mark.parametrize("config", ["@ws", "{ fs: @ws }", '@ws with { tools: ["Bash"] }'])
async def test_a_block_takes_a_workspace_by_name(world: World, config: str) -> None:
    done = await world.run(f"""
files <@ws/> = [{{ "task.md": "draft" }}]
var @r = env {config} [ => run cmd {{ cat task.md }} ]
show @r
""")
    assert fine(done) == ["draft"]


async def test_blocks_have_one_each(world: World) -> None:
    done = await world.run("""
files <@outer/> = [{ "o.txt": "outer" }]
files <@inner/> = [{ "i.txt": "inner" }]
box @outer [
  let @before = run cmd { cat o.txt }
  let @middle = box @inner [ => sh { cat i.txt; ls o.txt 2>/dev/null || echo " alone" } ]
  show `@before @middle`
  run sh { cat o.txt }
]
""")
    assert fine(done) == ["outer inner alone", "outer"]


async def test_a_command_outside_starts_in_a_workspace_that_it_names(world: World) -> None:
    done = await world.run("""
files <@ws/> = [{ "in.txt": "hi there" }]
exe @upper(ws) = cmd:@ws { tr a-z A-Z } with { stdin: "piped" }
exe @read(ws) = sh:@ws { tee out.txt < in.txt; ls }
show @upper(@ws)
show @read(@ws)
show <@ws/out.txt>
""")
    assert fine(done) == ["PIPED", "hi therein.txt", "out.txt", "hi there"]


async def test_the_root_is_where_the_commands_find_it(world: World) -> None:
    def at_workspace(session: Session) -> None:
        session.project = "/workspace"

    world.on_open = at_workspace
    profiles = "profiles { full: { requires: { filesystem, sh } } }\n"
    done = await world.run(f"""{profiles}var @seen = env {{ tools: ["Bash"] }} [
  output "made" to "@root/out.txt"
  let @text = <@root/README.md>
  => `@root: @text`
]
show @seen
show @root
""")
    assert fine(done) == ["/workspace: the project", str(world.root)]
    assert (world.root / "out.txt").read_text().strip() == "made"


async def test_a_granted_project_is_written_itself(world: World) -> None:
    profiles = "profiles { full: { requires: { filesystem, sh } } }\n"
    fine(await world.run(profiles + 'env { tools: ["Bash"] } [ file "kept.md" = "x" ]'))
    assert (world.root / "kept.md").read_text() == "x"
    fine(await world.run('env { tools: ["Bash"] } [ file "held.md" = "x"\n run cmd { cat held.md } ]'))
    assert not (world.root / "held.md").exists()


async def test_cannot_launder_a_label_through_a_file(world: World) -> None:
    policy = 'policy @p = { defaults: { rules: ["no-secret-exfil"] }, operations: { exfil: ["net:w"] } }\n'
    send = "exe net:w @send(text) = cmd { echo @text }\n"
    block = 'var secret @key = "sk-123"\nvar @r = box [ file "k.txt" = @key\n => run cmd { cat k.txt } ]\n'
    done = await world.run(f"{block}show @r.mx.labels\n")
    assert "secret" in done.out
    assert "secret" in denied(await world.run(f"{policy}{send}{block}show @send(@r)"))
    control = block.replace("secret @key", "@key")
    assert fine(await world.run(f"{policy}{send}{control}show @send(@r)")) == ["sk-123"]


async def test_what_a_command_wrote_carries_what_it_had(world: World) -> None:
    done = await world.run("""
var pii @name = "Ada"
var @ws = box [
  run cmd { cp README.md copy.md }
  run sh(@name) { echo "$name" > who.txt }
]
show <@ws/who.txt>.mx.taint
show <@ws/copy.md>.mx.labels
""")
    lines = "".join(fine(done))
    assert lines.replace(" ", "").startswith('["pii","src:cmd","src:sh"]')  # it could read the copy, too
    assert lines.endswith("[]")


@pytest.mark.parametrize("path", ["../out.md", "/etc/out.md", "a/../../out.md", ""])
async def test_cannot_name_a_file_outside(world: World, path: str) -> None:
    done = await world.run(f'box [ file "in.md" = "x"\n file "{path}" = "x" ]')
    assert done.error is not None
    assert done.error.code == "path"
    assert done.error.span is not None
    assert done.error.span.line == 2
    assert not list(world.root.parent.glob("out.md"))


async def test_cannot_lead_a_write_away_by_a_link(world: World) -> None:
    outside = world.root / "outside"
    outside.mkdir()
    done = await world.run(f"""
var @ws = box [
  run sh {{ ln -s {outside} d; ln -s {outside}/leaf leaf; ln -s /etc/hostname h }}
  file "d/x.txt" = "x"
  file "leaf" = "y"
  run sh {{ cat d/x.txt leaf }}
]
show @ws.mx.edits.length
""")
    assert fine(done) == ["xy", "2"]  # the link to /etc/hostname is no file of the workspace
    assert list(outside.iterdir()) == []


async def test_cannot_grow_without_bound(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspaces, "MOST_CHARACTERS", 1000)
    assert fine(await world.run(f'box [ file "a" = "{"x" * 1000}" ]')) == []
    done = await world.run(f'box [ file "a" = "{"x" * 1001}" ]')
    assert done.error is not None
    assert done.error.exit_code == 6
    monkeypatch.setattr(workspaces, "MOST_FILES", 2)
    files = [f'  file "{name}" = "x"' for name in "abc"]
    assert fine(await world.run("\n".join(["box [", *files[:2], "]"]))) == []
    done = await world.run("\n".join(["box [", *files, "]"]))
    assert done.error is not None
    assert done.error.exit_code == 6


async def test_nothing_is_left_of_a_block(world: World) -> None:
    done = await world.run('box [ file "a" = "1"\n let @d = cmd { pwd }\n show @d\n run cmd { false } ]')
    assert done.error is not None
    (directory,) = done.lines
    assert "mlld-workspace-" in directory
    assert not Path(directory).exists()


async def test_output_and_append_write_where_file_does(world: World) -> None:
    done = await world.run("""
var @ws = box [
  output "out" to "o.txt"
  append "more" to "o.txt"
  append "line" to "README.md"
  run sh { cat o.txt README.md }
  show <o.txt>
]
for @e in @ws.mx.edits => show `@e.type @e.path`
output "kept" to "kept.txt"
""")
    said = fine(done)
    assert said[:4] == ["outmore", "the project", "line", "outmore"]
    assert sorted(said[4:]) == ["created o.txt", "modified README.md"]
    assert not (world.root / "o.txt").exists()
    assert (world.root / "README.md").read_text() == "the project\n"
    assert (world.root / "kept.txt").read_text() == "kept"


async def test_output_into_a_workspace_is_guarded_and_keeps_its_labels(world: World) -> None:
    done = await world.run("""
guard before op:output = when [ @input.any.mx.labels.includes("pii") => deny "no pii" ; * => allow ]
var pii @p = "p"
box [ output @p to "o.txt" ]
""")
    assert "no pii" in denied(done)
    done = await world.run("""
var pii @p = "p"
box [
  output @p to "o.txt"
  show <o.txt>.mx.labels
]
""")
    assert fine(done) == ['["pii"]']

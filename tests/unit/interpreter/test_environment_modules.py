"""Finding environment modules (semantics §1)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from interpreter.environment_modules import BadModuleName, ModuleNotFound, NotAnEnvironment, find_module, list_modules
from interpreter.errors import MlldError

MANIFEST = "name: {name}\ntype: environment\nentry: index.mld\nabout: A test\nversion: 1.0.0\n"


class Disk:
    """A file port over the real disk that counts what is asked of it."""

    def __init__(self) -> None:
        self.touched: list[Path] = []

    def read(self, path: Path) -> bytes:
        self.touched.append(path)
        return path.read_bytes()

    def write(self, path: Path, data: bytes, *, append: bool = False) -> None:
        raise AssertionError("finding a module writes nothing")

    def glob(self, root: Path, pattern: str) -> Sequence[Path]:
        self.touched.append(root)
        return sorted(path for path in root.glob(pattern) if path.is_file())

    def exists(self, path: Path) -> bool:
        self.touched.append(path)
        return path.exists()

    def is_dir(self, path: Path) -> bool:
        self.touched.append(path)
        return path.is_dir()


def module(directory: Path, name: str, text: str | None = None) -> Path:
    path = directory / name
    path.mkdir(parents=True)
    (path / "module.yml").write_text(MANIFEST.format(name=name) if text is None else text)
    (path / "index.mld").write_text("")
    return path


def find(ref: str, project: Path, home: Path | None = None) -> Path:
    return find_module(ref, project=project, files=Disk(), home=home).entry


def test_local_names_are_looked_for_in_order(tmp_path: Path) -> None:
    project, home = tmp_path / "p", tmp_path / "h"
    places = [
        module(home / ".mlld/box", "my"),
        module(home / ".mlld/env", "my"),
        module(project / "llm/modules", "my"),
        module(project / ".mlld/box", "my"),
        module(project / ".mlld/env", "my"),
    ]
    for place in reversed(places):
        assert find("@local/my", project, home) == place / "index.mld"
        (place / "module.yml").unlink()
        (place / "index.mld").unlink()
        place.rmdir()
    with pytest.raises(ModuleNotFound):
        find("@local/my", project, home)


@pytest.mark.parametrize("suffix", [".mld", ".mld.md"])
def test_a_single_file_is_a_module(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "llm/modules").mkdir(parents=True)
    file = tmp_path / f"llm/modules/one{suffix}"
    file.write_text("")
    for ref in ("@local/one", "one", f"./llm/modules/one{suffix}", "llm/modules/one"):
        assert find(ref, tmp_path) == file
    assert find_module("@local/one", project=tmp_path, files=Disk()).name == "one"


def test_a_path_works_wherever_a_name_does(tmp_path: Path) -> None:
    made = module(tmp_path / "envs", "my")
    for ref in ("./envs/my", "envs/my", str(made)):
        found = find_module(ref, project=tmp_path, files=Disk())
        assert (found.entry, found.root, found.name, found.about) == (
            tmp_path / "envs/my/index.mld",
            made,
            "my",
            "A test",
        )


def test_relative_paths_start_where_they_are_typed(tmp_path: Path) -> None:
    made = module(tmp_path / "deep/envs", "my")
    found = find_module("./envs/my", project=tmp_path, files=Disk(), directory=tmp_path / "deep")
    assert found.root == made
    assert find_module("~/deep/envs/my", project=tmp_path / "x", files=Disk(), home=tmp_path).root == made


def test_a_module_that_is_only_served_may_have_any_type(tmp_path: Path) -> None:
    made = module(tmp_path / "llm/modules", "tickets", "name: tickets\ntype: library\n")
    assert find_module("@local/tickets", project=tmp_path, files=Disk(), kind=None).root == made
    with pytest.raises(NotAnEnvironment, match="its type is 'library'"):
        find("@local/tickets", tmp_path)


def test_prefixes_of_the_project_are_honoured(tmp_path: Path) -> None:
    made = module(tmp_path / "shared", "my")
    prefixes = [{"prefix": "@team/", "resolver": "LOCAL", "config": {"basePath": "shared"}},
                {"prefix": "@out/", "resolver": "LOCAL", "config": {"basePath": "../elsewhere"}}]  # fmt: skip
    (tmp_path / "mlld-config.json").write_text(json.dumps({"resolvers": {"prefixes": prefixes}}))
    assert find("@team/my", tmp_path) == made / "index.mld"
    with pytest.raises(ModuleNotFound, match="no module source is called '@out'"):
        find("@out/my", tmp_path)
    with pytest.raises(ModuleNotFound) as caught:
        find("@taem/my", tmp_path)
    assert caught.value.hint == "did you mean @team/my?"


@pytest.mark.parametrize(
    "name",
    [
        "@local/../x",
        "@local/a/b",
        "@local/.x",
        "@local/",
        "@local/a b",
        "@local/a\0",
        "@local/ä",
        "@local/a;b",
        "",
        " ",
        "a:b",
    ],
)
def test_a_bad_name_is_refused_before_the_disk_is_touched(tmp_path: Path, name: str) -> None:
    disk = Disk()
    with pytest.raises(BadModuleName) as caught:
        find_module(name, project=tmp_path, files=disk)
    assert disk.touched == []
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("manifest", "message", "hint"),
    [
        ("type: module\nname: my\n", "its type is 'module'", "type: environment"),
        ("name: my\n", "its module.yml says no type", "type: environment"),
        ("type: environment\nentry: main.mld\n", "its entry main.mld is not there", "create main.mld"),
        ("type: environment\nentry: ../../x.mld\n", "entry must name a file inside the module", None),
        ("type: environment\nentry: /etc/passwd\n", "entry must name a file inside the module", None),
        ("type: environment\nname: a/b\n", "the name in module.yml is no name", None),
        ("a: [\n", "module.yml is not YAML in line 2", None),
        ("- a\n", "module.yml holds no keys", None),
        ("a: &x [1]\nb: *x\ntype: environment\n", "uses YAML aliases", None),
        ("x" * (2**20 + 1), "module.yml is larger than 1 MB", None),
        ("type: !!python/object/apply:os.system [id]\n", "module.yml is not YAML", None),
    ],
)
def test_what_is_no_environment_module_says_why(tmp_path: Path, manifest: str, message: str, hint: str | None) -> None:
    module(tmp_path / ".mlld/env", "my", manifest)
    with pytest.raises(NotAnEnvironment) as caught:
        find("@local/my", tmp_path)
    assert message in caught.value.message
    assert hint is None or hint in (caught.value.hint or "")
    assert caught.value.exit_code == 3


def test_other_things_are_no_environment_modules(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(NotAnEnvironment, match="it has no module"):
        find("./plain", tmp_path)
    with pytest.raises(NotAnEnvironment, match=r"not a \.mld file"):
        find("./notes.txt", tmp_path)
    with pytest.raises(ModuleNotFound, match="there is nothing at"):
        find("./absent", tmp_path)
    (tmp_path / "mlld-config.json").write_text("{")
    with pytest.raises(NotAnEnvironment, match=r"mlld-config\.json cannot be read"):
        find("@team/x", tmp_path)


def test_the_nearest_name_is_offered(tmp_path: Path) -> None:
    module(tmp_path / ".mlld/env", "myenv")
    with pytest.raises(ModuleNotFound) as caught:
        find("@local/myenf", tmp_path)
    assert caught.value.hint == "did you mean @local/myenv?"
    with pytest.raises(MlldError) as other:
        find("zzz", tmp_path)
    assert other.value.hint == "there are @local/myenv"
    with pytest.raises(ModuleNotFound) as none:
        find("@local/x", tmp_path / "empty")
    assert none.value.hint == "mlld sandbox init x makes one in .mlld/env/x"


def test_a_list_shows_what_a_name_would_find(tmp_path: Path) -> None:
    project, home = tmp_path / "p", tmp_path / "h"
    for directory, name in ((project / ".mlld/env", "b"), (home / ".mlld/env", "b"), (home / ".mlld/box", "c")):
        module(directory, name)
    module(project / ".mlld/env", "broken", "type: module")
    found = list(list_modules(project=project, files=Disk(), home=home))
    assert [(each.name, each.root.is_relative_to(project)) for each in found] == [("b", True), ("c", False)]

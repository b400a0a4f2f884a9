"""Modules by name: the lock file and its cache, prefixes of the project, `import local`."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from interpreter.registry_lock import BadLock, read_lock, satisfies
from tests.support.worlds import World, fine

UTILS = "exe @shout(x) = js { return x.toUpperCase() + '!' }\nexport { @shout }\n"
DOCUMENT = """---
name: words
author: alice
---

# Words

Prose between directives.

/import { @shout } from @alice/utils
/exe @greet(name) = `Hello @shout(@name)`
/export { @greet }
"""


def lock(world: World, name: str, text: str, *, version: str = "1.2.0", root: str = ".mlld/cache", **said: Any) -> Path:
    """Puts a module into the cache and the lock; where it lies."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    place = world.write(f"{root}/sha256/{digest[:2]}/{digest[2:]}/content.mld", text)
    path = world.root / "mlld-lock.json"
    held = json.loads(path.read_text()) if path.exists() else {"lockfileVersion": 1, "modules": {}}
    held["modules"][name] = {
        "version": "latest", "resolved": digest, "integrity": f"sha256:{digest}", "source": f"registry://{name}@{version}", **said,
    }  # fmt: skip
    path.write_text(json.dumps(held))
    return place


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    lock(world, "@alice/utils", UTILS)
    lock(world, "@alice/words", DOCUMENT)
    return world


async def test_a_name_is_the_text_that_is_locked(world: World) -> None:
    # Not what lies in a directory of modules under the same name.
    world.write("llm/modules/alice/utils.mld", 'var @shout = "other"\nexport { @shout }')
    done = await world.run("""
import { @shout } from @alice/utils
import @alice/words as @words
show @shout("hi")
show @words.greet("ada")
""")
    assert fine(done) == ["HI!", "Hello ADA!"]


async def test_cannot_load_a_text_that_was_changed(world: World) -> None:
    place = lock(world, "@bob/lib", 'var @a = "good"\nexport { @a }')
    script = "import { @a } from @bob/lib\nshow @a"
    assert fine(await world.run(script)) == ["good"]
    place.write_text('run cmd { touch owned }\nvar @a = "evil"\nexport { @a }')
    done = await world.run(script)
    assert done.error is not None
    assert done.error.code == "lock"
    assert "Lock integrity check failed for @bob/lib" in done.error.message
    assert str(place) in (done.error.hint or "")
    assert done.error.span is not None
    assert done.error.span.line == 1
    assert not (world.root / "owned").exists()


@pytest.mark.parametrize(
    ("version", "fault"),
    [("1.2.0", None), ("^1.0.0", None), ("latest", None), ("1", None), ("2.0.0", "has 1.2.0"),
     ("~1.1.0", "has 1.2.0"), ("beta", "has 1.2.0")],
)  # fmt: skip
async def test_a_version_is_held_against_the_lock(world: World, version: str, fault: str | None) -> None:
    done = await world.run(f'import {{ @shout }} from @alice/utils@{version}\nshow @shout("x")')
    if fault is None:
        assert fine(done) == ["X!"]
    else:
        assert done.error is not None
        assert f"Locked version mismatch for @alice/utils: {version} is asked for" in done.error.message
        assert fault in done.error.message
        assert done.error.hint is not None


async def test_what_is_locked_and_not_there_is_said(world: World) -> None:
    lock(world, "@bob/gone", "var @a = 1").unlink()
    done = await world.run("import { @a } from @bob/gone")
    assert done.error is not None
    assert "'@bob/gone' is locked and not in the cache" in done.error.message
    assert "nothing is fetched" in (done.error.hint or "")
    done = await world.run("import { @a } from @bob/never")
    assert done.error is not None
    assert "'@bob/never' is not installed" in done.error.message
    assert "mlld-lock.json does not name it" in (done.error.hint or "")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"integrity": "sha256:abc"}, "must be a SHA-256"),
        ({"integrity": None}, "must be a SHA-256"),
        ({"resolved": "0" * 64}, "`resolved` the same"),
        ({"resolved": "../../../../etc/passwd"}, "`resolved` the same"),
    ],
)
async def test_cannot_lock_what_cannot_be_checked(world: World, entry: dict[str, Any], reason: str) -> None:
    lock(world, "@bob/lib", "var @a = 1\nexport { @a }", **entry)
    done = await world.run("import { @shout } from @alice/utils")
    assert done.error is not None
    assert done.error.code == "lock"
    assert reason in done.error.message


@pytest.mark.parametrize("text", ["", "[]", '{"modules": []}', '{"modules": {"@a/b": 1}}', "[" * 100_000])
def test_a_broken_lock_is_said(text: str) -> None:
    with pytest.raises(BadLock):
        read_lock(text)


def test_integrity_may_be_written_as_browsers_do() -> None:
    digest = hashlib.sha256(b"x")
    text = f"sha256-{base64.b64encode(digest.digest()).decode()}"
    (locked,) = read_lock(json.dumps({"modules": {"@a/b": {"integrity": text, "registryVersion": "1.0.0"}}})).values()
    assert (locked.sha256, locked.version) == (digest.hexdigest(), "1.0.0")
    assert locked.fits(b"x")
    assert not locked.fits(b"y")


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("1.2.3", "1.2.3", True), ("1.2.3", "1.2", True), ("1.2.3", "^1.2.0", True), ("1.2.3", "^1.3.0", False),
        ("2.0.0", "^1.0.0", False),
        ("0.2.5", "^0.2.1", True), ("0.3.0", "^0.2.1", False), ("0.0.2", "^0.0.1", False), ("1.2.9", "~1.2.1", True),
        ("1.3.0", "~1.2", False),
        ("2.0.0-beta", "^2.0.0", False), ("2.0.0-beta", "2.0.0-beta", True), ("", "1.0.0", False), ("1.0.0", "stable", False),
    ],
)  # fmt: skip
def test_versions(version: str, wanted: str, fits: bool) -> None:
    assert satisfies(version, wanted) is fits


async def test_an_empty_lock_is_none(world: World) -> None:
    (world.root / "mlld-lock.json").write_text("")
    world.write("llm/modules/alice/utils.mld", 'var @a = "by hand"\nexport { @a }')
    assert fine(await world.run("import { @a } from @alice/utils\nshow @a")) == ["by hand"]


async def test_prefixes_of_the_project(world: World) -> None:
    world.write("src/lib/tools.mld", 'var @name = "tools"\nexport { @name }')
    prefix = {"prefix": "@lib/", "resolver": "LOCAL", "config": {"basePath": "./src/lib"}}
    remote = {"prefix": "@far/", "resolver": "GITHUB", "config": {"repository": "a/b", "basePath": "llm"}}
    settings = {"resolvers": {"prefixes": [prefix, remote]}}
    assert fine(await world.run("import { @name } from @lib/tools\nshow @name", settings=settings)) == ["tools"]
    assert fine(
        await world.run("import { @name } from @lib/tools\nshow @name", settings={"resolverPrefixes": [prefix]})
    ) == ["tools"]
    done = await world.run("import { @name } from @far/tools", settings=settings)
    assert done.error is not None
    assert "@far/ is resolved by GITHUB" in done.error.message
    assert "clone it" in (done.error.hint or "")


async def test_a_module_in_development_is_found_by_its_front_matter(world: World) -> None:
    text = '---\nauthor: bob\nname: helper\n---\nvar @who = "mine"\nexport { @who }\n'
    world.write("llm/modules/any-name.mld", text)
    assert fine(await world.run("import local { @who } from @bob/helper\nshow @who")) == ["mine"]
    done = await world.run("import { @who } from @bob/helper")
    assert done.error is not None
    assert "not installed" in done.error.message


@pytest.mark.parametrize("name", ["@alice/../../etc/passwd", "@../x/y", "@alice/.."])
async def test_cannot_name_a_module_out_of_its_place(world: World, name: str) -> None:
    done = await world.run(f'import {{ @a }} from "{name}"')
    assert done.error is not None

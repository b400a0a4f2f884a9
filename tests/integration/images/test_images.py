"""Images: made once, named by their content, telling what is wrong, holding what they promise."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import docker
import pytest
from docker.types import Mount

from interpreter.declarations import (
    CommandNeed,
    EnvironmentSpec,
    McpConfig,
    Needs,
    Package,
    Place,
    ServerSpec,
    SourceKind,
)
from runner import recipes
from runner.errors import BuildFailed, ImageMissing, PackageMissing, Unsupported
from runner.images import ImageStore
from runner.images_run import images_for
from runner.recipes import BuildFile, Recipe
from tests.support.bridges import Listener
from tests.support.seats import seat

pytestmark = pytest.mark.engine

PLACE = Place(file="index.mld", line=3, column=5)


def spec(*servers: ServerSpec, needs: Needs | None = None, image: str | None = None) -> EnvironmentSpec:
    return EnvironmentSpec(name="t", mcp=McpConfig(servers=servers), needs=needs or Needs(), image=image, place=PLACE)


def server(source: SourceKind, target: str, *args: str) -> ServerSpec:
    return ServerSpec(name="s", source=source, target=target, args=args, place=PLACE)


def run(engine: docker.DockerClient, image: str, *argv: str) -> str:
    """The output of a command in the image, behind the fence."""
    out: bytes = engine.containers.run(
        image, list(argv), entrypoint=[], network_mode="none", read_only=True, user="1000:1000", remove=True,
        labels={"dev.mlld.test": "images"},
    )  # fmt: skip
    return out.decode()


def test_a_second_time_nothing_is_built(store: ImageStore) -> None:
    recipe = recipes.agent(ca=store.ca)
    first = store.ensure(recipe)
    said: list[str] = []
    again = replace(store, say=said.append)
    assert again.ensure(recipe) == first
    assert again.ensure_bridge() == store.ensure_bridge()
    assert said == [], "who builds says so"


def test_many_who_want_the_same_image_build_it_once(store: ImageStore) -> None:
    said: list[str] = []
    unique = Recipe(
        name="test", parent=recipes.compiler(), files=(BuildFile(path="/x", content=str(time.time_ns()).encode()),)
    )
    stores = [
        replace(store, say=said.append, _locks={}) for _ in range(4)
    ]  # as four processes: only the file lock is common
    threads = [threading.Thread(target=s.ensure, args=(unique,)) for s in stores]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [line for line in said if line == "images: building test"] == ["images: building test"]
    finally:
        assert store.engine.remove(unique.tag)


def test_agent_and_server_images_hold_what_they_promise(engine: docker.DockerClient, store: ImageStore) -> None:
    probe = "id -u; python3 --version; node --version; git --version; npm --version; find / -xdev -perm /6000 -type f | wc -l"
    for recipe in (recipes.agent(ca=store.ca), recipes.server(ca=store.ca)):
        said = run(engine, store.ensure(recipe).name, "sh", "-c", probe).splitlines()
        assert [said[0], said[-1]] == ["1000", "0"]
        assert [line.split()[0] for line in said[1:4]] == ["Python", said[2], "git"]
        assert said[4] == "10.9.3"  # what the pinned wheel brings


def test_the_sidecar_image_starts_its_program_and_can_install_nothing(
    engine: docker.DockerClient, store: ImageStore
) -> None:
    image = store.ensure(recipes.sidecar(ca=store.ca))
    probe = "import importlib.util as u, images.sidecar, interpreter, orjson, msgspec, lark; print(u.find_spec('pip'))"
    assert run(engine, image.name, "python3", "-c", probe) == "None\n"
    config = engine.images.get(image.id).attrs["Config"]
    assert config["Entrypoint"] == ["python3", "-m", "images.sidecar"]
    assert config["User"] == "1000:1000"


@pytest.mark.parametrize(
    ("declared", "ecosystem", "named", "words"),
    [
        (spec(server("npm", "@mlld-none/such-a-package-is-not")), "npm", "@mlld-none/such-a-package-is-not", "404"),
        (spec(server("npm", "left-pad@99.0.0")), "npm", "left-pad@99.0.0", "No matching version"),
        (
            spec(server("python", "mlld-such-a-package-is-not")),
            "PyPI",
            "mlld-such-a-package-is-not",
            "No matching distribution",
        ),
        (spec(server("python", "six==99.0")), "PyPI", "six==99.0", "from versions"),
        (
            spec(needs=Needs(commands=(CommandNeed(name="mlld-no-such-command"),))),
            "Debian",
            "mlld-no-such-command",
            "Unable to locate",
        ),
    ],
    ids=["npm", "npm version", "PyPI", "PyPI version", "Debian"],
)
def test_a_package_that_does_not_exist(
    store: ImageStore, declared: EnvironmentSpec, ecosystem: str, named: str, words: str
) -> None:
    with pytest.raises(PackageMissing) as caught:
        images_for(store, declared)
    assert caught.value.exit_code == 5
    assert caught.value.message == f"there is no {ecosystem} package {named!r}"
    assert words in caught.value.detail
    assert caught.value.place == str(PLACE)


def test_a_package_without_a_program(store: ImageStore) -> None:
    with pytest.raises(BuildFailed, match="the npm package left-pad brings no program: name the server by `command`"):
        images_for(store, spec(server("npm", "left-pad")))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("npm", "https://evil.example/x.tgz"),
        ("npm", "git+ssh://evil.example/x"),
        ("npm", "user/repository"),
        ("npm", "../x"),
        ("npm", "--registry=https://evil.example"),
        ("npm", "x --ignore-scripts=false"),
        ("python", "git+https://evil.example/x"),
        ("python", "x @ https://evil.example/x.whl"),
        ("python", "./x"),
        ("python", "--index-url=https://evil.example"),
        ("python", "x\nRUN evil"),
    ],
)
def test_only_names_and_versions_are_installed(store: ImageStore, source: SourceKind, target: str) -> None:
    with pytest.raises(Unsupported, match="is not the name of a package") as caught:
        images_for(store, spec(server(source, target)))
    assert caught.value.place == str(PLACE)


def test_an_image_that_is_not_to_be_had(store: ImageStore) -> None:
    with pytest.raises(ImageMissing, match=r"registry\.invalid/none:1") as caught:
        images_for(store, spec(image="registry.invalid/none:1"))
    assert caught.value.exit_code == 5


def test_packages_are_baked_in_and_usable_without_a_network(engine: docker.DockerClient, store: ImageStore) -> None:
    needs = Needs(
        packages={
            "node": (Package(name="left-pad", specifier="^1.3"),),
            "python": (Package(name="six", specifier=">=1.16"),),
        }
    )
    image = images_for(store, spec(needs=needs)).agent
    assert run(engine, image, "node", "-e", "console.log(require('left-pad')('x', 3))") == "  x\n"
    assert run(engine, image, "python3", "-c", "import six; print(six.PY3)") == "True\n"


INITIALIZE = {
    "jsonrpc": "2.0", "id": 1, "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}  # fmt: skip


@pytest.mark.parametrize(
    "declared",
    [
        server("npm", "@modelcontextprotocol/server-everything"),
        server("python", "mcp-server-git"),
        server("command", "npx", "-y", "@modelcontextprotocol/server-everything"),
    ],
    ids=["npm", "python", "npx"],
)
def test_a_server_from_a_package_answers_behind_the_fence(
    engine: docker.DockerClient, store: ImageStore, link: Path, sidecar: Listener, declared: ServerSpec
) -> None:
    images = images_for(store, spec(declared))
    made = images.servers["s"]
    argv = ("--lease", "--canary", "--serve", "/.mlld/link/stdio.sock", "--", *made.argv)
    with seat(engine, made.image, images.bridge, link, argv, tmpfs={"/tmp": "mode=1777"}) as s:
        s.send(b"\0")
        connection = sidecar.accept()
        connection.sendall(json.dumps(INITIALIZE).encode() + b"\n")
        answer = json.loads(connection.makefile().readline())
        assert answer["result"]["serverInfo"]["name"]


def test_a_server_in_an_image_from_scratch(
    engine: docker.DockerClient, store: ImageStore, link: Path, sidecar: Listener
) -> None:
    """No shell, no Python, no loader, no /tmp: one static program, which the bridge starts and serves."""
    source = b"""
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv) {
    char line[4096];
    while (fgets(line, sizeof line, stdin)) { printf("%s %s %s", argv[argc - 1], getenv("TOKEN"), line); fflush(stdout); }
}
"""
    scratch = Recipe(
        name="test-scratch",
        parent=recipes.compiler(),
        files=(BuildFile(path="/src/echo.c", content=source),),
        steps=('RUN ["mkdir", "/app"]', 'RUN ["musl-gcc", "-static", "-o", "/app/echo", "/src/echo.c"]'),
        from_scratch="/app/",
    )
    custom = store.ensure(scratch)
    images = images_for(store, spec(server("image", custom.name, "/app/echo", "argument")))
    made = images.servers["s"]
    assert made.image == custom.id
    argv = ("--lease", "--canary", "--serve", "/.mlld/link/stdio.sock", "--", *made.argv)
    with seat(engine, made.image, images.bridge, link, argv) as s:
        s.send(b"TOKEN=secret\0\0")
        connection = sidecar.accept()
        connection.sendall(b"hello\n")
        assert connection.recv(100) == b"argument secret hello\n"
        s.end_lease()
        assert s.exit_code() == 0
        assert "secret" not in json.dumps(s.container.attrs), "and the engine never saw it"


def test_an_agent_in_an_image_from_scratch(engine: docker.DockerClient, store: ImageStore, link: Path) -> None:
    """The agent's seat runs the bridge alone; what the image brings comes by exec."""
    image = store.ensure(recipes.bridge())  # nothing but one static program: as bare as an image can be
    with seat(engine, image.id, store.ensure_bridge().volume, link, ("--lease", "--canary")) as s:
        s.send(b"\0")
        assert s.result()["canary-done"]["ok"]
        code, said = s.container.exec_run(["/.mlld/bin/bridge", "--nonsense"])
        assert code == 64
        assert b"usage: bridge" in said


def test_an_image_keeps_its_own_command_and_folder(store: ImageStore) -> None:
    custom = store.ensure(
        Recipe(name="test-entry", parent=recipes.compiler(), steps=('ENTRYPOINT ["/run"]', 'CMD ["a"]', "WORKDIR /srv"))
    )
    made = images_for(store, spec(server("image", custom.name))).servers["s"]
    assert (made.argv, made.cwd) == (("/run", "a"), "/srv")
    made = images_for(store, spec(server("image", custom.name, "b", "c"))).servers["s"]
    assert made.argv == ("/run", "b", "c")


def test_a_volume_that_holds_another_bridge_is_refused(
    engine: docker.DockerClient, store: ImageStore, tmp_path: Path
) -> None:
    """Whoever can make volumes beforehand must not choose what runs in every container."""
    good = store.ensure_bridge()
    forged = engine.volumes.create(f"mlld-test-{time.time_ns()}", labels={"dev.mlld.test": "images"})
    try:
        engine.containers.run(
            store.ensure(recipes.agent(ca=store.ca)).name, ["sh", "-c", "echo forged >/.mlld/bin/bridge"], user="0:0",
            mounts=[Mount(target="/.mlld/bin", source=forged.name, type="volume")], network_mode="none", remove=True,
            labels={"dev.mlld.test": "images"},
        )  # fmt: skip
        image = store.ensure(recipes.bridge())
        with pytest.raises(BuildFailed, match="does not hold our bridge") as caught:
            store.check_bridge(forged.name, image, good.sha256)
        assert caught.value.remedy == f"docker volume rm {forged.name}"
        store.check_bridge(good.volume, image, good.sha256)
    finally:
        forged.remove()


def test_pruning_keeps_what_is_needed(store: ImageStore) -> None:
    old = store.ensure(Recipe(name="test-old", parent=recipes.compiler(), steps=("ENV OLD=1",)))
    keep = [recipes.agent(ca=store.ca), recipes.bridge()]
    others = [tag for image in store.ours() for tag in image.tags if tag != old.name]
    assert old.name in store.unneeded(keep)
    assert not {step.tag for recipe in keep for step in recipe.lineage()} & set(store.unneeded(keep))
    assert old.name not in others
    assert store.engine.remove(old.name)

"""Recipes: what each image is made of, as data. An image is named by the hash of its recipe, so a recipe is its cache key.

    root (Debian packages)          derived (a parent, files, steps)
    python   ──────────────────────▶ sidecar
    tools    ──────────────────────▶ agent, server, module      ──▶ … with packages of `needs` and of servers
    compiler ──────────────────────▶ bridge

Files of the project go in as bytes, so a change of a file is a change of the name. Nothing here touches the engine.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]
IMAGES = PROJECT / "images"
HOME = "/opt/mlld"  # where our own files are in the images
SERVE = f"{HOME}/serve"  # in an image with a package as its server: the program which that package brings
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
MTIME = 1_700_000_000  # of every file that we put in: two builds of one recipe hold the same bytes

ASSET = "dev.mlld.asset"
RECIPE = "dev.mlld.recipe"

ROOT_ENV: Mapping[str, str] = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    # Every client has a name of its own for the same file.
    **dict.fromkeys(
        ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO"),
        CA_BUNDLE,
    ),
    "PIP_BREAK_SYSTEM_PACKAGES": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_CACHE_DIR": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
    "NODE_PATH": "/usr/local/lib/node_modules",
    "NPM_CONFIG_UPDATE_NOTIFIER": "false",
}


@dataclass(frozen=True, kw_only=True)
class BuildFile:
    """A file that goes into an image."""

    path: str
    content: bytes = field(repr=False)
    mode: int = 0o644


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One image. `parent` is None for a root, which is made of Debian packages; `steps` are lines of a Dockerfile."""

    name: str
    parent: Recipe | None = None
    debian: tuple[str, ...] = ()
    files: tuple[BuildFile, ...] = ()
    steps: tuple[str, ...] = ()
    from_scratch: str = ""  # a path of what was built which alone becomes the image
    packages: tuple[str, ...] = ()  # what the user asked for, for messages: "npm:left-pad"
    size: int = 0  # MB, roughly, for messages

    @property
    def digest(self) -> str:
        """Of everything that the image is made of."""
        told = {
            "name": self.name,
            "parent": self.parent.digest if self.parent else pins()["debian"],
            "debian": sorted(self.debian),
            "files": [(f.path, f.mode, hashlib.sha256(f.content).hexdigest()) for f in self.files],
            "steps": self.steps,
            "scratch": self.from_scratch,
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    @property
    def tag(self) -> str:
        return f"mlld/{self.name}:{self.digest[:16]}"

    @property
    def latest(self) -> str:
        """The name of whatever was made last: for people and for the committed compose file, never for a run."""
        return f"mlld/{self.name}:latest"

    def lineage(self) -> list[Recipe]:
        """From the root to this recipe."""
        return [*(self.parent.lineage() if self.parent else []), self]


@cache
def pins() -> Mapping[str, Any]:
    """The data file with every version and digest."""
    return tomllib.loads((IMAGES / "recipes.toml").read_text())


def root(name: str, *, ca: bytes, more: Iterable[str] = ()) -> Recipe:
    """An image of Debian packages: those of the data file, and `more`."""
    data = pins()["roots"][name]
    more = sorted(set(more) - set(data["packages"]))
    files = [_project_file("base/finish.sh", "/tmp/mlld/finish.sh")]
    if ca:
        files.append(BuildFile(path="/tmp/mlld/ca.crt", content=ca))
    steps = ["ENV " + " ".join(f"{key}={json.dumps(value)}" for key, value in ROOT_ENV.items())]
    steps.append(_run("sh", "/tmp/mlld/finish.sh"))
    if "nodejs" in data["packages"]:
        files.append(_project_file("base/get_npm.py", "/tmp/mlld/get_npm.py"))
        steps.append(_run("python3", "/tmp/mlld/get_npm.py", pins()["npm"]["wheel"], pins()["npm"]["sha256"]))
    return Recipe(
        name=name,
        debian=(*data["packages"], *more),
        files=tuple(files),
        steps=(*steps, _run("rm", "-rf", "/tmp/mlld")),
        packages=tuple(f"debian:{package}" for package in more),
        size=data["size"],
    )


def compiler() -> Recipe:
    """A C compiler that links statically. It holds no trust of the host, since nothing is fetched with it."""
    return root("compiler", ca=b"")


def bridge() -> Recipe:
    """The static bridge, alone in its image."""
    sources = [
        _project_file(f"bridge/{name}", f"/src/{name}")
        for name in ("bridge.h", "bridge.c", "canary.c", "end.c", "forward.c", "put.c", "serve.c", "talk.c", "tree.c")
    ]
    compile_ = ["musl-gcc", "-static", "-O2", "-s", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-fstack-protector-strong",
                "-o", "/.mlld/bin/bridge", *(f.path for f in sources if f.path.endswith(".c"))]  # fmt: skip
    return Recipe(
        name="bridge",
        parent=compiler(),
        files=tuple(sources),
        steps=(_run("mkdir", "-p", "/.mlld/bin"), _run(*compile_)),
        from_scratch="/.mlld/bin/",
    )


def agent(*, ca: bytes, debian: Iterable[str] = ()) -> Recipe:
    """Where the agent's program runs: Python, node, git, a shell, and the built-in agent `scripted`."""
    programs = tuple(
        BuildFile(path=f"/usr/local/bin/{path.stem}", content=path.read_bytes(), mode=0o755)
        for path in sorted((IMAGES / "agent").glob("*.py"))
    )
    return Recipe(name="agent", parent=root("tools", ca=ca, more=debian), files=programs)


def server(*, ca: bytes, debian: Iterable[str] = ()) -> Recipe:
    """Where an MCP server of an npm or PyPI package, or a command, runs."""
    files = (
        _project_file("server/entry_npm.js", f"{HOME}/entry_npm.js"),
        _project_file("server/entry_pypi.py", f"{HOME}/entry_pypi.py"),
    )
    return Recipe(name="server", parent=root("tools", ca=ca, more=debian), files=files)


def module(*, ca: bytes, debian: Iterable[str] = ()) -> Recipe:
    """A server image in which `mlld mcp` serves a module."""
    launcher = b"#!/usr/bin/python3\nimport sys\nfrom runner.cli import main\nsys.exit(main())\n"
    base = server(ca=ca, debian=debian)
    return Recipe(
        name="module",
        # Dependencies are an image of their own: a change of our code costs a second, not an installation.
        parent=Recipe(name="module-base", parent=base, steps=(_pip(pins()["module"]["python"]),)),
        files=(
            *_python_sources("interpreter", "runner", "images"),
            BuildFile(path="/usr/local/bin/mlld", content=launcher, mode=0o755),
        ),
        steps=(f'ENV PYTHONPATH="{HOME}"', *_bake()),
    )


def sidecar(*, ca: bytes) -> Recipe:
    """The gate: endpoint, guards, egress."""
    without_pip = "rm -rf /usr/lib/python3/dist-packages/pip /usr/lib/python3/dist-packages/pip-* /usr/bin/pip*"
    base = Recipe(
        name="sidecar-base",
        parent=root("python", ca=ca),
        # It installs nothing any more; what is not there cannot be used.
        steps=(_pip(pins()["sidecar"]["python"]), _run("sh", "-c", without_pip)),
    )
    return Recipe(
        name="sidecar",
        parent=base,
        files=_python_sources("interpreter", "images/__init__.py", "images/sidecar"),
        steps=(
            # A fixed threshold: glibc's own grows with each large block that is freed, up to 32 MiB, and what lies below it
            # then stays with the process in pieces, half as much again as all that is held.
            f'ENV PYTHONPATH="{HOME}" PYTHONDONTWRITEBYTECODE="1" MALLOC_MMAP_THRESHOLD_="{128 << 10}"',
            *_bake(),
            "USER 1000:1000",
            'ENTRYPOINT ["python3", "-m", "images.sidecar"]',
        ),
    )


def with_packages(recipe: Recipe, *, npm: Sequence[str] = (), pypi: Sequence[str] = (), entry: str = "") -> Recipe:
    """The image with packages baked in. `entry` ("npm" or "pypi") makes the first of them the server of the image.

    Nothing of a package runs while it is installed: wheels only, and no install scripts. A build has a network, and a
    package is chosen by whoever wrote the module.
    """
    if not npm and not pypi:
        return recipe
    steps = []
    if pypi:
        steps.append(_pip(pypi))
    if npm:
        steps.append(_run("npm", "install", "--global", "--prefix=/usr/local", "--ignore-scripts", "--no-audit", "--no-fund",
                          "--no-progress", "--loglevel=error", "--cache=/tmp/npm", "--", *npm))  # fmt: skip
    if entry == "npm":
        steps.append(_run("node", f"{HOME}/entry_npm.js", npm[0], SERVE))
    if entry == "pypi":
        steps.append(_run("python3", f"{HOME}/entry_pypi.py", pypi[0], SERVE))
    asked = (*(f"npm:{p}" for p in npm), *(f"pypi:{p}" for p in pypi))
    name = f"{recipe.name}-{_slug((npm or pypi)[0])}" if entry else recipe.name
    return Recipe(name=name, parent=recipe, steps=(*steps, _run("rm", "-rf", "/tmp/npm")), packages=asked)


def unpacked_tag(recipe: Recipe) -> str:
    """The name of a root's unpacked packages: they need not be fetched again when only the steps after them change."""
    told = json.dumps([pins()["debian"]["suite"], sorted(recipe.debian), (IMAGES / "base/unpacked.sh").read_text()])
    return f"mlld/unpacked:{recipe.name}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"


def context(recipe: Recipe, *, start: str, install: Sequence[str] = (), arguments: Iterable[str] = ()) -> bytes:
    """What the engine's builder gets: a Dockerfile, and one archive with the files. `start` is the image to begin with;
    `install` are Debian packages that it lacks; `arguments` names what the builder gets beside (proxies, mirrors)."""
    lines = [f"FROM {start}" + (" AS made" if recipe.from_scratch else "")]
    lines += [f"ARG {name}" for name in arguments]
    if install:
        names = " ".join(sorted(install))
        lines.append("RUN apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "
                     f"{names} && rm -rf /var/lib/apt/lists/*")  # fmt: skip
    files = {}
    if recipe.files:
        files["files.tar"] = archive(recipe.files)
        lines.append("ADD files.tar /")
    lines += recipe.steps
    if recipe.from_scratch:
        lines += ["FROM scratch", f"COPY --from=made {recipe.from_scratch} {recipe.from_scratch}"]
    lines.append(f"LABEL {ASSET}=image {RECIPE}={recipe.name}")
    files["Dockerfile"] = ("\n".join(lines) + "\n").encode()
    return archive(BuildFile(path=name, content=content) for name, content in files.items())


def archive(files: Iterable[BuildFile]) -> bytes:
    """A tar of these files, the same bytes every time."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for file in files:
            entry = tarfile.TarInfo(file.path.lstrip("/"))
            entry.size, entry.mode, entry.mtime = len(file.content), file.mode, MTIME
            tar.addfile(entry, io.BytesIO(file.content))
    return out.getvalue()


def debian_package(command: str) -> str:
    """The Debian package that brings a command."""
    return str(pins()["commands"].get(command, command))


def _slug(package: str) -> str:
    """A package's name as a part of an image's: `@scope/name@1.2` → `scope-name`."""
    name = re.split(r"(?<=.)@|[\s\[<>=!~;]", package, maxsplit=1)[0]
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _run(*argv: str) -> str:
    # The form without a shell: nothing in a package's name is ever syntax.
    return "RUN " + json.dumps(list(argv))


def _pip(packages: Sequence[str]) -> str:
    return _run(
        "python3", "-m", "pip", "install", "--quiet", "--only-binary=:all:", "--progress-bar=off", "--", *packages
    )


def _bake() -> list[str]:
    """Compiled code and the grammar's table, since nothing can be written later."""
    return [_run("python3", "-m", "compileall", "-q", HOME), _run("python3", "-m", "interpreter.parser_table")]


def _python_sources(*names: str) -> tuple[BuildFile, ...]:
    """Files of these packages (or of one file), as they lie in the project."""
    found = []
    for name in names:
        top = PROJECT / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and "__pycache__" not in path.parts:
                found.append(BuildFile(path=f"{HOME}/{path.relative_to(PROJECT)}", content=path.read_bytes()))
    return tuple(found)


def _project_file(name: str, target: str, *, mode: int = 0o644) -> BuildFile:
    return BuildFile(path=target, content=(IMAGES / name).read_bytes(), mode=mode)

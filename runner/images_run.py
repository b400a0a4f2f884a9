"""The images of one run: what a declaration needs, as recipes; made, as the `Images` that the planner takes.

Everything is installed here, before the run: the run itself installs nothing, so a profile without network starts all
the same. `npx PACKAGE` and `uvx PACKAGE` as a server's command mean the package, and are baked in like one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from interpreter.declarations import EnvironmentSpec, Needs, Package, Place, ServerSpec
from runner import recipes
from runner.errors import SandboxFailure, Unsupported
from runner.images import ImageStore
from runner.planner_options import Images, ServerImage
from runner.recipes import SERVE, Recipe

Made = TypeVar("Made")
MODULE = "/module"  # where the planner mounts the module that a server serves

# Only names of the registries: an address or a path would fetch from elsewhere, an option would change the installer.
_NPM = re.compile(r"(@[a-z0-9~_][a-z0-9._~-]*/)?[a-z0-9~_][a-zA-Z0-9._~-]*(@[\w.^~<>=*|+ -]+)?\Z", re.ASCII)
_PYPI = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?(\[[\w.,-]+\])?( ?(===|[~=!<>]=|[<>]) ?[\w.*+!-]+,?)*\Z", re.ASCII
)
_DEBIAN = re.compile(r"[a-z0-9][a-z0-9+.-]+\Z")
_LANGUAGES = {"ruby": ("ruby",), "go": ("golang-go",), "rust": ("cargo", "rustc")}


@dataclass(frozen=True, kw_only=True)
class _Seat:
    """How a server is made: a recipe of ours with a command line, or an image that the module names."""

    recipe: Recipe | None
    argv: tuple[str, ...] = ()
    custom: str | None = None


def images_for(
    store: ImageStore, spec: EnvironmentSpec, *, agent_npm: Sequence[str] = (), agent_pypi: Sequence[str] = ()
) -> Images:
    """Everything that the run of this declaration needs, made in parallel. `agent_*`: packages of the agent's adapter.
    Errors: `SandboxFailure` (exit 5) with the installer's own words, `Unsupported` for what cannot be baked in."""
    seats = {server.name: _seat(server, store.ca) for server in spec.mcp.servers if _runs(server, spec)}
    agent = None if spec.image else _agent(spec, store.ca, agent_npm, agent_pypi)
    if spec.image and (agent_npm or agent_pypi):
        raise Unsupported(f"the agent's own packages cannot be put into the image {spec.image}", place=spec.place)
    if spec.image and spec.needs.packages:
        raise Unsupported(
            f"`needs` names packages, but the image {spec.image} is used as it is",
            remedy="put them into that image, or leave out `image`",
            place=spec.place,
        )
    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="images") as pool:
        bridge = pool.submit(store.ensure_bridge)
        sidecar = pool.submit(store.ensure, recipes.sidecar(ca=store.ca))
        made = pool.submit(_make_agent, store, spec.image, agent)
        servers = {name: pool.submit(_make_seat, store, seat) for name, seat in seats.items()}
        places = {server.name: server.place for server in spec.mcp.servers}
        return Images(
            agent=_placed(made.result, spec.place),
            sidecar=sidecar.result().name,
            bridge=bridge.result().volume,
            servers={name: _placed(future.result, places[name]) for name, future in servers.items()},
        )


def _runs(server: ServerSpec, spec: EnvironmentSpec) -> bool:
    allowed = spec.servers_allowed == "*" or server.name in spec.servers_allowed
    return allowed and server.tools != () and server.source != "url"


def _agent(spec: EnvironmentSpec, ca: bytes, npm: Sequence[str], pypi: Sequence[str]) -> Recipe:
    packages = spec.needs.packages
    return recipes.with_packages(
        recipes.agent(ca=ca, debian=_debian(spec.needs, spec.place)),
        npm=[*npm, *(_npm(_spelt(p, "@"), spec.place) for p in packages.get("node", ()))],
        pypi=[*pypi, *(_pypi(_spelt(p, ""), spec.place) for p in packages.get("python", ()))],
    )


def _seat(server: ServerSpec, ca: bytes) -> _Seat:
    target, args, place = server.target, server.args, server.place
    match server.source:
        case "npm":
            return _package(npm=_npm(target, place), args=args, ca=ca)
        case "python":
            return _package(pypi=_pypi(target, place), args=args, ca=ca)
        case "command":
            return _fetching(target, args, ca, place) or _Seat(recipe=recipes.server(ca=ca), argv=(target, *args))
        case "module":
            return _Seat(recipe=recipes.module(ca=ca), argv=("mlld", "mcp", MODULE, *args))
        case "image":
            return _Seat(recipe=None, argv=args, custom=target)
        case "url":
            raise AssertionError("a remote server has no image")


def _package(*, args: Sequence[str], ca: bytes, npm: str = "", pypi: str = "") -> _Seat:
    base = recipes.server(ca=ca)
    baked = (
        recipes.with_packages(base, npm=[npm], entry="npm")
        if npm
        else recipes.with_packages(base, pypi=[pypi], entry="pypi")
    )
    return _Seat(recipe=baked, argv=(SERVE, *args))


def _fetching(program: str, args: Sequence[str], ca: bytes, place: Place | None) -> _Seat | None:
    """`npx -y PACKAGE …` and `uvx PACKAGE …` fetch when they start, which a fenced run cannot: fetched now instead."""
    rest = list(args)
    if program == "npx":
        while rest and rest[0] in {"-y", "--yes", "-q", "--quiet"}:
            rest.pop(0)
        if rest and not rest[0].startswith("-"):
            return _package(npm=_npm(rest[0], place), args=rest[1:], ca=ca)
    if program == "uvx" and rest and not rest[0].startswith("-"):
        return _package(pypi=_pypi(rest[0].replace("@", "=="), place), args=rest[1:], ca=ca)
    return None


def _make_agent(store: ImageStore, custom: str | None, recipe: Recipe | None) -> str:
    return store.ensure(recipe).name if recipe else store.ensure_custom(custom or "").id


def _make_seat(store: ImageStore, seat: _Seat) -> ServerImage:
    if seat.recipe is not None:
        return ServerImage(image=store.ensure(seat.recipe).name, argv=seat.argv)
    found = store.ensure_custom(seat.custom or "")
    # What `docker run IMAGE ARGS` would start: the bridge is started instead, and starts that.
    argv = (*found.entrypoint, *(seat.argv or found.command))
    if not argv:
        raise Unsupported(f"the image {seat.custom} says no command to run", remedy="give the server `args`")
    return ServerImage(image=found.id, argv=argv, cwd=found.folder)


def _placed(result: Callable[[], Made], place: Place | None) -> Made:
    """The result; an error of it names the line that asked."""
    try:
        return result()
    except SandboxFailure as error:
        error.place = error.place or (str(place) if place else None)
        raise


def _debian(needs: Needs, place: Place | None) -> Iterable[str]:
    wanted = {recipes.debian_package(command.name) for command in needs.commands}
    wanted.update(*(_LANGUAGES[language] for language in needs.packages if language in _LANGUAGES))
    for name in wanted:
        if not _DEBIAN.match(name):
            raise Unsupported(
                f"`needs` names the command {name!r}, which cannot be the name of a Debian package", place=place
            )
    for language in _LANGUAGES:
        if needs.packages.get(language):
            raise Unsupported(f"packages of {language} cannot be baked in yet; the language itself can", place=place)
    return wanted


def _spelt(package: Package, joint: str) -> str:
    return f"{package.name}{joint}{package.specifier}" if package.specifier else package.name


def _npm(name: str, place: Place | None) -> str:
    return _checked("npm", _NPM, name, "lodash, lodash@^4 or @scope/name@1.2.3", place)


def _pypi(name: str, place: Place | None) -> str:
    return _checked("PyPI", _PYPI, name, "requests, requests>=2.28 or name[extra]==1.2.3", place)


def _checked(ecosystem: str, form: re.Pattern[str], name: str, examples: str, place: Place | None) -> str:
    if not form.match(name):
        raise Unsupported(
            f"{name!r} is not the name of a package of {ecosystem}",
            detail=f"names and versions only, such as {examples}; addresses and paths are not installed",
            place=place,
        )
    return name

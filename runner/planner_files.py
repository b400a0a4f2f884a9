"""Paths as declared become mounts: nothing forbidden, nothing through a symbolic link, the sensitive parts fenced off.

Three dangers shape this file.

* A path that is more than it looks: `/`, the engine's socket, a home directory or one of its ancestors. Judged on the
  resolved path, so that a symbolic link hides nothing.
* A writable workspace in which files lie that the *host* obeys later: git hooks, editor and agent settings, the
  module itself. They are mounted again, read-only, on top. One that is not there yet gets an empty mask: what cannot
  be created cannot be obeyed. A mount point cannot be renamed, but its parent can (`mv .git old; mkdir -p .git/hooks`),
  so every parent up to the workspace is pinned by being a mount point itself.
* A file of secrets (`.env`) in a readable workspace. It is masked: present and empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath as Path

from interpreter.declarations import PathRule, Place
from runner.errors import Unsupported
from runner.plan import WORKSPACE, Mount
from runner.planner_options import HostFacts, PathKind

# What the host obeys, relative to the workspace; True: a directory. Present: read-only. Absent: masked, see above.
OBEYED: Mapping[str, bool] = {
    ".git": True,
    ".git/hooks": True,
    ".git/config": False,  # core.fsmonitor, core.hooksPath and filters name commands
    ".git/modules": True,
    ".mlld": True,
    "mlld-config.json": False,
    "mlld-lock.json": False,  # which text a registry name stands for
    ".mcp.json": False,
    ".envrc": False,
    ".claude": True,
    ".codex": True,
    ".gemini": True,
    ".cursor": True,
    ".vscode": True,
    ".idea": True,
    ".husky": True,
}
# These steer agents on the host, but an empty file of that name would steer too: read-only where they are, else free.
OBEYED_IF_PRESENT = ("CLAUDE.md", "AGENTS.md", "GEMINI.md", "opencode.json", ".pre-commit-config.yaml")
SECRET_NAMES = (".env", ".netrc", ".npmrc", ".pypirc", ".git-credentials")
NOT_SECRET = (".env.example", ".env.sample", ".env.template", ".env.dist")

# Forbidden with all below them, and so is every ancestor of them.
_SYSTEM = ("/proc", "/sys", "/dev", "/run", "/var/run", "/boot", "/etc", "/var/lib/docker", "/var/lib/containerd")
_BARE = (
    "/",
    "/home",
    "/root",
    "/Users",
    "/var",
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/opt",
    "/tmp",
    "/mnt",
    "/srv",
)
_HOME_PARTS = (
    ".ssh", ".aws", ".gnupg", ".kube", ".docker", ".config", ".local/share/keyrings", ".netrc", ".npmrc", ".pypirc",
    ".git-credentials", ".password-store", ".azure", ".claude", ".codex", ".gemini", ".mlld", ".bashrc", ".profile",
    ".zshrc", ".bash_history", "Library/Keychains",
)  # fmt: skip
# Where a mount of the host would replace what the image or the fence brings.
_OURS = (
    "/.mlld",
    "/proc",
    "/sys",
    "/dev",
    "/etc",
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/run",
    "/tmp",
    WORKSPACE,
)


def is_within(path: str, root: str) -> bool:
    """Whether `path` is `root` or lies below it; both resolved."""
    return Path(path) == Path(root) or Path(root) in Path(path).parents


def forbidden(path: str, home: str) -> str | None:
    """Why a resolved host path must never be mounted, or None."""
    if path in _BARE:
        return "it is a system directory"
    if is_within(home, path):
        return "it holds your home directory"
    for root in _SYSTEM:
        if is_within(path, root) or is_within(root, path):
            return f"it would show {root} of the host"
    for part in _HOME_PARTS:
        if is_within(path, f"{home}/{part}") or is_within(f"{home}/{part}", path):
            return f"~/{part} holds credentials or settings that the host obeys"
    if path.endswith(".sock"):
        return "a socket would lead out of the fence"
    return None


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One path that a member shall see, resolved and judged."""

    real: str
    target: str
    write: bool
    place: Place | None
    why: str


def wanted(rule: PathRule, host: HostFacts, *, write: bool, key: str, why: str) -> Wanted:
    """The rule, judged. Errors: `Unsupported` with the path of the key."""
    fact = host.paths.get(rule.path)
    if fact is None or fact.kind == "missing":
        raise Unsupported(
            f"{key}: {rule.path!r} does not exist", remedy="make it first, or name another", place=rule.place
        )
    if fact.kind == "other":
        raise Unsupported(
            f"{key}: {rule.path!r} is neither a file nor a directory",
            remedy="name a file or a directory",
            place=rule.place,
        )
    relative = not Path(rule.path).is_absolute()
    if relative and host.workspace is None:
        raise Unsupported(f"{key}: {rule.path!r} is relative and this run has no workspace", place=rule.place)
    inside = host.workspace is not None and is_within(fact.real, host.workspace)
    if relative and not inside:
        raise Unsupported(
            f"{key}: {rule.path!r} leads out of the workspace, to {fact.real}",
            remedy="name the place itself, as an absolute path, if it is meant",
            place=rule.place,
        )
    if reason := forbidden(fact.real, host.home):
        raise Unsupported(
            f"{key}: {fact.real} must not be seen from inside: {reason}",
            remedy="name the narrower directory that is needed",
            place=rule.place,
        )
    if inside and host.workspace is not None:
        below = Path(fact.real).relative_to(host.workspace)
        target = WORKSPACE if below == Path() else f"{WORKSPACE}/{below}"
        if write and (obeyed := _obeyed_around(str(below), host)):
            raise Unsupported(
                f"{key}: {obeyed} is obeyed by the host, so nothing inside the fence may write it",
                remedy="leave it out of fs.write; reading it is allowed",
                place=rule.place,
            )
    else:
        target = fact.real
        if any(is_within(target, ours) or is_within(ours, target) for ours in _OURS):
            raise Unsupported(f"{key}: {target} would hide what the container needs there", place=rule.place)
    return Wanted(real=fact.real, target=target, write=write, place=rule.place, why=why)


def mounts(wants: list[Wanted], host: HostFacts) -> tuple[Mount, ...]:
    """Binds for what is wanted, with the sensitive parts of the workspace fenced off on top. Order: parents first."""
    found: dict[str, Mount] = {}
    for want in sorted(wants, key=lambda w: (w.target, w.write)):
        if want.target not in found or want.write:  # the same path under read and write: write says more
            found[want.target] = Mount(
                kind="bind",
                source=want.real,
                target=want.target,
                read_only=not want.write,
                why=want.why,
                place=want.place,
            )
    for want in wants:
        for mount in _fences(found, want, host):
            found[mount.target] = mount
    return tuple(sorted(found.values(), key=lambda m: (len(Path(m.target).parts), m.target)))


def _fences(found: Mapping[str, Mount], want: Wanted, host: HostFacts) -> Iterator[Mount]:
    if host.workspace is None or not is_within(want.real, host.workspace):
        return
    root = str(Path(want.real).relative_to(host.workspace))
    for name in host.secret_files:
        if _below(name, root):
            yield Mount(kind="mask", target=f"{WORKSPACE}/{name}", why="holds secrets")
    if not want.write:
        return
    for name, kind in _obeyed(host).items():
        # A path of its own in fs.read or fs.write was judged by itself.
        if not _below(name, root) or f"{WORKSPACE}/{name}" in found:
            continue
        if kind == "link":
            # Mounting over a link would mount over what it points at, and leave the link to be replaced.
            raise Unsupported(
                f"{WORKSPACE}/{name} cannot be fenced off: it is a symbolic link, and the host obeys what it points at",
                remedy=f"replace {host.workspace}/{name} by what it points at, or do not let the workspace be written",
                place=want.place,
            )
        if kind == "missing":
            # Below a missing directory nothing can be: the mask of the directory covers it.
            if host.sensitive.get(str(Path(name).parent), "directory") == "directory":
                yield Mount(
                    kind="mask",
                    target=f"{WORKSPACE}/{name}",
                    directory=OBEYED[name],
                    made=True,
                    why="obeyed by the host",
                )
            continue
        pinned = name == ".git" and kind == "directory"
        yield Mount(
            kind="bind",
            source=f"{host.workspace}/{name}",
            target=f"{WORKSPACE}/{name}",
            read_only=not pinned,
            why="pinned: it cannot be renamed" if pinned else "obeyed by the host",
            place=want.place,
        )
        for parent in Path(name).parents:
            between = str(parent)
            if between not in (".", root) and _below(between, root) and f"{WORKSPACE}/{between}" not in found:
                yield Mount(
                    kind="bind",
                    source=f"{host.workspace}/{between}",
                    target=f"{WORKSPACE}/{between}",
                    read_only=False,
                    why="pinned: it cannot be renamed",
                    place=want.place,
                )


def _obeyed(host: HostFacts) -> dict[str, PathKind]:
    known: dict[str, PathKind] = dict(host.sensitive)
    if host.module and host.workspace and is_within(host.module, host.workspace) and host.module != host.workspace:
        name = str(Path(host.module).relative_to(host.workspace))
        if not any(is_within(name, other) for other in OBEYED if other != ".git"):
            known[name] = "directory"
    return known


def _obeyed_around(name: str, host: HostFacts) -> str | None:
    """The obeyed path that `name` is or lies in; `.git` itself may be written, its dangerous parts are fenced off."""
    return next((o for o in _obeyed(host) if o != ".git" and is_within(name, o)), None)


def _below(name: str, root: str) -> bool:
    return root == "." or (Path(root) in Path(name).parents)


def read_only(wants: list[Wanted]) -> list[Wanted]:
    """The same paths without the right to write."""
    return [replace(want, write=False) for want in wants]

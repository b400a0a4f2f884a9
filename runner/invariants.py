"""What must be true of every plan, whoever made it: checked over data before every apply.

The planner is large and takes hostile input; this file is small, takes nothing for granted and knows nothing of how a
plan came to be. A defect of the planner then stops a run instead of opening a fence. Each check is one function that
yields violations; `CHECKS` is the whole list.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from runner.plan import AGENT, BIN, BRIDGE, LINK, LINKS, SIDECAR, Container, Mount, SandboxPlan

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?\Z")
_USER = re.compile(r"[1-9][0-9]*:[1-9][0-9]*\Z")  # never 0
_ENGINE_SOCKETS = ("docker.sock", "containerd.sock", "podman.sock", "crio.sock")
_NEVER = ("/", "/proc", "/sys", "/dev", "/run", "/var/run", "/etc", "/boot", "/root", "/home", "/var", "/usr")
_LOOKS_SECRET = re.compile(
    r"gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|sk-[A-Za-z0-9_-]{20,}|xox[baprs]-[A-Za-z0-9-]{10,}"
    r"|AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY-----|eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\."
)


@dataclass(frozen=True, kw_only=True)
class Violation:
    """One promise that a plan breaks: which, by whom, how."""

    rule: str
    member: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.member}: {self.detail}"


def check(plan: SandboxPlan) -> list[Violation]:
    """Every violation of a plan; an empty list is the only lawful answer before apply."""
    checks = CHECKS if plan.provider == "docker" else LOCAL_CHECKS
    return [violation for one in checks for violation in one(plan)]


def names(plan: SandboxPlan) -> Iterator[Violation]:
    """Names become parts of paths, sockets and labels: plain, unique, and the two reserved ones used as meant."""
    if not _NAME.match(plan.run):
        yield Violation(rule="names", member="run", detail=f"{plan.run!r} is no name")
    for kind, members in (
        ("container", [c.member for c in plan.containers]),
        ("link", [link.member for link in plan.links]),
        ("egress", [rule.member for rule in plan.egress]),
        ("server", [server.name for server in plan.servers]),
    ):
        for member, count in Counter(members).items():
            if not _NAME.match(member):
                yield Violation(rule="names", member=member, detail=f"{member!r} is no name")
            if count > 1:
                yield Violation(rule="names", member=member, detail=f"{count} times among {kind}s")
    for server in plan.servers:
        if server.name in (AGENT, SIDECAR):
            yield Violation(rule="names", member=server.name, detail="a server cannot have this name")


def seats(plan: SandboxPlan) -> Iterator[Violation]:
    """One agent, one sidecar, one container per server that is not remote; roles as the names say."""
    for member, role in ((AGENT, "agent"), (SIDECAR, "sidecar")):
        if [c.member for c in plan.containers if c.role == role] != [member]:
            yield Violation(rule="seats", member=member, detail=f"there must be exactly one container of role {role}")
    contained = {c.member for c in plan.containers if c.role == "server"}
    declared = {s.name for s in plan.servers if s.url is None}
    for member in sorted(contained ^ declared):
        what = "a container without a server" if member in contained else "a server without a container"
        yield Violation(rule="seats", member=member, detail=what)
    for container in plan.containers:
        if not container.argv:
            yield Violation(rule="seats", member=container.member, detail="no command: the image's own would run")


def network(plan: SandboxPlan) -> Iterator[Violation]:
    """Only the sidecar may have a network, and only when somebody was granted a host."""
    for container in plan.containers:
        if container.network != "none" and container.role != "sidecar":
            yield Violation(rule="network", member=container.member, detail="only the sidecar may have a network")
        if container.role == "sidecar" and (container.network != "none") != plan.networked:
            detail = "a network that nobody was granted" if container.network != "none" else "grants without a network"
            yield Violation(rule="network", member=container.member, detail=detail)


def egress(plan: SandboxPlan) -> Iterator[Violation]:
    """Grants belong to members, name hosts and say so; a rule that grants nothing is no rule."""
    members = {AGENT, *(server.name for server in plan.servers)}
    for rule in plan.egress:
        if rule.member not in members:
            yield Violation(rule="egress", member=rule.member, detail="grants to nobody of this run")
        if not rule.allow and not rule.public:
            yield Violation(rule="egress", member=rule.member, detail="a rule that grants nothing")
        for host in rule.allow:
            bare = host.host.removeprefix("*.")
            wide = "*" in bare or not bare or (host.host.startswith("*.") and "." not in bare)
            address = bool(re.fullmatch(r"[0-9a-fx.:\[\]]*", bare)) and not re.search(r"[g-wyz]", bare)
            looks_numeric = address and (":" in bare or bare.replace(".", "").isdigit() or bare.startswith("0x"))
            if wide or looks_numeric or bare != bare.lower() or not host.ports:
                yield Violation(rule="egress", member=rule.member, detail=f"{host.host!r} is no grant of a host")
    if "network" not in plan.profile.granted:
        for rule in plan.egress:
            yield Violation(rule="egress", member=rule.member, detail="the profile grants no network")


def hardening(plan: SandboxPlan) -> Iterator[Violation]:
    """Every promise of `Hardening`, kept by every container."""
    for container in plan.containers:
        hard = container.hardening
        promises = {
            "runs as root": _USER.match(hard.user) is not None,
            "its root is writable": hard.read_only_root,
            "capabilities": hard.capabilities == (),
            "may gain privileges": hard.no_new_privileges,
            "is privileged": not hard.privileged,
            "has no init": hard.init == ("bridge" if container.argv[:1] == (BRIDGE,) else "engine"),
            "seccomp is off": hard.seccomp == "default-deny",
            "shares namespaces of the host": hard.host_namespaces == (),
            "has devices": hard.devices == (),
            "publishes ports": hard.published_ports == (),
            "restarts by itself": hard.restart == "no",
        }
        for broken in (words for words, kept in promises.items() if not kept):
            yield Violation(rule="hardening", member=container.member, detail=broken)


def limits(plan: SandboxPlan) -> Iterator[Violation]:
    """Everything is finite: memory, CPU, processes, files, and each file system in memory."""
    for container in plan.containers:
        have = container.limits
        finite = {
            "memory": 0 < have.memory_bytes <= 1 << 40,
            "cpus": 0 < have.cpus <= 1024,
            "pids": 0 < have.pids <= 1 << 16,
            "open files": 0 < have.open_files <= 1 << 20,
            "shared memory": 0 < have.shm_bytes <= have.memory_bytes,
        }
        for what in (what for what, within in finite.items() if not within):
            yield Violation(rule="limits", member=container.member, detail=f"{what} has no limit")
        for tmpfs in container.tmpfs:
            if tmpfs.size_bytes <= 0:
                yield Violation(rule="limits", member=container.member, detail=f"{tmpfs.target} has no limit")
    for link in plan.links:
        if not 0 < link.size_bytes <= 64 << 20:
            yield Violation(rule="limits", member=link.member, detail="its link has no limit")


def links(plan: SandboxPlan) -> Iterator[Violation]:
    """A link joins one member and the sidecar: the member reads, the sidecar writes, nobody else sees it."""
    expected = {c.member for c in plan.containers if c.role != "sidecar"}
    declared = {link.member for link in plan.links}
    for member in sorted(expected ^ declared):
        yield Violation(rule="links", member=member, detail="a seat without a link, or a link without a seat")
    for link in plan.links:
        ends = {(c.member, m.target, m.read_only) for c, m in _mounts(plan, "link") if m.source == link.member}
        if ends != {(link.member, LINK, True), (SIDECAR, f"{LINKS}/{link.member}", False)}:
            yield Violation(rule="links", member=link.member, detail=f"its ends are {sorted(ends)}")
        has_gate = "egress.sock" in link.sockets
        if has_gate != (plan.egress_of(link.member) is not None):
            yield Violation(rule="links", member=link.member, detail="a way to the gate and a grant go together")
        if "mcp.sock" in link.sockets and link.member != AGENT:
            yield Violation(rule="links", member=link.member, detail="only the agent sees the endpoint")
    for container, mount in _mounts(plan, "link"):
        if mount.source not in declared:
            yield Violation(rule="links", member=container.member, detail=f"mounts {mount.source!r}, which is no link")


def files(plan: SandboxPlan) -> Iterator[Violation]:
    """No part of the host that would open the fence; nothing over what the fence itself brings."""
    for container in plan.containers:
        targets = Counter([m.target for m in container.mounts] + [t.target for t in container.tmpfs])
        for target, count in targets.items():
            if count > 1:
                yield Violation(rule="files", member=container.member, detail=f"{target} is mounted {count} times")
            if not target.startswith("/") or ".." in PurePosixPath(target).parts or target == "/":
                yield Violation(rule="files", member=container.member, detail=f"{target!r} is no place for a mount")
        for mount in container.mounts:
            yield from _mount(container, mount)
        for tmpfs in container.tmpfs:
            if tmpfs.target.startswith("/.mlld"):
                yield Violation(rule="files", member=container.member, detail=f"{tmpfs.target} would hide the fence")


def _mount(container: Container, mount: Mount) -> Iterator[Violation]:
    def broken(detail: str) -> Violation:
        return Violation(rule="files", member=container.member, detail=detail)

    if mount.kind == "bind":
        parts = PurePosixPath(mount.source).parts
        if not mount.source.startswith("/") or ".." in parts or mount.source in _NEVER:
            yield broken(f"{mount.source!r} of the host must not be seen")
        if mount.source.endswith(".sock") or mount.source.rsplit("/", 1)[-1] in _ENGINE_SOCKETS:
            yield broken(f"{mount.source} is a socket of the host")
        if any(mount.source.startswith(f"{root}/") for root in ("/proc", "/sys", "/dev", "/run", "/var/run", "/etc")):
            yield broken(f"{mount.source!r} of the host must not be seen")
        if container.role == "sidecar":
            yield broken("the sidecar sees nothing of the host")
    if mount.kind == "asset" and (not mount.read_only or mount.target != BIN):
        yield broken(f"{mount.source} is shared by all runs: read-only, at {BIN}")
    if mount.kind == "mask" and not mount.read_only:
        yield broken(f"{mount.target} is masked and writable")
    if mount.kind in ("bind", "mask") and mount.target.startswith("/.mlld"):
        yield broken(f"{mount.target} would hide the fence")


def writes(plan: SandboxPlan) -> Iterator[Violation]:
    """Nothing of the host is writable without the grant of `filesystem`; nothing that the host obeys, ever."""
    for container, mount in _mounts(plan, "bind"):
        if mount.read_only:
            continue
        if "filesystem" not in plan.profile.granted:
            detail = f"writes {mount.source}, and the profile grants no filesystem"
            yield Violation(rule="writes", member=container.member, detail=detail)
        parts = PurePosixPath(mount.source).parts
        if ".mlld" in parts or (".git" in parts and parts[-1] != ".git"):
            yield Violation(rule="writes", member=container.member, detail=f"{mount.source} is obeyed by the host")


def secrets(plan: SandboxPlan) -> Iterator[Violation]:
    """Secrets by name only: held by members of the run, in no environment, argument or path of the plan."""
    known = {secret.name: secret for secret in plan.secrets}
    seats = {AGENT, *(server.name for server in plan.servers)}
    for secret in plan.secrets:
        for holder in secret.holders:
            if holder not in seats:
                yield Violation(rule="secrets", member=holder, detail=f"holds {secret.name} and is nobody of this run")
    for container in plan.containers:
        for name in container.secrets:
            if name not in known or container.member not in known[name].holders:
                yield Violation(rule="secrets", member=container.member, detail=f"holds {name!r}, granted to others")
        variables = {secret.variable for secret in plan.secrets} & set(container.env)
        for variable in sorted(variables):
            yield Violation(rule="secrets", member=container.member, detail=f"{variable} lies open in its environment")
        for text in _texts(container):
            if _LOOKS_SECRET.search(text):
                yield Violation(rule="secrets", member=container.member, detail="something in it looks like a secret")


def images(plan: SandboxPlan) -> Iterator[Violation]:
    """An image is said by what is in it, not by a name that may move."""
    for container in plan.containers:
        if not re.search(r"sha256:[0-9a-f]{64}\Z|\Amlld/[a-z-]+:[0-9a-f]{16}\Z", container.image):
            detail = f"{container.image!r} is neither a digest nor a tag named by its content"
            yield Violation(rule="images", member=container.member, detail=detail)


def profile(plan: SandboxPlan) -> Iterator[Violation]:
    """Without the grant of `sh`, the agent finds its shells masked."""
    for container in plan.containers:
        masked = {m.target for m in container.mounts if m.kind == "mask"}
        if container.role == "agent" and "sh" not in plan.profile.granted and not {"/bin/sh", "/bin/bash"} <= masked:
            yield Violation(rule="profile", member=container.member, detail="shells, and the profile grants no sh")


def _mounts(plan: SandboxPlan, kind: str) -> Iterable[tuple[Container, Mount]]:
    return [(c, m) for c in plan.containers for m in c.mounts if m.kind == kind]


def _texts(container: Container) -> Iterator[str]:
    yield from container.argv
    yield from container.env.values()


CHECKS: tuple[Callable[[SandboxPlan], Iterator[Violation]], ...] = (
    names, seats, network, egress, hardening, limits, links, files, writes, secrets, images, profile,
)  # fmt: skip
# Without containers there is nothing to fence; names and secrets matter all the same.
LOCAL_CHECKS = (names, secrets)

"""Every promise of a plan is broken once, and each break is seen and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.invariants import CHECKS, check
from runner.plan import (
    AGENT,
    SIDECAR,
    Container,
    Egress,
    Hardening,
    Host,
    Limits,
    Mount,
    ProfileReason,
    SandboxPlan,
    Tmpfs,
    from_json,
    to_json,
)
from runner.planner import plan
from tests.support.plans import good, options, readonly

Break = Callable[[SandboxPlan], SandboxPlan]


def seat(member: str, change: Callable[[Container], Container]) -> Break:
    """Breaks the container of one member."""
    return lambda p: replace(p, containers=tuple(change(c) if c.member == member else c for c in p.containers))


def hard(**loosened: object) -> Callable[[Container], Container]:
    return lambda c: replace(c, hardening=replace(c.hardening, **loosened))


def limit(**loosened: object) -> Callable[[Container], Container]:
    return lambda c: replace(c, limits=replace(c.limits, **loosened))


def mount(**fields: object) -> Callable[[Container], Container]:
    added = Mount(**{"kind": "bind", "source": "/code/project/x", "target": "/x", **fields})
    return lambda c: replace(c, mounts=(*c.mounts, added))


def link(member: str, **fields: object) -> Break:
    return lambda p: replace(
        p,
        links=tuple(replace(x, **fields) if x.member == member else x for x in p.links),
    )


def host(name: str, **fields: object) -> Break:
    return lambda p: replace(p, egress=(Egress(member=AGENT, allow=(Host(host=name, **fields),)), *p.egress[1:]))


BREAKS: dict[str, tuple[str, Break]] = {
    "the agent has a network": ("network", seat(AGENT, lambda c: replace(c, network="egress"))),
    "a server has a network": ("network", seat("github", lambda c: replace(c, network="egress"))),
    "grants without a network": ("network", seat(SIDECAR, lambda c: replace(c, network="none"))),
    "a network without grants": ("network", lambda p: replace(p, egress=())),
    "a grant to nobody": ("egress", lambda p: replace(p, egress=(*p.egress, Egress(member="ghost", public=True)))),
    "a grant of nothing": ("egress", lambda p: replace(p, egress=(Egress(member=AGENT), *p.egress[1:]))),
    "every host": ("egress", host("*")),
    "a top-level domain": ("egress", host("*.com")),
    "an address": ("egress", host("127.0.0.1")),
    "an IPv6 address": ("egress", host("::1")),
    "an address in hexadecimal": ("egress", host("0x7f000001")),
    "a host in capitals": ("egress", host("API.example.com")),
    "a host without ports": ("egress", host("api.example.com", ports=())),
    "egress without the profile": ("egress", lambda p: replace(p, profile=ProfileReason(granted=("filesystem", "sh")))),
    "root": ("hardening", seat(AGENT, hard(user="0:0"))),
    "root's group": ("hardening", seat("github", hard(user="1000:0"))),
    "a user by name": ("hardening", seat("github", hard(user="app"))),
    "a writable root": ("hardening", seat(SIDECAR, hard(read_only_root=False))),
    "a capability": ("hardening", seat(SIDECAR, hard(capabilities=("NET_ADMIN",)))),
    "new privileges": ("hardening", seat(AGENT, hard(no_new_privileges=False))),
    "privileged": ("hardening", seat("tickets", hard(privileged=True))),
    "no init": ("hardening", seat(AGENT, hard(init="engine"))),
    "no init in the sidecar": ("hardening", seat(SIDECAR, hard(init="none"))),
    "no seccomp": ("hardening", seat(AGENT, hard(seccomp="unconfined"))),
    "the host's processes": ("hardening", seat(AGENT, hard(host_namespaces=("pid",)))),
    "a device": ("hardening", seat(AGENT, hard(devices=("/dev/kvm",)))),
    "a port": ("hardening", seat(SIDECAR, hard(published_ports=("7000",)))),
    "a restart": ("hardening", seat(SIDECAR, hard(restart="always"))),
    "endless memory": ("limits", seat(AGENT, limit(memory_bytes=0))),
    "endless processes": ("limits", seat(AGENT, limit(pids=-1))),
    "endless CPU": ("limits", seat(AGENT, limit(cpus=0.0))),
    "endless files": ("limits", seat(AGENT, limit(open_files=0))),
    "endless shared memory": ("limits", seat(AGENT, limit(shm_bytes=0))),
    "an endless tmpfs": (
        "limits",
        seat(AGENT, lambda c: replace(c, tmpfs=(*c.tmpfs, Tmpfs(target="/x", size_bytes=0)))),
    ),
    "an endless link": ("limits", link("github", size_bytes=0)),
    "a link of three": ("links", seat("tickets", mount(kind="link", source="github", target="/y"))),
    "a link of one": ("links", seat("github", lambda c: replace(c, mounts=()))),
    "a link that its member writes": (
        "links",
        seat("github", lambda c: replace(c, mounts=tuple(replace(m, read_only=False) for m in c.mounts))),
    ),
    "a link to nowhere": ("links", seat("github", mount(kind="link", source="ghost", target="/y"))),
    "no link at all": ("links", lambda p: replace(p, links=p.links[1:])),
    "a gate for one who has no grant": ("links", link("tickets", sockets=("stdio.sock", "egress.sock"))),
    "a grant without a gate": ("links", link("github", sockets=("stdio.sock",))),
    "the endpoint for a server": ("links", link("github", sockets=("mcp.sock", "egress.sock"))),
    "the engine's socket": ("files", seat(AGENT, mount(source="/var/run/docker.sock"))),
    "the engine's socket elsewhere": ("files", seat(AGENT, mount(source="/code/project/docker.sock"))),
    "the host's root": ("files", seat(AGENT, mount(source="/"))),
    "the host's processes as files": ("files", seat(AGENT, mount(source="/proc"))),
    "the host's secrets": ("files", seat(AGENT, mount(source="/etc/shadow"))),
    "a way up": ("files", seat(AGENT, mount(source="/code/project/../../etc"))),
    "a relative source": ("files", seat(AGENT, mount(source="project"))),
    "a mount on the root": ("files", seat(AGENT, mount(target="/"))),
    "a mount that climbs": ("files", seat(AGENT, mount(target="/workspace/../etc"))),
    "two mounts on one place": ("files", seat(AGENT, mount(target="/workspace"))),
    "a mount over the bridge": ("files", seat(AGENT, mount(target="/.mlld/bin/bridge"))),
    "a tmpfs over the link": (
        "files",
        seat(AGENT, lambda c: replace(c, tmpfs=(*c.tmpfs, Tmpfs(target="/.mlld/link/x")))),
    ),
    "the host in the sidecar": ("files", seat(SIDECAR, mount())),
    "a writable asset": (
        "files",
        seat(AGENT, mount(kind="asset", source="mlld-bridge-x", target="/bin2", read_only=False)),
    ),
    "a writable mask": ("files", seat(AGENT, mount(kind="mask", target="/workspace/.env2", read_only=False))),
    "writes without the profile": (
        "writes",
        lambda p: replace(p, profile=ProfileReason(granted=("network", "sh"))),
    ),
    "a write to the hooks": (
        "writes",
        seat(AGENT, mount(source="/code/project/.git/hooks", target="/workspace/.git/hooks2", read_only=False)),
    ),
    "a write to the module": ("writes", seat("tickets", mount(source="/code/project/.mlld", read_only=False))),
    "a secret in the environment": (
        "secrets",
        seat("github", lambda c: replace(c, env={"GITHUB_TOKEN": "x"})),
    ),
    "a secret's value in the environment": (
        "secrets",
        seat("github", lambda c: replace(c, env={"X": "ghp_" + "a" * 36})),
    ),
    "a secret's value as argument": (
        "secrets",
        seat("github", lambda c: replace(c, argv=(*c.argv, "sk-" + "a" * 30))),
    ),
    "a secret of another": ("secrets", seat("tickets", lambda c: replace(c, secrets=("gh",)))),
    "a secret for nobody": (
        "secrets",
        lambda p: replace(p, secrets=tuple(replace(s, holders=("ghost",)) for s in p.secrets)),
    ),
    "an image by a name that moves": ("images", seat(AGENT, lambda c: replace(c, image="python:3.12"))),
    "the image's own command": ("seats", seat("github", lambda c: replace(c, argv=()))),
    "two agents": ("seats", lambda p: replace(p, containers=(*p.containers, replace(p.container(AGENT), member="b")))),
    "no sidecar": ("seats", lambda p: replace(p, containers=p.containers[1:])),
    "a server out of nowhere": ("seats", lambda p: replace(p, servers=p.servers[1:])),
    "a name with a slash": ("names", lambda p: replace(p, run="../x")),
    "a server called agent": ("names", lambda p: replace(p, servers=(replace(p.servers[0], name=AGENT),))),
    "two containers of one name": ("names", lambda p: replace(p, containers=(*p.containers, p.containers[-1]))),
    "shells without the profile": (
        "profile",
        lambda p: replace(p, profile=ProfileReason(granted=("network", "filesystem"))),
    ),
}


def test_good_plans_have_no_violations() -> None:
    assert check(good()) == []
    assert check(plan(readonly(), options())) == []


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_plan_is_seen(name: str) -> None:
    rule, breaking = BREAKS[name]
    violations = check(breaking(good()))
    assert rule in {violation.rule for violation in violations}, violations


def test_every_check_has_been_seen_to_fail() -> None:
    assert {rule for rule, _ in BREAKS.values()} == {one.__name__ for one in CHECKS}


@settings(max_examples=60)
@given(st.lists(st.sampled_from(sorted(BREAKS)), min_size=1, max_size=4, unique=True))
def test_no_break_hides_another_file_of_the_same_plan(names: list[str]) -> None:
    """However breaks are combined, a plan with one of them never passes, also after a round trip through JSON."""
    broken = good()
    for name in names:
        broken = BREAKS[name][1](broken)
    assert check(broken)
    assert check(from_json(to_json(broken)))


def test_local_plans_are_checked_for_names_and_secrets() -> None:
    local = replace(good(), provider="local", containers=(), links=())
    assert check(local) == []
    assert check(replace(local, run="../x"))


def test_the_strictest_values_are_the_defaults() -> None:
    bare = Container(member="x", role="server", image="i", argv=("a",))
    assert bare.network == "none"
    assert bare.mounts == ()
    assert bare.hardening == Hardening()
    assert Mount(kind="bind", target="/x").read_only
    assert not Tmpfs(target="/x").executable
    assert Limits().pids > 0

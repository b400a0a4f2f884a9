"""Good declarations and good plans for tests to start from, and to break."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from interpreter.declarations import (
    AuthDecl,
    Denial,
    EnvironmentSpec,
    Files,
    HostRule,
    McpConfig,
    ModuleSource,
    Needs,
    Network,
    PathRule,
    Place,
    Profile,
    ProfileChoice,
    ServerSpec,
)
from runner.plan import SandboxPlan
from runner.planner import plan
from runner.planner_options import HostFacts, Images, PathFact, PlanOptions, ServerImage

DIGEST = "sha256:" + "a" * 64


def place(line: int) -> Place:
    return Place(file="index.mld", line=line, column=3)


def server(name: str, **changes: Any) -> ServerSpec:
    """A server that runs a command and asks for nothing."""
    return replace(ServerSpec(name=name, source="command", target="serve", place=place(20)), **changes)


def full(**changes: Any) -> EnvironmentSpec:
    """An environment whose profile grants everything and whose servers ask for some of it."""
    requires = Needs(network=True, filesystem=True, sh=True)
    spec = EnvironmentSpec(
        name="@local/demo",
        module=ModuleSource(name="demo", entry="index.mld", files={"index.mld": "exe @spawn(p) = cmd { x }"}),
        profile=ProfileChoice(
            profile=Profile(name="full", requires=requires, place=place(4)),
            reason="first permitted",
        ),
        grants={"network": place(4), "filesystem": place(4), "sh": place(4)},
        network=Network(allow=(HostRule(host="API.Example.com", place=place(5)),)),
        files=Files(),
        mcp=McpConfig(
            servers=(
                server("tickets", files=Files(write=(PathRule(path="tickets", place=place(21)),))),
                server(
                    "github",
                    network=Network(allow=(HostRule(host="*.github.com", ports=(443,), place=place(22)),)),
                    auth=("gh",),
                    tools=("list_issues",),
                ),
            )
        ),
        auth={"gh": AuthDecl(name="gh", variable="GITHUB_TOKEN", source="env:GITHUB_TOKEN", place=place(9))},
    )
    return replace(spec, **changes)


def readonly(**changes: Any) -> EnvironmentSpec:
    """The same module under a profile that grants nothing, as a caller's policy leaves it."""
    denied = (Denial(requirement="network", rule="policy @p: deny network (main.mld:2:1)"),)
    choice = ProfileChoice(
        profile=Profile(name="readonly", place=place(6)), reason="first permitted", denied={"full": denied}
    )
    return replace(full(), profile=choice, grants={}, mcp=McpConfig(), **changes)


def facts(**changes: Any) -> HostFacts:
    known = HostFacts(
        workspace="/code/project",
        owner=(1234, 1234),
        workspace_owner=1234,
        home="/home/ann",
        cpus=2,
        paths={"tickets": PathFact(real="/code/project/tickets", kind="directory")},
        sensitive={".git": "directory", ".git/hooks": "directory", ".git/config": "file", ".mcp.json": "missing"},
        secret_files=(".env",),
    )
    return replace(known, **changes)


def options(**changes: Any) -> PlanOptions:
    images = Images(
        agent=DIGEST,
        sidecar=DIGEST,
        bridge="mlld-bridge-0123456789ab",
        servers={name: ServerImage(image=DIGEST, argv=("serve",)) for name in ("tickets", "github", "a", "b")},
    )
    return replace(PlanOptions(run="quiet-otter", images=images, host=facts()), **changes)


def good() -> SandboxPlan:
    """A plan of three seats beside the sidecar, with every kind of grant in it."""
    return plan(full(), options())

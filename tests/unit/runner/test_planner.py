"""What a declaration becomes: grants open exactly their door, and what cannot be enforced is refused by its key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from interpreter.declarations import (
    Denial,
    Files,
    HostRule,
    McpConfig,
    Network,
    PathRule,
    Place,
    ToolBinding,
)
from interpreter.declarations import Limits as Asked
from interpreter.policy_parse import parse_policy
from runner.errors import Unsupported
from runner.invariants import check
from runner.plan import AGENT, SIDECAR, WORKSPACE, Mount, digest, from_json, json_schema, to_json
from runner.planner import plan
from runner.planner_files import OBEYED, forbidden
from runner.planner_options import PathFact
from runner.report_plan import plan_text
from runner.survey import survey
from tests.support.plans import facts, full, good, options, place, readonly, server


def mount_at(member: str, target: str, **changed: object) -> Mount | None:
    made = plan(full(**changed), options())
    return next((m for m in made.container(member).mounts if m.target == target), None)


def one_server(**changes: object) -> object:
    return plan(full(mcp=McpConfig(servers=(server("a", **changes),))), options())


def test_a_plan_survives_json_and_keeps_its_digest() -> None:
    made = good()
    again = from_json(to_json(made))
    assert again == made
    assert digest(again) == digest(made)
    assert digest(replace(made, run="other-name")) == digest(made)
    assert digest(replace(made, timeout_seconds=1.0)) != digest(made)
    assert "SandboxPlan" in json_schema()["$defs"]


def test_a_plan_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="not a plan"):
        from_json(b'{"run": 1}')
    with pytest.raises(ValueError, match="version 99"):
        from_json(to_json(replace(good(), version=99)))


def test_the_network_is_the_sidecars_and_only_by_grant() -> None:
    made = good()
    assert {c.member: c.network for c in made.containers if c.network != "none"} == {SIDECAR: "egress"}
    assert [(h.host, h.ports) for h in made.egress_of(AGENT).allow] == [("api.example.com", (443, 80))]
    assert made.egress_of("tickets") is None
    quiet = plan(readonly(), options())
    assert not quiet.networked
    assert quiet.container(SIDECAR).network == "none"
    assert quiet.container(AGENT).argv.count("--forward") == 1


def test_a_profile_without_grants_gives_nothing_and_says_so() -> None:
    spec = replace(readonly(), mcp=full().mcp, network=full().network)
    made = plan(spec, options())
    assert made.egress == ()
    assert all(m.read_only for c in made.containers for m in c.mounts if m.kind == "bind")
    asked = {(r.member, r.asked) for r in made.refused}
    assert {(AGENT, "host API.Example.com"), ("github", "host *.github.com"), ("tickets", "write tickets")} <= asked
    assert all("profile readonly does not require" in r.rule for r in made.refused)
    assert check(made) == []


def test_a_profile_asked_for_by_name_grants_nothing_that_policy_denies() -> None:
    choice = full().profile
    assert choice is not None
    denied = replace(choice, reason="asked for", denied={"full": (Denial(requirement="network", rule="policy @p"),)})
    made = plan(replace(full(), profile=denied), options())
    assert made.egress == ()
    assert any(r.asked == "network" and r.rule == "policy @p" for r in made.refused)


def test_the_tools_of_the_environment_narrow_those_of_every_server() -> None:
    binding = ToolBinding(exposed="make", server="github", tool="create_issue")
    config = McpConfig(servers=(server("tickets"), server("github")), bindings=(binding,))
    made = plan(full(mcp=config, tools=("list", "make"), tools_denied=("close",)), options())
    assert [(s.name, s.only, s.withheld) for s in made.servers] == [
        ("tickets", ("list", "make"), ("close",)),
        ("github", ("list", "make", "create_issue"), ("close",)),
    ]
    assert [s.only for s in plan(full(mcp=config), options()).servers] == ["*", "*"]


def test_the_plan_says_what_labels_will_take_away() -> None:
    def at(path: tuple[str | int, ...]) -> Place | None:
        return place(12) if path[:2] == ("labels", "src:mcp") else place(3)

    said = {
        "labels": {
            "src:mcp": {"deny": ["op:mcp:github:create_issue", "destructive"]},
            "secret": {"deny": ["op:mcp:github"], "allow": ["op:mcp:github:list_issues"]},
        }
    }
    policy = parse_policy(said, name="p", locate=at).json()
    config = McpConfig(servers=(server("github", labels={"drop": ("destructive",)}), server("tickets")))
    made = plan(full(mcp=config, policy=policy), options())
    github, tickets = made.servers
    assert [(n.after, n.tools, n.but) for n in github.narrowed] == [
        ("src:mcp", ("create_issue", "drop"), ()),
        ("secret", (), ("list_issues",)),
    ]
    assert tickets.narrowed == ()
    text = plan_text(made)
    assert f"after src:mcp: no create_issue, drop ({place(12)})" in text
    assert f"after secret: nothing of it but list_issues ({place(3)})" in text
    assert from_json(to_json(made)) == made


def test_no_list_means_public_hosts_for_the_agent_and_nothing_for_a_server() -> None:
    made = plan(full(network=Network()), options())
    assert made.egress_of(AGENT).public
    assert one_server().egress_of("a") is None
    assert plan(full(network=Network(none=True)), options()).egress_of(AGENT) is None


@pytest.mark.parametrize(
    "host", ["*", "*.com", "127.0.0.1", "[::1]", "10.0.0.0/8", "0x7f000001", "2130706433", "a b", ""]
)
def test_a_host_that_is_no_host_is_refused_by_its_key(host: str) -> None:
    with pytest.raises(Unsupported, match=r"^net\.allow\[0\]: ") as caught:
        plan(full(network=Network(allow=(HostRule(host=host, place=place(7)),))), options())
    assert caught.value.place == "index.mld:7:3"
    assert caught.value.remedy


def test_host_names_have_one_spelling() -> None:
    made = plan(full(network=Network(allow=(HostRule(host="BÜCHER.example."),))), options())
    assert made.egress[0].allow[0].host == "xn--bcher-kva.example"


def test_a_remote_server_is_one_host_and_no_container() -> None:
    made = plan(
        full(mcp=McpConfig(servers=(server("a", source="url", target="https://mcp.example.com:8443/x"),))), options()
    )
    assert made.egress_of("a").allow[0].ports == (8443,)
    assert {c.member for c in made.containers} == {AGENT, SIDECAR}
    assert check(made) == []
    with pytest.raises(Unsupported, match=r"mcpConfig\.servers\[a\]\.url"):
        plan(full(mcp=McpConfig(servers=(server("a", source="url", target="https://u:p@x.com/"),))), options())
    quiet = plan(replace(readonly(), mcp=full().mcp), options())
    assert quiet.egress == ()


def test_servers_are_left_out_by_mcps_and_by_an_empty_filter() -> None:
    made = plan(full(servers_allowed=("tickets",)), options())
    assert [s.name for s in made.servers] == ["tickets"]
    assert any(r.member == "github" and r.rule == "not among mcps" for r in made.refused)
    assert one_server(tools=()).servers == ()


@pytest.mark.parametrize("name", ["agent", "sidecar", "A", "a/b", "", "x" * 41, "-a"])
def test_a_name_that_cannot_name_a_container_is_refused(name: str) -> None:
    with pytest.raises(Unsupported, match=r"mcpConfig\.servers\[0\]\.name"):
        plan(full(mcp=McpConfig(servers=(server(name),))), options())


def test_the_workspace_is_written_only_by_grant() -> None:
    assert mount_at(AGENT, WORKSPACE).read_only is False
    quiet = plan(readonly(), options())
    assert {m.target: m.read_only for m in quiet.container(AGENT).mounts}[WORKSPACE] is True
    listed = plan(full(files=Files(write=(PathRule(path="tickets"),))), options())
    seen = {m.target: m.read_only for m in listed.container(AGENT).mounts if m.kind == "bind"}
    assert seen == {WORKSPACE: True, "/workspace/tickets": False}


def test_what_the_host_obeys_is_fenced_off_in_a_writable_workspace() -> None:
    seen = {m.target: m for m in good().container(AGENT).mounts}
    assert seen["/workspace/.git"].read_only is False  # pinned, so that it cannot be renamed
    assert seen["/workspace/.git/hooks"].read_only
    assert seen["/workspace/.git/config"].read_only
    assert seen["/workspace/.mcp.json"].kind == "mask"
    assert seen["/workspace/.mcp.json"].made
    assert seen["/workspace/.env"].kind == "mask"
    depths = [m.target.count("/") for m in good().container(AGENT).mounts if m.target.startswith(WORKSPACE)]
    assert depths == sorted(depths)


def test_a_link_where_the_host_obeys_is_refused() -> None:
    host = facts(sensitive={".git": "link"})
    with pytest.raises(Unsupported, match="symbolic link"):
        plan(full(), options(host=host))
    assert plan(readonly(), options(host=host))  # nothing can replace the link in a workspace that is only read


def test_the_module_is_fenced_off_wherever_it_lies() -> None:
    made = plan(full(), options(host=facts(module="/code/project/llm/modules/demo")))
    seen = {m.target: m.read_only for m in made.container(AGENT).mounts}
    assert seen["/workspace/llm/modules/demo"] is True
    assert seen["/workspace/llm/modules"] is False  # pinned
    assert seen["/workspace/llm"] is False


@pytest.mark.parametrize("path", [".git/hooks", ".mcp.json", ".git/hooks/pre-commit"])
def test_asking_to_write_what_the_host_obeys_is_refused(path: str) -> None:
    host = facts(paths={path: PathFact(real=f"/code/project/{path}", kind="file")})
    with pytest.raises(Unsupported, match=r"^fs\.write\[0\]: .*obeyed"):
        plan(full(files=Files(write=(PathRule(path=path),))), options(host=host))


@pytest.mark.parametrize(
    "real",
    ["/", "/var/run/docker.sock", "/home/ann", "/home/ann/.ssh", "/home", "/proc", "/sys/fs", "/etc/passwd", "/run",
     "/home/ann/.config/gh", "/home/ann/.local", "/dev/mem", "/var/lib/docker/volumes", "/srv/x/podman.sock"],
)  # fmt: skip
def test_a_forbidden_mount_is_refused_whatever_its_spelling(real: str) -> None:
    host = facts(paths={"/innocent": PathFact(real=real, kind="directory")})
    with pytest.raises(Unsupported, match=r"^fs\.read\[0\]: .*must not be seen"):
        plan(full(files=Files(read=(PathRule(path="/innocent", place=place(8)),))), options(host=host))
    assert forbidden("/home/ann/project", "/home/ann") is None


def test_a_workspace_that_is_the_home_directory_is_refused() -> None:
    with pytest.raises(Unsupported, match="your home directory"):
        plan(full(), options(host=facts(workspace="/home/ann")))


def test_paths_that_leave_the_workspace_or_do_not_exist_are_refused() -> None:
    rule = Files(read=(PathRule(path="tickets"),))
    away = facts(paths={"tickets": PathFact(real="/srv/data", kind="directory")})
    with pytest.raises(Unsupported, match="leads out of the workspace"):
        plan(full(files=rule), options(host=away))
    with pytest.raises(Unsupported, match="does not exist"):
        plan(full(files=rule), options(host=facts(paths={})))
    pipe = facts(paths={"tickets": PathFact(real="/code/project/tickets", kind="other")})
    with pytest.raises(Unsupported, match="neither a file nor"):
        plan(full(files=rule), options(host=pipe))


def test_shells_are_masked_without_their_grant() -> None:
    assert not any(m.target == "/bin/sh" for m in good().container(AGENT).mounts)
    quiet = plan(readonly(), options()).container(AGENT)
    assert {"/bin/sh", "/usr/bin/bash"} <= {m.target for m in quiet.mounts if m.kind == "mask"}
    assert not any(tmpfs.executable for tmpfs in quiet.tmpfs)


def test_secrets_go_by_name_to_their_holders() -> None:
    made = good()
    assert made.container("github").secrets == ("gh",)
    assert made.container("tickets").secrets == ()
    assert made.container(AGENT).secrets == ()
    assert made.secrets[0].holders == ("github",)
    with pytest.raises(Unsupported, match="auth:nope is used by agent and declared nowhere"):
        plan(full(agent_auth=("nope",)), options())


@pytest.mark.parametrize(
    ("asked", "key"),
    [(Asked(memory_bytes=1024), "mem"), (Asked(cpus=64.0), "cpu"), (Asked(cpus=0.0), "cpu"), (Asked(pids=1), "pids")],
)
def test_limits_that_cannot_be_enforced_are_refused(asked: Asked, key: str) -> None:
    with pytest.raises(Unsupported, match=rf"^limits\.{key}"):
        plan(full(limits=asked), options())
    with pytest.raises(Unsupported, match=rf"^mcpConfig\.servers\[a\]\.limits\.{key}"):
        one_server(limits=asked)


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"image": "x"}, "image"),
        ({"files": Files(read=(PathRule(path="."),))}, r"fs\.read"),
        ({"network": Network(none=True)}, "net"),
        ({"limits": Asked(memory_bytes=1 << 30)}, r"limits\.mem"),
    ],
)
def test_local_refuses_what_it_cannot_enforce(changed: dict[str, object], key: str) -> None:
    bare = replace(full(), provider="local", network=Network(), mcp=McpConfig())
    made = plan(bare, options())
    assert made.containers == ()
    assert any("nothing is isolated" in warning for warning in made.warnings)
    with pytest.raises(Unsupported, match=rf"^{key}: the provider 'local' cannot enforce it"):
        plan(replace(bare, **changed), options())


def test_every_grant_names_its_line() -> None:
    grants = {(member, words): where for member, words, where in good().grants()}
    assert str(grants[AGENT, "reach api.example.com:443,80"]) == "index.mld:5:3"
    assert str(grants["tickets", "write /code/project/tickets at /workspace/tickets"]) == "index.mld:21:3"
    assert str(grants["github", "hold GITHUB_TOKEN"]) == "index.mld:9:3"


def test_the_survey_sees_what_lies_there(tmp_path: Path) -> None:
    (tmp_path / ".git" / "hooks").mkdir(parents=True)
    (tmp_path / ".mcp.json").symlink_to("/etc/passwd")
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / ".env.production").write_text("KEY=1")
    (tmp_path / ".env.example").write_text("KEY=")
    (tmp_path / "away").symlink_to("/etc")
    spec = full(files=Files(read=(PathRule(path="away"), PathRule(path="none"))), mcp=McpConfig())
    seen = survey(spec, workspace=tmp_path, home=Path("/home/ann"))
    assert seen.paths["away"].real == "/etc"
    assert seen.paths["none"].kind == "missing"
    assert seen.sensitive[".git"] == "directory"
    assert seen.sensitive[".mcp.json"] == "link"
    assert seen.sensitive[".mlld"] == "missing"
    assert set(OBEYED) <= set(seen.sensitive)
    assert seen.secret_files == ("app/.env.production",)
    assert seen.owner[0] != 0

"""Environments: configuration, provider, narrowing by policy and by the parent (semantics §3, A14)."""

from __future__ import annotations

import pytest

from interpreter.declarations import EnvironmentSpec, McpConfig, Network, PathRule, ProfileChoice
from interpreter.environment import Around, ProviderDenied, build, choose_provider, denied_tool
from interpreter.environment_config import derive, parse_config
from interpreter.environment_mcp import parse_mcp_config
from interpreter.environment_narrow import WideningFault
from interpreter.errors import MlldError
from interpreter.policy import NO_POLICY, Policy, union
from interpreter.policy_parse import parse_policy
from interpreter.policy_reader import ConfigFault
from interpreter.profiles import choose, parse_profiles


def policy(*values: object) -> Policy:
    return union(parse_policy(value, name=f"p{n}") for n, value in enumerate(values))


def spec(
    config: object = None, *policies: object, parent: EnvironmentSpec | None = None, mcp: object = None,
    choice: ProfileChoice | None = None,
) -> EnvironmentSpec:  # fmt: skip
    around = Around(name="e", policy=policy(*policies), parent=parent, mcp=parse_mcp_config(mcp), choice=choice)
    return build(parse_config(config), around)


WIDE = {
    "tools": ["Read", "Bash", "create_issue"], "mcps": ["github", "git"],
    "net": {"allow": ["*.example.com", "api.github.com:443"], "deny": ["bad.example.com"]},
    "fs": {"read": ["docs", "src"], "write": ["out"]}, "limits": {"mem": "512m", "cpu": 1, "pids": 50, "timeout": "60s"},
}  # fmt: skip


# ── A14: attenuation over each axis ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("child", "difference"),
    [
        ({"tools": ["Read", "Write"]}, "tools: Write (the parent has Read, Bash, create_issue)"),
        ({"mcps": ["github", "evil"]}, "mcps: evil (the parent has github, git)"),
        ({"net": {"allow": ["other.org"]}}, "net: other.org (the parent has *.example.com, api.github.com:443)"),
        ({"net": {"allow": ["example.com"]}}, "net: example.com (the parent has"),
        ({"net": {"allow": ["*.github.com"]}}, "net: *.github.com (the parent has"),
        ({"net": {"allow": ["api.github.com"]}}, "net: api.github.com (the parent has"),  # also port 80
        ({"net": {"allow": ["bad.example.com"]}}, "net: bad.example.com (the parent denies bad.example.com)"),
        ({"fs": {"read": ["etc"]}}, "fs.read: etc (the parent has docs, src, out)"),
        ({"fs": {"read": ["srcs"]}}, "fs.read: srcs"),
        ({"fs": {"write": ["src"]}}, "fs.write: src (the parent has out)"),
        ({"fs": {"write": ["."]}}, "fs.write: . (the parent has out)"),
        ({"fs": {"write": ["/out"]}}, "fs.write: /out (the parent has out)"),
        ({"limits": {"mem": "1g"}}, "limits.mem: 1024m (the parent has 512m)"),
        ({"limits": {"cpu": 2}}, "limits.cpu: 2 (the parent has 1)"),
        ({"limits": {"pids": 51}}, "limits.pids: 51 (the parent has 50)"),
        ({"limits": {"timeout": "61s"}}, "limits.timeout: 61 (the parent has 60)"),
    ],
)
def test_A14_widening_is_an_error_that_prints_the_difference(child: dict[str, object], difference: str) -> None:
    granted = choose(parse_profiles({"full": {"requires": {"network": True, "fs": True}}}), NO_POLICY)
    parent = spec(WIDE, choice=granted)
    for widen in (lambda: spec(child, parent=parent, choice=granted), lambda: derive(WIDE, child)):
        with pytest.raises(WideningFault) as caught:
            widen()
        assert difference in caught.value.message
        assert caught.value.exit_code == 3
        scope = "Tool scope cannot add tools outside parent" in (caught.value.hint or "")
        assert scope == difference.startswith("tools:")


def test_A14_every_axis_is_in_one_message() -> None:
    child = {"tools": ["X"], "mcps": ["y"], "net": {"allow": ["z.org"]}, "fs": {"write": ["w"]}, "limits": {"pids": 99}}
    with pytest.raises(WideningFault) as caught:
        derive(WIDE, child)
    assert [line.split(":")[0] for line in caught.value.differences] == [
        "tools",
        "mcps",
        "net",
        "fs.write",
        "limits.pids",
    ]


def test_A14_labels_of_tools_stay() -> None:
    parent = {"tools": {"close": {"mcp": "t:close", "labels": ["destructive", "net:w"]}}}
    with pytest.raises(WideningFault, match="labels of close: without net:w"):
        derive(parent, {"tools": {"close": {"mcp": "t:close", "labels": ["destructive"]}}})
    assert derive(parent, {"tools": {"close": {"mcp": "t:close", "labels": ["destructive", "net:w", "x"]}}})


@pytest.mark.parametrize(
    "child",
    [
        {},
        {"tools": "*"},
        {"tools": ["Read"]},
        {"tools": []},
        {"tools": ["createIssue"]},
        {"mcps": []},
        {"mcps": "*"},
        {"net": "none"},
        {"net": "limited"},
        {"net": {"allow": ["a.example.com", "api.github.com:443"]}},
        {"net": {"deny": ["a.example.com"]}},
        {"fs": {"read": ["src/a", "out"], "write": ["out/b"]}},
        {"fs": {}},
        {"limits": {"mem": "256m", "cpu": 0.5}},
    ],
)
def test_A14_narrowing_is_fine(child: dict[str, object]) -> None:
    made = derive(WIDE, child)
    assert derive(WIDE, made) == made  # what came out lies within what went in


def test_A14_a_child_inherits_what_it_does_not_name() -> None:
    granted = choose(parse_profiles({"full": {"requires": {"network": True}}}), NO_POLICY)
    parent = spec(WIDE, choice=granted)
    same = spec({}, parent=parent, choice=granted)
    assert (same.tools, same.servers_allowed, same.network, same.files, same.limits) == (
        parent.tools, parent.servers_allowed, parent.network, parent.files, parent.limits
    )  # fmt: skip
    less = spec({"tools": [], "net": {"deny": ["x.example.com"]}, "limits": {"pids": 5}}, parent=parent, choice=granted)
    assert less.tools == ()
    assert [rule.host for rule in less.network.deny] == ["bad.example.com", "x.example.com"]
    assert less.network.allow == parent.network.allow
    assert (less.limits.pids, less.limits.cpus) == (5, 1)


def test_A14_a_parent_without_network_has_none_to_hand_down() -> None:
    parent = spec({"net": "none"})
    with pytest.raises(WideningFault, match=r"net: a\.org \(the parent has no network\)"):
        spec({"net": {"allow": ["a.org"]}}, parent=parent)
    with pytest.raises(WideningFault, match="net: any host"):
        spec({"net": "limited"}, parent=parent)
    assert "network" not in spec({}, parent=parent).grants
    ungranted = spec({"net": {"allow": ["a.org"]}}, {"deny": ["net"]})
    with pytest.raises(WideningFault):
        spec({"net": {"allow": ["a.org"]}}, parent=ungranted)


def test_A14_a_child_never_has_a_grant_that_its_parent_lacks() -> None:
    full = choose(parse_profiles({"full": {"requires": {"network": True, "sh": True, "fs": True}}}), NO_POLICY)
    small = choose(parse_profiles({"small": {"requires": {"sh": True}}}), NO_POLICY)
    assert set(spec({}, parent=spec({}, choice=small), choice=full).grants) == {"sh"}
    assert set(spec({}, parent=spec({}, choice=full), choice=full).grants) == {"network", "sh", "filesystem"}


def test_paths_of_the_host_are_not_in_a_workspace() -> None:
    with pytest.raises(WideningFault, match=r"fs\.read: /etc \(the parent has the workspace\)"):
        spec({"fs": {"read": ["/etc"]}}, parent=spec({}))


# ── Absent, all, none, exactly these ────────────────────────────────────────────────────────────────


def test_tools_and_mcps_absent_star_none_and_exactly() -> None:
    assert spec({}).tools == spec({"tools": "*"}).tools == "*"
    assert spec({"tools": []}).tools == ()
    assert spec({"tools": "Read, Bash"}).tools == ("Read", "Bash")
    assert spec({}).servers_allowed == "*"
    assert spec({"mcps": []}).servers_allowed == ()


def test_mcps_name_servers_by_name_or_by_what_starts_them() -> None:
    mcp = {"servers": [{"npm": "@a/github"}, {"command": "node x.js", "name": "x"}, {"npm": "other"}]}
    assert spec({"mcps": ["github"]}, mcp=mcp).servers_allowed == ("github",)
    assert spec({"mcps": ["@a/github", "node x.js"]}, mcp=mcp).servers_allowed == ("github", "x")
    assert spec({"mcps": [{"npm": "@a/github"}, {"command": "node", "args": ["x.js"]}]}, mcp=mcp).servers_allowed == (
        "github",
        "x",
    )


# ── Narrowing by policy ─────────────────────────────────────────────────────────────────────────────


def test_policy_env_narrows_every_environment() -> None:
    rules = {"env": {"tools": {"allow": ["Read", "Bash"], "deny": ["bash"]}, "mcps": ["git"], "limits": {"mem": "100m"},
                     "net": {"allow": ["*.example.com"]}}}  # fmt: skip
    made = spec({**WIDE, "net": {"allow": ["a.example.com", "b.org"]}}, rules)
    assert made.tools == ("Read",)
    assert made.tools_denied == ("bash",)
    assert made.servers_allowed == ("git",)
    assert made.limits.memory_bytes == 100 * 2**20
    assert made.network.allow
    assert [rule.host for rule in made.network.allow] == ["a.example.com"]
    said = " ".join(made.warnings)
    assert "tools: Bash, create_issue withheld by policy @p0" in said
    assert "server github withheld by policy @p0" in said
    assert "host b.org withheld by policy @p0" in said


def test_an_empty_allow_of_policy_blocks_all() -> None:
    rules = {"env": {"tools": {"allow": []}, "mcps": {"allow": []}, "net": {"allow": []}}}
    for config in (WIDE, {}):
        made = spec(config, rules)
        assert (made.tools, made.servers_allowed, made.network.allow) == ((), (), ())


def test_a_deny_alone_denies() -> None:
    rules = {"env": {"tools": {"deny": ["create_issue"]}, "mcps": {"deny": ["git"]}}}
    mcp = {"servers": [{"npm": "x", "name": "git"}, {"npm": "y"}]}
    made = spec({}, rules, mcp=mcp)
    assert made.tools_denied == ("create_issue",)
    assert made.servers_allowed == ("y",)
    composed = policy(rules)
    assert denied_tool(composed, "y", "createIssue") == "policy @p0: env.tools"
    assert denied_tool(composed, "git", "x") == "policy @p0: env.mcps"
    assert denied_tool(composed, "y", "list") is None


def test_hosts_of_capabilities_bound_the_network_too() -> None:
    hosts = {"net": {"allow": ["a.example.com", "b.org"]}}
    made = spec(hosts, {"allow": ["network:*.example.com", "sh"]})
    assert made.network.allow
    assert [rule.host for rule in made.network.allow] == ["a.example.com"]
    assert spec(hosts, {"allow": ["sh"]}).network.allow == ()
    denied = spec(hosts, {"deny": ["network:b.org"]})
    assert [rule.host for rule in denied.network.deny] == ["b.org"]
    server = {"servers": [{"npm": "x", "net": {"allow": ["b.org"]}}]}
    assert spec({}, {"env": {"net": {"allow": ["a.org"]}}}, mcp=server).mcp.servers[0].network.allow == ()


def test_policies_intersect_on_environments() -> None:
    one = {"env": {"net": {"allow": ["*.example.com"]}, "tools": {"allow": ["a", "b"]}, "limits": {"pids": 9}}}
    other = {
        "env": {"net": {"allow": ["api.example.com", "x.org"]}, "tools": {"allow": ["b", "c"]}, "limits": {"pids": 5}}
    }
    for first, second in ((one, other), (other, one)):
        made = spec({"net": "limited"}, first, second)
        assert made.network.allow
        assert [rule.host for rule in made.network.allow] == ["api.example.com"]
        assert made.tools == ("b",)
        assert made.limits.pids == 5


def test_an_environment_without_profiles_has_what_its_configuration_asks() -> None:
    assert set(spec({}).grants) == {"sh"}
    assert set(spec({"net": {"allow": ["a.org"]}, "fs": {"write": ["out"]}}).grants) == {"sh", "network", "filesystem"}
    assert set(spec({"net": "none"}).grants) == {"sh"}
    assert set(spec({"net": {"allow": ["a.org"]}}, {"deny": ["net", "sh"]}).grants) == set()


def test_a_profile_is_the_only_door_where_profiles_are_declared() -> None:
    readonly = choose(parse_profiles({"readonly": {}}), NO_POLICY)
    assert not spec({"net": {"allow": ["a.org"]}, "fs": {"write": ["out"]}}, choice=readonly).grants


# ── Provider ────────────────────────────────────────────────────────────────────────────────────────


def test_the_provider_is_docker_unless_somebody_says_local() -> None:
    assert choose_provider(NO_POLICY) == "docker"
    assert choose_provider(NO_POLICY, config="@mlld/env-docker") == "docker"
    assert choose_provider(NO_POLICY, config="local") == "local"
    assert choose_provider(NO_POLICY, option="local") == "local"
    assert choose_provider(NO_POLICY, variable="local") == "local"
    assert choose_provider(policy({"env": {"default": "local"}})) == "local"
    assert choose_provider(NO_POLICY, config="docker", option="local", variable="local") == "docker"


@pytest.mark.parametrize("name", ["host", "@mlld/sprites", "Docker", "kubernetes"])
def test_other_providers_are_refused(name: str) -> None:
    with pytest.raises(MlldError, match=f"there is no provider '{name}'"):
        choose_provider(NO_POLICY, config=name)


def test_policy_denies_providers() -> None:
    with pytest.raises(ProviderDenied) as caught:
        choose_provider(policy({"env": {"providers": {"local": {"allowed": False}}}}), config="local")
    assert caught.value.exit_code == 4
    assert caught.value.rule == "policy @p0: env.providers"
    with pytest.raises(ProviderDenied):
        choose_provider(policy({"env": {"providers": {"@mlld/env-docker": False}}}))
    with pytest.raises(ProviderDenied):
        choose_provider(policy({"env": {"providers": {"docker": True}}}), option="local")


# ── Configuration ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("value", "message", "hint"),
    [
        ("x", "env config must be an object, got a string", None),
        ({"nett": "none"}, "env config has no key 'nett'", "did you mean 'net'?"),
        ({"memory": "1g"}, "env config has no key 'memory'", None),
        ({"net": "host"}, 'env config.net cannot be "host"', "grant hosts"),
        ({"net": "bridge"}, "env config.net cannot be 'bridge'", "none, limited"),
        ({"net": {"allow": "a.org"}}, "env config.net.allow must be a list of hosts, got a string", None),
        ({"fs": {"reed": []}}, "env config.fs has no key 'reed'", "read"),
        ({"limits": {"mem": "1k"}}, "env config.limits.mem is too small: 1k", None),
        (
            {"limits": {"mem": "1g", "memory": "2g"}},
            "env config.limits.memory says the same as env config.limits.mem",
            None,
        ),
        ({"limits": {"timeout": -1}}, "env config.limits.timeout must be a number", None),
        ({"tools": 3}, "env config.tools must be", None),
        ({"tools": ["*", 3]}, "env config.tools[1] must be a string", None),
        ({"tools": "Read, *"}, 'env config.tools cannot mix "*" with names', None),
        ({"mcps": [{"npm": "a", "command": "b"}]}, "env config.mcps[0] must have exactly one of", None),
        ({"name": "../x"}, "env config.name is no name", None),
        ({"profile": 3}, "env config.profile must be a string", None),
        (
            {"profiles": {"a": {"requires": {"netwrk": True}}}},
            "env config.profiles.a.requires has no key 'netwrk'",
            "network",
        ),
        ({"tools": {"a": {}}}, "env config.tools.a must have mlld or mcp", None),
        (
            {"tools": {"a": {"mcp": "github"}}},
            "env config.tools.a.mcp must name a server and a tool",
            "github:create_issue",
        ),
        (
            {"tools": {"a": {"mcp": "g:t", "bind": {"x": 1}, "expose": ["x"]}}},
            "env config.tools.a exposes 'x', which it binds",
            None,
        ),
        (
            {"tools": {"a": {"mcp": "g:t", "validate": "yes"}}},
            "env config.tools.a.validate must be true or false",
            None,
        ),
        (
            {"tools": {"a": {"mlld": "f", "validate": True}}},
            "env config.tools.a.validate is for tools of servers",
            "types",
        ),
        ({"tools": {"a": {"mcp": "g:t", "optional": ["x"]}}}, "env config.tools.a says that 'x' is optional", None),
    ],
)
def test_faults_of_a_configuration(value: object, message: str, hint: str | None) -> None:
    with pytest.raises(ConfigFault) as caught:
        parse_config(value)
    assert message in caught.value.message
    assert hint is None or hint in (caught.value.hint or "")


def test_a_tool_collection_is_a_scope_and_bindings() -> None:
    collection = {
        "make": {"mcp": "github:create_issue", "bind": {"org": "x"}, "expose": ["title"], "optional": ["title"],
                 "labels": ["net:w"], "description": "Make one", "validate": True},
        "local": {"mlld": "fn"},
    }  # fmt: skip
    made = spec({"tools": collection})
    assert made.tools == ("make", "local")
    (binding,) = made.mcp.bindings
    assert (binding.exposed, binding.server, binding.tool, dict(binding.bind)) == (
        "make",
        "github",
        "create_issue",
        {"org": "x"},
    )
    assert (binding.expose, binding.optional, binding.labels) == (("title",), ("title",), ("net:w",))
    assert binding.validate


def test_what_a_configuration_holds() -> None:
    config = parse_config({"provider": "docker", "image": "alpine:3", "agent": "scripted", "auth": ["gh"], "profile": "full",
                           "name": "kept", "fs": {"write": ["./"]}, "mcpConfig": "other"})  # fmt: skip
    assert (config.provider, config.image, config.agent, config.auth) == ("docker", "alpine:3", "scripted", ("gh",))
    assert (config.profile, config.keep, config.mcp_config) == ("full", "kept", "other")
    assert config.bounds.files
    assert config.bounds.files.write == (PathRule(path="."),)
    assert parse_config(None) == parse_config({})
    assert parse_config({"net": "none"}).bounds.network == Network(none=True, allow=())
    assert spec({}).mcp == McpConfig()


def test_a_server_that_asks_for_no_host_gets_none_of_the_policys() -> None:
    servers = [
        {"name": "quiet", "npm": "x"},
        {"name": "asks", "npm": "x", "net": {"allow": ["api.example.com", "other.example.com"]}},
        {"name": "remote", "url": "https://mcp.example.org/mcp"},
        {"name": "listed", "url": "https://api.example.com/mcp"},
    ]
    made = spec(None, {"env": {"net": {"allow": ["api.example.com"]}}}, mcp={"servers": servers})
    reached = {s.name: None if s.network.allow is None else [r.host for r in s.network.allow] for s in made.mcp.servers}
    assert reached == {"quiet": None, "asks": ["api.example.com"], "remote": [], "listed": ["api.example.com"]}

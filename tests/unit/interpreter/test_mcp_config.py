"""The value of @mcpConfig (semantics §4; A10, A12)."""

from __future__ import annotations

import json

import pytest

from interpreter.declarations import Lifecycle, McpConfig, PathRule, ServerSpec
from interpreter.environment_mcp import UnknownTool, match_tools, parse_mcp_config
from interpreter.policy_reader import ConfigFault, Path
from interpreter.source import Source, Span


def server(**entry: object) -> ServerSpec:
    return parse_mcp_config({"servers": [entry]}).servers[0]


def test_no_servers_is_a_lawful_answer() -> None:
    for value in (None, {}, {"servers": []}, "null", "{}", {"servers": None}):
        assert parse_mcp_config(value) == McpConfig()


@pytest.mark.parametrize(
    ("entry", "source", "target", "args", "name"),
    [
        (
            {"npm": "@modelcontextprotocol/server-everything"},
            "npm",
            "@modelcontextprotocol/server-everything",
            (),
            "server-everything",
        ),
        ({"npm": "@scope/name@1.2.3", "args": ["--x"]}, "npm", "@scope/name@1.2.3", ("--x",), "name"),
        ({"npm": "plain@^2"}, "npm", "plain@^2", (), "plain"),
        ({"python": "mcp-server-git==2025.1"}, "python", "mcp-server-git==2025.1", (), "mcp-server-git"),
        ({"python": "pkg[extra]>=1,<2"}, "python", "pkg[extra]>=1,<2", (), "pkg"),
        ({"module": "@local/tickets"}, "module", "@local/tickets", (), "tickets"),
        ({"module": "./tools/echo.mld.md"}, "module", "./tools/echo.mld.md", (), "echo"),
        ({"command": "node server.cjs --port 1"}, "command", "node", ("server.cjs", "--port", "1"), "server"),
        ({"command": "node 'my server.js'", "args": ["a b"]}, "command", "node", ("my server.js", "a b"), "my-server"),
        ({"command": "python -m my.server"}, "command", "python", ("-m", "my.server"), "my-server"),
        ({"command": "/usr/bin/thing"}, "command", "/usr/bin/thing", (), "thing"),
        ({"image": "ghcr.io/a/server:1"}, "image", "ghcr.io/a/server:1", (), "server"),
        ({"url": "https://mcp.example.com/mcp"}, "url", "https://mcp.example.com/mcp", (), "mcp-example-com"),
        ({"npm": "x", "name": "My Server"}, "npm", "x", (), "my-server"),
    ],
)
def test_sources(entry: dict[str, object], source: str, target: str, args: tuple[str, ...], name: str) -> None:
    spec = server(**entry)
    assert (spec.source, spec.target, spec.args, spec.name) == (source, target, args, name)


def test_a_server_holds_what_it_was_given() -> None:
    spec = server(
        npm="x", tools=["a", "b", "a"], env={"A": "1", "N": 2}, auth="gh", fs={"read": ["src/"], "write": "./out"},
        net={"allow": ["api.example.com:8443"]}, limits={"mem": "256m"}, **{"as": "@git/hub"}, labels={"close": ["destructive"]},
        validate=True,
    )  # fmt: skip
    assert spec.validate
    assert not server(npm="x").validate
    assert spec.tools == ("a", "b")
    assert spec.env == {"A": "1", "N": "2"}
    assert spec.auth == ("gh",)
    assert spec.files.read == (PathRule(path="src"),)
    assert spec.files.write == (PathRule(path="out"),)
    assert spec.network.allow
    assert (spec.network.allow[0].host, spec.network.allow[0].ports) == ("api.example.com", (8443,))
    assert spec.limits.memory_bytes == 256 * 2**20
    assert spec.alias == "gitHub"
    assert spec.labels == {"close": ("destructive",)}


def test_tools_absent_star_and_empty() -> None:
    assert server(npm="x").tools == server(npm="x", tools="*").tools == "*"
    assert server(npm="x", tools=[]).tools == ()


def test_names_are_made_unique_and_ours_are_taken() -> None:
    made = parse_mcp_config({"servers": [{"npm": "a/x"[2:]}, {"python": "x"}, {"command": "x"}, {"command": "agent"}]})
    assert [spec.name for spec in made.servers] == ["x", "x-2", "x-3", "agent-2"]


def test_the_text_may_be_json() -> None:
    value = {"servers": [{"npm": "x"}], "lifecycle": {"startupTimeoutMs": 5, "maxConcurrent": 2}}
    assert parse_mcp_config(json.dumps(value)) == parse_mcp_config(value)
    assert parse_mcp_config(value).lifecycle == Lifecycle(startup_timeout_ms=5, max_concurrent=2)


# ── A12: each malformed shape, with its path and its line ───────────────────────────────────────────


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "mcpConfig must be an object such as { servers: [ … ] }, or null for no servers, got a number"),
        ([], "mcpConfig must be an object such as"),
        (True, "mcpConfig must be an object such as"),
        ("not json", "mcpConfig is text that is not JSON (line 1, column 1)"),
        ("[1]", "mcpConfig must be an object"),
        ("[" * 100_000, "mcpConfig is text that is not JSON"),
        ({"server": []}, "mcpConfig has no key 'server'"),
        ({"servers": {}}, "mcpConfig.servers must be a list of servers, got an object"),
        ({"servers": ["npx x"]}, "mcpConfig.servers[0] must be an object, got a string"),
        ({"servers": [None]}, "mcpConfig.servers[0] must be an object, got null"),
        ({"servers": [{}]}, "mcpConfig.servers[0] must have exactly one of module, command, npm, python, image or url, and"),
        ({"servers": [{"npm": "a", "command": "b"}]}, "npm, python, image or url, and has command and npm"),
        ({"servers": [{"npm": "a"}, {"command": 3}]}, "mcpConfig.servers[1].command must be a string, got a number"),
        ({"servers": [{"command": " "}]}, "mcpConfig.servers[0].command must be a string, and is empty"),
        ({"servers": [{"command": "node 'x"}]}, "mcpConfig.servers[0].command cannot be split as a shell would"),
        ({"servers": [{"command": "x\0y"}]}, "mcpConfig.servers[0].command holds a NUL character"),
        ({"servers": [{"comand": "x"}]}, "mcpConfig.servers[0] has no key 'comand'"),
        ({"servers": [{"npm": "a b"}]}, "mcpConfig.servers[0].npm is no npm package: 'a b'"),
        ({"servers": [{"npm": "--registry=http://x"}]}, "mcpConfig.servers[0].npm is no npm package"),
        ({"servers": [{"npm": "git+https://x/y"}]}, "mcpConfig.servers[0].npm is no npm package"),
        ({"servers": [{"python": "-r x"}]}, "mcpConfig.servers[0].python is no Python package"),
        ({"servers": [{"python": "x @ http://y"}]}, "mcpConfig.servers[0].python is no Python package"),
        ({"servers": [{"image": "--privileged"}]}, "mcpConfig.servers[0].image is no image reference"),
        ({"servers": [{"url": "ftp://x"}]}, "mcpConfig.servers[0].url is no http(s) URL"),
        ({"servers": [{"url": "https://u:p@x/"}]}, "mcpConfig.servers[0].url holds a password"),
        ({"servers": [{"url": "https://x/", "args": ["a"]}]}, "mcpConfig.servers[0].url cannot have args"),
        ({"servers": [{"module": "tickets"}]}, "mcpConfig.servers[0].module is no module: 'tickets'"),
        ({"servers": [{"npm": "x", "args": "a b"}]}, "mcpConfig.servers[0].args must be a list of strings, got a string"),
        ({"servers": [{"npm": "x", "args": [1]}]}, "mcpConfig.servers[0].args[0] must be a string, got a number"),
        ({"servers": [{"npm": "x", "tools": "echo"}]}, "mcpConfig.servers[0].tools must be \"*\" or a list of strings, got 'echo'"),
        ({"servers": [{"npm": "x", "tools": [1]}]}, "mcpConfig.servers[0].tools[0] must be a string, got a number"),
        ({"servers": [{"npm": "x", "env": ["A=1"]}]}, "mcpConfig.servers[0].env must be an object, got a list"),
        ({"servers": [{"npm": "x", "env": {"A B": "1"}}]}, "mcpConfig.servers[0].env.A B is no name of a variable"),
        ({"servers": [{"npm": "x", "env": {"A": ["1"]}}]}, "mcpConfig.servers[0].env.A must be a string, got a list"),
        ({"servers": [{"npm": "x", "as": ""}]}, "mcpConfig.servers[0].as must be a name, and is empty"),
        ({"servers": [{"npm": "x", "as": "a b"}]}, "mcpConfig.servers[0].as is no name: 'a b'"),
        ({"servers": [{"npm": "x", "name": "!"}]}, "mcpConfig.servers[0].name has no letter or digit"),
        ({"servers": [{"npm": "x", "name": "agent"}]}, "mcpConfig.servers[0].name is taken: 'agent'"),
        ({"servers": [{"npm": "x", "name": "a"}, {"npm": "y", "name": "A"}]}, "mcpConfig.servers[1].name is taken: 'a'"),
        ({"servers": [{"npm": "x", "fs": ["a"]}]}, "mcpConfig.servers[0].fs must be an object such as"),
        ({"servers": [{"npm": "x", "fs": {"read": ["a:/b"]}}]}, "mcpConfig.servers[0].fs.read[0] cannot be 'a:/b'"),
        ({"servers": [{"npm": "x", "fs": {"write": ["../up"]}}]}, "mcpConfig.servers[0].fs.write[0] cannot be '../up'"),
        ({"servers": [{"npm": "x", "fs": {"write": ["*.py"]}}]}, "mcpConfig.servers[0].fs.write[0] cannot be a pattern"),
        ({"servers": [{"npm": "x", "net": "host"}]}, 'mcpConfig.servers[0].net cannot be "host"'),
        ({"servers": [{"npm": "x", "net": {"allow": ["10.0.0.1"]}}]}, "mcpConfig.servers[0].net.allow[0] is no host"),
        ({"servers": [{"npm": "x", "limits": {"cpu": "many"}}]}, "mcpConfig.servers[0].limits.cpu must be a number of processors"),
        ({"servers": [{"npm": "x", "limits": {"cpu": float("nan")}}]}, "mcpConfig.servers[0].limits.cpu must be a number"),
        ({"servers": [{"npm": "x", "auth": 3}]}, "mcpConfig.servers[0].auth must be a name of an auth declaration"),
        ({"servers": [{"npm": "x", "labels": {"t": ["a b"]}}]}, "mcpConfig.servers[0].labels.t holds 'a b', which is no label"),
        ({"servers": [{"npm": "x"}] * 65}, "mcpConfig.servers has more than 64 servers"),
        ({"lifecycle": 3}, "mcpConfig.lifecycle must be an object, got a number"),
        ({"lifecycle": {"startupTimeout": 3}}, "mcpConfig.lifecycle has no key 'startupTimeout'"),
        ({"lifecycle": {"idleTimeoutMs": "1s"}}, "mcpConfig.lifecycle.idleTimeoutMs must be a whole number, got a string"),
        ({"lifecycle": {"maxConcurrent": 0}}, "mcpConfig.lifecycle.maxConcurrent must be a whole number of at least 1, got 0"),
        ({"lifecycle": {"maxConcurrent": 1.5}}, "mcpConfig.lifecycle.maxConcurrent must be a whole number, got a number"),
    ],
)  # fmt: skip
def test_A12_each_malformed_shape_names_its_path(value: object, message: str) -> None:
    with pytest.raises(ConfigFault) as caught:
        parse_mcp_config(value)
    assert message in caught.value.message
    assert caught.value.exit_code == 3


def test_A12_the_line_is_shown_with_a_caret() -> None:
    text = 'exe @mcpConfig() = {\n  servers: [\n    { npm: "x" },\n    { command: 3 }\n  ]\n}\n'
    source = Source(name=".mlld/env/my/index.mld", text=text)
    spans: dict[Path, Span] = {
        (): source.span(19, len(text)),
        ("servers",): source.span(text.index("[")),
        ("servers", 1): source.span(text.index("{ command")),
        ("servers", 1, "command"): source.span(text.index("3"), text.index("3") + 1),
    }
    with pytest.raises(ConfigFault) as caught:
        parse_mcp_config({"servers": [{"npm": "x"}, {"command": 3}]}, locate=spans.get)
    assert caught.value.render() == (
        ".mlld/env/my/index.mld:4:16: error[config]: mcpConfig.servers[1].command must be a string, got a number\n"
        "   4 |     { command: 3 }\n"
        "     |                ^"
    )
    with pytest.raises(ConfigFault) as nearest:
        parse_mcp_config({"servers": [{"npm": "x"}, {"npm": "x", "tools": [3]}]}, locate=spans.get)
    assert nearest.value.span
    assert nearest.value.span.line == 4  # what has no place of its own is shown at what holds it


def test_A12_a_secret_value_is_never_told() -> None:
    with pytest.raises(ConfigFault) as caught:
        parse_mcp_config({"servers": [{"npm": "x", "env": {"T": ["hunter2"]}}]})
    assert "hunter2" not in caught.value.render()


# ── A10: names in any of their spellings ────────────────────────────────────────────────────────────

OFFERED = ["list_issues", "createIssue", "get-file", "HTTPGet"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("*", OFFERED),
        ([], []),
        (["list_issues"], ["list_issues"]),
        (["listIssues"], ["list_issues"]),
        (["create_issue"], ["createIssue"]),
        (["createIssue"], ["createIssue"]),
        (["getFile", "get_file"], ["get-file"]),
        (["http_get"], ["HTTPGet"]),
        (["HTTPGet", "list_issues"], ["list_issues", "HTTPGet"]),
    ],
)
def test_A10_names_match_in_every_form(wanted: str | list[str], found: list[str]) -> None:
    assert list(match_tools(wanted, OFFERED)) == found


def test_A10_an_exact_name_means_that_tool_alone() -> None:
    assert match_tools(["get_file"], ["get_file", "getFile"]) == ("get_file",)
    assert match_tools(["get-file"], ["get_file", "getFile"]) == ("get_file", "getFile")


def test_A10_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(UnknownTool) as caught:
        match_tools(["listIssue"], OFFERED, server="github")
    assert caught.value.message == (
        "server 'github' has no tool 'listIssue': it has list_issues, createIssue, get-file or HTTPGet"
    )
    assert caught.value.hint == "did you mean 'list_issues'?"
    with pytest.raises(UnknownTool, match="it has none"):
        match_tools(["a"], [])
    with pytest.raises(UnknownTool):
        match_tools(["LIST_ISSUES_"], ["list_issue"])

"""Whatever a module hands over as configuration, the answer is a configuration or a fault with a path: never a crash (P13)."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interpreter.environment_config import derive, parse_config
from interpreter.environment_mcp import SOURCES, match_tools, parse_mcp_config, slug
from interpreter.environment_narrow import WideningFault
from interpreter.errors import MlldError
from interpreter.evaluate.frontmatter import parse_yaml
from interpreter.policy import judge
from interpreter.policy_danger import dangers
from interpreter.policy_parse import from_json, parse_auth, parse_policy
from interpreter.policy_patterns import path_matches
from interpreter.policy_reader import ConfigFault, Reader
from interpreter.policy_subjects import Operation, programs, spellings
from interpreter.profiles import parse_needs, parse_profiles

TEXT = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["*", "cmd:git:*", "fs:w:src", "net:a.org", "src:mcp", "512m", "@local/x", ""]),
)
KEYS = st.one_of(
    TEXT,
    st.sampled_from(
        ["allow", "deny", "danger", "labels", "defaults", "rules", "env", "tools", "mcps", "net", "limits", "auth",
         "keychain", "servers", "lifecycle", "name", "args", "as", "fs", "read", "write", "profiles", "requires", "cmd",
         "network", "node", "mem", "operations", "providers", "bind", "mcp", *SOURCES]
    ),
)  # fmt: skip
ANY = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 2**70), st.floats(), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)


@given(ANY)
@settings(max_examples=300)
def test_any_value_is_a_policy_or_a_fault(value: object) -> None:
    try:
        made = parse_policy(value, name="p")
    except ConfigFault:
        return
    assert from_json(made.json()) == made
    judge(made, Operation(kind="cmd", command="git push -f"))


@given(ANY)
@settings(max_examples=300)
def test_any_value_is_servers_or_a_fault(value: object) -> None:
    try:
        made = parse_mcp_config(value)
    except ConfigFault:
        return
    assert len({server.name for server in made.servers}) == len(made.servers)
    for server in made.servers:
        assert slug(server.name) == server.name
        assert "\0" not in server.target + "".join(server.args)


@given(ANY)
@settings(max_examples=300)
def test_any_value_is_a_configuration_or_a_fault(value: object) -> None:
    for read in (parse_config, parse_needs, parse_profiles):
        with contextlib.suppress(ConfigFault):
            read(value)


@given(st.dictionaries(KEYS, ANY, max_size=4), st.dictionaries(KEYS, ANY, max_size=4))
@settings(max_examples=200)
def test_a_derived_configuration_never_widens(parent: dict[str, object], child: dict[str, object]) -> None:
    try:
        made = derive(parent, child)
    except MlldError:
        return
    try:
        derive(parent, made)
    except WideningFault as fault:  # pragma: no cover - the failure is the point
        pytest.fail(f"widened: {fault.differences}")


@given(ANY)
def test_any_value_is_an_auth_or_a_fault(value: object) -> None:
    try:
        made = parse_auth(Reader(value=value, name="auth @x"), "x")
    except ConfigFault:
        return
    assert made.source.split(":")[0] in ("env", "keychain", "command")


@given(st.text(alphabet="ab'\"`$()<>|&;\\\n \t{}=-#*~/", max_size=40))
@settings(max_examples=500)
def test_any_command_line_is_read_or_refused(text: str) -> None:
    try:
        found = list(programs(text))
    except ValueError:
        return
    assert all(words and words[0] for words in found)
    list(dangers(Operation(kind="cmd", command=text)))


@given(st.text(max_size=30), st.text(max_size=30))
def test_paths_never_leave_what_they_lie_in(path: str, glob: str) -> None:
    for spelling in spellings(path, root="/p", home="/h"):
        assert ".." not in spelling.split("/")
    assert isinstance(path_matches(glob, path), bool)


@pytest.mark.parametrize(
    "text",
    [
        "$(" * 5000,
        "(" * 100_000,
        "sh -c '" * 200,
        "env " * 20_000 + "x",
        "a;" * 20_000,
        "`" * 9999,
        "\\" * 99_999,
        "find . " + "-exec find . " * 300,
        "eval " * 2000 + "x",
        "a" * 1_000_000,
        "claude -p '" + "some words, " * 90_000 + "'",
        "x " + "\\a'b'\"c\"" * 100_000,
    ],
    ids=[
        "substitutions",
        "parentheses",
        "shells",
        "wrappers",
        "list",
        "backticks",
        "backslashes",
        "find",
        "eval",
        "long",
        "prompt",
        "pieces",
    ],
)
def test_a_hostile_command_line_does_not_take_forever(text: str) -> None:
    before = time.process_time()
    judge(parse_policy({"deny": ["cmd:curl"]}, name="p"), Operation(kind="cmd", command=text))
    assert time.process_time() - before < 5


@pytest.mark.parametrize("glob", ["*" * 30 + "x", "**/" * 12 + "x", "a*" * 25 + "b"])
def test_a_hostile_pattern_does_not_take_forever(glob: str) -> None:
    before = time.process_time()
    path_matches(glob, "a" * 60)
    path_matches(glob, "a/" * 30)
    assert time.process_time() - before < 5


def test_ten_thousand_tools_are_matched_at_once() -> None:
    names = [f"tool_{n}" for n in range(10_000)]
    before = time.process_time()
    assert match_tools(["tool9999", "tool_5"], names) == ("tool_5", "tool_9999")
    assert time.process_time() - before < 5


def test_aliases_in_yaml_cannot_write_a_huge_value() -> None:
    fine = "a: &a [1, 2]\nb: [*a, *a]\n"
    assert parse_yaml(fine) == {"a": [1, 2], "b": [[1, 2], [1, 2]]}
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
    )
    with pytest.raises(ValueError, match="more than 1,000,000 parts"):
        parse_yaml(bomb)
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_yaml("a: &a [*a]\n")

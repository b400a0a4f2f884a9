"""Policy decides by meaning, with a reason (semantics §7, A16, A19)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interpreter.labels import Labels
from interpreter.policy import Allowed, Denied, Policy, added_labels, judge, union
from interpreter.policy_parse import from_json, parse_policy
from interpreter.policy_patterns import BadPattern, Pattern, covers, meet, parse_host, parse_pattern
from interpreter.policy_reader import ConfigFault
from interpreter.policy_subjects import Operation, programs, spellings
from interpreter.source import Source


def policy(value: object, name: str = "p") -> Policy:
    return parse_policy(value, name=name)


def command(text: str, *inputs: Labels, labels: tuple[str, ...] = ()) -> Operation:
    return Operation(kind="cmd", command=text, inputs=inputs, labels=labels)


def allowed(rules: Policy, operation: Operation) -> bool:
    return isinstance(judge(rules, operation), Allowed)


def denial(rules: Policy, operation: Operation) -> Denied:
    decision = judge(rules, operation)
    assert isinstance(decision, Denied), decision
    return decision


# ── Capabilities ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rules", "yes", "no"),
    [
        ({"deny": ["cmd:git:push"]}, ["git status", "echo push"], ["git push", "git push origin main"]),
        ({"allow": ["cmd:git:status"]}, ["git status"], ["git status -s", "git push", "ls"]),
        ({"allow": ["cmd:git:status:*"]}, ["git status -s"], ["git log"]),
        ({"allow": {"cmd": ["git:*", "echo"]}}, ["git push", "echo hi there"], ["ls"]),
        ({"allow": {"cmd": {"git": ["status", "log"]}}}, ["git log"], ["git push"]),
        ({"capabilities": {"deny": ["cmd:curl"]}}, ["wget x"], ["curl x"]),
        ({"deny_cmd": ["curl"]}, ["wget x"], ["curl x", "/usr/bin/curl x", "FOO=1 curl x"]),
        ({"deny": "cmd"}, [], ["ls"]),
        ({"deny": True}, [], ["ls"]),
        ({"default": "deny"}, [], ["ls"]),
        ({"default": "deny", "allow": ["cmd:ls"]}, ["ls -l"], ["cat x"]),
        ({"allow": []}, [], ["ls"]),
        ({"deny": ["cmd:git"], "allow": ["cmd:git:status"]}, ["git status"], ["git push"]),
        ({"deny": ["cmd:git:push"], "allow": ["cmd:git:push"]}, [], ["git push"]),
        ({"deny": {"cmd": True, "sh": False}}, [], ["ls"]),
    ],
)
def test_capability_lists(rules: dict[str, object], yes: list[str], no: list[str]) -> None:
    for text in yes:
        assert allowed(policy(rules), command(text)), text
    for text in no:
        assert not allowed(policy(rules), command(text)), text


@pytest.mark.parametrize(
    "text",
    [
        "ls | curl x",
        "ls; curl x",
        "ls && curl x",
        "ls || curl x",
        "ls & curl x",
        "ls\ncurl x",
        "echo $(curl x)",
        'echo "$(curl x)"',
        "echo `curl x`",
        "cat <(curl x)",
        "(curl x)",
        "env A=1 curl x",
        "env -i curl x",
        "timeout 5 curl x",
        "xargs -n 1 curl",
        "nohup nice curl x",
        "sh -c 'curl x'",
        "bash -lc 'ls; curl x'",
        "eval curl x",
        "sh -c \"sh -c 'curl x'\"",
        "CURL x",
        "/usr/bin/../bin/curl x",
        "c\\\nurl x",
        "c'ur'l x",
        "{ curl x; }",
        "! curl x",
        "if true; then curl x; fi",
        "$(echo $(curl x))",
    ],
)
def test_cannot_hide_a_denied_command(text: str) -> None:
    assert not allowed(policy({"deny": ["cmd:curl"]}), command(text))


def test_a_quoted_name_is_not_a_command() -> None:
    assert allowed(policy({"deny": ["cmd:curl"]}), command("echo 'curl x' \"; curl\" '$(curl x)'"))


@pytest.mark.parametrize("text", ["echo 'open", "echo $(open", "echo `open", "rm -rf x # " + "a" * (4 << 20)])
def test_what_cannot_be_read_is_refused_by_any_policy(text: str) -> None:
    for rules in ({"deny": ["cmd:curl"]}, {"labels": {"pii": {"deny": ["net:w"]}}}, {}):
        assert "cannot be read" in denial(policy(rules), command(text)).reason
    assert allowed(Policy(), command(text))
    assert allowed(policy({}), Operation(kind="sh", command=text))


def test_other_languages_need_their_own_permission() -> None:
    rules = policy({"allow": ["cmd:ls", "js"]})
    verdicts = {kind: allowed(rules, Operation(kind=kind)) for kind in ("sh", "js", "node", "py")}
    assert verdicts == {"sh": False, "js": True, "node": False, "py": False}
    assert (
        "shell code is not allowed by policy @p, which allows cmd:ls, js" in denial(rules, Operation(kind="sh")).reason
    )


def test_a_shell_within_a_command_is_a_shell() -> None:
    assert not allowed(policy({"deny": ["bash"]}), command("sh -c ls"))
    assert not allowed(policy({"deny": ["sh"]}), command("env bash -c ls"))
    assert not allowed(policy({"deny": ["cmd:curl"]}), Operation(kind="sh", command="ls\ncurl x"))


def test_a_denied_network_denies_its_programs() -> None:
    assert not allowed(policy({"deny": ["net"]}), command("wget x"))
    assert allowed(policy({"deny": ["net:evil.example"]}), command("wget x"))
    assert allowed(policy({"allow": ["cmd:wget"]}), command("wget x"))


@pytest.mark.parametrize(
    ("rules", "kind", "path", "yes"),
    [
        ({"deny": ["fs:w:src/**"]}, "output", "src/a.py", False),
        ({"deny": ["fs:w:src/**"]}, "output", "out/a.py", True),
        ({"deny": ["fs:w:src/**"]}, "read", "src/a.py", True),
        ({"deny": {"filesystem": True}}, "read", "a", False),
        ({"deny": {"fs": {"write": ["*.md"]}}}, "append", "a.md", False),
        ({"deny": {"fs": {"write": ["*.md"]}}}, "append", "d/a.md", True),
        ({"allow": ["fs:rw:out"]}, "output", "out/a/b", True),
        ({"allow": ["fs:r:out"]}, "output", "out/a", False),
        ({"allow": ["fs:w:out"]}, "read", "out/a", True),
        ({"allow": ["fs:w:out"]}, "read", "other", False),
        ({"allow": ["cmd:ls"]}, "read", "other", True),
        ({"allow": ["cmd:ls"]}, "output", "other", False),
        ({"allow": ["fs:w:out"]}, "output", "out/../src/a", False),
        ({"allow": ["fs:w:/home/me/p/out"]}, "output", "out/a", True),
        ({"deny": ["fs:w:~/p/**"]}, "output", "a", False),
    ],
)
def test_files(rules: dict[str, object], kind: str, path: str, yes: bool) -> None:
    paths = spellings(path, root="/home/me/p", home="/home/me")
    assert allowed(policy(rules), Operation(kind=kind, paths=paths)) is yes


# ── Danger ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "opened_by"),
    [
        ("rm -rf build", "cmd:rm:-r:-f"),
        ("rm -f -r build", "cmd:rm:*:-rf"),
        ("rm --recursive --force build", "cmd:rm"),
        ("sudo ls", "cmd:sudo"),
        ("git push origin --force", "cmd:git:push:--force"),
        ("git push -f", "cmd:git:push"),
        ("ls | chmod 777 x", "cmd:chmod"),
        ("cat ~/.ssh/id_rsa", "fs:r:~/.ssh/*"),
        ("claude --dangerously-skip-permissions", "*"),
    ],
)
def test_danger_needs_an_entry_of_its_own(text: str, opened_by: str) -> None:
    plain = {"allow": ["cmd:*"]}
    refused = denial(policy(plain), command(text))
    assert refused.gate == "danger"
    assert not refused.overridable
    opened = policy({**plain, "danger": [opened_by]})
    assert allowed(opened, command(text)), judge(opened, command(text))
    assert not allowed(policy({**plain, "danger": ["cmd:never"]}), command(text))


def test_the_keychain_needs_danger_and_permission() -> None:
    entry = Operation(kind="secret", name="mlld-box-demo/github", project="demo")
    assert denial(policy({}), entry).rule == "danger list: @keychain"
    open_to = {"danger": ["@keychain"], "keychain": {"allow": ["mlld-box-{projectname}/*"], "deny": ["*/blocked"]}}
    assert allowed(policy(open_to), entry)
    for name in ("mlld-box-other/github", "mlld-box-demo/blocked", "mlld-box-{projectname}/github"):
        refused = denial(policy(open_to), Operation(kind="secret", name=name, project="demo"))
        assert refused.gate == "keychain"
    assert not allowed(policy({"danger": ["@keychain"], "keychain": {"allow": []}}), entry)


def test_danger_is_opened_only_by_all_who_speak_of_it() -> None:
    one, other, silent = policy({"danger": ["cmd:rm"]}, "a"), policy({"danger": []}, "b"), policy({}, "c")
    assert allowed(one | silent, command("rm -rf x"))
    assert not allowed(one | other, command("rm -rf x"))
    assert not allowed(silent, command("rm -rf x"))
    assert allowed(Policy(), command("rm -rf x"))


def test_harmless_neighbours_of_danger() -> None:
    rules = policy({})
    for text in ("rm x", "git push", "git remote -v", "curl -o t x", "ls -t", "grep -rf x"):
        assert allowed(rules, command(text)), text


# ── Label flow ──────────────────────────────────────────────────────────────────────────────────────

MCP = Labels.of(automatic=["src:mcp"])
SECRET = Labels.of("secret")


def test_the_policy_of_the_target_example() -> None:
    rules = policy({"labels": {"secret": {"deny": ["net:w"]}, "src:mcp": {"deny": ["op:cmd:git:push", "destructive"]}}})
    assert denial(rules, command("git push", MCP)).reason == "Label 'src:mcp' cannot flow to 'op:cmd:git:push'"
    assert denial(rules, command("rm x", MCP, labels=("destructive",))).rule == "policy @p: labels.src:mcp.deny"
    assert allowed(rules, command("git status", MCP))
    assert not allowed(rules, Operation(kind="exe", name="createIssue", labels=("net:w",), inputs=(SECRET,)))
    assert allowed(rules, Operation(kind="exe", name="createIssue", labels=("net:w",), inputs=(MCP,)))


@pytest.mark.parametrize(
    ("rules", "yes"),
    [
        ({"src": {"deny": ["op:cmd"]}}, False),  # prefix on the side of data
        ({"sr": {"deny": ["op:cmd"]}}, True),
        ({"src:mcp:x": {"deny": ["op:cmd"]}}, True),
        ({"*": {"deny": ["op:cmd"]}}, False),
        ({"src:mcp": {"deny": ["op:cmd"], "allow": ["op:cmd:git"]}}, True),  # the more specific wins
        ({"src:mcp": {"deny": ["op:cmd:git"], "allow": ["op:cmd"]}}, False),
        ({"src:mcp": {"deny": ["op:cmd:git"], "allow": ["op:cmd:git"]}}, False),  # ties deny
        ({"src": {"deny": ["*"]}, "src:mcp": {"allow": ["op:cmd"]}}, True),
        ({"src:mcp": {"allow": ["op:show"]}}, False),  # an allow list alone is exhaustive
        ({"src:mcp": {"allow": []}}, False),
        ({"src:mcp": {"deny": []}}, True),
    ],
)
def test_label_rules(rules: dict[str, object], yes: bool) -> None:
    assert allowed(policy({"labels": rules}), command("git status", MCP)) is yes


def test_risks_are_filed_by_operations() -> None:
    rules = policy(
        {"labels": {"src:mcp": {"deny": ["destructive"]}}, "operations": {"destructive": ["tool:w", "op:cmd:rm"]}}
    )
    assert not allowed(rules, Operation(kind="exe", labels=("tool:w:mail",), inputs=(MCP,)))
    assert not allowed(rules, command("rm x", MCP))
    assert allowed(rules, command("ls", MCP))


def test_tools_of_servers_have_operation_labels() -> None:
    rules = policy({"labels": {"secret": {"deny": ["op:mcp:github"]}}})
    call = Operation(kind="mcp", server="github", tool="create_issue", inputs=(SECRET,))
    assert call.operation_labels == ("op:mcp:github:create_issue", "op:mcp:github", "op:mcp")
    assert not allowed(rules, call)
    assert allowed(rules, Operation(kind="mcp", server="git", tool="status", inputs=(SECRET,)))


@pytest.mark.parametrize(
    ("rule", "data", "target"),
    [
        ("no-secret-exfil", "secret", "exfil"),
        ("no-sensitive-exfil", "sensitive", "exfil:send"),
        ("no-untrusted-destructive", "untrusted", "destructive"),
        ("no-untrusted-privileged", "untrusted", "privileged"),
        ("no-influenced-advice", "influenced", "advice"),
    ],
)
def test_built_in_rules(rule: str, data: str, target: str) -> None:
    call = Operation(kind="exe", labels=(target,), inputs=(Labels.of(data),))
    on = policy({"defaults": {"rules": [rule]}, "labels": {data: {"allow": [target], "deny": []}}})
    refused = denial(on, call)
    assert refused.gate == "rule"
    assert refused.overridable
    assert rule in refused.reason
    assert allowed(policy({}), call)
    assert allowed(on, Operation(kind="exe", labels=(target,), inputs=(Labels.of("other"),)))


def test_the_first_argument_must_be_known() -> None:
    rules = policy({"defaults": {"rules": ["no-send-to-unknown", "no-destroy-unknown"]}})
    send = Operation(kind="exe", labels=("exfil:send",))
    assert not allowed(rules, send)
    known, body = Labels.of("known"), Labels.of("pii")
    assert allowed(rules, Operation(kind="exe", labels=("exfil:send",), inputs=(known, body)))
    assert not allowed(rules, Operation(kind="exe", labels=("exfil:send",), inputs=(body, known)))
    internal = policy({"defaults": {"rules": ["no-send-to-external"]}})
    assert not allowed(internal, Operation(kind="exe", labels=("exfil:send",), inputs=(known,)))
    assert allowed(internal, Operation(kind="exe", labels=("exfil:send",), inputs=(Labels.of("known:internal"),)))


def test_unlabelled_data_counts_as_untrusted_only_when_said() -> None:
    rule = {"rules": ["no-untrusted-destructive"]}
    call = Operation(kind="exe", labels=("destructive",), inputs=(MCP,))
    assert allowed(policy({"defaults": rule}), call)
    assert not allowed(policy({"defaults": {**rule, "unlabeled": "untrusted"}}), call)
    literal = Operation(kind="exe", labels=("destructive",), inputs=(Labels(),))
    assert allowed(policy({"defaults": {**rule, "unlabeled": "untrusted"}}), literal)


def test_what_an_llm_says_to_untrusted_data_is_influenced() -> None:
    rules = policy({"defaults": {"rules": ["untrusted-llms-get-influenced"]}})
    asked = Operation(kind="exe", labels=("llm",), inputs=(Labels.of("untrusted"),))
    assert added_labels(rules, asked) == ("influenced",)
    assert added_labels(rules, Operation(kind="exe", labels=("llm",))) == ()
    assert added_labels(policy({}), asked) == ()


# ── Composition: A19 ────────────────────────────────────────────────────────────────────────────────


def test_A19_allow_lists_intersect_by_meaning() -> None:
    both = policy({"allow": {"cmd": ["git:*"]}}, "a") | policy({"allow": ["cmd:git:status"]}, "b")
    assert [str(p) for p in both.allow or ()] == ["cmd:git:status"]
    assert allowed(both, command("git status"))
    assert not allowed(both, command("git push"))


def test_A19_an_absent_allow_is_no_constraint_and_an_empty_one_is_nothing() -> None:
    silent, empty = policy({"deny": ["cmd:curl"]}, "a"), policy({"allow": []}, "b")
    listed = policy({"allow": ["cmd:git"]}, "c")
    assert allowed(silent | policy({"deny": ["cmd:wget"]}), command("ls"))
    assert allowed(silent | listed, command("git log"))
    assert (silent | listed).allow == (Pattern(kind="cmd", tokens=("git",)),)
    assert (listed | empty).allow == ()
    assert not allowed(listed | empty, command("git log"))


def test_A19_no_layer_widens_another() -> None:
    strict, specific = policy({"deny": ["cmd:git"]}, "a"), policy({"allow": ["cmd:git:status"]}, "b")
    assert not allowed(strict | specific, command("git status"))
    flow = policy({"labels": {"src:mcp": {"deny": ["op:cmd"]}}}, "a")
    lifting = policy({"labels": {"src:mcp": {"allow": ["op:cmd:git:push"], "deny": []}}}, "b")
    assert not allowed(flow | lifting, command("git push", MCP))


def test_A19_rules_unite_untrusted_wins_and_locked_sticks() -> None:
    one = policy({"defaults": {"rules": ["no-secret-exfil"], "unlabeled": "trusted"}}, "a")
    other = policy({"defaults": {"rules": ["no-sensitive-exfil"], "unlabeled": "untrusted"}, "locked": True}, "b")
    both = union([one, other, one])
    assert len(both.layers) == 2
    assert both.rules == ("no-secret-exfil", "no-sensitive-exfil")
    assert both.unlabeled == "untrusted"
    assert both.locked
    call = Operation(kind="exe", labels=("exfil",), inputs=(SECRET,))
    assert denial(one, call).overridable
    assert not denial(both, call).overridable


WORDS = st.sampled_from(["git", "status", "push", "ls", "*"])
LISTS = st.one_of(
    st.none(), st.lists(st.lists(WORDS, min_size=1, max_size=3).map(lambda w: "cmd:" + ":".join(w)), max_size=3)
)
RULES = st.builds(
    lambda allow, deny: {k: v for k, v in (("allow", allow), ("deny", deny)) if v is not None}, LISTS, LISTS
)  # fmt: skip
LINES = [" ".join(words) for n in (1, 2, 3) for words in itertools.product(["git", "status", "push", "ls"], repeat=n)]


@given(RULES, RULES)
def test_A19_a_composition_allows_exactly_what_both_allow(one: dict[str, object], other: dict[str, object]) -> None:
    a, b = policy(one, "a"), policy(other, "b")
    for text in LINES[:40]:
        operation = command(text)
        assert allowed(a | b, operation) == (allowed(a, operation) and allowed(b, operation))
        assert allowed(a | b, operation) == allowed(b | a, operation)


def _matches(patterns: Iterable[Pattern], text: str) -> bool:
    return any(p.matches(subject) for p in patterns for subject, _ in command(text).subjects())


@given(LISTS, LISTS)
def test_A19_the_shown_list_means_the_intersection(one: list[str] | None, other: list[str] | None) -> None:
    a, b = policy({"allow": one or []}, "a"), policy({"allow": other or []}, "b")
    for text in LINES[:40]:
        shown = _matches((a | b).allow or (), text)
        assert shown == (_matches(a.allow or (), text) and _matches(b.allow or (), text)), text


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("cmd:git:*", "cmd:git:status", "cmd:git:status"),
        ("cmd:git:*:origin", "cmd:git:push", None),
        ("cmd:git:*:origin", "cmd:git:push:*", "cmd:git:push:origin:*"),
        ("fs:r:**", "fs:r:src", "filesystem:read:src"),
        ("fs:r:src/**", "fs:r:src/a", "filesystem:read:src/a"),
        ("fs:r:src", "fs:r:**/*.py", "filesystem:read:**/*.py&src"),
        ("net", "net:api.example.com", "network:api.example.com"),
        ("net:*.example.com", "net:api.example.com", "network:api.example.com"),
        ("net:*.example.com", "net:*.api.example.com", "network:*.api.example.com"),
        ("net:*.example.com", "net:example.com", None),
        ("net:a.example.com", "net:b.example.com", None),
        ("*", "sh", "sh"),
        ("sh", "cmd", None),
        ("mcp:github", "mcp:github:create_issue", "mcp:github:create_issue:*"),
    ],
)
def test_what_two_patterns_have_in_common(one: str, other: str, both: str | None) -> None:
    (a,), (b,) = parse_pattern(one, "allow"), parse_pattern(other, "allow")
    assert meet(a, b) == meet(b, a)
    assert (str(meet(a, b)) if meet(a, b) else None) == both
    assert meet(a, a) == a
    assert covers(a, a)


# ── Reading ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("value", "message", "hint"),
    [
        ({"alow": []}, "policy @p has no key 'alow'", "did you mean 'allow'?"),
        ({"deny": ["nework"]}, "policy @p.deny[0] is no capability", None),
        ({"deny": ["git:push"]}, "write 'cmd:git:push'", None),
        ({"deny": ["git push"]}, "write 'cmd:git push'", None),
        ({"deny": {"netwrk": True}}, "policy @p.deny.netwrk has no key", "did you mean 'network'?"),
        ({"deny": 3}, "policy @p.deny must be a list", None),
        ({"deny": [3]}, "policy @p.deny[0] must be a string, got a number", None),
        ({"defaults": {"rules": ["no-secret-exfill"]}}, "policy @p.defaults.rules[0] cannot be", "no-secret-exfil"),
        ({"defaults": {"unlabeled": "maybe"}}, "policy @p.defaults.unlabeled cannot be 'maybe'", "trusted"),
        ({"defaults": {"taint": "link"}}, "policy @p.defaults.taint cannot be 'link'", "session"),
        ({"labels": {"src:mcp": {"denny": []}}}, "policy @p.labels.src:mcp has no key 'denny'", "deny"),
        ({"labels": {"a b": {"deny": []}}}, "policy @p.labels.a b is no label", "src:mcp"),
        ({"env": {"net": {"allow": ["*"]}}}, "policy @p.env.net.allow[0] is no host: '*' is too wide", None),
        ({"env": {"net": {"allow": ["10.0.0.1"]}}}, "is an address", None),
        ({"env": {"net": {"allow": ["*.com"]}}}, "too wide", None),
        ({"env": {"net": "host"}}, 'policy @p.env.net cannot be "host"', "grant hosts"),
        ({"limits": {"mem": "lots"}}, "policy @p.limits.mem cannot be read: 'lots'", '"512m"'),
        ({"auth": {"gh": {"from": "op://x", "as": "T"}}}, "policy @p.auth.gh cannot be read from 'op:…'", "env:NAME"),
        ({"locked": "yes"}, "policy @p.locked must be true or false, got a string", None),
        ("deny all", "policy @p must be an object", None),
    ],
)
def test_errors_name_the_path_and_what_was_meant(value: object, message: str, hint: str | None) -> None:
    with pytest.raises(ConfigFault) as caught:
        policy(value)
    assert message in caught.value.message
    if hint:
        assert caught.value.hint
        assert hint in caught.value.hint
    assert caught.value.exit_code == 3


def test_a_decision_names_the_line() -> None:
    source = Source(name="index.mld", text='policy @p = {\n  deny: ["network",\n         "cmd:curl"]\n}\n')
    spans = {(): source.span(0), ("deny",): source.span(16), ("deny", 1): source.span(source.text.index('"cmd'))}
    rules = parse_policy({"deny": ["network", "cmd:curl"]}, name="p", locate=spans.get)
    assert str(denial(rules, command("curl x"))) == "policy @p: deny cmd:curl (index.mld:3:10)"
    assert str(denial(rules, command("wget x"))) == "policy @p: deny network (index.mld:2:3)"
    with pytest.raises(ConfigFault) as caught:
        parse_policy({"deny": ["network", "crl"]}, name="p", locate=spans.get)
    assert caught.value.span
    assert caught.value.span.line == 3
    assert "^" in caught.value.render()


def test_the_normal_form_survives_the_journey_into_the_sidecar() -> None:
    source = Source(name="index.mld", text="x" * 80)
    rules = parse_policy(
        {"allow": ["cmd:git"], "labels": {"secret": {"deny": ["op:mcp"]}}, "defaults": {"rules": ["no-secret-exfil"]},
         "env": {"tools": {"deny": ["x"]}, "net": {"allow": ["*.example.com"]}}, "locked": True},
        name="p", locate=lambda path: source.span(len(path)),
    ) | policy({"deny": ["net"]}, "q")  # fmt: skip
    assert from_json(rules.json()) == rules


@pytest.mark.parametrize(
    "text", ["", "a b", "http://x", "a..b", "-a.example", "127.1", "0x7f.0x1", "[::1]", "x:0", "x:99999"]
)
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(BadPattern):
        parse_host(text)


def test_hosts_have_one_spelling() -> None:
    assert parse_host("API.Example.com.").host == "api.example.com"
    assert parse_host("api.example.com:8443").ports == (8443,)


def test_the_words_of_a_command_line() -> None:
    assert list(programs("A=1 /usr/bin/Git push 'a b' > out.txt 2>&1 | tee x")) == [
        ("git", "push", "a b"),
        ("tee", "x"),
    ]

"""Needs and profiles (semantics §2; A1, A2, A3, A7)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from interpreter.declarations import CommandNeed, Needs, Package, Profile, ProfileChoice
from interpreter.policy import Policy, union
from interpreter.policy_parse import parse_policy
from interpreter.policy_reader import ConfigFault
from interpreter.profiles import ProfileFault, choose, grants, parse_needs, parse_profiles, warning
from interpreter.source import Source

FULL = {"full": {"requires": {"network": True, "sh": True}}, "git": {"requires": {"cmd": ["git"]}}, "readonly": {}}


def profiles(value: object = FULL) -> tuple[Profile, ...]:
    return parse_profiles(value)


def policy(*values: object) -> Policy:
    return union(parse_policy(value, name=f"p{n}") for n, value in enumerate(values))


def chosen(value: object, *policies: object, asked: str | None = None) -> ProfileChoice:
    choice = choose(profiles(value), policy(*policies), asked=asked)
    assert choice
    return choice


# ── A1: order and fall-back ─────────────────────────────────────────────────────────────────────────


def test_A1_the_first_permitted_profile_wins() -> None:
    assert chosen(FULL).profile.name == "full"
    assert chosen(FULL).reason == "first permitted"
    assert chosen(FULL, {"deny": ["network"]}).profile.name == "git"
    assert chosen(FULL, {"deny": ["network", "cmd:git"]}).profile.name == "readonly"
    assert chosen(dict(reversed(FULL.items()))).profile.name == "readonly"


def test_A1_none_permitted_falls_back_to_the_last_declared_and_says_why() -> None:
    only = {"full": FULL["full"], "net": {"requires": {"network": True}}}
    choice = chosen(only, {"deny": ["network"]})
    assert (choice.profile.name, choice.reason) == ("net", "last declared: none permitted")
    said = warning(choice)
    assert said
    for part in ("'net' is used", "'full' wants network (policy @p0: deny network)", "'net' wants network"):
        assert part in said
    assert choice.granted == frozenset()
    assert not grants(choice)


def test_A1_strict_makes_the_fall_back_an_error() -> None:
    with pytest.raises(ProfileFault, match="no profile is permitted by policy: 'full' wants network") as caught:
        choose(profiles({"full": FULL["full"]}), policy({"deny": ["network"]}), strict=True)
    assert caught.value.exit_code == 3
    assert choose(profiles(), policy({"deny": ["network"]}), strict=True)


def test_A1_no_profiles_no_choice() -> None:
    assert choose((), policy()) is None
    assert choose(profiles({}), policy({"deny": True})) is None


# ── A2: allow lists, aliases ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rules", "name"),
    [
        ({"allow": ["cmd:echo:*"]}, "readonly"),  # an allow list without network and sh permits neither
        ({"allow": ["network", "sh"]}, "full"),
        ({"allow": ["net", "bash"]}, "full"),
        ({"allow": {"net": True, "shell": True}}, "full"),
        ({"allow": ["network"]}, "readonly"),
        ({"allow": ["network:api.example.com", "sh"]}, "full"),  # some of it: each use is judged again
        ({"allow": ["cmd:git"]}, "git"),
        ({"allow": ["cmd:git:status"]}, "git"),
        ({"allow": []}, "readonly"),
        ({"default": "deny"}, "readonly"),
        ({"deny": ["net"]}, "git"),
        ({"deny": {"net": True}}, "git"),
        ({"deny": ["bash"]}, "git"),
        ({"deny": ["network:evil.example"]}, "full"),
        ({"deny": True}, "readonly"),
        ({"deny": ["net", "cmd:git"]}, "readonly"),
        ({"deny": ["net", "cmd:git:push"]}, "git"),
        ({"deny": ["net", "cmd"]}, "readonly"),
        ({"deny": ["net"], "allow": ["net", "sh"]}, "readonly"),
    ],
)
def test_A2_what_the_policy_permits(rules: object, name: str) -> None:
    assert chosen(FULL, rules).profile.name == name


@pytest.mark.parametrize(
    ("need", "denies"),
    [
        ({"fs": True}, ["fs"]),
        ({"filesystem": True}, ["fs"]),
        ({"fs": True}, ["filesystem"]),
        ({"bash": True}, ["sh"]),
        ({"net": True}, ["network"]),
        ({"git": True}, ["cmd:git"]),
        ({"cmd": ["git"]}, ["cmd:git"]),
        ({"cmd": ["/usr/bin/Git"]}, ["cmd:git"]),
        ({"cmd": {"git": ["push"]}}, ["cmd:git:push"]),
        ({"cmd": "*"}, ["cmd"]),
    ],
)
def test_A2_a_denial_under_another_name_is_the_same_denial(need: object, denies: list[str]) -> None:
    two = {"first": {"requires": need}, "last": {}}
    assert chosen(two, {"deny": denies}).profile.name == "last"
    assert chosen(two).profile.name == "first"


def test_A2_any_command_wants_all_of_them() -> None:
    two = {"any": {"requires": {"cmd": "*"}}, "last": {}}
    assert chosen(two, {"allow": ["cmd:git"]}).profile.name == "last"
    assert chosen(two, {"allow": ["cmd"]}).profile.name == "any"


def test_A2_reading_files_is_not_writing_them() -> None:
    two = {"files": {"requires": {"fs": True}}, "last": {}}
    assert chosen(two, {"allow": ["fs:r:**"]}).profile.name == "last"
    assert chosen(two, {"allow": ["fs:w:out"]}).profile.name == "files"
    assert chosen(two, {"deny": ["fs:r"]}).profile.name == "files"
    assert chosen(two, {"deny": ["fs:w"]}).profile.name == "last"


# ── A3: profiles of the configuration, and the one asked for ────────────────────────────────────────


def test_A3_the_profiles_of_the_configuration_come_before_those_of_the_module() -> None:
    config = profiles({"mine": {"requires": {"sh": True}}, "small": {}})
    assert choose(config, policy({"deny": ["sh"]}), module=profiles()).profile.name == "small"
    assert choose((), policy({"deny": ["net"]}), module=profiles()).profile.name == "git"


@pytest.mark.parametrize("asked", ["small", "full", "readonly"])
def test_A3_a_profile_may_be_asked_for_by_any_declared_name(asked: str) -> None:
    choice = choose(profiles({"small": {}}), policy(), asked=asked, module=profiles())
    assert choice
    assert (choice.profile.name, choice.reason) == (asked, "asked for")


def test_A3_an_unknown_name_lists_the_choices() -> None:
    with pytest.raises(ProfileFault) as caught:
        choose(profiles({"small": {}}), policy(), asked="ful", module=profiles())
    assert caught.value.message == "unknown profile 'ful': declared are full, git, readonly or small"
    assert caught.value.hint == "did you mean 'full'?"
    with pytest.raises(ProfileFault, match="declared are none"):
        choose((), policy(), asked="full")


def test_A3_a_profile_that_is_asked_for_grants_nothing() -> None:
    choice = chosen(FULL, {"deny": ["network"]}, asked="full")
    assert choice.profile.name == "full"
    assert choice.granted == {"sh"}
    assert set(grants(choice)) == {"sh"}
    assert warning(choice) == "profile 'full': network requested, denied by policy @p0: deny network"


@pytest.mark.parametrize("blank", [None, "", "  "])
def test_A3_a_blank_name_asks_for_nothing(blank: str | None) -> None:
    assert chosen(FULL, {"deny": ["net"]}, asked=blank).profile.name == "git"


# ── A7: the caller's policy flips the profile ───────────────────────────────────────────────────────


def test_A7_selection_is_judged_against_the_whole_composition() -> None:
    module, caller = {"allow": ["network", "sh", "cmd:git"]}, {"deny": ["net"]}
    assert chosen(FULL, module).profile.name == "full"
    assert chosen(FULL, module, caller).profile.name == chosen(FULL, caller, module).profile.name == "git"
    choice = chosen(FULL, module, caller)
    assert [(d.requirement, d.rule) for d in choice.denied["full"]] == [("network", "policy @p1: deny net")]


def test_grants_name_the_line_that_declares_them() -> None:
    source = Source(name="index.mld", text="profiles {\n  full: { requires: { network } }\n}")
    where = {("full",): source.span(13), (): source.span(0)}
    choice = choose(parse_profiles({"full": FULL["full"]}, locate=where.get), policy())
    assert {name: str(place) for name, place in grants(choice).items()} == {
        "network": "index.mld:2:3", "sh": "index.mld:2:3"
    }  # fmt: skip


# ── Normal form ─────────────────────────────────────────────────────────────────────────────────────


def test_aliases_have_one_form() -> None:
    one = parse_needs({"bash": True, "net": True, "fs": True, "js": ["a"], "py": ["b>=1"], "rb": ["c"]})
    other = parse_needs(
        {"sh": True, "network": True, "filesystem": True, "node": ["a"], "python": ["b>=1"], "ruby": ["c"]}
    )
    assert one == other
    assert parse_needs({"git": True, "cmd": ["curl"]}).commands == (CommandNeed(name="git"), CommandNeed(name="curl"))
    assert parse_needs({"sh": False, "git": False}) == Needs()


def test_commands_merge() -> None:
    assert parse_needs({"cmd": {"git": ["push"]}, "git": True}).commands == (
        CommandNeed(name="git", subcommands=("push",)),
    )
    assert parse_needs({"cmd": "*", "git": True}) == Needs(any_command=True)
    detail = {"gh": {"subcommands": ["issue"], "flags": ["--json"], "methods": ["GET"]}, "npm": "*", "jq": False}
    assert parse_needs({"cmd": detail}).commands == (
        CommandNeed(name="gh", subcommands=("issue",), flags=("--json",), methods=("GET",)),
        CommandNeed(name="npm"),
    )


@pytest.mark.parametrize(
    ("ecosystem", "text", "name", "specifier"),
    [
        ("node", "lodash", "lodash", ""),
        ("node", "lodash@^4.17", "lodash", "^4.17"),
        ("node", "@scope/pkg", "@scope/pkg", ""),
        ("node", "@scope/pkg@1.2", "@scope/pkg", "1.2"),
        ("python", "requests>=2.28,<3", "requests", ">=2.28,<3"),
        ("python", "uvicorn[standard]==0.3", "uvicorn[standard]", "==0.3"),
        ("go", "github.com/a/b@v1", "github.com/a/b", "@v1"),
    ],
)
def test_packages(ecosystem: str, text: str, name: str, specifier: str) -> None:
    assert parse_needs({ecosystem: [text, text]}).packages[ecosystem] == (Package(name=name, specifier=specifier),)


@pytest.mark.parametrize(
    ("value", "message", "hint"),
    [
        ({"netwrok": True}, "needs has no key 'netwrok'", "did you mean 'network'?"),
        ({"pythn": ["x"]}, "needs has no key 'pythn'", "did you mean 'python'?"),
        ({"sh": "yes"}, "needs.sh must be true or false, got a string", None),
        ({"node": "lodash"}, "needs.node must be a list of packages", None),
        ({"node": ["lod ash"]}, "needs.node[0] cannot be read: 'lod ash'", "lodash@^4"),
        ({"python": ["--index-url=x"]}, "needs.python[0] cannot be read", None),
        ({"cmd": 3}, 'needs.cmd must be "*", a list of commands, or an object', None),
        ({"cmd": {"git": {"sub": []}}}, "needs.cmd.git has no key 'sub'", None),
        (["sh"], "needs must be an object such as { network, sh, cmd: [git] }, got a list", None),
    ],
)
def test_faults_of_needs(value: object, message: str, hint: str | None) -> None:
    with pytest.raises(ConfigFault) as caught:
        parse_needs(value)
    assert message in caught.value.message
    assert hint is None or hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"full": {"require": {}}}, "profiles.full has no key 'require'"),
        ({"full": []}, "profiles.full must be an object such as { requires: { network } }, got a list"),
        ({"full": {"requires": ["sh"]}}, "profiles.full.requires must be an object"),
        ({"full": {"description": 3}}, "profiles.full.description must be a string"),
        ("full", "profiles must be an object, got a string"),
    ],
)
def test_faults_of_profiles(value: object, message: str) -> None:
    with pytest.raises(ConfigFault, match=message.replace("[", r"\[").replace("{", r"\{")):
        parse_profiles(value)


def names(found: Sequence[Profile]) -> list[str]:
    return [profile.name for profile in found]


def test_profiles_keep_their_order() -> None:
    assert names(profiles()) == ["full", "git", "readonly"]

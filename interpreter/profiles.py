"""Needs and profiles: normal form, and which profile the policy in force permits.

Aliases are resolved once, here for what is required and in `policy_patterns` for what is permitted, so that `fs` in
one and `filesystem` in the other are the same thing. A requirement counts as permitted when the policy does not deny
all of it and, where there is an allow list, allows some of it: each single use is judged again when it happens, since
a profile grants nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from interpreter.declarations import CommandNeed, Denial, Needs, Package, Place, Profile, ProfileChoice
from interpreter.errors import MlldError, listing
from interpreter.policy import Denied, Policy, require
from interpreter.policy_patterns import Pattern, command_word, nearest
from interpreter.policy_reader import Locator, Reader, nowhere
from interpreter.source import Span

FLAGS = {
    "sh": "sh",
    "bash": "sh",
    "network": "network",
    "net": "network",
    "filesystem": "filesystem",
    "fs": "filesystem",
}
ECOSYSTEMS = {
    "node": "node", "js": "node", "python": "python", "py": "python", "ruby": "ruby", "rb": "ruby", "go": "go",
    "rust": "rust",
}  # fmt: skip
_KEYS = ("cmd", *FLAGS, *ECOSYSTEMS)
_NODE = re.compile(r"(@[^/\s@]+/)?[^/\s@]+\Z")
_OTHER = re.compile(r"([A-Za-z0-9][\w.\-/]*(?:\[[\w,.-]+\])?)\s*([\^~<>=!@].*)?\Z")


class ProfileFault(MlldError):
    """A profile that nobody declared, or (with `--profile-strict`) that no policy permits."""

    code = "profile"
    exit_code = 3


def parse_needs(value: object, *, name: str = "needs", locate: Locator = nowhere) -> Needs:
    """The value of `needs { … }` or of a `requires`. Errors: `ConfigFault`."""
    return _needs(Reader(value=value, name=name, locate=locate))


def parse_profiles(value: object, *, name: str = "profiles", locate: Locator = nowhere) -> tuple[Profile, ...]:
    """The value of `profiles { … }`, in order of declaration. Errors: `ConfigFault`."""
    return tuple(_profile(key, each) for key, each in Reader(value=value, name=name, locate=locate).items())


def _profile(name: str, reader: Reader) -> Profile:
    reader.mapping(("requires", "description"), what="an object such as { requires: { network } }")
    requires, description = reader.get("requires"), reader.get("description")
    return Profile(
        name=name,
        requires=_needs(requires) if requires else Needs(),
        description=description.string() if description else "",
        place=reader.place,
    )


def _needs(reader: Reader) -> Needs:
    reader.mapping(what="an object such as { network, sh, cmd: [git] }")
    flags = {"sh": False, "network": False, "filesystem": False}
    packages: dict[str, dict[Package, None]] = {}
    commands: dict[str, CommandNeed] = {}
    any_command = False
    for key, said in reader.items():
        if key in FLAGS:
            flags[FLAGS[key]] |= said.boolean()
        elif key in ECOSYSTEMS:
            found = packages.setdefault(ECOSYSTEMS[key], {})
            for package in _packages(said, ECOSYSTEMS[key]):
                found[package] = None
        elif key == "cmd":
            if said.value == "*" or said.value is True:
                any_command = True
            else:
                for command in _commands(said):
                    commands[command.name] = _merge(commands.get(command.name), command)
        elif key == "keychain":
            raise reader.fault(
                "contains unsupported key 'keychain'",
                hint='a policy opens the keychain: capabilities: { danger: ["@keychain"] }',
            )
        elif isinstance(said.value, bool):
            # A bare word is a command, unless it looks like one of ours that was mistyped.
            if close := nearest(key, _KEYS):
                raise reader.fault(
                    f"has no key '{key}'", hint=f"did you mean '{close}'? For a command write cmd: [{key}]"
                )
            if said.value:
                commands.setdefault(command_word(key), CommandNeed(name=command_word(key)))
        else:
            raise reader.unknown(key, _KEYS)
    return Needs(
        **flags,
        any_command=any_command,
        commands=() if any_command else tuple(commands.values()),
        packages=MappingProxyType({key: tuple(found) for key, found in packages.items()}),
    )


def _packages(reader: Reader, ecosystem: str) -> Iterator[Package]:
    if isinstance(reader.value, bool):  # `needs { node }`: the runtime itself
        return
    for each in reader.elements('a list of packages such as ["lodash@^4"]'):
        text = each.string("a package such as lodash@^4 or requests>=2.28").strip()
        if ecosystem == "node":
            name, at, specifier = text.rpartition("@")
            if not name:
                name, specifier = at + specifier, ""
            valid = _NODE.match(name)
        else:
            match = _OTHER.match(text)
            name, specifier = (match[1], (match[2] or "").strip()) if match else (text, "")
            valid = match
        if not valid:
            raise each.fault(
                f"cannot be read: '{text}'", hint="write a name with an optional version: lodash@^4, requests>=2.28"
            )
        yield Package(name=name, specifier=specifier)


def _commands(reader: Reader) -> Iterator[CommandNeed]:
    if isinstance(reader.value, list | tuple):
        for name in reader.strings():
            yield CommandNeed(name=command_word(name))
        return
    for name, said in reader.mapping(what='"*", a list of commands, or an object').items():
        if said.value is False:
            continue
        if said.value in (True, "*"):
            yield CommandNeed(name=command_word(name))
        elif isinstance(said.value, list | tuple):
            yield CommandNeed(name=command_word(name), subcommands=said.strings())
        else:
            said.mapping(("methods", "subcommands", "flags", "list"))
            details = {key: each.strings() for key, each in said.items()}
            subcommands = (*details.pop("subcommands", ()), *details.pop("list", ()))
            yield CommandNeed(name=command_word(name), subcommands=subcommands, **details)


def _merge(one: CommandNeed | None, other: CommandNeed) -> CommandNeed:
    if one is None or one == other:
        return other
    return CommandNeed(
        name=one.name,
        methods=_either(one.methods, other.methods),
        subcommands=_either(one.subcommands, other.subcommands),
        flags=_either(one.flags, other.flags),
    )


def _either(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    # No detail means any use, which holds whatever else was said.
    return tuple(dict.fromkeys((*one, *other))) if one and other else ()


def requirements(needs: Needs) -> Iterator[tuple[str, Pattern, bool]]:
    """Each requirement: its name (as in `ProfileChoice.granted`), what must be permitted, and whether all of that must
    be.
    """
    if needs.sh:
        yield "sh", Pattern(kind="sh"), False
    if needs.network:
        yield "network", Pattern(kind="network"), False
    if needs.filesystem:
        yield "filesystem", Pattern(kind="filesystem", tokens=("write", "**")), False
    if needs.any_command:
        yield "cmd:*", Pattern(kind="cmd"), True
    for command in needs.commands:
        for sub in command.subcommands or (None,):
            tokens = (command.name, sub.lower()) if sub else (command.name,)
            yield f"cmd:{command.name}", Pattern(kind="cmd", tokens=tokens), False


def denials(profile: Profile, policy: Policy) -> tuple[Denial, ...]:
    """Each requirement that the policy does not permit, with the rule that says so."""
    found: dict[str, Denial] = {}
    for name, pattern, whole in requirements(profile.requires):
        decision = require(policy, pattern, name, whole=whole)
        if isinstance(decision, Denied):
            found.setdefault(name, Denial(requirement=name, rule=str(decision)))
    return tuple(found.values())


def choose(
    profiles: Sequence[Profile],
    policy: Policy,
    *,
    asked: str | None = None,
    module: Sequence[Profile] = (),
    strict: bool = False,
    span: Span | None = None,
) -> ProfileChoice | None:
    """The profile in force: the one asked for, else the first permitted, else the last declared; None if there are
    none.

    `module` are the profiles of the module, which may be asked for beside those of the configuration and are selected
    from when it declares none. Errors: `ProfileFault`."""
    declared = {profile.name: profile for profile in (*module, *profiles)}
    if asked is not None and asked.strip():
        if asked not in declared:
            close = nearest(asked, declared)
            hint = f"did you mean '{close}'?" if close else "declare it in profiles { … }, or choose a declared one"
            names = listing(declared) if declared else "none"
            raise ProfileFault(f"unknown profile '{asked}': declared are {names}", span=span, hint=hint)
        profile = declared[asked]
        refused = denials(profile, policy)
        return ProfileChoice(profile=profile, reason="asked for", denied={asked: refused} if refused else {})
    refusals: dict[str, tuple[Denial, ...]] = {}
    candidates = profiles or module
    for profile in candidates:
        refused = denials(profile, policy)
        if not refused:
            return ProfileChoice(profile=profile, reason="first permitted", denied=refusals)
        refusals[profile.name] = refused
    if not candidates:
        return None
    choice = ProfileChoice(profile=candidates[-1], reason="last declared: none permitted", denied=refusals)
    if strict:
        raise ProfileFault(
            f"no profile is permitted by policy: {why_denied(refusals)}", span=span,
            hint="permit one of them in the policy, or drop --profile-strict to fall back to the last one",
        )  # fmt: skip
    return choice


def warning(choice: ProfileChoice) -> str | None:
    """What a plan must say about the choice: a fall-back, or something asked for that is denied."""
    if choice.reason == "last declared: none permitted":
        why = why_denied(choice.denied)
        return f"no profile is permitted by policy; '{choice.profile.name}' is used, which was declared last: {why}"
    if refused := choice.denied.get(choice.profile.name):
        return "; ".join(
            f"profile '{choice.profile.name}': {d.requirement} requested, denied by {d.rule}" for d in refused
        )
    return None


def why_denied(refusals: Mapping[str, tuple[Denial, ...]]) -> str:
    return "; ".join(f"'{name}' wants {d.requirement} ({d.rule})" for name, found in refusals.items() for d in found)


def grants(choice: ProfileChoice | None) -> Mapping[str, Place | None]:
    """What the profile really grants (`network`, `filesystem`, `sh`), each with the line that declares it."""
    if choice is None:
        return MappingProxyType({})
    named = ("network", "filesystem", "sh")
    return MappingProxyType({name: choice.profile.place for name in named if name in choice.granted})

"""Capability patterns: `cmd:git:push:*`, `network:*.example.com`, `fs:w:src/**`, in one normal form.

A pattern stands for a set of operations. Two questions are asked of it: does it contain this operation (`matches`),
and what do two patterns have in common (`meet`). Policies are composed with `meet`, so an intersection is one of
meaning and not of spelling: `cmd:git:*` and `cmd:git:status` have `cmd:git:status` in common, `fs:r:**` and `fs:w:src`
reading `src`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Literal

from interpreter.declarations import HostRule

Kind = Literal["*", "cmd", "sh", "js", "node", "py", "network", "filesystem", "mcp", "keychain"]
Side = Literal["allow", "deny", "danger"]

KINDS: tuple[Kind, ...] = ("cmd", "sh", "js", "node", "py", "network", "filesystem", "mcp", "keychain")
ALIASES: dict[str, Kind] = {
    **{kind: kind for kind in KINDS},
    "*": "*", "all": "*", "command": "cmd", "bash": "sh", "shell": "sh", "javascript": "js", "nodejs": "node",
    "python": "py", "net": "network", "fs": "filesystem", "@keychain": "keychain",
}  # fmt: skip
_MODES = {"r": ("read",), "w": ("write",), "rw": ("read", "write"), "*": ("read", "write")}
HOST = re.compile(r"(\*\.)?(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\Z")


class BadPattern(ValueError):
    """A text that is no pattern; the message names the nearest one."""


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice which somebody who typed `name` most likely meant."""
    known = sorted(choices)
    exact = [choice for choice in known if choice.lower() == name.lower()]
    return exact[0] if exact else next(iter(get_close_matches(name, known, n=1, cutoff=0.6)), None)


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """A set of operations of one kind. `tokens` narrow it, `*` among them is any one; `open` lets more follow."""

    kind: Kind
    tokens: tuple[str, ...] = ()
    open: bool = True

    def __str__(self) -> str:
        if self.kind == "filesystem":
            mode, *globs = self.tokens
            return f"filesystem:{mode}:{'&'.join(globs)}"
        tail = ("*",) if self.open and self.tokens and self.kind in ("cmd", "mcp") else ()
        return ":".join((self.kind, *self.tokens, *tail))

    @property
    def weight(self) -> int:
        """How specific it is: the number of tokens that say something."""
        if self.kind == "filesystem":
            return max(sum(1 for part in glob.split("/") if "*" not in part) for glob in self.tokens[1:]) + 1
        return (self.kind != "*") + sum(1 for token in self.tokens if token != "*")

    def matches(self, subject: Subject) -> bool:
        """Whether the operation lies in the set."""
        if self.kind == "*":
            return True
        if self.kind != subject.kind:
            return False
        match self.kind:
            case "filesystem":
                mode, *globs = self.tokens
                return mode == subject.tokens[0] and all(
                    any(path_matches(glob, spelling) for spelling in subject.tokens[1:]) for glob in globs
                )
            case "network":
                return not self.tokens or (bool(subject.tokens) and host_matches(self.tokens[0], subject.tokens[0]))
        if len(subject.tokens) < len(self.tokens) or (not self.open and len(subject.tokens) > len(self.tokens)):
            return False
        return all(fnmatchcase(word, token) for token, word in zip(self.tokens, subject.tokens, strict=False))


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One operation as patterns see it. filesystem: the mode, then every spelling of the one path (`src/a`,
    `/home/me/p/src/a`).
    """

    kind: Kind
    tokens: tuple[str, ...] = ()


def parse_pattern(text: str, side: Side) -> tuple[Pattern, ...]:
    """The patterns that a text of a policy stands for. Errors: `BadPattern`."""
    head, _, rest = text.strip().partition(":")
    kind = ALIASES.get(head.lower())
    if kind is None:
        hint = nearest(head.lower(), ALIASES)
        meant = f"did you mean '{hint}'?" if hint else f"write 'cmd:{text}' for a command"
        raise BadPattern(f"'{text}' names no capability: {meant}")
    if kind == "filesystem":
        return tuple(_file_patterns(rest, side, text))
    tokens = [token.strip() for token in rest.split(":")] if rest else []
    if any(not token for token in tokens):
        raise BadPattern(f"'{text}' has an empty part between its colons")
    if kind == "network":
        everything = tokens in ([], ["*"], [PUBLIC])
        return (Pattern(kind=kind, tokens=() if everything else (checked_host(rest, deny=side == "deny"),)),)
    if kind == "cmd":
        tokens = [command_word(token) if at == 0 else token.lower() for at, token in enumerate(tokens)]
        # `cmd:git` is git with anything; `cmd:git:status` in an allow list is that alone, in a deny list also with
        # more.
        is_open = len(tokens) < 2 or side != "allow" or "*" in tokens
    else:
        is_open = True
    while tokens and tokens[-1] == "*":
        tokens.pop()
    return (Pattern(kind=kind, tokens=tuple(tokens), open=is_open),)


def _file_patterns(rest: str, side: Side, text: str) -> Iterator[Pattern]:
    mode, _, glob = rest.partition(":")
    mode = {"read": "r", "write": "w"}.get(mode, mode)
    if mode and mode not in _MODES:
        # `fs:src/**` without a mode: both, unless it looks like a mode that was mistyped.
        if glob or not re.search(r"[/.*~@]", mode):
            raise BadPattern(f"'{text}': a file pattern is fs:r:PATH, fs:w:PATH or fs:rw:PATH")
        mode, glob = "rw", mode
    glob = clean_path(glob or "**")
    # A grant to write holds the grant to read; a ban on writing leaves reading alone.
    modes = ("read", "write") if side == "allow" and mode == "w" else _MODES[mode or "rw"]
    for one in modes:
        yield Pattern(kind="filesystem", tokens=(one, glob))


def command_word(word: str) -> str:
    """The program that a word names, however it is spelt: `/usr/bin/Git` is git."""
    return (word.rstrip("/").rsplit("/", 1)[-1] or word).lower()


PUBLIC = "public"  # every public host: the one word for what `*` would mean


def checked_host(host: str, *, deny: bool = False) -> str:
    """The host in normal form. Errors: `BadPattern` for what is no host name, is an address, or is too wide.

    A deny list may name addresses and everything: it can only take away.
    """
    name = host.strip().lower().rstrip(".")
    if name in ("*", PUBLIC):
        if name == PUBLIC or deny:
            return PUBLIC
        raise BadPattern("'*' is too wide: name the hosts, or write 'public' if every public host is meant")
    if not HOST.match(name) or len(name) > 253:
        raise BadPattern(f"'{host}' is no host name: write api.example.com, or *.example.com for all below it")
    labels = name.removeprefix("*.").split(".")
    if deny:
        return name
    if labels[-1].isdigit() or re.fullmatch(r"0x[0-9a-f]+", labels[-1]):
        raise BadPattern(f"'{host}' is an address: name the host, since an address is not bound to a certificate")
    if name.startswith("*.") and len(labels) < 2:
        raise BadPattern(f"'{host}' is too wide: name a domain, such as *.example.com")
    return name


def parse_host(text: str, *, deny: bool = False) -> HostRule:
    """`host` or `host:port`. Errors: `BadPattern`."""
    host, colon, port = text.strip().rpartition(":")
    if not colon:
        return HostRule(host=checked_host(port, deny=deny))
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise BadPattern(f"'{text}': '{port}' is no port")
    return HostRule(host=checked_host(host, deny=deny), ports=(int(port),))


def host_matches(rule: str, host: str) -> bool:
    """Whether the host lies under the rule, both in normal form; the `*` never matches the bare domain."""
    if rule.startswith("*."):
        return host.endswith(rule[1:]) and host not in (rule, rule[2:])
    return rule in (host, PUBLIC)


def meet_hosts(one: HostRule, other: HostRule) -> HostRule | None:
    """What both rules allow; the place of the narrower is kept."""
    ports = tuple(port for port in one.ports if port in other.ports)
    if not ports:
        return None
    if one.host == other.host or host_matches(other.host, one.host):
        return replace(one, ports=ports)
    return replace(other, ports=ports) if host_matches(one.host, other.host) else None


def meet(one: Pattern, other: Pattern) -> Pattern | None:
    """What both patterns contain; None when that is nothing."""
    if one.kind == "*":
        return other
    if other.kind == "*":
        return one
    if one.kind != other.kind:
        return None
    match one.kind:
        case "filesystem":
            if one.tokens[0] != other.tokens[0]:
                return None
            globs = dict.fromkeys((*one.tokens[1:], *other.tokens[1:]))
            # `a/**` and `a/b` share `a/b`: a glob that another one of the pair lies wholly under says nothing.
            kept = [g for g in globs if not any(h != g and path_matches(g, h) for h in globs)]
            return Pattern(kind="filesystem", tokens=(one.tokens[0], *sorted(kept)))
        case "network":
            if not one.tokens or not other.tokens:
                return one if one.tokens else other
            both = meet_hosts(HostRule(host=one.tokens[0]), HostRule(host=other.tokens[0]))
            return Pattern(kind="network", tokens=(both.host,)) if both else None
    long, short = (one, other) if len(one.tokens) >= len(other.tokens) else (other, one)
    if len(long.tokens) > len(short.tokens) and not short.open:
        return None
    tokens: list[str] = []
    for at, token in enumerate(long.tokens):
        shared = _meet_word(token, short.tokens[at]) if at < len(short.tokens) else token
        if shared is None:
            return None
        tokens.append(shared)
    # The shorter one is open, or has as many tokens: only then its own end says something about what may follow.
    is_open = long.open and (short.open or len(short.tokens) < len(long.tokens))
    return Pattern(kind=one.kind, tokens=tuple(tokens), open=is_open)


def _meet_word(one: str, other: str) -> str | None:
    if one == other or fnmatchcase(one, other):
        return one
    # Two globs which only overlap (`a*`, `*b`) share nothing here: the strict answer.
    return other if fnmatchcase(other, one) else None


def meet_lists(one: Iterable[Pattern], other: Iterable[Pattern]) -> tuple[Pattern, ...]:
    """What two allow lists have in common, without entries that others of the result contain."""
    right = tuple(other)
    found = dict.fromkeys(both for a in one for b in right if (both := meet(a, b)) is not None)
    return tuple(p for p in found if not any(q != p and covers(q, p) for q in found))


def covers(wide: Pattern, narrow: Pattern) -> bool:
    """Whether everything in `narrow` is in `wide`."""
    return meet(wide, narrow) == narrow


def clean_path(path: str) -> str:
    """A path of a pattern without what says nothing: `./src/`, `@root/src` and `src` are one."""
    text = re.sub(r"^(?:@root/|@base/|\./)+", "", path.strip())
    text = re.sub(r"/{2,}", "/", text)
    return text.rstrip("/") or ("/" if path.startswith("/") else "**")


def path_matches(glob: str, path: str) -> bool:
    """Whether the path is the glob's or lies below it. `*` stays within one directory, `**` does not."""
    if not re.search(r"[*?]", glob):
        return path == glob or path.startswith(glob.rstrip("/") + "/")
    if glob == "**":
        return True
    if len(path) > 4096:  # no system opens such a path
        return False
    # All ways to read the path are followed at once, in time glob × path: a regular expression would try them one by one,
    # and `*a*a*a*a*a*a` of a hostile module would keep it busy for years.
    steps = _steps(glob)
    end = len(steps)
    states = _reach({0}, steps)
    for char in path:
        following: set[int] = set()
        for state in states:
            if state >= end:
                if state > end or char == "/":  # below what the glob names
                    following.add(end + 1)
            elif (step := steps[state]) in ("**", "**/"):
                following.add(state)
                if step == "**/" and char == "/":
                    following.add(state + 1)
            elif step == "*":
                if char != "/":
                    following.add(state)
            elif step == char or (step == "?" and char != "/"):
                following.add(state + 1)
        states = _reach(following, steps)
        if not states:
            return False
    return max(states) >= end


def _reach(states: set[int], steps: tuple[str, ...]) -> set[int]:
    """The states with those that are reached without reading anything: a star may stand for nothing."""
    found = set(states)
    waiting = list(states)
    while waiting:
        state = waiting.pop()
        if state < len(steps) and steps[state] in ("*", "**") and state + 1 not in found:
            found.add(state + 1)
            waiting.append(state + 1)
    return found


@lru_cache(maxsize=512)
def _steps(glob: str) -> tuple[str, ...]:
    """The glob cut into characters, `?`, `*`, `**`, and `**/`."""
    return tuple(re.sub(r"\*\*+", "**", part) for part in re.findall(r"(?s)\*\*+/|\*\*+|.", glob))

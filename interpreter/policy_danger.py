"""The danger list: operations which a policy in force refuses unless one of its `danger` entries opens them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from interpreter.policy_patterns import Pattern, path_matches
from interpreter.policy_subjects import Operation


@dataclass(frozen=True, kw_only=True)
class Danger:
    """One dangerous use of a program: every one of `words` is among its arguments, each given by its spellings."""

    program: str
    words: tuple[tuple[str, ...], ...] = ()
    why: str

    def __str__(self) -> str:
        return ":".join(("cmd", self.program, *(spellings[0] for spellings in self.words)))

    def found_in(self, command: tuple[str, ...]) -> bool:
        given = flags(command[1:])
        return command[0] == self.program and all(given & set(spellings) for spellings in self.words)


UNCHECKED = "switches an agent's own checks off"
FORCE = ("-f", "--force")
COMMANDS = (
    Danger(program="rm", words=(("-r", "--recursive"), FORCE), why="removes a tree without asking"),
    Danger(program="sudo", why="runs as another user"),
    Danger(program="su", why="runs as another user"),
    Danger(program="doas", why="runs as another user"),
    Danger(program="chmod", why="changes permissions"),
    Danger(program="chown", why="changes owners"),
    Danger(program="dd", why="overwrites devices"),
    Danger(program="mkfs", why="formats a device"),
    Danger(program="shred", why="destroys files"),
    Danger(program="kill", why="ends other programs"),
    Danger(program="pkill", why="ends other programs"),
    Danger(program="killall", why="ends other programs"),
    Danger(program="git", words=(("push",), (*FORCE, "--force-with-lease", "--mirror")), why="rewrites remote history"),
    Danger(program="git", words=(("remote",), ("add", "set-url")), why="sends the repository elsewhere"),
    Danger(program="git", words=(("clean",), FORCE), why="removes untracked files"),
    Danger(program="git", words=(("reset",), ("--hard",)), why="throws changes away"),
    Danger(program="curl", words=(("--upload-file", "-t"),), why="uploads a file"),
    Danger(program="scp", why="copies files to another machine"),
    Danger(program="rsync", why="copies files to another machine"),
    Danger(program="nc", why="opens a raw connection"),
    Danger(program="ncat", why="opens a raw connection"),
    Danger(program="socat", why="opens a raw connection"),
    Danger(program="security", why="reads the system's keychain"),
    Danger(program="pass", why="reads a password store"),
    Danger(program="op", why="reads a password store"),
    Danger(program="claude", words=(("--dangerously-skip-permissions",),), why=UNCHECKED),
    Danger(program="codex", words=(("--full-auto", "--dangerously-bypass-approvals-and-sandbox"),), why=UNCHECKED),
    Danger(program="mlld", words=(("--no-policy", "--no-guards"),), why="switches policy off"),
)  # fmt: skip
CREDENTIALS = (
    "~/.ssh/*", "~/.aws/*", "~/.config/gh/*", "~/.config/gcloud/*", "~/.kube/*", "~/.docker/config.json", "~/.gnupg/*",
    "~/.netrc", "~/.npmrc", "~/.pypirc", "~/.git-credentials", "**/.env", "**/*.pem", "**/*_rsa", "**/*_ed25519",
    "**/.anthropic/*", "**/.openai/*",
)  # fmt: skip
SETTINGS = (
    "**/.claude/**", "**/.codex/**", "**/.mlld/**", "**/.cursor/**", "**/.continue/**", "**/.mcp.json",
    "**/.git/hooks/**",
)  # fmt: skip

_PIECES = {glob: max(re.split(r"[*/]+", glob), key=len) for glob in (*CREDENTIALS, *SETTINGS)}


def flags(words: tuple[str, ...]) -> set[str]:
    """The words, and each letter of a cluster (`-rf` is `-r -f`), and `--name` of `--name=value`."""
    found = set(words)
    for word in words:
        if re.match(r"-[a-z]{2,}\Z", word):
            found |= {f"-{letter}" for letter in word[1:]}
        elif word.startswith("--") and "=" in word:
            found.add(word.partition("=")[0])
    return found


@dataclass(frozen=True, kw_only=True)
class Peril:
    """Something dangerous in an operation: the entry that would open it, and what it is about."""

    entry: str
    what: str
    why: str
    command: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()


def dangers(operation: Operation) -> Iterator[Peril]:
    """Everything dangerous in the operation. Errors: `ValueError` for a command that cannot be read."""
    for command in operation.commands:
        what = f"command '{command[0]}'"
        for danger in COMMANDS:
            if danger.found_in(command):
                yield Peril(entry=str(danger), what=what, why=danger.why, command=command)
        # Whether a file named on a command line is read or written cannot be seen.
        for word in command[1:]:
            yield from _path((word, word.replace("$home/", "~/")), (*CREDENTIALS, *SETTINGS), "rw", what)
    if operation.kind == "read":
        yield from _path(operation.paths, CREDENTIALS, "r", "reading")
    elif operation.kind in ("output", "append"):
        yield from _path(operation.paths, (*CREDENTIALS, *SETTINGS), "w", "writing")
    elif operation.kind == "secret":
        yield Peril(entry="@keychain", what=f"keychain entry '{operation.name}'", why="reads the keychain")


def _path(paths: tuple[str, ...], globs: tuple[str, ...], mode: str, what: str) -> Iterator[Peril]:
    # The longest literal piece of a glob first: nearly every word of a command line fails there, at once.
    glob = next((g for g in globs if any(_PIECES[g] in path and path_matches(g, path) for path in paths)), None)
    if glob:
        modes = {"r": ("read",), "w": ("write",), "rw": ("read", "write")}[mode]
        yield Peril(entry=f"fs:{mode}:{glob}", what=f"{what} '{paths[0]}'" if mode != "rw" else what,
                    why=f"{paths[0]} holds credentials or settings", paths=paths, modes=modes)  # fmt: skip


def opens(entry: Pattern, peril: Peril) -> bool:
    """Whether a `danger` entry of a policy opens this."""
    match entry.kind:
        case "*":
            return True
        case "keychain":
            return peril.entry == "@keychain"
        case "filesystem":
            mode, *globs = entry.tokens
            return mode in peril.modes and all(any(path_matches(glob, path) for path in peril.paths) for glob in globs)
        case "cmd" if peril.command:
            # An entry names the program and as many of its words as it likes, in any order: `cmd:rm:*:-rf`.
            program, *words = [token for token in entry.tokens if token != "*"] or [peril.command[0]]
            given = flags(peril.command[1:])
            return program == peril.command[0] and all(
                word in given or (len(flags((word,))) > 1 and flags((word,)) - {word} <= given) for word in words
            )
    return False

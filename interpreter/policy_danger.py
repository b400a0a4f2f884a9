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


def flags(words: tuple[str, ...]) -> set[str]:
    """The words, and each letter of a cluster (`-rf` is `-r -f`), and `--name` of `--name=value`."""
    found = set(words)
    for word in words:
        if re.match(r"-[a-z]{2,}\Z", word):
            found |= {f"-{letter}" for letter in word[1:]}
        elif word.startswith("--") and "=" in word:
            found.add(word.partition("=")[0])
    return found


def dangers(operation: Operation) -> Iterator[tuple[str, str]]:
    """What in the operation is dangerous: the entry that would open it, and why it is on the list."""
    for command in operation.commands:
        for danger in COMMANDS:
            if danger.found_in(command):
                yield str(danger), danger.why
        # A file named on a command line is read as far as the list is concerned; whether it is written is not visible.
        for word in command[1:]:
            for glob in (*CREDENTIALS, *SETTINGS):
                if path_matches(glob, word) or path_matches(glob, word.replace("$home/", "~/")):
                    yield f"fs:rw:{glob}", "touches credentials or settings of agents"
    if operation.kind == "read":
        yield from _paths(operation, CREDENTIALS, "r", "reads credentials")
    elif operation.kind in ("output", "append"):
        yield from _paths(operation, (*CREDENTIALS, *SETTINGS), "w", "changes credentials or settings of agents")
    elif operation.kind == "secret":
        yield "@keychain", "reads the keychain"


def _paths(operation: Operation, globs: tuple[str, ...], mode: str, why: str) -> Iterator[tuple[str, str]]:
    for glob in globs:
        if any(path_matches(glob, spelling) for spelling in operation.paths):
            yield f"fs:{mode}:{glob}", why


def opens(entry: Pattern, danger: str, operation: Operation) -> bool:
    """Whether a `danger` entry of a policy opens this danger of this operation."""
    if entry.kind == "*":
        return True
    kind = danger.partition(":")[0]
    if kind == "cmd":
        said = [token for token in entry.tokens if token != "*"]
        # An entry names the program and as many of its words as it likes, in any order: `cmd:rm:*:-rf`.
        return entry.kind == "cmd" and any(
            str_found(said, command) for command in operation.commands if command[0] == danger.split(":")[1]
        )
    if kind == "@keychain":
        return entry.kind == "keychain"
    return entry.kind == "filesystem" and (
        f"fs:{entry.tokens[0][0]}:{entry.tokens[1]}"
        in (danger, danger.replace("fs:rw:", "fs:w:"), danger.replace("fs:rw:", "fs:r:"))
        or any(entry.matches(subject) for subject, _ in operation.subjects() if subject.kind == "filesystem")
    )


def str_found(said: list[str], command: tuple[str, ...]) -> bool:
    """Whether an entry's words are all in the command; no words at all open every program."""
    return not said or (said[0] == command[0] and flags(tuple(said[1:])) <= flags(command[1:]))

"""An operation as policies and guards see it: its labels, and what it would touch.

A command line is read here the way a shell reads it, but never run: every program of a pipeline or list is a subject
of its own, wrappers (`env`, `timeout`, `xargs`) are looked through, and `sh -c` counts as the shell that it is. What
cannot be read is said to be unreadable, and a policy which restricts commands refuses it."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from interpreter.declarations import Place
from interpreter.labels import NONE, Labels, joined
from interpreter.policy_patterns import Kind, Subject, command_word

OperationKind = Literal[
    "cmd",
    "sh",
    "js",
    "node",
    "py",
    "mcp",
    "show",
    "output",
    "log",
    "append",
    "read",
    "network",
    "exe",
    "template",
    "secret",
    "var",
    "for",
    "for:iteration",
    "for:batch",
    "loop",
    "import",
    "if",
    "when",
    "while",
    "foreach",
    "box",
    "stream",
    "file",
    "files",
    "checkpoint",
    "sign",
    "verify",
]
_SHELLS = frozenset({"sh", "bash", "zsh", "dash", "ksh", "fish", "ash"})
# Programs that run another program: how many words of their own come first, and which options take a word.
_WRAPPERS: dict[str, tuple[int, tuple[str, ...]]] = {
    "env": (0, ("-u", "--unset", "-c", "--chdir")), "nice": (0, ("-n",)), "ionice": (0, ("-c", "-n")), "nohup": (0, ()),
    "timeout": (1, ("-k", "-s")), "time": (0, ("-o", "-f")), "stdbuf": (0, ("-i", "-o", "-e")), "setsid": (0, ()),
    "xargs": (0, ("-n", "-i", "-p", "-d", "-a", "-l", "-s", "-e")), "exec": (0, ("-a",)), "command": (0, ()),
    "builtin": (0, ()), "busybox": (0, ()), "watch": (0, ("-n",)), "sudo": (0, ("-u", "-g")), "doas": (0, ("-u",)),
    "chroot": (1, ()), "flock": (1, ("-w",)), "unshare": (0, ()),
}  # fmt: skip
LONGEST = 4 << 20  # of a command: prompts are passed in them
# Words of the shell before which a command may stand.
_KEYWORDS = frozenset({"{", "}", "!", "if", "then", "elif", "else", "fi", "while", "until", "do", "done", "time"})
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
# A denied network means these too, although a program can always bring its own name: the fence is the container's.
NETWORK_PROGRAMS = frozenset(
    {"curl", "wget", "nc", "ncat", "netcat", "socat", "ssh", "scp", "sftp", "rsync", "ftp", "telnet"}
)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One thing about to happen. `labels` are those of the executable and, for a tool, of the tool."""

    kind: OperationKind
    name: str = ""  # of the executable, without `@`; of the keychain entry
    directive: str = ""  # the word that caused it (`run`, `show`), for guards on `op:run`
    labels: tuple[str, ...] = ()
    command: str = ""  # cmd and sh: the whole text, templates filled in
    server: str = ""  # mcp
    tool: str = ""  # mcp
    paths: tuple[str, ...] = ()  # read, output, append: the spellings of one path (see `spellings`)
    host: str = ""  # network
    project: str = ""  # secret: what `{projectname}` stands for in patterns
    inputs: tuple[Labels, ...] = ()  # of each argument, in order
    parameters: tuple[str, ...] = ()  # their names, where they have names: `@mx.args`
    environment: Labels = NONE  # what else flows in: stdin, `using` (label it secret)
    place: Place | None = None
    stage: bool = False  # a function as a stage of a pipeline
    body: bool = False  # the whole body of a function, whose call is judged, too
    stated: bool = False  # a command that is a statement: `run cmd {…}` where no function is called

    @cached_property
    def incoming(self) -> Labels:
        """The labels of everything that flows in."""
        return joined((*self.inputs, self.environment))

    @cached_property
    def commands(self) -> tuple[tuple[str, ...], ...]:
        """The words of every program that the command would start. Errors: `ValueError` if it cannot be read."""
        return tuple(programs(self.command)) if self.kind in ("cmd", "sh") else ()

    @cached_property
    def operation_labels(self) -> tuple[str, ...]:
        """`op:cmd:git:push`, `op:cmd:git`, `op:cmd` and the declared labels: what rules and guards are matched
        against.
        """
        labels: dict[str, None] = {}
        match self.kind:
            case "cmd":
                try:
                    found = self.commands
                except ValueError:
                    found = ()
                for words in found:
                    program, sub = words[0], next((w for w in words[1:] if re.match(r"[A-Za-z][\w.-]*\Z", w)), None)
                    if sub:
                        labels[f"op:cmd:{program}:{sub.lower()}"] = None
                    labels[f"op:cmd:{program}"] = None
                labels["op:cmd"] = None
            case "mcp":
                labels = dict.fromkeys((f"op:mcp:{self.server}:{self.tool}", f"op:mcp:{self.server}", "op:mcp"))
            case "exe" | "template" | "secret":
                pass
            case kind:
                labels[f"op:{kind}"] = None
        return (*labels, *(label for label in self.labels if label not in labels))

    @cached_property
    def is_call(self) -> bool:
        """A function or a tool is called: its labels are its own, and not those of the function around."""
        return self.kind in ("exe", "mcp")

    @cached_property
    def guarded_as(self) -> tuple[str, ...]:
        """What the filters of guards on operations are matched against: all of it, as `op:…`."""
        extra = [f"op:{self.directive}"] if self.directive else []
        if self.is_call or self.stated:  # a tool is called like any other function
            extra.append("op:exe")
        if self.kind in ("secret", "template"):
            extra.append(f"op:{self.kind}")
        return (*self.operation_labels, *extra, *(f"op:{label}" for label in self.labels))

    def subjects(self) -> Iterator[tuple[Subject, str]]:
        """What capability rules judge, each with its name for people. Errors: `ValueError` for an unreadable
        command.
        """
        match self.kind:
            case "cmd":
                for words in self.commands:
                    yield Subject(kind="cmd", tokens=words), f"command '{words[0]}'"
                    if words[0] in _SHELLS:
                        yield Subject(kind="sh"), f"shell '{words[0]}'"
            case "sh" | "js" | "node" | "py":
                yield Subject(kind=self.kind), f"{_WORDS[self.kind]} code"
            case "mcp":
                yield (
                    Subject(kind="mcp", tokens=(self.server, self.tool)),
                    f"tool '{self.tool}' of server '{self.server}'",
                )
            case "output" | "append" if self.paths:
                yield Subject(kind="filesystem", tokens=("write", *self.paths)), f"writing '{self.paths[0]}'"
            case "read":
                yield Subject(kind="filesystem", tokens=("read", *self.paths)), f"reading '{self.paths[0]}'"
            case "network":
                yield Subject(kind="network", tokens=(self.host,)), f"host '{self.host}'"
            case "secret":
                yield Subject(kind="keychain", tokens=tuple(self.name.split("/"))), f"keychain entry '{self.name}'"

    def using_network(self) -> Iterator[str]:
        """Programs of the command that are known to talk to the network."""
        for words in self.commands:
            if words[0] in NETWORK_PROGRAMS:
                yield words[0]


_WORDS: dict[Kind, str] = {"sh": "shell", "js": "JavaScript", "node": "Node", "py": "Python"}


def programs(text: str, depth: int = 0) -> Iterator[tuple[str, ...]]:
    """The words of each program that a command line starts, the first one as `command_word` gives it."""
    if depth > 4:
        raise ValueError("commands are nested too deeply to be judged")
    if len(text) > LONGEST:
        raise ValueError(f"it is longer than {LONGEST >> 10} KiB")
    for inner in substitutions(text):
        yield from programs(inner, depth + 1)
    words: list[str] = []
    redirected = False
    for token, is_operator in (*_tokens(text.replace("\\\n", "")), (";", True)):
        if is_operator and set(token) & {"<", ">"}:
            redirected = True
            if words and words[-1].isdigit():  # the 2 of `2>&1`
                words.pop()
        elif redirected and not is_operator:
            redirected = False  # the word after `>` is a file
        elif is_operator:
            redirected = False
            yield from _program(words, depth)
            words = []
        else:
            words.append(token)


# A stretch of white space, an operator, or a piece of a word. Pieces that touch are one word.
_PIECE = re.compile(
    r"""(?P<space>[ \t\r]+)|(?P<operator>[<>]+[&|]?|[|&;()\n]+)"""
    r"""|'(?P<single>[^']*)'|"(?P<double>(?:[^"\\]|\\.)*)"|\\(?P<escaped>.)|(?P<plain>[^\s'"\\|&;()<>]+|[\v\f])""",
    re.DOTALL,
)


def _tokens(text: str) -> Iterator[tuple[str, bool]]:
    """The words of a command line without their quotes, and the operators between them, in one pass.

    Errors: `ValueError` for a quote that is not closed. (`shlex` takes minutes for a prompt of a megabyte.)
    """
    word: list[str] | None = None
    at = 0
    while at < len(text):
        piece = _PIECE.match(text, at)
        if piece is None:
            raise ValueError("a quote is not closed")
        at = piece.end()
        kind = piece.lastgroup or ""
        if kind in ("space", "operator"):
            if word is not None:
                yield "".join(word), False
                word = None
            if kind == "operator":
                yield piece[kind], True
            continue
        found = piece[kind]
        if kind == "double":
            found = re.sub(r"\\([$`\"\\])", r"\1", found)
        word = [] if word is None else word
        word.append(found)
    if word is not None:
        yield "".join(word), False


def _program(words: list[str], depth: int) -> Iterator[tuple[str, ...]]:
    if depth > 8:
        raise ValueError("commands are nested too deeply to be judged")
    while words and (_ASSIGNMENT.match(words[0]) or words[0] in _KEYWORDS):
        words = words[1:]
    if not words or not words[0]:
        return
    head = command_word(words[0])
    yield (head, *(word.lower() for word in words[1:]))
    if head in _SHELLS:
        for at, word in enumerate(words[1:], 1):
            if re.match(r"-\w*c\w*\Z", word) and at + 1 < len(words):
                yield from programs(words[at + 1], depth + 1)
                return
    elif head == "eval":
        yield from programs(" ".join(words[1:]), depth + 1)
    elif head == "find":
        for at, word in enumerate(words):
            if word in ("-exec", "-execdir", "-ok", "-okdir"):
                yield from _program(words[at + 1 :], depth + 1)
    elif head in _WRAPPERS:
        yield from _wrapped(words, *_WRAPPERS[head], depth)


def _wrapped(words: list[str], own: int, valued: tuple[str, ...], depth: int) -> Iterator[tuple[str, ...]]:
    """The program that a wrapper starts."""
    at = 1
    while at < len(words):
        word = words[at]
        if word in ("-S", "--split-string"):  # of env: the next word is a whole command line
            yield from programs(" ".join(words[at + 1 :]), depth + 1)
            return
        if word.startswith("-"):
            at += 2 if word.lower() in valued else 1
        elif _ASSIGNMENT.match(word):
            at += 1
        elif own:
            own, at = own - 1, at + 1
        else:
            yield from _program(words[at:], depth + 1)
            return


def substitutions(text: str) -> Iterator[str]:
    """The insides of `$(…)` and backticks outside single quotes. Errors: `ValueError` when one is not closed."""
    at, quoted = 0, False
    while at < len(text):
        char = text[at]
        if char == "\\":
            at += 2
            continue
        if char == '"':
            quoted = not quoted
        elif char == "'" and not quoted:
            at = text.find("'", at + 1)
            if at < 0:
                return  # the lexer reports it
        elif char == "`":
            end = text.find("`", at + 1)
            if end < 0:
                raise ValueError("a backtick is not closed")
            yield text[at + 1 : end]
            at = end
        elif text.startswith("$(", at) or (not quoted and (text.startswith("<(", at) or text.startswith(">(", at))):
            end = _closing(text, at + 2)
            yield text[at + 2 : end]
            at = end
        at += 1


def _closing(text: str, at: int) -> int:
    depth = 1
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] == "'":
            at = text.find("'", at + 1)
            if at < 0:
                break
        elif text[at] in "()":
            depth += 1 if text[at] == "(" else -1
            if not depth:
                return at
        at += 1
    raise ValueError("a '$(' is not closed")


def spellings(path: str, *, root: str, home: str) -> tuple[str, ...]:
    """Every way in which a pattern may name an absolute path: below the project, below the home, from the root."""
    full = posixpath.normpath(posixpath.join(root, path))
    found = [full]
    for base, prefix in ((home, "~/"), (root, "")):
        if full == base or full.startswith(base.rstrip("/") + "/"):
            found.insert(0, prefix + full[len(base.rstrip("/")) + 1 :] or ".")
    return tuple(found)

"""The powers of the interpreter: protocols for everything that touches the world outside.

`interpreter` starts nothing itself. Whoever runs a script hands these in; leaving one out (None) takes the power away,
and an attempt to use it is an error that names the line. While a module is declared, and in `@mcpConfig()` and guards,
every port but output and clock is absent (a guard of the script itself keeps the engine): see P13 in SECURITY.md.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Protocol

from interpreter.declarations import EMPTY, EnvironmentSpec
from interpreter.labels import NONE, Labels

CommandKind = Literal["cmd", "sh", "node", "py"]


_PLAIN_ECHO = """echo() { case $1 in -n) shift; printf %s "$*";; *) printf '%s\\n' "$*";; esac; }"""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A program to run: a POSIX command line (`cmd`), or a code body in the language `kind`.

    `text` is complete: templates are filled in and every value in a `cmd` is quoted for a POSIX shell.
    """

    kind: CommandKind
    text: str
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    # Values of `using`: environment of this process only; masked wherever output is shown or recorded.
    secrets: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    stdin: bytes | None = None
    timeout_seconds: float | None = None
    # Called with (stream name, chunk) as output arrives; the result still holds all of it.
    on_output: Callable[[Literal["stdout", "stderr"], bytes], None] | None = None
    tty: bool = False  # an interactive shell in the user's terminal; stdout and stderr stay empty
    plain_echo: bool = False  # of a `cmd`: its `echo` says JSON, whose escapes the echo of some shells would decode

    @property
    def shell_text(self) -> str:
        """The text as a shell gets it."""
        return f"{_PLAIN_ECHO}\n{self.text}" if self.plain_echo else self.text


@dataclass(frozen=True, kw_only=True)
class CommandResult:
    """How a command ended. `signal` is set when it was killed, `oom` when the memory limit killed it."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    signal: int | None = None
    oom: bool = False
    timed_out: bool = False


class Directory(Protocol):
    """A directory of its own in which commands can start: a workspace as files. Paths are relative and clean.

    What lies in it was written by programs that nobody trusts: neither call follows a symbolic link, and both are bounded.
    """

    @property
    def path(self) -> str:
        """Where it is, as commands see it."""
        ...

    async def write(self, files: Mapping[str, bytes], gone: Sequence[str] = ()) -> None:
        """Puts files there and removes others. Errors: `OSError`."""
        ...

    async def read(self) -> Mapping[str, bytes]:
        """Every regular file in it. Errors: `OSError`, also where there is more than a workspace may hold."""
        ...

    async def close(self) -> None: ...


class CommandPort(Protocol):
    """Runs programs: on the host for `local`, by exec in the agent's container inside an environment."""

    async def run(self, command: Command) -> CommandResult:
        """Errors: `OSError` when the program cannot be started; a non-zero exit is a result, not an error."""
        ...

    async def directory(self, *, project: bool = False) -> Directory:
        """A new directory beside these commands; with `project` it shows the project's files as links. Errors: `OSError`."""
        ...


class ScriptEngineError(Exception):
    """A `js` body failed: the engine's message; `stack` is its trace, `limit` is set when time or memory ran out."""

    def __init__(self, message: str, *, stack: str = "", limit: bool = False) -> None:
        super().__init__(message)
        self.stack = stack
        self.limit = limit


@dataclass(frozen=True, kw_only=True)
class ScriptFunction:
    """A function that a `js` body can call by name: `exe js = { double }`."""

    name: str
    parameters: tuple[str, ...]
    body: str


@dataclass(frozen=True, kw_only=True)
class ScriptResult:
    """What a `js` body gave back: a JSON-able value (`returned` is False without one), and what it printed."""

    value: object = None
    returned: bool = False
    printed: str = ""
    warned: str = ""  # console.error and console.warn


class ScriptEngine(Protocol):
    """Evaluates `js` bodies in an embedded engine without file, network or process access; lives as long as the script."""

    async def evaluate(
        self,
        body: str,
        arguments: Mapping[str, object],
        *,
        ambient: Mapping[str, object] = EMPTY,
        functions: Sequence[ScriptFunction] = (),
        texts: Mapping[str, str] = EMPTY,
    ) -> ScriptResult:
        """`arguments` are parameters of the body, `...` for one that was not given; `ambient` are names around it;
        `texts` are the texts of those arguments that are structures and were read from text.

        Errors: `ScriptEngineError` with the engine's message.
        """
        ...

    def close(self) -> None: ...


class FilePort(Protocol):
    """Files of the project. Paths are absolute; the port refuses what lies outside its roots with `PermissionError`."""

    def read(self, path: Path) -> bytes: ...

    def write(self, path: Path, data: bytes, *, append: bool = False) -> None: ...

    def glob(self, root: Path, pattern: str) -> Sequence[Path]: ...

    def exists(self, path: Path) -> bool: ...

    def is_dir(self, path: Path) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class ToolInfo:
    """A tool of an MCP server as the agent sees it (MCP 2025-11-25, server/tools)."""

    server: str
    name: str
    description: str
    input_schema: Mapping[str, object]
    annotations: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, kw_only=True)
class Denial:
    """By which rule of the fence a call was refused, and why."""

    rule: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ToolResult:
    """The result of tools/call: its text items joined, the structured content if any."""

    text: str
    structured: object | None = None
    is_error: bool = False
    labels: tuple[str, ...] = ()  # labels that the sidecar put on the result
    audit: str = ""  # reference of the call in the record
    denied: Denial | None = None  # the fence refused the call or its result; never a server's word


class ToolConnection(Protocol):
    """An open connection to one MCP server, or to a sandbox's endpoint."""

    @property
    def tools(self) -> Sequence[ToolInfo]: ...

    async def call(self, tool: str, arguments: Mapping[str, object]) -> ToolResult: ...

    async def close(self) -> None: ...


class ToolPort(Protocol):
    """Starts or reaches an MCP server named by the spec of `import tools … from mcp "SPEC"`."""

    async def open(self, spec: str, *, env: Mapping[str, str] = EMPTY) -> ToolConnection: ...


@dataclass(frozen=True, kw_only=True)
class Witnessed:
    """What the agent of a sandbox has seen since `mark`: becomes the taint of its answer (semantics §6)."""

    calls: tuple[tuple[str, str, tuple[str, ...]], ...] = ()  # (server, tool, labels of the tool)
    egress: bool = False

    @property
    def labels(self) -> Labels:
        """Of whatever somebody says who has seen this."""
        labels = NONE
        for server, tool, tool_labels in self.calls:
            name = f"mcp:{server}:{tool}"
            labels = labels | Labels.of(*tool_labels, automatic=("src:mcp", name), sources=(name,))
        return labels | Labels.of(automatic=("src:network",)) if self.egress else labels


class SandboxSession(Protocol):
    """A running environment: commands and tools of one env block or one `@spawn`."""

    @property
    def run_id(self) -> str: ...

    @property
    def commands(self) -> CommandPort: ...

    @property
    def project(self) -> str | None:
        """Where its commands find the project; None if they do not see it."""
        ...

    @property
    def files(self) -> FilePort | None: ...

    @property
    def tools(self) -> ToolConnection | None:
        """The tools as the agent sees them; None when the profile has no servers."""
        ...

    def mark(self) -> int:
        """A position in the stream of witnessed events."""
        ...

    async def witnessed(self, mark: int) -> Witnessed: ...

    async def close(self, error: BaseException | None = None) -> None: ...


class SandboxPort(Protocol):
    """Makes an environment real. Errors: whatever the runner raises; the block does not start then."""

    async def open(self, spec: EnvironmentSpec) -> SandboxSession: ...


class SecretPort(Protocol):
    """Reads a secret where an `auth` declaration says it is."""

    def read(self, source: str) -> str:
        """`source` as in `AuthDecl.source`. Errors: `LookupError` whose text says where it looked."""
        ...


@dataclass(frozen=True, kw_only=True)
class Signed:
    """A text that was signed, as it is kept: by whom (a name, which proves nothing by itself), and when (ISO 8601)."""

    name: str
    text: str
    by: str | None
    at: str


class SignaturePort(Protocol):
    """Signatures of texts, made with a key that no script and no sandbox can read."""

    def sign(self, signed: Signed) -> None:
        """Keeps a text with its signature. Errors: `OSError`."""
        ...

    def signed(self, name: str) -> Signed:
        """The text that was signed under a name. Errors: `LookupError` (there is none), `ValueError` (it was changed since)."""
        ...


class CheckpointPort(Protocol):
    """What earlier runs of a script kept: lines of JSON, in order. Errors: `OSError`."""

    def read(self) -> bytes:
        """Everything; empty if there is nothing."""
        ...

    def append(self, line: bytes) -> None: ...


class HttpPort(Protocol):
    """Loads a URL for `<https://…>`: through the fence where there is one."""

    async def get(self, url: str) -> tuple[bytes, str]:
        """Body and content type."""
        ...


class Output(Protocol):
    """Where effects go. The document and `stdout` are the script's output; all else is for stderr."""

    def document(self, text: str) -> None: ...

    def stdout(self, text: str) -> None: ...

    def stderr(self, text: str) -> None: ...

    def event(self, event: object) -> None:
        """A frozen dataclass of `interpreter.events`: guard decisions, tool calls, taint; for the record."""
        ...


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def monotonic(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Ports:
    """All powers of one evaluation; None = that power is absent."""

    output: Output
    clock: Clock
    files: FilePort | None = None
    commands: CommandPort | None = None
    engine: Callable[[], ScriptEngine] | None = None  # made at first use
    tools: ToolPort | None = None
    sandboxes: SandboxPort | None = None
    secrets: SecretPort | None = None
    http: HttpPort | None = None
    checkpoints: CheckpointPort | None = None
    signatures: SignaturePort | None = None
    env: Mapping[str, str] = field(
        default_factory=lambda: EMPTY
    )  # variables a script may read through @input, already filtered
    programs: Callable[[str], bool] | None = None  # whether a program of that name can be started here
    stdin: Callable[[], str] | None = None
    lines: Callable[[], AsyncIterator[str]] | None = None
    # Gets the output of commands in an agent's seat as it comes, before anything is masked.
    live: Callable[[Literal["stdout", "stderr"], bytes], None] | None = None

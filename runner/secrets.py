"""Secrets: read where an `auth` declaration says they are, and struck out of everything shown or recorded.

A value lives in memory only: in the environment of the one process it was granted to, and in the `Masker`. It is never
part of a plan, of a container's configuration, of a record or of an error.
"""

from __future__ import annotations

import base64
import json
import shlex
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Iterable, Mapping

from interpreter.declarations import AuthDecl
from runner.errors import SecretMissing

MASK = "•••"
# Striking out "1" or "on" would eat the text around it and tell more than it hides.
SHORTEST = 4
# The lines of a key are secrets, too, where text is looked at line by line; short ones are common words.
_SHORTEST_LINE = 16
_COMMAND_SECONDS = 30


class Secrets:
    """Reads secrets (`ports.SecretPort`). `env` is the user's environment, handed in once.

    Every value that was read is known to `masker` from then on: nothing can be handed out that would show.
    """

    def __init__(self, env: Mapping[str, str], masker: Masker | None = None) -> None:
        self._env = env
        self.masker = Masker() if masker is None else masker

    def read(self, source: str) -> str:
        """The secret at `source`. Errors: `LookupError` whose text says where it looked, never what it saw."""
        value = self._read(source)
        self.masker.add(value)
        return value

    def _read(self, source: str) -> str:
        kind, colon, rest = source.partition(":")
        match kind if colon else "env":
            case "env":
                return self._variable(rest if colon else source)
            case "keychain":
                return self._keychain(rest)
            case "command":
                return self._command(rest)
            case _:
                raise LookupError(
                    f"{kind!r} is not a source of secrets: use env:NAME, keychain:SERVICE/ACCOUNT, command:…"
                )

    def _variable(self, name: str) -> str:
        if value := self._env.get(name):
            return value
        state = "is empty" if name in self._env else "is not set"
        raise LookupError(f"Environment variable '{name}' {state}")

    def _keychain(self, entry: str) -> str:
        service, _, account = entry.partition("/")
        if not service or not account:
            raise LookupError(f"keychain:{entry} names no account: write keychain:SERVICE/ACCOUNT")
        # The system's own tool: a Python binding would add a D-Bus stack for one look-up.
        if sys.platform == "darwin":
            argv = ["security", "find-generic-password", "-s", service, "-a", account, "-w"]
        else:
            argv = ["secret-tool", "lookup", "service", service, "account", account]
        if shutil.which(argv[0], path=self._env.get("PATH")) is None:
            raise LookupError(f"looked for the keychain's tool: {argv[0]} is not installed (Debian: libsecret-tools)")
        return self._output(argv, f"looked in the keychain: no entry for service {service!r}, account {account!r}")

    def _command(self, line: str) -> str:
        try:
            argv = shlex.split(line)
        except ValueError as error:
            raise LookupError(f"command:{line} cannot be split into words: {error}") from None
        if not argv:
            raise LookupError("command: names no program")
        return self._output(argv, f"looked at what `{line}` prints")

    def _output(self, argv: list[str], looked: str) -> str:
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_COMMAND_SECONDS,
                env=dict(self._env),
                check=False,
            )
        except OSError as error:
            raise LookupError(f"{looked}: {argv[0]} cannot be started: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise LookupError(f"{looked}: it took longer than {_COMMAND_SECONDS} s") from None
        if done.returncode:
            raise LookupError(f"{looked}: it ended with {done.returncode}")
        if not (value := done.stdout.decode("utf-8", "replace").rstrip("\r\n")):
            raise LookupError(f"{looked}: nothing came out")
        return value


def resolve(declared: Mapping[str, AuthDecl], names: Iterable[str], secrets: Secrets) -> dict[str, str]:
    """Variable → value for the auth declarations `names`. Errors: `SecretMissing` at the declaration's place."""
    values: dict[str, str] = {}
    for name in names:
        if (auth := declared.get(name)) is None:
            raise SecretMissing(name, f"no auth of that name is declared; declared: {', '.join(declared) or 'none'}")
        try:
            values[auth.variable] = secrets.read(auth.source)
        except LookupError as error:
            raise SecretMissing(name, str(error.args[0]), place=auth.place) from None
    return values


class Masker:
    """Strikes literal secrets out of text, bytes and JSON-able values, also in the usual encodings of them."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._forms: list[str] = []
        self.add(*values)

    def add(self, *values: str) -> None:
        forms = {form for value in values if len(value) >= SHORTEST for form in _encodings(value)}
        # Longest first, so that a secret which holds another one does not stay behind in part.
        self._forms = sorted({*self._forms, *forms}, key=len, reverse=True)

    def text(self, text: str) -> str:
        for form in self._forms:
            if form in text:
                text = text.replace(form, MASK)
        return text

    def value(self, value: object) -> object:
        """A copy of a JSON-able value with every string and key masked."""
        if not self._forms:
            return value
        match value:
            case str():
                return self.text(value)
            case Mapping():
                return {self.text(str(key)): self.value(item) for key, item in value.items()}
            case list() | tuple():
                return [self.value(item) for item in value]
            case _:
                return value

    def stream(self) -> MaskingStream:
        return MaskingStream(self)

    def held_back(self, data: bytes) -> int:
        """How many bytes at the end of `data` could be the beginning of a secret."""
        longest = max((len(form.encode()) for form in self._forms), default=0)
        for length in range(min(longest - 1, len(data)), 0, -1):
            if any(form.encode().startswith(data[-length:]) for form in self._forms):
                return length
        return 0

    def bytes(self, data: bytes) -> bytes:
        for form in self._forms:
            data = data.replace(form.encode(), MASK.encode())
        return data


class MaskingStream:
    """Masks output that comes in pieces: a secret cut in two by a buffer's end is still found."""

    def __init__(self, masker: Masker) -> None:
        self._masker, self._rest = masker, b""

    def feed(self, chunk: bytes) -> bytes:
        data = self._masker.bytes(self._rest + chunk)
        keep = self._masker.held_back(data)
        self._rest = data[len(data) - keep :]
        return data[: len(data) - keep]

    def flush(self) -> bytes:
        rest, self._rest = self._rest, b""
        return rest


def _encodings(value: str) -> Iterable[str]:
    yield value
    if len(lines := value.splitlines()) > 1:
        yield from (line for line in lines if len(line) >= _SHORTEST_LINE)
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    yield urllib.parse.quote(value, safe="")
    for data in (value.encode(), value.encode() + b"\n"):
        yield base64.b64encode(data).decode().rstrip("=")

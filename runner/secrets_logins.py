"""Logins: what a person's login to a remote server has left, kept for the next runs in files of the user's own.

One file per environment and server, below the user's data directory, readable by the user alone. A file and not the
keychain: a running sidecar hands back each token that replaces another, and a keychain's tool would take it as an
argument, which every process of the machine can read.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import CheckFailure

VERSION = 1
_MOST_BYTES = 1 << 20

Credential = Mapping[str, Any]
"""`images.sidecar.authorizer.Credential` as JSON: the runner keeps it and looks at nothing in it but its tokens."""


def tokens(credential: Credential) -> tuple[str, ...]:
    """What of it must be masked wherever text is shown or kept."""
    named = (credential.get(key) for key in ("access_token", "refresh_token", "client_secret", "key"))
    return tuple(str(value) for value in named if value)


def has_ended(credential: Credential, now: float) -> bool:
    """Whether a login is over by its own account: its token has lapsed, and nothing renews it."""
    lapses = credential.get("lapses")
    return not credential.get("refresh_token") and isinstance(lapses, int | float) and lapses <= now


@dataclass(frozen=True, kw_only=True)
class Logins:
    """The logins of this user. `directory`: of the user alone, made when it is needed."""

    directory: Path

    def read(self, environment: str, server: str) -> Credential | None:
        """What the last login left; None: nobody is logged in. Errors: `CheckFailure`."""
        path = self._path(environment, server)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CheckFailure(f"{path} cannot be read: {error.strerror}", remedy="log in again") from None
        with open(descriptor, "rb") as file:
            state = os.fstat(descriptor)
            if state.st_uid != os.getuid() or stat.S_IMODE(state.st_mode) & 0o077:
                # What others could read they may have; what others could write may send our tokens elsewhere.
                raise CheckFailure(
                    f"{path} holds a login, and others than you can read it",
                    remedy=f"mlld sandbox logout {server}, then log in again",
                )
            data = file.read(_MOST_BYTES)
        try:
            held = json.loads(data)
            if held["version"] != VERSION or not isinstance(held["credential"], dict):
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            raise CheckFailure(
                f"{path} is no login that this release can read", remedy=f"mlld sandbox login {server}"
            ) from None
        credential: Credential = held["credential"]
        return credential

    def write(self, environment: str, server: str, credential: Credential) -> None:
        """Keeps a new login, in place of any other."""
        with self._alone():
            self._put(environment, server, credential)

    def replace(self, environment: str, server: str, former: Credential, credential: Credential) -> bool:
        """Keeps the successor of a login that was handed to a run; not if somebody has logged in anew meanwhile."""
        with self._alone():
            if self.read(environment, server) != former:
                return False
            self._put(environment, server, credential)
            return True

    def forget(self, environment: str, server: str) -> bool:
        """Removes a login; whether there was one."""
        with self._alone():
            try:
                self._path(environment, server).unlink()
            except FileNotFoundError:
                return False
            return True

    def _put(self, environment: str, server: str, credential: Credential) -> None:
        path = self._path(environment, server)
        held = {"version": VERSION, "environment": environment, "server": server, "credential": dict(credential)}
        new = path.with_suffix(f".{os.getpid()}.new")
        new.unlink(missing_ok=True)  # of an earlier process with our number, which did not finish
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(held, file)
            file.flush()
            os.fsync(descriptor)  # the former token may be worth nothing already
        new.replace(path)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time changes logins."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory.chmod(0o700)
        descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _path(self, environment: str, server: str) -> Path:
        # By environment too: another module that names the same server must not get the token that this one was given.
        name = hashlib.sha256(f"{environment}\0{server}".encode()).hexdigest()[:32]
        return self.directory / f"{name}.json"

"""Signatures of texts (`ports.SignaturePort`): HMAC-SHA256 with a key of the user's.

    .sig/content/NAME.sig.json      hash, signature, who and when
    .sig/content/NAME.sig.content   the text

The key lies outside of the project and is in no sandbox: whoever changes a text there cannot sign it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from interpreter.ports import Signed

KEY = "signing.key"
_DIRECTORY = Path(".sig", "content")
_LONGEST = 4 << 20
_KEY_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class HostSignatures:
    """The signatures of one project. `key` is made with the first of them."""

    project: Path
    key: Path

    def sign(self, signed: Signed) -> None:
        text = signed.text.encode()
        about = {
            "hash": content_hash(signed.text), "algorithm": "hmac-sha256", "signature": _mac(self._make_key(), signed),
            "signedBy": signed.by, "signedAt": signed.at,
        }  # fmt: skip
        self._place(signed.name, "json").parent.mkdir(parents=True, exist_ok=True)
        _write(self._place(signed.name, "content"), text, 0o644)
        _write(self._place(signed.name, "json"), json.dumps(about, indent=2).encode() + b"\n", 0o644)

    def signed(self, name: str) -> Signed:
        import hmac

        try:
            about = json.loads(_read(self._place(name, "json")))
            text = _read(self._place(name, "content")).decode()
        except FileNotFoundError:
            raise LookupError(name) from None
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"it cannot be read: {error}") from None
        if not isinstance(about, dict) or not isinstance(about.get("signature"), str):
            raise ValueError("it has no signature")
        by = about.get("signedBy")
        signed = Signed(name=name, text=text, by=None if by is None else str(by), at=str(about.get("signedAt")))
        try:
            key = _read(self.key)
        except OSError:
            raise ValueError("the key that it was made with is not here") from None
        if not hmac.compare_digest(_mac(key, signed).encode(), about["signature"].encode()):
            raise ValueError("text, signer or time were changed, or another key made it")
        return signed

    def _place(self, name: str, kind: str) -> Path:
        if not name.replace("-", "_").isidentifier():
            raise LookupError(name)  # `../x` is no name of a variable
        return self.project / _DIRECTORY / f"{name}.sig.{kind}"

    def _make_key(self) -> bytes:
        import secrets

        if not self.key.exists():
            self.key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Whole or not at all, and never over one that is there: another run may be making it, too.
            made = self.key.with_name(f"{KEY}.{secrets.token_hex(4)}")
            _write(made, secrets.token_bytes(_KEY_BYTES), 0o600)
            try:
                os.link(made, self.key)
            except FileExistsError:
                pass
            finally:
                made.unlink()
        return _read(self.key)


# Cryptography is loaded with the first signature: most scripts have none, and all have these ports.


def content_hash(text: str) -> str:
    import hashlib

    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _mac(key: bytes, signed: Signed) -> str:
    import hashlib
    import hmac

    if len(key) != _KEY_BYTES:
        raise ValueError("the key is damaged")
    # JSON, so that no two records have one message: every part has its own quotes.
    message = json.dumps([signed.name, signed.text, signed.by, signed.at]).encode()
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def _read(path: Path) -> bytes:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        return file.read(_LONGEST)


def _write(path: Path, data: bytes, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, mode), "wb") as file:
        file.write(data)

"""Certificate authorities of the user's own: of a company whose network speaks TLS in everybody's place, or of a test.

The sidecar trusts them beside those of its image, towards remote servers and those that authorize there; they come to it
with its configuration, as text, so that it still sees nothing of the host. Agents and servers have TLS of their own end
to end, with the authorities of their images (`SSL_CERT_FILE` while these are built).
"""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

from runner.errors import BadOption, SandboxFailure
from runner.plan import CaBundle

LARGEST = 1 << 20


def read(path: Path) -> tuple[CaBundle, str]:
    """What a plan says of a bundle, and its text. Errors: `BadOption`."""
    remedy = "name a file of PEM certificates in MLLD_CA_BUNDLE, or unset it"
    try:
        data = path.read_bytes()
        text = data.decode("ascii", "ignore")  # between the certificates may be anything: names, in any encoding
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (OSError, ValueError) as error:
        raise BadOption(f"the CA bundle {path} cannot be used: {error}", remedy=remedy) from None
    if len(data) > LARGEST or "PRIVATE KEY" in text:
        raise BadOption(f"the CA bundle {path} is too large, or holds a private key", remedy=remedy)
    return CaBundle(path=str(path), sha256=hashlib.sha256(data).hexdigest()), text


def planned(bundle: CaBundle | None) -> str:
    """The text of the bundle that a plan says, empty if it says none. Errors: `BadOption`, `SandboxFailure`."""
    if bundle is None:
        return ""
    now, text = read(Path(bundle.path))
    if now != bundle:
        raise SandboxFailure(f"the CA bundle {bundle.path} is not the one that was planned", remedy="plan again")
    return text

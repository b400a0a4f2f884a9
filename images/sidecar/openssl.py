"""OpenSSL only in a sidecar that speaks TLS: most reach no remote server, and it is a sixth of their memory.

`asyncio` imports `ssl`, `hashlib` and `hmac` OpenSSL's digests, whether anybody wants them or not; all can do without. The gate
passes TLS on as it comes, so what is left are clients of remote servers, which `provide` it before they need it.
"""

from __future__ import annotations

import importlib
import sys

_DEFERRED = ("ssl", "_hashlib")
_USERS = ("asyncio", "hashlib", "hmac")


def defer() -> None:
    """Has `asyncio`, `hashlib` and `hmac` imported without OpenSSL, if nobody has imported them yet."""
    if any(name in sys.modules for name in (*_DEFERRED, *_USERS)):
        return
    for name in _DEFERRED:
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it fails, which they are prepared for
    for name in _USERS:
        importlib.import_module(name)
    for name in _DEFERRED:
        del sys.modules[name]


def provide() -> None:
    """Gives `asyncio` the `ssl` that it was imported without."""
    from asyncio import base_events, selector_events, sslproto

    if getattr(sslproto, "ssl", None) is None:
        importlib.reload(sslproto)
        for module in (base_events, selector_events):
            vars(module)["ssl"] = importlib.import_module("ssl")

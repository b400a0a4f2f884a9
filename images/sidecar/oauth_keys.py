"""Signed statements: assertions of a client's key (RFC 7523) and proofs of possession (DPoP, RFC 9449).

Imported only where a server asks for one of them: the library for keys is larger than the rest of the sidecar.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from base64 import urlsafe_b64encode
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from images.sidecar.oauth import OAuthError
from images.sidecar.oauth_fetch import DPOP_ALGORITHM

_ASSERTION_SECONDS = 60


def assertion(client: str, issuer: str, key: str, algorithm: str) -> str:
    """A client's authentication by its key (`private_key_jwt`), for this issuer and once. Errors: `OAuthError`."""
    now = int(time.time())
    claims = {
        "iss": client,
        "sub": client,
        "aud": issuer,
        "iat": now,
        "exp": now + _ASSERTION_SECONDS,
        "jti": secrets.token_urlsafe(16),
    }
    try:
        return jwt.encode(claims, key, algorithm)
    except (jwt.PyJWTError, ValueError, TypeError) as e:
        # The library's own words may quote the key.
        raise OAuthError(f"the private key of its auth is no key for {algorithm} ({type(e).__name__})") from None


class Prover:
    """A key that tokens are bound to, and its proofs: each for one request, never used twice."""

    def __init__(self, pem: str = "") -> None:
        """`pem`: a key that was made before, to which a refresh token is bound."""
        key: Any = (
            serialization.load_pem_private_key(pem.encode(), password=None)
            if pem
            else ec.generate_private_key(ec.SECP256R1())
        )
        self._key = key
        public = json.loads(ECAlgorithm.to_jwk(key.public_key()))
        self._jwk = {name: public[name] for name in ("kty", "crv", "x", "y")}
        self.nonces: dict[str, str] = {}
        """By origin: what it wants to see in the next proof (RFC 9449 §8)."""

    @property
    def pem(self) -> str:
        form = serialization.PrivateFormat.PKCS8
        return str(self._key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode())

    def proof(self, method: str, url: str, nonce: str = "", token: str = "") -> str:
        """The value of the `DPoP` header of one request. `url`: without query and fragment."""
        claims: dict[str, Any] = {
            "jti": secrets.token_urlsafe(16),
            "htm": method,
            "htu": url,
            "iat": int(time.time()),
        }
        if nonce:
            claims["nonce"] = nonce
        if token:
            claims["ath"] = urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()
        return jwt.encode(claims, self._key, DPOP_ALGORITHM, headers={"typ": "dpop+jwt", "jwk": self._jwk})

"""The keys that sign our access tokens: Ed25519, in PostgreSQL, shared by all replicas.

Private halves are sealed with AES-256-GCM under a key derived from the pepper. A new key is made
when the newest is older than the rotation period; a retired key stays published until the last
token it signed has expired.
"""

import asyncio
import base64
import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from libs.common.postgres import Postgres

_NONCE_BYTES = 12
# Another replica's new key is learnt at once when a token names it, else within this.
_RELOAD_S = 30.0
_UNKNOWN_EVERY_S = 2.0
_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class TokenKey:
    """One signing key."""

    kid: str
    public: Ed25519PublicKey
    private: Ed25519PrivateKey | None
    created_at: float


class TokenKeys:
    """Loads, makes and publishes the keys."""

    def __init__(
        self, postgres: Postgres, pepper: bytes, *, rotation_s: float, token_life_s: float
    ) -> None:
        self._postgres = postgres
        self._seal = AESGCM(HKDF(SHA256(), 32, None, b"gatehouse token keys").derive(pepper))
        self._rotation_s = rotation_s
        self._kept_s = rotation_s + 2 * token_life_s + 60
        self._keys: dict[str, TokenKey] = {}
        self._loaded_at = -_RELOAD_S
        self._lock = asyncio.Lock()

    async def find(self, kid: str) -> Ed25519PublicKey | None:
        """Give the public key of that name, or None; unknown names cost few look-ups.

        Raises:
            UnavailableError: no key is known yet and the store is down.
        """
        known = self._keys.get(kid)
        if known is None and time.monotonic() - self._loaded_at > _UNKNOWN_EVERY_S:
            await self._load()
            known = self._keys.get(kid)
        return known.public if known else None

    async def current(self) -> TokenKey:
        """Give the key to sign with; makes one when there is none or the newest is too old.

        Raises:
            UnavailableError: the store is down.
        """
        async with self._lock:
            if time.monotonic() - self._loaded_at > _RELOAD_S:
                await self._load()
            newest = self._newest()
            if newest is None or time.time() - newest.created_at > self._rotation_s:
                await self._make()
                await self._load()
                newest = self._newest()
            assert newest is not None
            return newest

    async def rotate(self) -> str:
        """Make a new key now; gives its name."""
        async with self._lock:
            kid = await self._make()
            await self._load()
            return kid

    async def document(self) -> dict[str, Any]:
        """Give the JSON Web Key Set."""
        await self.current()
        return {
            "keys": [
                {
                    "kty": "OKP",
                    "crv": "Ed25519",
                    "x": _b64(key.public.public_bytes(Encoding.Raw, PublicFormat.Raw)),
                    "kid": key.kid,
                    "use": "sig",
                    "alg": "EdDSA",
                }
                for key in sorted(self._keys.values(), key=lambda key: -key.created_at)
            ]
        }

    def _newest(self) -> TokenKey | None:
        usable = [key for key in self._keys.values() if key.private is not None]
        return max(usable, key=lambda key: key.created_at, default=None)

    async def _load(self) -> None:
        rows = await self._postgres.fetch(
            "SELECT kid, public, sealed, extract(epoch FROM created_at)::float8 AS created_at "
            "FROM token_keys WHERE created_at > now() - make_interval(secs => $1) "
            "AND retired_at IS NULL",
            self._kept_s,
            timeout_s=_TIMEOUT_S,
        )
        self._keys = {
            row["kid"]: TokenKey(
                row["kid"],
                Ed25519PublicKey.from_public_bytes(bytes(row["public"])),
                self._opened(row["kid"], bytes(row["sealed"])),
                row["created_at"],
            )
            for row in rows
        }
        self._loaded_at = time.monotonic()

    def _opened(self, kid: str, sealed: bytes) -> Ed25519PrivateKey | None:
        """Open a private half; one sealed under an older pepper only verifies."""
        try:
            raw = self._seal.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], kid.encode())
        except InvalidTag:
            return None
        return Ed25519PrivateKey.from_private_bytes(raw)

    async def _make(self) -> str:
        private = Ed25519PrivateKey.generate()
        public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        kid = hashlib.sha256(public).hexdigest()[:16]
        raw = private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        nonce = secrets.token_bytes(_NONCE_BYTES)
        await self._postgres.execute(
            "INSERT INTO token_keys (kid, public, sealed) VALUES ($1, $2, $3)",
            kid,
            public,
            nonce + self._seal.encrypt(nonce, raw, kid.encode()),
        )
        return kid


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

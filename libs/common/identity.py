"""Service identity: who vouches for a call between services.

`X-Gatehouse-Identity: base64url(JSON).base64url(Ed25519 signature)` with the JSON
`{iss, kid, aud, tenant, principal, scopes, exp}`. The gateway signs for callers; each service signs
for its own background work. A receiver accepts only issuers that the catalogue lets call it, so no
service can speak for another. Verification is cached by the header's hash until it expires.
"""

import base64
import hashlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from libs.common.context import Caller
from libs.common.errors import UnauthenticatedError

IDENTITY_HEADER = "x-gatehouse-identity"
# A stolen header is useless after this; long enough that the gateway signs once per principal.
LIFETIME_S = 30.0
# Clocks of two hosts may differ this much.
LEEWAY_S = 5.0
_CACHE_ENTRIES_MAX = 4096
_HEADER_BYTES_MAX = 4096


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def key_id(service: str, public: bytes) -> str:
    """Name a key: the service and eight hex digits of its public half."""
    return f"{service}-{hashlib.sha256(public).hexdigest()[:8]}"


def ensure_keys(directory: Path, services: Iterable[str]) -> None:
    """Make a key pair for each service that has none; private halves get mode 0600."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for service in services:
        private_path, public_path = directory / f"{service}.key", directory / f"{service}.pub"
        if not private_path.exists():
            key = Ed25519PrivateKey.generate()
            raw = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
            descriptor = os.open(private_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(_b64(raw))
        if not public_path.exists():
            raw = (
                Ed25519PrivateKey.from_private_bytes(_unb64(private_path.read_text()))
                .public_key()
                .public_bytes(Encoding.Raw, PublicFormat.Raw)
            )
            public_path.write_text(_b64(raw))


class Signer:
    """Signs identities in the name of one service; reuses a header while it is fresh."""

    def __init__(
        self, service: str, private_key: Ed25519PrivateKey, *, now: Callable[[], float] = time.time
    ) -> None:
        self.service = service
        self._key = private_key
        self._now = now
        public = private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self._kid = key_id(service, public)
        self._cache: dict[tuple[str, str, str, frozenset[str]], tuple[float, str]] = {}

    @classmethod
    def from_directory(cls, service: str, directory: Path) -> "Signer":
        """Load the private key of `service`.

        Raises:
            FileNotFoundError: the key has not been made; `ensure_keys` makes it.
        """
        raw = _unb64((directory / f"{service}.key").read_text().strip())
        return cls(service, Ed25519PrivateKey.from_private_bytes(raw))

    def header(
        self,
        audience: str,
        *,
        tenant: str = "",
        principal: str | None = None,
        scopes: Iterable[str] = (),
    ) -> str:
        """Give a header value for a call to `audience`.

        Args:
            audience: name of the called service.
            tenant: whose data the call is about; empty for work across tenants.
            principal: who calls; default this service itself.
            scopes: what the caller may do.
        """
        who = principal or f"service:{self.service}"
        granted = frozenset(scopes)
        key = (audience, tenant, who, granted)
        now = self._now()
        cached = self._cache.get(key)
        # Above the lifetime the clock was set back; the peer would find it too far ahead.
        if cached and LIFETIME_S / 3 < cached[0] - now <= LIFETIME_S:
            return cached[1]
        expires = now + LIFETIME_S
        payload = orjson.dumps(
            {
                "iss": self.service,
                "kid": self._kid,
                "aud": audience,
                "tenant": tenant,
                "principal": who,
                "scopes": sorted(granted),
                "exp": round(expires, 3),
            }
        )
        value = f"{_b64(payload)}.{_b64(self._key.sign(payload))}"
        if len(self._cache) >= _CACHE_ENTRIES_MAX:
            self._cache.clear()
        self._cache[key] = (expires, value)
        return value


class Verifier:
    """Checks identities addressed to one service against the directory of public keys."""

    def __init__(
        self,
        audience: str,
        directory: Path,
        issuers: frozenset[str],
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._audience = audience
        self._directory = directory
        self._issuers = issuers
        self._now = now
        self._keys: dict[str, tuple[str, Ed25519PublicKey]] = {}
        self._cache: dict[bytes, tuple[float, Caller]] = {}

    def verify(self, header: str) -> Caller:
        """Return the caller that a trusted service vouches for.

        Raises:
            UnauthenticatedError: malformed, wrong audience, unknown issuer, expired, bad signature.
        """
        if len(header) > _HEADER_BYTES_MAX:
            raise UnauthenticatedError("The service identity is too long.")
        now = self._now()
        digest = hashlib.sha256(header.encode("latin-1", "replace")).digest()
        cached = self._cache.get(digest)
        if cached:
            if cached[0] + LEEWAY_S >= now:
                return cached[1]
            del self._cache[digest]
        expires, caller = self._check(header, now)
        if len(self._cache) >= _CACHE_ENTRIES_MAX:
            self._cache.clear()
        self._cache[digest] = (expires, caller)
        return caller

    def _check(self, header: str, now: float) -> tuple[float, Caller]:
        try:
            encoded, _, signature = header.partition(".")
            payload = _unb64(encoded)
            claims = orjson.loads(payload)
            issuer, audience = str(claims["iss"]), str(claims["aud"])
            expires, kid = float(claims["exp"]), str(claims["kid"])
            caller = Caller(
                tenant=str(claims["tenant"]),
                principal=str(claims["principal"]),
                scopes=frozenset(map(str, claims["scopes"])),
                issuer=issuer,
            )
            raw_signature = _unb64(signature)
        except (ValueError, KeyError, TypeError):
            raise UnauthenticatedError("The service identity is malformed.") from None
        if issuer not in self._issuers:
            raise UnauthenticatedError("The issuer of the service identity may not call here.")
        if audience != self._audience:
            raise UnauthenticatedError("The service identity is addressed to another service.")
        if expires + LEEWAY_S < now or expires > now + LIFETIME_S + LEEWAY_S:
            raise UnauthenticatedError("The service identity has expired.")
        if issuer != "gateway" and caller.principal != f"service:{issuer}":
            raise UnauthenticatedError("Only the gateway may speak for a caller.")
        try:
            self._key_of(issuer, kid).verify(raw_signature, payload)
        except InvalidSignature:
            raise UnauthenticatedError("The service identity does not verify.") from None
        return expires, caller

    def _key_of(self, issuer: str, kid: str) -> Ed25519PublicKey:
        known = self._keys.get(issuer)
        if known and known[0] == kid:
            return known[1]
        try:
            raw = _unb64((self._directory / f"{issuer}.pub").read_text().strip())
        except OSError:
            raise UnauthenticatedError("The issuer's public key is not known here.") from None
        if key_id(issuer, raw) != kid:
            raise UnauthenticatedError("The key of the service identity is not known here.")
        public = Ed25519PublicKey.from_public_bytes(raw)
        self._keys[issuer] = (kid, public)
        return public

"""Who calls: verification of API keys and tokens behind a cache of verified credentials.

The cache is keyed by SHA-256 of the whole credential. A fresh entry answers without I/O; a stale
one is verified again, and still believed up to `stale_s` while the store is down. An unknown key
is never refused because the store is down: that is 503. Revocations are polled.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from libs.common.errors import ServiceError, UnauthenticatedError, UnavailableError
from services.gateway.adapters.token_verifier import TokenVerifier
from services.gateway.domain import keys
from services.gateway.domain.claims import ClaimError, looks_like_token
from services.gateway.domain.ports import Credential, KeyStore
from services.gateway.errors import REALM

# How long a call with a known credential waits for its verification anew.
_REFRESH_WAIT_S = 0.05
_ENTRIES_MAX = 20_000
# Compared against when a key does not exist, so that an unknown id costs what a known one costs.
_NO_MAC = bytes(32)


@dataclass(slots=True)
class _Entry:
    credential: Credential
    verified_at: float


def refusal(detail: str, reason: str, *, sent: bool = True) -> UnauthenticatedError:
    """Build the 401; `reason` is for events and metrics and not shown."""
    challenge = f'{REALM}, error="invalid_token"' if sent else REALM
    error = UnauthenticatedError(
        detail,
        hint="Send an API key as X-API-Key, or a key or token as Authorization: Bearer.",
        headers={"WWW-Authenticate": challenge},
    )
    error.args = (detail, reason)
    return error


def reason_of(error: ServiceError) -> str:
    """Give the reason that `refusal` was made with."""
    return str(error.args[1]) if len(error.args) > 1 else "invalid"


class Authenticator:
    """Turns a presented credential into a Credential."""

    def __init__(
        self,
        store: KeyStore,
        pepper: bytes,
        *,
        fresh_s: float,
        stale_s: float,
        tokens: TokenVerifier | None = None,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._pepper = pepper
        self._tokens = tokens
        self._fresh_s = fresh_s
        self._stale_s = stale_s
        self._now = now
        self._wall = wall
        self._cache: dict[bytes, _Entry] = {}
        self._used: set[str] = set()
        self._refreshing: set[bytes] = set()

    def peek(self, token: str) -> Credential | None:
        """Give what the cache knows of a credential, fresh or stale, without any I/O."""
        entry = self._cache.get(hashlib.sha256(token.encode()).digest())
        return entry.credential if entry else None

    async def verify(self, token: str) -> Credential:
        """Verify a presented credential.

        Raises:
            UnauthenticatedError: unknown, malformed, wrong, revoked or expired.
            UnavailableError: the store is down and the credential is not known here.
        """
        digest = hashlib.sha256(token.encode()).digest()
        entry = self._cache.get(digest)
        if entry and self.is_revoked(entry.credential):
            del self._cache[digest]
            raise refusal("The credential is not valid.", "revoked")
        if entry and self._now() - entry.verified_at < self._fresh_s:
            return self._unexpired(entry.credential)
        if entry and self._now() - entry.verified_at < self._stale_s:
            return self._unexpired(await self._known(token, digest, entry))
        return await self._refreshed(token, digest)

    async def _known(self, token: str, digest: bytes, entry: _Entry) -> Credential:
        """Verify a known credential anew; a store that is late does not hold its calls up.

        One call at a time looks it up, and waits a moment for the verdict; revocations reach this
        process on their own way meanwhile. Raises as `verify`.
        """
        if digest in self._refreshing:
            return entry.credential
        task = asyncio.create_task(self._refreshed(token, digest))
        self._refreshing.add(digest)
        task.add_done_callback(lambda done: self._ended(digest, done))
        done, _ = await asyncio.wait({task}, timeout=_REFRESH_WAIT_S)
        if not done:
            return entry.credential
        try:
            return task.result()
        except UnavailableError:
            return entry.credential

    def _ended(self, digest: bytes, task: "asyncio.Task[Credential]") -> None:
        self._refreshing.discard(digest)
        if not task.cancelled():
            task.exception()  # a late verdict is in the cache; nobody else wants it

    async def _refreshed(self, token: str, digest: bytes) -> Credential:
        """Look a credential up and keep the verdict."""
        try:
            credential = await self._look_up(token)
        except UnauthenticatedError:
            self._cache.pop(digest, None)
            raise
        if len(self._cache) >= _ENTRIES_MAX:
            self._cache.clear()
        self._cache[digest] = _Entry(credential, self._now())
        self._used.add(credential.key_id)
        return credential

    async def verify_key(self, text: str) -> Credential:
        """Verify an API key, and nothing but a key. Raises as `verify`."""
        if not keys.looks_like_key(text):
            raise refusal("The credential is malformed.", "malformed")
        return await self.verify(text)

    def is_revoked(self, credential: Credential) -> bool:
        """Say whether a token's credential is known to be revoked."""
        marks = bool(credential.marks)
        return marks and self._tokens is not None and self._tokens.is_revoked(credential)

    async def is_live_key(self, key_id: str) -> bool:
        """Say whether a key exists and is neither revoked nor expired."""
        stored = await self._store.find(key_id)
        if stored is None or stored.revoked:
            return False
        expires = stored.credential.expires_at
        return expires is None or expires > self._wall()

    def used_lately(self) -> set[str]:
        """Give the ids of keys verified since the last call, for their last-use times."""
        used, self._used = self._used, set()
        return used

    def forget(self, key_ids: set[str]) -> None:
        """Drop cached credentials of revoked keys."""
        self._cache = {
            digest: entry
            for digest, entry in self._cache.items()
            if entry.credential.key_id not in key_ids
        }

    async def _look_up(self, token: str) -> Credential:
        if self._tokens and looks_like_token(token):
            try:
                return await self._tokens.verify(token)
            except ClaimError as error:
                raise refusal("The credential is not valid.", f"token_{error}") from None
        key_id = keys.key_id_of(token)
        if key_id is None:
            raise refusal("The credential is malformed.", "malformed")
        stored = await self._store.find(key_id)
        presented = keys.digest(self._pepper, token)
        matches = keys.same(presented, stored.mac if stored else _NO_MAC)
        if stored is None or not matches:
            raise refusal("The credential is not valid.", "unknown")
        if stored.revoked:
            raise refusal("The credential is not valid.", "revoked")
        return self._unexpired(stored.credential)

    def _unexpired(self, credential: Credential) -> Credential:
        if credential.expires_at is not None and credential.expires_at <= self._wall():
            raise refusal("The credential is not valid.", "expired")
        return credential

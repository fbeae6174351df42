"""Console sessions: a random id in a cookie, the key or the person it stands for in Redis.

Only the SHA-256 of the id is stored. A session is as good as its key or person: both are looked up
again every few seconds, so that revoking or disabling ends it. Without Redis there is no login.
"""

import hashlib
import secrets
import time

from libs.common.errors import UnauthenticatedError, UnavailableError
from libs.common.redis import UNAVAILABLE, Redis
from services.gateway.adapters.authenticator import Authenticator, reason_of
from services.gateway.adapters.security_events import SecurityEvents
from services.gateway.adapters.token_desk import TokenDesk
from services.gateway.domain.ports import Credential, KeyStore

LIFETIME_S = 8 * 3_600
_BELIEVED_S = 3.0
_PERSON = "user:"  # no key id holds a colon
_CACHED_MAX = 1_000


class Sessions:
    """Implements LoginDesk, and finds sessions for the edge."""

    def __init__(
        self,
        redis: Redis | None,
        store: KeyStore,
        people: TokenDesk,
        authenticator: Authenticator,
        events: SecurityEvents,
    ) -> None:
        self._redis = redis
        self._store = store
        self._people = people
        self._authenticator = authenticator
        self._events = events
        self._cache: dict[str, tuple[float, Credential]] = {}

    async def login(self, api_key: str, network: str) -> str:
        """Open a session for a key; give the id for the cookie."""
        try:
            credential = await self._authenticator.verify(api_key)
        except UnauthenticatedError as error:
            await self._events.auth_failed(network, reason_of(error), api_key)
            raise
        return await self._open(credential.key_id)

    async def login_person(self, username: str, password: str, network: str) -> str:
        """Open a session for a person; give the id for the cookie.

        Raises:
            UnauthenticatedError: name or password is wrong, or the person is disabled.
        """
        if await self._people.person_by_password(username, password, network) is None:
            raise UnauthenticatedError("Name or password is wrong.")
        return await self._open(_PERSON + username)

    async def _open(self, holder: str) -> str:
        session = secrets.token_urlsafe(32)
        if self._redis is None:
            raise UnavailableError("Console sessions need Redis.")
        try:
            await self._redis.set(_name(session), holder, ex=LIFETIME_S)
        except UNAVAILABLE as error:
            raise UnavailableError("Console sessions need Redis.") from error
        return session

    async def logout(self, session: str) -> None:
        """Close a session; unknown ones are fine."""
        self._cache.pop(session, None)
        if self._redis is not None:
            try:
                await self._redis.delete(_name(session))
            except UNAVAILABLE as error:
                raise UnavailableError("Console sessions need Redis.") from error

    async def find(self, session: str) -> Credential | None:
        """Give the credential behind a session, or None when it is over."""
        now = time.monotonic()
        cached = self._cache.get(session)
        if cached and now - cached[0] < _BELIEVED_S:
            return cached[1]
        self._cache.pop(session, None)
        if self._redis is None:
            return None
        try:
            held = await self._redis.get(_name(session))
        except UNAVAILABLE as error:
            raise UnavailableError("Console sessions need Redis.") from error
        credential = await self._held_by(held.decode()) if isinstance(held, bytes) else None
        if credential is None:
            return None
        if len(self._cache) >= _CACHED_MAX:
            self._cache.clear()
        self._cache[session] = (now, credential)
        return credential

    async def _held_by(self, holder: str) -> Credential | None:
        """Give what a key or a person may do today; None when they may do nothing any more."""
        if holder.startswith(_PERSON):
            return await self._people.person(holder.removeprefix(_PERSON))
        stored = await self._store.find(holder)
        if stored is None or stored.revoked:
            return None
        expires = stored.credential.expires_at
        return None if expires is not None and expires <= time.time() else stored.credential


def _name(session: str) -> str:
    return "sessions:{" + hashlib.sha256(session.encode()).hexdigest() + "}"

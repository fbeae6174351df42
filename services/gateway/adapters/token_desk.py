"""Issuing tokens: client credentials, passwords of people, refresh, revocation.

An access token lives minutes and is signed; a refresh token is 256 random bits of which only an
HMAC is stored. Each refresh gives a new one; using an old one twice revokes the whole family,
because one of the two users is a thief.
"""

import asyncio
import hmac
import secrets
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import jwt
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from libs.common.context import Caller
from libs.common.errors import UnauthenticatedError
from services.gateway.adapters.authenticator import Authenticator
from services.gateway.adapters.security_events import SecurityEvents
from services.gateway.adapters.token_keys import TokenKeys
from services.gateway.adapters.token_store import Family, TokenStore, User
from services.gateway.adapters.token_verifier import TokenVerifier
from services.gateway.domain.claims import ACCESS_TYPE, ClaimError, looks_like_token
from services.gateway.domain.ports import Credential
from services.gateway.errors import TokenError

REFRESH_PREFIX = "ghr_"
# Two hashes at once: each takes 64 MiB and a core for some 50 ms.
_HASHES_AT_ONCE = 2


class TokenDesk:
    """Implements TokenIssuing."""

    def __init__(
        self,
        store: TokenStore,
        keys: TokenKeys,
        authenticator: Authenticator,
        verifier: TokenVerifier,
        events: SecurityEvents,
        pepper: bytes,
        *,
        issuer: str,
        audience: str,
        life_s: int,
        refresh_idle_s: float,
        refresh_life_s: float,
    ) -> None:
        self._store = store
        self._keys = keys
        self._authenticator = authenticator
        self._verifier = verifier
        self._events = events
        self._pepper = pepper
        self._issuer = issuer
        self._audience = audience
        self._life_s = life_s
        self._refresh_idle_s = refresh_idle_s
        self._refresh_life_s = refresh_life_s
        self._hasher = PasswordHasher()
        self._hashing = asyncio.Semaphore(_HASHES_AT_ONCE)
        # Verified against when a person does not exist, so that the time does not tell.
        self._nobody = self._hasher.hash(secrets.token_urlsafe(16))

    async def client_credentials(
        self, client_id: str, client_secret: str, scope: str, network: str
    ) -> dict[str, Any]:
        """Issue tokens to the holder of an API key: its id is the client, its text the secret.

        Raises:
            TokenError: invalid_client, invalid_scope.
        """
        try:
            credential = await self._authenticator.verify_key(client_secret)
        except UnauthenticatedError as error:
            await self._events.auth_failed(network, "client", client_secret)
            raise TokenError("invalid_client", "The client is not known.", status=401) from error
        if client_id and client_id != credential.key_id:
            raise TokenError("invalid_client", "The client is not known.", status=401)
        caller = credential.caller
        return await self._open(
            caller.tenant,
            caller.principal,
            credential.key_id,
            _granted(scope, caller.scopes, caller.may),
        )

    async def password(
        self, username: str, password: str, scope: str, network: str
    ) -> dict[str, Any]:
        """Issue tokens to a person.

        Raises:
            TokenError: invalid_grant, invalid_scope.
        """
        person = await self.person_by_password(username, password, network)
        if person is None:
            raise TokenError("invalid_grant", "Name or password is wrong.")
        caller = person.caller
        granted = _granted(scope, caller.scopes, caller.scopes.__contains__)
        return await self._open(caller.tenant, caller.principal, person.key_id, granted)

    async def person_by_password(
        self, username: str, password: str, network: str
    ) -> Credential | None:
        """Give what a person may do, or None when name or password is wrong; that is an event."""
        user = await self._store.user(username)
        is_right = await self._is_right(user.password_hash if user else self._nobody, password)
        if user is None or user.is_disabled or not is_right:
            await self._events.auth_failed(network, "password", "")
            return None
        return await self._as_credential(user)

    async def person(self, username: str) -> Credential | None:
        """Give what a person may do, or None when there is none or they are disabled."""
        user = await self._store.user(username)
        return None if user is None or user.is_disabled else await self._as_credential(user)

    async def _as_credential(self, user: User) -> Credential:
        scopes = await self._scopes_of(user.tenant, user.roles)
        return Credential("console", Caller(user.tenant, f"user:{user.username}", scopes))

    async def refresh(self, token: str, network: str) -> dict[str, Any]:
        """Trade a refresh token for new tokens.

        Raises:
            TokenError: invalid_grant; a token used before revokes its family.
        """
        successor = _new_refresh()
        family, stolen = await self._store.rotate(
            self._mac(token), self._mac(successor), idle_s=self._refresh_idle_s
        )
        if stolen:
            self._verifier.revoke({stolen}, self._life_s + 60)
            await self._events.tokens_revoked(stolen, "reuse", network)
        if family is None:
            raise TokenError("invalid_grant", "The refresh token is not valid.")
        scopes = await self._still_granted(family)
        return await self._reply(family, scopes, successor)

    async def revoke(self, token: str, network: str) -> None:
        """Revoke a refresh token with its family, or one access token; others are fine."""
        if looks_like_token(token):
            try:
                credential = await self._verifier.verify(token)
            except ClaimError:
                return
            if credential.marks:
                jti = credential.marks[-1]
                expires = datetime.fromtimestamp(credential.expires_at or time.time(), UTC)
                await self._store.revoke_access(jti, expires)
                self._verifier.revoke({jti}, self._life_s + 60)
                await self._events.tokens_revoked("", "requested", network)
            return
        family = await self._store.revoke_by_token(self._mac(token))
        if family:
            self._verifier.revoke({family}, self._life_s + 60)
            await self._events.tokens_revoked(family, "requested", network)

    async def revoke_all_of(self, tenant: str, principal: str) -> None:
        """Revoke every family of a principal."""
        families = await self._store.revoke_families_of(tenant, principal, "administrator")
        self._verifier.revoke(set(families), self._life_s + 60)

    async def hash_password(self, password: str) -> str:
        """Give the argon2id hash of a password."""
        async with self._hashing:
            return await asyncio.to_thread(self._hasher.hash, password)

    async def _is_right(self, hashed: str, password: str) -> bool:
        async with self._hashing:
            try:
                return await asyncio.to_thread(self._hasher.verify, hashed, password)
            except (VerificationError, InvalidHashError):
                return False

    async def _scopes_of(self, tenant: str, roles: tuple[str, ...]) -> frozenset[str]:
        known = {row["role"]: row["scopes"] for row in await self._store.roles(tenant)}
        return frozenset(scope for role in roles for scope in known.get(role, ()))

    async def _still_granted(self, family: Family) -> frozenset[str]:
        """Give what of the family's scopes its principal holds today.

        Raises:
            TokenError: the principal is gone.
        """
        gone = TokenError("invalid_grant", "The refresh token is not valid.")
        if family.principal.startswith("user:"):
            user = await self._store.user(family.principal.removeprefix("user:"))
            if user is None or user.is_disabled:
                raise gone
            return family.scopes & await self._scopes_of(user.tenant, user.roles)
        if not await self._authenticator.is_live_key(family.client_id):
            raise gone
        return family.scopes

    async def _open(
        self, tenant: str, principal: str, client_id: str, scopes: frozenset[str]
    ) -> dict[str, Any]:
        family = Family(str(uuid.uuid4()), tenant, principal, client_id, scopes)
        refresh = _new_refresh()
        await self._store.open_family(
            family, self._mac(refresh), idle_s=self._refresh_idle_s, life_s=self._refresh_life_s
        )
        return await self._reply(family, scopes, refresh)

    async def _reply(self, family: Family, scopes: frozenset[str], refresh: str) -> dict[str, Any]:
        key = await self._keys.current()
        now = int(time.time())
        scope = " ".join(sorted(scopes))
        claims = {
            "iss": self._issuer,
            "sub": family.principal,
            "aud": self._audience,
            "exp": now + self._life_s,
            "iat": now,
            "jti": secrets.token_hex(16),
            "client_id": family.client_id,
            "tenant": family.tenant,
            "scope": scope,
            "fam": family.family,
        }
        assert key.private is not None
        access = jwt.encode(
            claims, key.private, algorithm="EdDSA", headers={"typ": ACCESS_TYPE, "kid": key.kid}
        )
        return {
            "access_token": access,
            "token_type": "Bearer",
            "expires_in": self._life_s,
            "refresh_token": refresh,
            "scope": scope,
        }

    def _mac(self, token: str) -> bytes:
        return hmac.digest(self._pepper, b"refresh|" + token.encode(), "sha256")


def _new_refresh() -> str:
    return REFRESH_PREFIX + secrets.token_urlsafe(32)


def _granted(asked: str, held: frozenset[str], may: Any) -> frozenset[str]:
    """Give the scopes asked for, all of them held; without a wish all that are held.

    Raises:
        TokenError: invalid_scope.
    """
    if not asked:
        return held
    wanted = frozenset(asked.split())
    if not wanted or not all(may(scope) for scope in wanted):
        raise TokenError("invalid_scope", "The client does not hold every scope asked for.")
    return wanted

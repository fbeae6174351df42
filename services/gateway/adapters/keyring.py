"""Making and revoking API keys: store, audit event, cache, in that order."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from libs.common.context import Caller
from libs.common.errors import ConflictError
from services.gateway.adapters.authenticator import Authenticator
from services.gateway.adapters.key_store import PostgresKeyStore
from services.gateway.adapters.secrets import pepper_id
from services.gateway.adapters.security_events import SecurityEvents
from services.gateway.domain import keys
from services.gateway.domain.ports import Credential
from services.gateway.errors import InsufficientScopeError


class Keyring:
    """Implements KeyAdministration; the caller's rights are checked by the routes."""

    def __init__(
        self,
        store: PostgresKeyStore,
        pepper: bytes,
        events: SecurityEvents,
        authenticator: Authenticator,
    ) -> None:
        self._store = store
        self._pepper = pepper
        self._events = events
        self._authenticator = authenticator

    async def make(
        self,
        *,
        tenant: str,
        name: str,
        scopes: frozenset[str],
        created_by: str,
        expires_at: datetime | None,
        template: Credential,
    ) -> tuple[str, dict[str, Any]]:
        """Make a key with the limits of `template`; gives its text and its public row."""
        key_id, text = keys.new_key()
        credential = replace(
            template, key_id=key_id, caller=Caller(tenant, f"key:{key_id}", scopes)
        )
        # The event goes first: a key that exists unrecorded would be worse than the reverse.
        await self._events.key_created(
            key_id, created_by, sorted(scopes), expires_at.isoformat() if expires_at else None
        )
        row = await self._store.add(
            credential=credential,
            name=name,
            mac=keys.digest(self._pepper, text),
            pepper=pepper_id(self._pepper),
            created_by=created_by,
            expires_at=expires_at,
        )
        return text, row

    async def list(
        self, tenant: str, limit: int, before: tuple[datetime, str] | None
    ) -> list[dict[str, Any]]:
        """List a tenant's keys, newest first."""
        return await self._store.list(tenant, limit, before)

    async def revoke(self, tenant: str, key_id: str, *, by: str) -> bool:
        """Revoke a key; here at once, on other replicas within their polling interval."""
        if not await self._store.revoke(tenant, key_id):
            return False
        self._authenticator.forget({key_id})
        await self._events.key_revoked(key_id, by, "requested")
        return True

    async def rotate(
        self, tenant: str, key_id: str, *, overlap_s: int, by: str, may: Callable[[str], bool]
    ) -> tuple[str, dict[str, Any]] | None:
        """Make the successor of a key; see KeyAdministration."""
        old = await self._store.find(key_id)
        if old is None or old.revoked or old.credential.caller.tenant != tenant:
            return None
        for scope in sorted(old.credential.caller.scopes):
            if not may(scope):
                raise InsufficientScopeError(scope)
        successor, text = keys.new_key()
        ends = datetime.fromtimestamp(time.time() + overlap_s, UTC).isoformat()
        await self._events.key_rotated(key_id, by, successor, ends)
        row = await self._store.rotate(
            tenant,
            key_id,
            successor,
            keys.digest(self._pepper, text),
            overlap_s=overlap_s,
            by=by,
            pepper=pepper_id(self._pepper),
        )
        if row is None:
            raise ConflictError(
                "This key was rotated already, or has ended.",
                hint="At most two keys of a principal are live; revoke the older one first.",
            )
        self._authenticator.forget({key_id})  # its end is a new one
        return text, row

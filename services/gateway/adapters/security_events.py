"""Refusals and key changes as audit events, bounded: they never hold a credential.

A refusal stands even when the event log is full: the failure is logged once per state change. A
key change does not: its route fails with 503.
"""

import time
from collections.abc import Callable
from typing import Any

from libs.common.errors import UnavailableError
from libs.common.events.envelope import EventEmitter, event_for_request
from libs.common.logging import get_logger
from services.gateway.adapters.exchange import Exchange
from services.gateway.domain.keys import key_id_of

log = get_logger()

_SEEN_MAX = 10_000
_ONCE_PER_S = 60.0


class SecurityEvents:
    """Emits the gateway's events; refusals at most once per key or network, reason and minute."""

    def __init__(self, emitter: EventEmitter, *, now: Callable[[], float] = time.monotonic) -> None:
        self._emitter = emitter
        self._now = now
        self._seen: dict[tuple[str, ...], float] = {}
        self._works = True

    async def auth_failed(self, network: str, reason: str, token: str) -> None:
        """Record a refused credential, by the public id of the key if there is one."""
        key_id = key_id_of(token) or ""
        if self._is_first("auth", reason, network):
            await self._refusal(
                "auth.failed",
                {"reason": reason, "key_id": key_id, "network": network},
            )

    async def limit_exceeded(self, exchange: Exchange, policy: str) -> None:
        """Record a refusal by a limit."""
        key_id = exchange.credential.key_id if exchange.credential else ""
        if self._is_first("limit", policy, key_id or exchange.network):
            await self._refusal(
                "limit.exceeded",
                {
                    "policy": policy,
                    "key_id": key_id,
                    "network": exchange.network,
                    "route": exchange.template,
                },
            )

    async def key_created(
        self, key_id: str, by: str, scopes: list[str], expires_at: str | None
    ) -> None:
        """Record a new key."""
        data = {"key_id": key_id, "by": by, "scopes": scopes, "expires_at": expires_at}
        await self._emitter.emit(event_for_request("key.created", "gateway", "required", data))

    async def key_revoked(self, key_id: str, by: str, reason: str) -> None:
        """Record a revocation."""
        data = {"key_id": key_id, "by": by, "reason": reason}
        await self._emitter.emit(event_for_request("key.revoked", "gateway", "required", data))

    async def key_rotated(self, key_id: str, by: str, new_key_id: str, expires_at: str) -> None:
        """Record a rotation."""
        data = {"key_id": key_id, "by": by, "new_key_id": new_key_id, "expires_at": expires_at}
        await self._emitter.emit(event_for_request("key.rotated", "gateway", "required", data))

    async def tokens_revoked(self, family: str, reason: str, network: str) -> None:
        """Record the end of a token or of a family of them."""
        data = {"reason": reason, "key_id": "", "network": network, "family": family}
        await self._refusal("auth.revoked", data)

    async def tenant_changed(self, kind: str, what: str, by: str, before: str, after: str) -> None:
        """Record a change of a tenant, a role or a person; `kind` is the event's type."""
        data = {"what": what, "by": by, "from": before, "to": after}
        await self._emitter.emit(event_for_request(kind, "gateway", "required", data))

    def _is_first(self, *key: str) -> bool:
        now = self._now()
        if self._seen.get(key, -_ONCE_PER_S) + _ONCE_PER_S > now:
            return False
        if len(self._seen) >= _SEEN_MAX:
            self._seen = {k: at for k, at in self._seen.items() if at + _ONCE_PER_S > now}
            if len(self._seen) >= _SEEN_MAX:
                return False
        self._seen[key] = now
        return True

    async def _refusal(self, kind: str, data: dict[str, Any]) -> None:
        try:
            await self._emitter.emit(event_for_request(kind, "gateway", "required", data))
        except UnavailableError:
            if self._works:
                log.warning("security event not recorded", type=kind)
            self._works = False
        else:
            self._works = True

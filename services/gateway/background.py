"""What the gateway does beside serving: becomes ready, learns what changed, sweeps."""

import asyncio
import contextlib

from libs.common.errors import ServiceError
from libs.common.platform import Platform
from services.gateway.adapters.idempotency import IdempotentAnswers
from services.gateway.adapters.identity import Identity
from services.gateway.adapters.tenant_directory import TenantDirectory
from services.gateway.settings import GatewaySettings

_READY_POLL_S = 0.2
_REVOCATION_POLL_S = 2.0
_SWEEP_EVERY_S = 60.0
# At start everything counts as changed lately.
_ALL_S = 1e9
_LONGEST_TOKEN_S = 2 * 3_600.0


async def turn_ready(platform: Platform, settings: GatewaySettings) -> None:
    """Release readiness when the ready file exists."""
    while settings.ready_file:  # written by another process: only looking tells
        if await asyncio.to_thread(settings.ready_file.exists):
            break
        await asyncio.sleep(_READY_POLL_S)
    platform.health.release("seed")


async def poll_changes(identity: Identity, tenants: TenantDirectory) -> None:
    """Learn within seconds what other replicas changed: revocations and tenants."""
    window_s = _ALL_S
    while True:
        with contextlib.suppress(ServiceError, OSError):
            await tenants.refresh(window_s)
            await identity.learn_revocations(min(window_s, _LONGEST_TOKEN_S))
            window_s = _REVOCATION_POLL_S * 15
        await asyncio.sleep(_REVOCATION_POLL_S)


async def sweep(identity: Identity, idempotency: IdempotentAnswers) -> None:
    """Write last-use times once a minute, and delete what has expired."""
    while True:
        await asyncio.sleep(_SWEEP_EVERY_S)
        with contextlib.suppress(ServiceError, OSError):
            await identity.note_use()
            await identity.tokens.sweep()
            await idempotency.sweep()

"""Follows a source of events and feeds ingestion; at least once in, exactly once applied."""

import asyncio

from libs.common.errors import RateLimitedError, UnavailableError
from libs.common.logging import get_logger
from libs.common.redis import UNAVAILABLE
from services.features.domain.ports import EventSource
from services.features.ingest import Ingestion

log = get_logger()

_BATCH = 500
_RETRY_S = 0.5
_GONE: tuple[type[BaseException], ...] = (UnavailableError, *UNAVAILABLE)


async def follow(source: EventSource, ingestion: Ingestion, tenant: str) -> None:
    """Take entries for ever; each batch is repeated until it is committed, then acknowledged."""
    is_open = False
    while True:
        try:
            if not is_open:
                await source.open()
                is_open = True
            entries = await source.take(_BATCH)
            if entries:
                await _commit(ingestion, tenant, [event for _, event in entries])
                await source.acknowledge([name for name, _ in entries])
        except _GONE as error:
            is_open = False
            log.warning("source waits", error_type=type(error).__name__)
            await asyncio.sleep(_RETRY_S)


async def _commit(ingestion: Ingestion, tenant: str, events: list[object]) -> None:
    while True:
        try:
            answer = await ingestion.take(tenant, events, is_backfill=False)
        except (UnavailableError, RateLimitedError):
            await asyncio.sleep(_RETRY_S)
            continue
        if answer.rejected:
            log.warning("events of a source refused", count=len(answer.rejected))
        return

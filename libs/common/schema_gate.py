"""Readiness waits for the schema: a new process may start before the migration has run.

Every service that owns a schema is held not ready until the schema has what its code needs; a newer
schema has it. Services that answer without PostgreSQL (`Service.serves_without_postgres`) do not
wait for a server that is away, only for one that answers with an older schema.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from libs.common.errors import UnavailableError
from libs.common.migrations import has_reached, head_revision
from libs.common.platform import Platform

_POLL_S = 0.2
_REASON = "migration"


@asynccontextmanager
async def schema_gate(platform: Platform) -> AsyncIterator[None]:
    """Hold readiness around a block; `platform.migrated` is set when the schema is there."""
    head = head_revision(platform.entry.name) if platform.has_postgres else None
    if head is None:
        platform.migrated.set()
        yield
        return
    platform.health.block(_REASON, "the schema is not migrated yet")
    watching = asyncio.create_task(_watch(platform, head), name="schema gate")
    try:
        yield
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def _watch(platform: Platform, head: str) -> None:
    """Ask until the schema is there."""
    while True:
        try:
            if has_reached(await platform.postgres.schema_version(), head):
                break
            platform.health.block(_REASON, "the schema is not migrated yet")
        except UnavailableError:
            if platform.entry.serves_without_postgres:
                platform.health.release(_REASON)
        await asyncio.sleep(_POLL_S)
    platform.health.release(_REASON)
    platform.migrated.set()

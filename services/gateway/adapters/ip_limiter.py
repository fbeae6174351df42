"""The per-address policy in PostgreSQL: an exact sliding log, one round trip, 60 ms at most.

While the server is down or slow nobody waits for it: every request is told to decide locally, and
a task of its own asks once per second. A stopped server cannot be cancelled politely, hence
`terminate`.
"""

import asyncio
import contextlib
import time
from typing import Any

from libs.common.logging import get_logger
from libs.common.postgres import UNAVAILABLE
from services.gateway.domain.limits import Decision, Policy

log = get_logger()

_STATEMENT_TIMEOUT_MS = 50
_CLIENT_TIMEOUT_S = 0.060
_PROBE_EVERY_S = 1.0
_PROBE_TIMEOUT_S = 0.03  # half of what a request waits: a server that only just answers is not up
_CONNECT_TIMEOUT_S = 1.0
_SWEEP_EVERY_S = 60.0
_POOL_MAX = 4
_TAKE = "SELECT * FROM take_ip_hit($1, $2, $3)"
_SWEEP = (
    "DELETE FROM ip_hits WHERE hits[cardinality(hits)] < "
    "(extract(epoch FROM now()) * 1000000)::bigint - $1"
)


class PostgresIpLimiter:
    """Implements IpLimiter."""

    def __init__(self, dsn: str, schema: str) -> None:
        self._dsn = dsn
        self._schema = schema
        self._pool: Any = None
        self._probing: asyncio.Task[None] | None = None
        self._probe_at = 0.0
        self.is_up = False
        self._reported: bool | None = None

    async def take(self, bucket: str, policy: Policy) -> Decision | None:
        """Count one request, or give None when PostgreSQL cannot say in time."""
        if not self.is_up or self._pool is None:
            self._probe_in_background()
            return None
        until = time.monotonic() + _CLIENT_TIMEOUT_S
        row = await self._query(until, _TAKE, bucket, policy.quota, int(policy.window_s * 1e6))
        if row is None:
            return None
        return Decision(
            policy,
            row["allowed"],
            row["remaining"],
            row["retry_us"] / 1e6,
            row["reset_us"] / 1e6,
        )

    async def connect(self) -> None:
        """Open the pool; a dead server is only noted."""
        import asyncpg

        try:
            self._pool = await asyncpg.create_pool(
                self._dsn,
                min_size=1,
                max_size=_POOL_MAX,
                timeout=_CONNECT_TIMEOUT_S,
                server_settings={
                    "search_path": self._schema,
                    "application_name": f"gatehouse-{self._schema}-limits",
                    "statement_timeout": str(_STATEMENT_TIMEOUT_MS),
                    "synchronous_commit": "off",
                },
            )
        except UNAVAILABLE:
            self._note(is_up=False)
        else:
            self._note(is_up=True)

    async def sweep_forever(self, window_s: float) -> None:
        """Delete rows whose last hit left the window, once a minute."""
        while True:
            await asyncio.sleep(_SWEEP_EVERY_S)
            if self._pool is not None and self.is_up:
                with contextlib.suppress(*UNAVAILABLE):
                    await self._pool.execute(_SWEEP, int(window_s * 1e6), timeout=1.0)

    async def close(self) -> None:
        """Drop the connections at once: there is nothing to flush."""
        if self._probing:
            self._probing.cancel()
        if self._pool is not None:
            self._pool.terminate()

    async def _query(self, until: float, sql: str, *values: object) -> Any:
        """Give the row of a query, or None and note it when none came in time.

        Args:
            until: monotonic time at which the caller stops waiting.
            sql: a statement that gives one row.
            values: its parameters.
        """
        try:
            async with asyncio.timeout(until - time.monotonic()):
                connection = await self._pool.acquire()
        except UNAVAILABLE:
            self._note(is_up=False)
            return None
        try:
            remaining = max(0.005, until - time.monotonic())
            row = await connection.fetchrow(sql, *values, timeout=remaining)
        except UNAVAILABLE:
            with contextlib.suppress(*UNAVAILABLE):  # a reset one is released already
                connection.terminate()
            self._note(is_up=False)
            return None
        finally:
            with contextlib.suppress(*UNAVAILABLE):
                await self._pool.release(connection, timeout=_CLIENT_TIMEOUT_S)
        self._note(is_up=True)
        return row

    def _probe_in_background(self) -> None:
        now = time.monotonic()
        if now >= self._probe_at and (self._probing is None or self._probing.done()):
            self._probe_at = now + _PROBE_EVERY_S
            self._probing = asyncio.create_task(self._probe())

    async def _probe(self) -> None:
        if self._pool is None:
            await self.connect()
        else:
            await self._query(time.monotonic() + _PROBE_TIMEOUT_S, "SELECT 1")

    def _note(self, *, is_up: bool) -> None:
        self.is_up = is_up
        if self._reported != is_up:
            if self._reported is not None or not is_up:
                mode = "exact" if is_up else "local"
                log.warning("limit store changed", dependency="postgres", mode=mode)
            self._reported = is_up

"""The per-address policy in PostgreSQL: an exact sliding log, one round trip, 60 ms at most.

While the server is down or slow nobody waits for it: one request per second probes, all others are
told to decide locally. A stopped server cannot be cancelled politely, hence `terminate`.
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
        self._connecting: asyncio.Task[None] | None = None
        self._probe_at = 0.0
        self.is_up = False
        self._reported: bool | None = None

    async def take(self, bucket: str, policy: Policy) -> Decision | None:
        """Count one request, or give None when PostgreSQL cannot say in time."""
        now = time.monotonic()
        if not self.is_up:
            if now < self._probe_at:
                return None
            self._probe_at = now + _PROBE_EVERY_S
        if self._pool is None:
            self._connect_in_background()
            return None
        try:
            async with asyncio.timeout(_CLIENT_TIMEOUT_S):
                connection = await self._pool.acquire()
        except UNAVAILABLE:
            self._note(is_up=False)
            return None
        try:
            row = await connection.fetchrow(
                _TAKE,
                bucket,
                policy.quota,
                int(policy.window_s * 1e6),
                timeout=_CLIENT_TIMEOUT_S,
            )
        except UNAVAILABLE:
            with contextlib.suppress(*UNAVAILABLE):  # a reset one is released already
                connection.terminate()
            self._note(is_up=False)
            return None
        finally:
            with contextlib.suppress(*UNAVAILABLE):
                await self._pool.release(connection, timeout=_CLIENT_TIMEOUT_S)
        self._note(is_up=True)
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
        if self._connecting:
            self._connecting.cancel()
        if self._pool is not None:
            self._pool.terminate()

    def _connect_in_background(self) -> None:
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self.connect())

    def _note(self, *, is_up: bool) -> None:
        self.is_up = is_up
        if self._reported != is_up:
            if self._reported is not None or not is_up:
                mode = "exact" if is_up else "local"
                log.warning("limit store changed", dependency="postgres", mode=mode)
            self._reported = is_up

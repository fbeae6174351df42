"""PostgreSQL pool: bounded, schema-scoped, fast to fail.

Every service has a schema of its own name; the pool's search path points there. Statement timeouts
do not bound a stopped server, so callers also use client timeouts; `Postgres.fetch*` carry one.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from libs.common.errors import InvalidInputError, UnavailableError
from libs.common.logging import get_logger

log = get_logger()

# JSON can say a NUL character, PostgreSQL cannot keep it; routes that name the field come first.
_UNSTORABLE = (asyncpg.CharacterNotInRepertoireError, asyncpg.UntranslatableCharacterError)
# A new release may run before its migration has; tests meet every statement with the schema there.
_NOT_MIGRATED = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.InvalidSchemaNameError,
)
# asyncpg raises these when the server is gone, stopped, starting or out of connections.
UNAVAILABLE: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.QueryCanceledError,
)


class Postgres:
    """A lazily connected pool for one service's schema."""

    def __init__(
        self,
        dsn: str,
        schema: str,
        *,
        pool_max: int = 8,
        timeout_s: float = 5.0,
        command_timeout_s: float = 30.0,
    ) -> None:
        self._dsn = dsn
        self._schema = schema
        self._pool_max = pool_max
        self._timeout_s = timeout_s
        self._command_timeout_s = command_timeout_s
        self._pool: asyncpg.Pool | None = None
        self._lock = asyncio.Lock()
        self._is_up = True

    async def pool(self) -> asyncpg.Pool:
        """Give the pool, connecting on first use.

        Raises:
            UnavailableError: the server does not answer within the timeout.
        """
        if self._pool is None:
            async with self._lock:
                if self._pool is None:
                    try:
                        self._pool = await asyncpg.create_pool(
                            self._dsn,
                            min_size=1,
                            max_size=self._pool_max,
                            timeout=self._timeout_s,
                            command_timeout=self._command_timeout_s,
                            max_inactive_connection_lifetime=120,
                            server_settings={
                                "search_path": self._schema,
                                "application_name": f"gatehouse-{self._schema}",
                            },
                        )
                    except UNAVAILABLE as error:
                        self._note(is_up=False)
                        raise UnavailableError(
                            "The database does not answer.", hint="Check POSTGRES_URL."
                        ) from error
        return self._pool

    @asynccontextmanager
    async def connection(self, timeout_s: float | None = None) -> AsyncIterator[Any]:
        """Borrow a connection; a dead server becomes UnavailableError, a NUL InvalidInputError.

        A schema without what a statement names is UnavailableError as well.

        Args:
            timeout_s: longest wait for a free connection.
        """
        pool = await self.pool()
        try:
            async with pool.acquire(timeout=timeout_s or self._timeout_s) as connection:
                yield connection
            self._note(is_up=True)
        except _UNSTORABLE as error:
            problem = "A text holds a NUL character, which cannot be kept."
            raise InvalidInputError(problem) from error
        except _NOT_MIGRATED as error:
            raise UnavailableError(
                "The database is not migrated yet.", hint="Run the migrations."
            ) from error
        except UNAVAILABLE as error:
            self._note(is_up=False)
            raise UnavailableError("The database does not answer.") from error

    @asynccontextmanager
    async def transaction(self, timeout_s: float | None = None) -> AsyncIterator[Any]:
        """Borrow a connection with an open transaction; it commits when the block ends well."""
        async with self.connection(timeout_s) as connection, connection.transaction():
            yield connection

    async def fetch(self, query: str, *args: Any, timeout_s: float | None = None) -> list[Any]:
        """Run a query and give its rows."""
        async with self.connection() as connection:
            return list(await connection.fetch(query, *args, timeout=timeout_s))

    async def fetchrow(self, query: str, *args: Any, timeout_s: float | None = None) -> Any:
        """Run a query and give its first row or None."""
        async with self.connection() as connection:
            return await connection.fetchrow(query, *args, timeout=timeout_s)

    async def fetchval(self, query: str, *args: Any, timeout_s: float | None = None) -> Any:
        """Run a query and give the first value of its first row."""
        async with self.connection() as connection:
            return await connection.fetchval(query, *args, timeout=timeout_s)

    async def execute(self, query: str, *args: Any, timeout_s: float | None = None) -> str:
        """Run a statement and give its status tag."""
        async with self.connection() as connection:
            return str(await connection.execute(query, *args, timeout=timeout_s))

    async def is_up(self) -> bool:
        """Say whether the server answers within half a second."""
        try:
            async with asyncio.timeout(0.5):
                await self.fetchval("SELECT 1")
        except (UnavailableError, TimeoutError):
            return False
        return True

    async def schema_version(self) -> str | None:
        """Give the applied Alembic revision of this schema, or None before the first."""
        table = f'"{self._schema}".alembic_version'
        exists = await self.fetchval("SELECT to_regclass($1) IS NOT NULL", table)
        if not exists:
            return None
        value = await self.fetchval(f"SELECT max(version_num) FROM {table}")
        return None if value is None else str(value)

    async def close(self) -> None:
        """Close politely for a second, then terminate: a stopped server must not hold us."""
        if self._pool is None:
            return
        try:
            async with asyncio.timeout(1.0):
                await self._pool.close()
        except (TimeoutError, OSError):
            self._pool.terminate()

    def _note(self, *, is_up: bool) -> None:
        """Log a change of state once, not every request that suffers from it."""
        if is_up != self._is_up:
            self._is_up = is_up
            log.warning(
                "dependency changed", dependency="postgres", state="up" if is_up else "down"
            )

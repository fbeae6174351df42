"""Fixtures over the embedded servers: one PostgreSQL and one Redis per test session (and worker).

`postgres_url` gives a database of its own, migrated for every service that has revisions; data is
truncated between tests that ask for `clean_postgres`. `redis_url` is flushed before each test.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from deploy.local.servers import EmbeddedPostgres, EmbeddedRedis
from libs.common.catalog import SERVICES
from libs.common.identity import ensure_keys
from libs.common.migrations import migrate


@pytest.fixture(scope="session")
def state_dir() -> Iterator[Path]:
    """A short temporary state directory with keys; removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="gh-"))
    ensure_keys(directory / "keys", [*SERVICES, "witness"])
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server(state_dir: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(state_dir / "pg")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_url(state_dir: Path, postgres_server: EmbeddedPostgres) -> str:
    """URL of a migrated database, shared by the session's tests."""
    url = postgres_server.start()
    asyncio.run(migrate(url, list(SERVICES)))
    return url


@pytest.fixture
def clean_postgres(postgres_url: str) -> str:
    """The same database with every service table emptied."""
    asyncio.run(_truncate(postgres_url))
    return postgres_url


@pytest.fixture
def empty_database(postgres_url: str) -> Iterator[str]:
    """URL of a database without any schema on the session's server."""
    name = f"empty_{uuid4().hex}"

    async def run(statement: str) -> None:
        connection = await asyncpg.connect(postgres_url)
        await connection.execute(statement)
        await connection.close()

    asyncio.run(run(f'CREATE DATABASE "{name}"'))
    parts = urlsplit(postgres_url)
    yield urlunsplit(parts._replace(path=f"/{name}"))
    asyncio.run(run(f'DROP DATABASE "{name}" WITH (FORCE)'))


async def _truncate(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables "
            "WHERE schemaname = ANY($1) AND tablename <> 'alembic_version'",
            list(SERVICES),
        )
        # Truncating an empty table costs as much as a full one: new files, an fsync each.
        probes = " UNION ALL ".join(
            f"SELECT '{row['name']}' AS name WHERE EXISTS (SELECT FROM {row['name']})"
            for row in rows
        )
        filled = [row["name"] for row in await connection.fetch(probes)] if probes else []
        if filled:
            await connection.execute(f"TRUNCATE {', '.join(filled)} RESTART IDENTITY CASCADE")
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def redis_server(state_dir: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(state_dir / "redis")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """URL of the session's Redis, flushed."""
    from redis import Redis

    client = Redis.from_url(redis_server.url)
    client.flushall()
    client.close()
    return redis_server.url

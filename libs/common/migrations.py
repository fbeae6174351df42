"""Alembic per service: one Postgres schema each, hand-written SQL, an advisory lock around it all.

`python -m libs.common.migrations [SERVICE ...]` migrates the named services, or all that own a
schema. Revisions are named `0001`, `0002`, ... and compared as text. A schema newer than
the code is left as it is: revisions only add, so a release can be rolled back. A service folder
holds `migrations/versions/NNNN_words.py` with `revision`, `down_revision` and `upgrade()`, which
calls `run_sql("...")`; several statements in one text are fine.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from libs.common.catalog import SERVICES

_ROOT = Path(__file__).resolve().parents[2]
# Any constant will do, as long as every migrator of this database uses the same.
_LOCK_KEY = 0x6761746568  # "gateh"


def versions_directory(service: str) -> Path:
    """Give the folder of a service's revisions."""
    return _ROOT / "services" / service / "migrations" / "versions"


def head_revision(service: str) -> str | None:
    """Give the newest revision that the code knows, from the file names."""
    names = sorted(path.name[:4] for path in versions_directory(service).glob("[0-9]*.py"))
    return names[-1] if names else None


def has_reached(revision: str | None, head: str | None) -> bool:
    """Say whether a schema holds all that the code of this head needs; a newer one does."""
    return head is None or (revision is not None and revision >= head)


def run_sql(sql: str) -> None:
    """Run SQL text inside a revision; several statements are allowed."""
    from alembic import op

    # asyncpg's simple query protocol takes many statements; SQLAlchemy's prepared path does not.
    connection: Any = op.get_bind().connection.dbapi_connection
    connection.run_async(lambda driver: driver.execute(sql))


async def migrate(dsn: str, services: list[str]) -> dict[str, str | None]:
    """Bring the schemas of the services to their heads.

    Args:
        dsn: PostgreSQL URL.
        services: catalogue names; those without revisions are skipped.

    Returns:
        The revision of each service afterwards; newer than its head where a newer release has been
        here before.
    """
    import asyncpg

    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK_KEY)
        reached: dict[str, str | None] = {}
        for service in services:
            head = head_revision(service)
            if head is None:
                continue
            await connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{service}"')
            if not has_reached(await _current(connection, service), head):
                await _upgrade(dsn, service)
            reached[service] = await _current(connection, service)
        return reached
    finally:
        await connection.close()


async def _current(connection: Any, service: str) -> str | None:
    table = f'"{service}".alembic_version'
    if not await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", table):
        return None
    value = await connection.fetchval(f"SELECT max(version_num) FROM {table}")
    return None if value is None else str(value)


async def _upgrade(dsn: str, service: str) -> None:
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    config = Config()
    directory = versions_directory(service)
    config.set_main_option("script_location", str(directory.parent))
    config.set_main_option("version_locations", str(directory))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    engine = create_async_engine(
        dsn.replace("postgresql://", "postgresql+asyncpg://", 1).replace(
            "postgres://", "postgresql+asyncpg://", 1
        ),
        poolclass=NullPool,
        connect_args={"server_settings": {"search_path": service}},
    )

    def run(connection: Any) -> None:
        with EnvironmentContext(
            config, script, fn=lambda revision, _: script._upgrade_revs("head", revision)
        ) as environment:
            environment.configure(
                connection=connection, version_table_schema=service, transaction_per_migration=True
            )
            with environment.begin_transaction():
                environment.run_migrations()

    async with engine.connect() as connection:
        await connection.run_sync(run)
        await connection.commit()
    await engine.dispose()


def main(argv: list[str]) -> int:
    """Migrate from the command line; the URL comes from POSTGRES_URL or DATABASE_URL."""
    dsn = os.environ.get("POSTGRES_URL") or os.environ.get("DATABASE_URL")
    if not dsn:
        print("migrations: set POSTGRES_URL", file=sys.stderr)
        return 2
    unknown = [name for name in argv if name not in SERVICES]
    if unknown:
        print(f"migrations: no service {unknown[0]!r}", file=sys.stderr)
        return 2
    reached = asyncio.run(migrate(dsn, argv or [n for n, s in SERVICES.items() if s.postgres]))
    for service, revision in reached.items():
        head = head_revision(service)
        is_newer = revision is not None and head is not None and revision > head
        note = f", newer than this release's {head}: left as it is" if is_newer else ""
        print(f"{service}: {revision}{note}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

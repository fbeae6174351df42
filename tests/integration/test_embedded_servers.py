"""The embedded servers start, answer, keep their data, and stop without a trace."""

import asyncio
from pathlib import Path

import asyncpg
import psutil
from redis import Redis

from deploy.local.servers import EmbeddedRedis


def test_postgres_answers_over_its_socket(postgres_url: str) -> None:
    async def version() -> str:
        connection = await asyncpg.connect(postgres_url)
        try:
            return str(await connection.fetchval("SHOW server_version"))
        finally:
            await connection.close()

    assert asyncio.run(version()).startswith("18")


def test_redis_keeps_its_data_over_a_restart(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "r")
    client = Redis.from_url(server.start())
    client.set("a", "1")
    client.close()
    pid = server.pid
    server.stop()
    assert pid is not None
    assert not psutil.pid_exists(pid)
    client = Redis.from_url(server.start())
    assert client.get("a") == b"1"
    client.close()
    server.stop()

"""Stores that are gone cost milliseconds, not seconds."""

import time
from pathlib import Path

import pytest

from libs.common.errors import UnavailableError
from libs.common.postgres import Postgres
from libs.common.redis import UNAVAILABLE, create_redis, tag


@pytest.mark.anyio
async def test_a_missing_redis_fails_within_the_request_budget(tmp_path: Path) -> None:
    client = create_redis(f"unix://{tmp_path}/none.sock", timeout_s=0.05)
    started = time.perf_counter()
    with pytest.raises(UNAVAILABLE):
        await client.get("a")
    assert time.perf_counter() - started < 0.1
    await client.aclose()


@pytest.mark.anyio
async def test_a_missing_postgres_is_unavailable_not_a_crash(tmp_path: Path) -> None:
    postgres = Postgres(f"postgresql://postgres:@/postgres?host={tmp_path}", "audit", timeout_s=0.2)
    with pytest.raises(UnavailableError):
        await postgres.fetchval("SELECT 1")
    assert not await postgres.is_up()
    await postgres.close()


def test_the_tenant_lies_in_the_hash_tag_and_cannot_break_out() -> None:
    assert tag("acme", "card", "1") == "{acme:card:1}"
    assert tag("a}b", "c:d") == "{a%7Db:c%3Ad}"

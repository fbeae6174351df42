"""Shared fixtures; see tests/support."""

import os

import pytest

pytest_plugins = ["tests.support.stores"]

# Tests must not inherit a developer's settings.
for _name in ("POSTGRES_URL", "DATABASE_URL", "REDIS_URL", "REDIS_HOST", "GEMINI_API_KEY"):
    os.environ.pop(_name, None)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


def pytest_report_header() -> str:
    import fastapi
    import redis

    versions = f"fastapi {fastapi.__version__}, redis-py {redis.__version__}"
    return f"gatehouse: {versions}, embedded PostgreSQL 18 and Redis 6.2"

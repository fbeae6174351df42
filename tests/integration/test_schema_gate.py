"""A service may start before the migration, and after the migration of a newer release."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import asyncpg
import pytest

from deploy.local.ports import free_port
from libs.common import migrations
from libs.common.catalog import SERVICES
from libs.common.migrations import migrate

pytestmark = pytest.mark.xdist_group("schema_gate")
_PATIENCE_S = 60.0


@contextmanager
def _running(name: str, directory: Path, environment: dict[str, str]) -> Iterator[str]:
    """Start one service; gives its address. What it wrote stands in `directory`/`name`.log."""
    port = free_port()
    state = directory / name
    state.mkdir(exist_ok=True)
    with (directory / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", f"services.{name}"],
            env={
                **os.environ,
                "STATE_DIR": str(state),
                "PORT": str(port),
                "IDENTITY_MODE": "open",
                "OTEL_TRACES_EXPORTER": "none",
                "LOG_FORMAT": "json",
                **environment,
            },
            stdout=log,
            stderr=log,
        )
    try:
        yield f"http://127.0.0.1:{port}"
        assert process.poll() is None, f"{name} ended by itself"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until(url: str, holds: Callable[[int, str], bool]) -> None:
    """Wait until the answer of /readyz, status and body, is as wanted."""
    deadline = time.monotonic() + _PATIENCE_S
    while not holds(*(found := _readiness(url))):
        assert time.monotonic() < deadline, f"it stays {found}"
        time.sleep(0.1)


def _readiness(url: str) -> tuple[int, str]:
    try:
        with urlopen(f"{url}/readyz", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as refused:
        return refused.code, refused.read().decode()
    except (URLError, OSError):
        return 0, ""


def test_services_started_before_the_migration_turn_ready_after_it(
    empty_database: str, redis_url: str, tmp_path: Path
) -> None:
    environment = {"POSTGRES_URL": empty_database, "REDIS_URL": redis_url}
    with ExitStack() as stack:
        urls = {
            name: stack.enter_context(_running(name, tmp_path, environment)) for name in SERVICES
        }
        for url in urls.values():
            _until(url, lambda status, body: status == 503 and "not migrated" in body)
        time.sleep(1.5)  # background work has met the absent tables by now
        asyncio.run(migrate(empty_database, list(SERVICES)))
        for url in urls.values():
            _until(url, lambda status, _: status == 200)
    for name in SERVICES:
        text = (tmp_path / f"{name}.log").read_text()
        assert "Traceback" not in text, text[-3000:]
        assert "UndefinedTable" not in text, text[-3000:]


def test_a_newer_schema_is_left_as_it_is_and_serves(
    empty_database: str, redis_url: str, tmp_path: Path
) -> None:
    """A release that is rolled back meets the schema of its successor."""
    asyncio.run(migrate(empty_database, list(SERVICES)))

    async def as_if_newer() -> None:
        connection = await asyncpg.connect(empty_database)
        await connection.execute("UPDATE gateway.alembic_version SET version_num = '9999'")
        await connection.close()

    asyncio.run(as_if_newer())
    assert asyncio.run(migrate(empty_database, ["gateway"])) == {"gateway": "9999"}
    environment = {"POSTGRES_URL": empty_database, "REDIS_URL": redis_url}
    with _running("gateway", tmp_path, environment) as url:
        _until(url, lambda status, _: status == 200)


def test_the_command_says_that_a_schema_is_newer(
    empty_database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POSTGRES_URL", empty_database)
    assert migrations.main(["gateway"]) == 0
    monkeypatch.setattr(migrations, "head_revision", lambda _: "0001")
    assert migrations.main(["gateway"]) == 0
    assert "newer than this release's 0001: left as it is" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("revision", "head", "reached"),
    [(None, None, True), (None, "0001", False), ("0001", "0002", False), ("0002", "0002", True)],
)
def test_a_schema_serves_from_its_head_on(
    revision: str | None, head: str | None, *, reached: bool
) -> None:
    assert migrations.has_reached(revision, head) is reached
    assert migrations.has_reached("0003", "0002")

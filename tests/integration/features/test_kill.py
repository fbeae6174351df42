"""kill -9 in the middle of ingestion, restart, deliver everything again: exactly once."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
from redis import Redis

from deploy.local.ports import free_port
from libs.common.features.shipped import MERCHANT_RISK, read
from tests.integration.features.worlds import (
    DAY_MS,
    TENANT,
    actual_rings,
    expected_rings,
    payments,
)

BATCH = 250


@contextlib.contextmanager
def _service(postgres_url: str, redis_url: str, state_dir: Path) -> Iterator[tuple[Any, str]]:
    port = free_port()
    environment = {
        **os.environ,
        "POSTGRES_URL": postgres_url,
        "REDIS_URL": redis_url,
        "STATE_DIR": str(state_dir),
        "PORT": str(port),
        "IDENTITY_MODE": "open",
        "LOG_LEVEL": "error",
    }
    process = subprocess.Popen([sys.executable, "-m", "services.features"], env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        _until(lambda: _is_ready(url))
        yield process, url
    finally:
        process.kill()
        process.wait()


def _is_ready(url: str) -> bool:
    with contextlib.suppress(httpx2.HTTPError):
        return httpx2.get(f"{url}/readyz").status_code == 200
    return False


def _until(check: Any, within_s: float = 90.0) -> None:
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline, "the effect did not come in time"
        time.sleep(0.01)


def _deliver(url: str, events: list[dict[str, Any]]) -> None:
    with httpx2.Client(base_url=url, timeout=20) as client:
        for first in range(0, len(events), BATCH):
            batch = {"events": events[first : first + BATCH]}
            client.post("/features/backfills", json=batch).raise_for_status()


def _is_applied(url: str) -> bool:
    body = httpx2.get(f"{url}/features/freshness").json()
    return bool(body.get("is_serving")) and body["lag_events"] == 0


# Payments end today; a moment in the middle has a whole window of them behind it.
MOMENT_MS = time.time_ns() // 1_000_000


def _labelled(redis_url: str, events: list[dict[str, Any]]) -> dict[str, float]:
    """Give each merchant's delayed count as its tiles hold it: no log row more, none less."""
    client = Redis.from_url(redis_url)
    found = {}
    for merchant in {event["entities"]["merchant_id"] for event in events}:
        blob = client.get(MERCHANT_RISK.redis_key(TENANT, merchant))
        assert isinstance(blob, bytes)
        names = [item.name for item in MERCHANT_RISK.aggregates]
        values = read(MERCHANT_RISK, blob, MOMENT_MS).values
        found[merchant] = values[names.index("labelled_count_30d")]
    client.close()
    return found


def _expected_labelled(events: list[dict[str, Any]]) -> dict[str, float]:
    counts: dict[str, float] = {}
    start, end = ((MOMENT_MS - days * DAY_MS) // DAY_MS * DAY_MS for days in (37, 7))
    for event in events:
        merchant = event["entities"]["merchant_id"]
        counts[merchant] = counts.get(merchant, 0.0) + (start <= event["event_ms"] < end)
    return counts


def test_after_a_kill_and_full_redelivery_every_event_counts_once(
    clean_postgres: str, redis_url: str, state_dir: Path
) -> None:
    events = payments(4000)
    draw = random.Random()
    for _ in range(2):
        with _service(clean_postgres, redis_url, state_dir) as (process, url):
            delay_s = draw.uniform(0.05, 0.6)
            killer = threading.Timer(delay_s, os.kill, (process.pid, signal.SIGKILL))
            killer.start()
            with contextlib.suppress(httpx2.HTTPError):
                _deliver(url, events)
            killer.join()
    with _service(clean_postgres, redis_url, state_dir) as (_, url):
        _deliver(url, events)
        _until(lambda: _is_applied(url))
        assert actual_rings(redis_url) == expected_rings(events)
        assert _labelled(redis_url, events) == _expected_labelled(events)
        again = httpx2.post(f"{url}/features/backfills", json={"events": events[:100]}).json()
        assert (again["accepted"], again["duplicates"]) == (0, 100)

"""Ingestion rate and time to readable: `python -m benchmarks.feature_ingestion`.

Starts embedded PostgreSQL and Redis and the features service as a process; sends payments in
batches of 1,000, then single events at a steady pace, and prints a table.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
from redis import Redis

from deploy.local.servers import EmbeddedPostgres, EmbeddedRedis
from libs.common.features.layout import VIEWS, unpack_ring
from libs.common.migrations import migrate

EVENTS, BATCH, SINGLES = 20_000, 1000, 200


def _payment(name: str, number: int) -> dict[str, Any]:
    return {
        "event_id": f"{name}-{number}",
        "type": "card_transaction",
        "event_ms": time.time_ns() // 1_000_000,
        "entities": {
            "card_id": f"{name}_{number * 7919 % 5000}",
            "merchant_id": f"merchant_{number % 500}",
        },
        "values": {"amount_minor": number % 10_000},
        "attrs": {"mcc_code": "5411", "country_code": "GB"},
    }


def _batches(client: httpx2.Client) -> tuple[float, float]:
    """Give seconds until the last acknowledgement and until all is readable."""
    started = time.perf_counter()
    for first in range(0, EVENTS, BATCH):
        events = [_payment("card", number) for number in range(first, first + BATCH)]
        client.post("/features/events", json={"events": events}).raise_for_status()
    acknowledged = time.perf_counter() - started
    while client.get("/features/freshness").json()["lag_events"]:
        time.sleep(0.01)
    return acknowledged, time.perf_counter() - started


def _singles(client: httpx2.Client, redis: Any) -> list[float]:
    """Give, per single event, the seconds from sending to readable."""
    seconds = []
    for number in range(SINGLES):
        key = VIEWS["card"].key("default", f"single_{number * 7919 % 5000}")
        started = time.perf_counter()
        event = _payment("single", number)
        client.post("/features/events", json={"events": [event]}).raise_for_status()
        while not (blob := redis.get(key)) or not len(unpack_ring(VIEWS["card"], blob).records):
            time.sleep(0.0005)
        seconds.append(time.perf_counter() - started)
    return sorted(seconds)


def _measure(url: str, redis_url: str) -> None:
    redis = Redis.from_url(redis_url)
    with httpx2.Client(base_url=url, timeout=30) as client:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx2.HTTPError):
                if client.get("/readyz").status_code == 200:
                    break
            time.sleep(0.05)
        acknowledged, readable = _batches(client)
        singles = _singles(client, redis)
    redis.close()
    print(f"acknowledged  {EVENTS / acknowledged:>9.0f} events/s in batches of {BATCH}")
    print(f"readable      {EVENTS / readable:>9.0f} events/s")
    print(f"one event to readable: p50 {singles[SINGLES // 2] * 1e3:.1f} ms, ", end="")
    print(f"p99 {singles[SINGLES * 99 // 100] * 1e3:.1f} ms")


def main() -> None:
    """Run the benchmark and print its table."""
    with tempfile.TemporaryDirectory(prefix="gh-") as directory:
        postgres, redis = EmbeddedPostgres(Path(directory, "pg")), EmbeddedRedis(Path(directory))
        postgres_url, _ = postgres.start(), redis.start()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = {
            **os.environ,
            "POSTGRES_URL": postgres_url,
            "REDIS_URL": redis.url,
            "STATE_DIR": directory,
            "PORT": str(port),
            "IDENTITY_MODE": "open",
            "LOG_LEVEL": "error",
        }
        try:
            asyncio.run(migrate(postgres_url, ["features"]))
            service = subprocess.Popen([sys.executable, "-m", "services.features"], env=environment)
            try:
                _measure(f"http://127.0.0.1:{port}", redis.url)
            finally:
                service.terminate()
                service.wait()
        finally:
            redis.stop()
            postgres.stop()


if __name__ == "__main__":
    main()

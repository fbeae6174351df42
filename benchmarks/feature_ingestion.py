"""Ingestion rate and time to readable: `python -m benchmarks.feature_ingestion`.

Starts embedded PostgreSQL and Redis and the features service as a process; sends payments in
batches of 1,000 from two connections, all of them again (which must change nothing), then 1,000
events a second in batches of 20, and prints a table.
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
import orjson

from deploy.local.servers import EmbeddedPostgres, EmbeddedRedis
from libs.common.features.layout import VIEWS
from libs.common.migrations import migrate
from libs.common.redis import Redis, create_redis

EVENTS, BATCH, CONNECTIONS = 40_000, 1000, 2
PACE_BATCH, PACE_S, PACE_EVERY_S = 20, 10.0, 0.02


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


async def _batches(client: httpx2.AsyncClient) -> tuple[float, float, int]:
    """Give seconds until the last acknowledgement, until all is readable; what was accepted."""
    waiting = list(range(0, EVENTS, BATCH))
    accepted = 0

    async def send() -> None:
        nonlocal accepted
        while waiting:
            first = waiting.pop(0)
            events = [_payment("card", number) for number in range(first, first + BATCH)]
            answer = await client.post("/features/events", content=orjson.dumps({"events": events}))
            answer.raise_for_status()
            accepted += answer.json()["accepted"]

    started = time.perf_counter()
    await asyncio.gather(*(send() for _ in range(CONNECTIONS)))
    acknowledged = time.perf_counter() - started
    while True:
        if (await client.get("/features/freshness")).json()["lag_events"] == 0:
            break
        await asyncio.sleep(0.01)
    return acknowledged, time.perf_counter() - started, accepted


async def _paced(client: httpx2.AsyncClient, redis: Redis) -> list[float]:
    """Give, per batch at 1,000 events a second, the seconds from when it was due to readable."""
    seconds: list[float] = []

    async def one(number: int, due: float) -> None:
        first = number * PACE_BATCH
        events = [_payment("paced", first + place) for place in range(PACE_BATCH)]
        events[-1]["entities"]["card_id"] = f"only_{number}"
        answer = await client.post("/features/events", content=orjson.dumps({"events": events}))
        answer.raise_for_status()
        while True:
            if await redis.get(VIEWS["card"].key("default", f"only_{number}")) is not None:
                break
            await asyncio.sleep(0.002)
        seconds.append(time.perf_counter() - due)

    started, tasks = time.perf_counter(), []
    for number in range(int(PACE_S / PACE_EVERY_S)):
        due = started + number * PACE_EVERY_S
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(number, due)))
    await asyncio.gather(*tasks)
    return sorted(seconds)


async def _measure(url: str, redis_url: str) -> None:
    redis = create_redis(redis_url, timeout_s=5.0, connections_max=64)
    async with httpx2.AsyncClient(base_url=url, timeout=30) as client:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx2.HTTPError):
                if (await client.get("/readyz")).status_code == 200:
                    break
            await asyncio.sleep(0.05)
        acknowledged, readable, accepted = await _batches(client)
        again = await _batches(client)
        delays = await _paced(client, redis)
    await redis.aclose()
    print(f"accepted      {accepted:>9} events, in batches of {BATCH}")
    print(f"acknowledged  {EVENTS / acknowledged:>9.0f} events/s")
    print(f"readable      {EVENTS / readable:>9.0f} events/s")
    print(f"sent again    {again[2]:>9} accepted, {EVENTS / again[0]:.0f} events/s")
    middle, worst = delays[len(delays) // 2], delays[len(delays) * 99 // 100]
    print(f"at 1,000/s, due to readable: p50 {middle * 1e3:.1f} ms, p99 {worst * 1e3:.1f} ms")


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
                asyncio.run(_measure(f"http://127.0.0.1:{port}", redis.url))
            finally:
                service.terminate()
                service.wait()
        finally:
            redis.stop()
            postgres.stop()


if __name__ == "__main__":
    main()

"""A very long stream about one merchant: `python -m benchmarks.feature_stream [--mib 1024]`.

Sends NDJSON lines of 1 KiB, each a payment at the same merchant, to `/features/events/stream`: with
the default one gibibyte and a million events of one entity. Prints the rate, the most memory that
the service held meanwhile, and what reads of that merchant say and take afterwards.
"""

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import orjson
import psutil

from deploy.local.servers import EmbeddedPostgres, EmbeddedRedis
from libs.common.migrations import migrate

LINE = 1024


def _lines(count: int, server: psutil.Process, peak: list[int]) -> Iterator[bytes]:
    now_ms = time.time_ns() // 1_000_000
    part = []
    for number in range(count):
        event: dict[str, Any] = {
            "event_id": f"hot-{number}",
            "type": "card_transaction",
            "event_ms": now_ms - 3_600_000 + number % 3_000_000,
            "entities": {"card_id": f"card_{number % 50_000}", "merchant_id": "hot"},
            "values": {"amount_minor": number % 9999},
        }
        part.append(orjson.dumps(event).ljust(LINE - 1) + b"\n")
        if len(part) == 256:
            peak[0] = max(peak[0], server.memory_info().rss)
            yield b"".join(part)
            part = []
    yield b"".join(part)


def _wait(client: httpx2.Client) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            if client.get("/features/freshness").json().get("lag_events") == 0:
                return
        except (httpx2.HTTPError, ValueError):
            pass
        time.sleep(0.1)


def _measure(url: str, server: psutil.Process, mib: int) -> None:
    with httpx2.Client(base_url=url, timeout=900) as client:
        _wait(client)
        before, peak, count = server.memory_info().rss, [0], mib * 1024
        started = time.perf_counter()
        answer = client.post(
            "/features/events/stream",
            content=_lines(count, server, peak),
            headers={"content-type": "application/x-ndjson"},
        )
        answer.raise_for_status()
        took = time.perf_counter() - started
        _wait(client)
        readable = time.perf_counter() - started
        print(f"{mib} MiB in {took:.0f} s, {count / took:.0f} events/s acknowledged, ", end="")
        print(f"{count / readable:.0f} readable; accepted {answer.json()['accepted']:,}")
        print(f"memory: {before / 2**20:.0f} MiB before, at most {peak[0] / 2**20:.0f} MiB")
        body = {
            "features": ["merchant:count_1d", "merchant_risk:labelled_count_7d"],
            "entities": {"merchant_id": ["hot"]},
        }
        started = time.perf_counter()
        read = client.post("/get-online-features", json=body).json()["results"]
        print(f"online: {[part['statuses'][0] for part in read[1:]]}, ", end="")
        print(f"{(time.perf_counter() - started) * 1e3:.1f} ms")
        row = {"entities": {"merchant_id": "hot"}, "as_of": datetime.now(UTC).isoformat()}
        row["values"] = {"amount_minor": 1}
        started = time.perf_counter()
        past = client.post(
            "/features/historical",
            json={"feature_service": "fraud_v1", "rows": [row], "include": "raw"},
        )
        found = orjson.loads(past.text.splitlines()[0])
        print(f"history: count in a day {found['merchant:count_1d']:,.0f}, ", end="")
        print(f"{time.perf_counter() - started:.1f} s, ", end="")
        print(f"service at {server.memory_info().rss / 2**20:.0f} MiB")


def main() -> None:
    """Run it and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--mib", type=int, default=1024)
    mib = arguments.parse_args().mib
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
            "LOG_LEVEL": os.environ.get("LOG_LEVEL", "error"),
        }
        try:
            asyncio.run(migrate(postgres_url, ["features"]))
            service = subprocess.Popen([sys.executable, "-m", "services.features"], env=environment)
            try:
                _measure(f"http://127.0.0.1:{port}", psutil.Process(service.pid), mib)
            finally:
                service.terminate()
                service.wait()
        finally:
            redis.stop()
            postgres.stop()


if __name__ == "__main__":
    main()

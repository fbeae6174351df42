"""`python -m benchmarks.load`: open-loop load on the two scores against the mission's objectives.

Arrivals follow a seeded Poisson schedule that does not wait for answers, and latency counts from
the intended moment, so that a stall is seen by everybody who would have met it (no coordinated
omission). Each rate is a row of the saturation curve. It starts a suite of its own over a temporary
state directory, or uses a running one (`--state-dir`). Generator and suite share the machine:
figures are lower bounds. The same load for k6: deploy/load/score.js.
"""

import argparse
import asyncio
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import orjson
from rich.console import Console
from rich.table import Table

from benchmarks.connection import read_answer, request_bytes
from benchmarks.suite import RESULTS, running
from deploy.local.layout import Layout

CONNECTIONS_MAX = 256
FRAUD_SHARE = 0.8
# The mission's: p95 < 150 ms, p99 < 300 ms, errors < 1 %.
P95_MS, P99_MS, ERRORS = 150.0, 300.0, 0.01


@dataclass(slots=True)
class Step:
    """What one rate gave."""

    rate: float
    latencies_ms: list[float] = field(default_factory=list)
    errors: int = 0
    in_flight_max: int = 0

    def quantile(self, share: float) -> float:
        """Give a quantile in ms (nearest rank); infinite where nothing came back."""
        ordered = sorted(self.latencies_ms)
        return (
            ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("inf")
        )

    @property
    def row(self) -> dict[str, float | bool]:
        """The figures, and whether the objectives were kept."""
        sent = len(self.latencies_ms)
        p95, p99 = self.quantile(0.95), self.quantile(0.99)
        return {
            "requests/s asked": self.rate,
            "sent": sent,
            "p50 ms": round(self.quantile(0.5), 2),
            "p95 ms": round(p95, 2),
            "p99 ms": round(p99, 2),
            "p99.9 ms": round(self.quantile(0.999), 2),
            "errors": self.errors,
            "in flight, most": self.in_flight_max,
            "kept": p95 < P95_MS and p99 < P99_MS and self.errors <= ERRORS * sent,
        }


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Give the moments of a Poisson process, in seconds from its start."""
    generator = random.Random(seed)
    moments: list[float] = []
    now = generator.expovariate(rate)
    while now < seconds:
        moments.append(now)
        now += generator.expovariate(rate)
    return moments


class Pool:
    """Connections that wait for work; opened on demand up to a bound."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname, parts.port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._room = asyncio.Semaphore(CONNECTIONS_MAX)

    async def send(self, request: bytes) -> int:
        """Send one request and give the status of its answer."""
        async with self._room:
            if self._idle:
                reader, writer = self._idle.pop()
            else:
                reader, writer = await asyncio.open_connection(*self._address)
            try:
                writer.write(request)
                status = await read_answer(reader)
            except BaseException:
                writer.close()
                raise
            self._idle.append((reader, writer))
            return status

    def close(self) -> None:
        """Close what is idle."""
        for _, writer in self._idle:
            writer.close()


def requests(
    gateway: str, key: str, count: int, seed: int, fraud_share: float = FRAUD_SHARE
) -> list[bytes]:
    """Prepare the requests: payments and looks at an item, of many cards and users."""
    generator = random.Random(seed)
    headers = {"X-API-Key": key}
    made: list[bytes] = []
    for _ in range(count):
        if generator.random() < fraud_share:
            path = "/score/fraud"
            body = {
                "card_id": f"card_{generator.randrange(2_000):08d}",
                "transaction_amount": round(generator.uniform(1, 500), 2),
                "merchant_id": f"merchant_{generator.randrange(500):05d}",
                "mcc_code": "5411",
                "country_code": "US",
            }
        else:
            path = "/score/personalization"
            body = {
                "user_id": f"user_{generator.randrange(5_000):08d}",
                "item_id": f"item_electronics_{generator.randrange(100):03d}",
                "item_category": "electronics",
                "item_price": 299.99,
            }
        made.append(request_bytes(f"{gateway}{path}", headers, orjson.dumps(body)))
    return made


async def step(
    gateway: str,
    key: str,
    rate: float,
    seconds: float,
    seed: int,
    fraud_share: float = FRAUD_SHARE,
) -> Step:
    """Run one rate; the default mix is four payments for each look at an item."""
    moments = arrivals(rate, seconds, seed)
    prepared = requests(gateway, key, len(moments), seed, fraud_share)
    pool, result = Pool(gateway), Step(rate)
    in_flight = 0
    began = time.perf_counter() + 0.1

    async def one(moment: float, request: bytes) -> None:
        nonlocal in_flight
        in_flight += 1
        result.in_flight_max = max(result.in_flight_max, in_flight)
        try:
            status = await asyncio.wait_for(pool.send(request), 10)
            result.errors += status != 200
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
            result.errors += 1
        finally:
            in_flight -= 1
            result.latencies_ms.append((time.perf_counter() - began - moment) * 1e3)

    async with asyncio.TaskGroup() as group:
        for moment, request in zip(moments, prepared, strict=True):
            delay = began + moment - time.perf_counter()
            if delay > 0:
                await asyncio.sleep(delay)
            group.create_task(one(moment, request))
    pool.close()
    return result


@contextmanager
def target(state_dir: Path | None) -> Iterator[Layout]:
    """Give a running suite: the one of the state directory, or one of its own."""
    if state_dir is not None:
        yield Layout(state_dir)
        return
    with tempfile.TemporaryDirectory(prefix="gh-l-", ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o755)  # the embedded PostgreSQL runs as another user under root
        with running(Path(name) / "s"):
            yield Layout(Path(name) / "s")


def main(argv: list[str]) -> int:
    """Measure, print, write JSON; 1 when the lowest rate misses an objective."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load")
    parser.add_argument("--rates", default="25,50,100,200", help="requests per second, by comma")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--state-dir", type=Path, help="of a running suite")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    rows = []
    with target(options.state_dir) as layout:
        told = layout.read_suite()
        gateway = told["services"]["gateway"]["url"]
        key = Path(told["demo_key_file"]).read_text().strip()
        asyncio.run(step(gateway, key, 20, 2, 0))  # warm
        for rate in map(float, options.rates.split(",")):
            measured = asyncio.run(step(gateway, key, rate, options.seconds, options.seed))
            rows.append({**measured.row, "load average": round(os.getloadavg()[0], 1)})
    table = Table(title="Open loop, 80 % /score/fraud, 20 % /score/personalization")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)
    RESULTS.mkdir(exist_ok=True)
    document = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "seconds": options.seconds,
        "rows": rows,
    }
    (RESULTS / "load.json").write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    return 0 if rows[0]["kept"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

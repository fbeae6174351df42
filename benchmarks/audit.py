"""Speed of the log: `python -m benchmarks.audit [--rows 1000000]`.

Starts embedded PostgreSQL and the audit service as a process. Measures ingest over HTTP in batches
of 1,000 with and without data subjects, durable appends at a fixed rate with the time until a
checkpoint covers them, proofs, filtered searches over many rows, and the retirement of a partition
beside a writer. Prints a table and writes benchmarks/results/audit.json.
"""

import argparse
import asyncio
import contextlib
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import orjson
import psutil

from deploy.local.servers import EmbeddedPostgres
from libs.common.catalog import SERVICES
from libs.common.events.envelope import Event
from libs.common.events.wal import WriteAheadLog, node_secret
from libs.common.http_client import Reply, ServiceClient
from libs.common.identity import Signer, ensure_keys
from libs.common.migrations import migrate

RESULTS = Path(__file__).parent / "results" / "audit.json"
BATCH = 1_000
MODELS = ("fraud", "sentiment", "relevance", "conversion")
DECISIONS = ("approve",) * 90 + ("review",) * 8 + ("decline",) * 2


def event(number: int, draw: random.Random, *, subjects: int) -> Event:
    """Give one prediction as inference emits it."""
    return Event(
        type="prediction.made",
        source="inference",
        event_class="standard",
        tenant="default",
        principal=f"key:{number % 50}",
        request_id=f"request-{number}",
        data_subject=f"card:{draw.randrange(subjects)}" if subjects else None,
        data={
            "route": "/score/fraud",
            "model": MODELS[number % 4],
            "release": "1.0.0",
            "version": "1",
            "arm": "stable",
            "score": round(draw.random(), 6),
            "decision": DECISIONS[draw.randrange(100)],
            "status": "ok",
            "cached": False,
            "latency_ms": {"total": 2.1, "features": 0.7, "model": 0.4},
            "input_digest": f"{number:064x}",
        },
    )


class Bench:
    """A running service and the figures so far."""

    def __init__(
        self,
        client: ServiceClient,
        url: str,
        directory: Path,
        audit: psutil.Process,
        postgres: psutil.Process,
    ) -> None:
        self.client = client
        self.url = url
        self.directory = directory
        self.audit, self.postgres = audit, postgres
        self.figures: dict[str, float] = {}
        self.draw = random.Random(11)

    def cpu_s(self) -> dict[str, float]:
        """Give the CPU seconds that the service and its database have used."""
        processes = {"audit": [self.audit], "postgres": self.postgres.children(recursive=True)}
        return {
            name: sum(sum(process.cpu_times()[:2]) for process in group)
            for name, group in processes.items()
        }

    def note(self, name: str, value: float, unit: str, bar: str) -> None:
        """Keep and print one figure."""
        self.figures[name] = round(value, 3)
        print(f"{name:<48} {value:>12,.2f} {unit:<9} bar {bar}", flush=True)

    async def get(self, path: str) -> Reply:
        """Read from the service."""
        reply = await self.client.request(
            "GET", path, tenant="default", scopes=("audit:read",), timeout_s=60
        )
        if reply.status != 200:
            raise RuntimeError(f"{path}: {reply.status} {reply.body[:200]!r}")
        return reply

    async def deliver(self, body: bytes) -> Reply:
        """Deliver one batch."""
        reply = await self.client.request(
            "POST", "/v1/audit/events:batch", body=body, scopes=("audit:write",), timeout_s=60
        )
        if reply.status != 200:
            raise RuntimeError(f"batch: {reply.status} {reply.body[:200]!r}")
        return reply


def batches(count: int, draw: random.Random, subjects: int) -> list[bytes]:
    """Encode batches beforehand: the sender is not what is measured."""
    return [
        orjson.dumps([event(n, draw, subjects=subjects).to_wire() for n in range(BATCH)])
        for _ in range(count)
    ]


async def ingest(bench: Bench, label: str, subjects: int, count: int) -> None:
    """Measure delivered events per second, two batches in flight, as shippers of two services."""
    bodies = batches(count, bench.draw, subjects)
    for body in bodies[:3]:
        await bench.deliver(body)
    rates, before = [], bench.cpu_s()
    for start in range(3, count - 9, 10):
        began = time.perf_counter()
        pending = iter(bodies[start : start + 10])

        async def sender(source: Any = pending) -> None:
            for body in source:
                await bench.deliver(body)

        await asyncio.gather(sender(), sender())
        rates.append(10 * BATCH / (time.perf_counter() - began))
    bench.note(f"ingest, {label}, median", statistics.median(rates), "events/s", ">= 10,000")
    for name, seconds in bench.cpu_s().items():
        used = (seconds - before[name]) * 1e3 * BATCH / (len(rates) * 10 * BATCH)
        bench.note(f"ingest, {label}, CPU of {name}", used, "ms/1,000", "")
    bench.note(f"ingest, {label}, best", max(rates), "events/s", "")


async def appends(bench: Bench, seconds: float, rate: int = 500) -> None:
    """Measure durable local appends at a fixed rate, from the intended time on."""
    from prometheus_client import CollectorRegistry

    from libs.common.events.log import EventLog, EventMetrics
    from libs.common.health import Health

    wal = WriteAheadLog(bench.directory / "wal-bench", node_secret(bench.directory))
    await asyncio.to_thread(wal.open)
    log = EventLog(
        "inference",
        wal,
        Health("inference", "0"),
        EventMetrics("inference", CollectorRegistry(), wal),
        bytes_max=1 << 30,
        events_max=1_000_000,
    )
    taken: list[float] = []

    async def one(number: int, due: float) -> None:
        await log.emit(event(number, bench.draw, subjects=1000))
        taken.append((time.perf_counter() - due) * 1e3)

    started, tasks = time.perf_counter(), []
    for number in range(int(seconds * rate)):
        due = started + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(number, due)))
    await asyncio.gather(*tasks)
    await log.close()
    await asyncio.to_thread(wal.close)
    percentiles(bench, f"durable append at {rate}/s", taken, "<= 10 at p99")


def percentiles(bench: Bench, label: str, values: list[float], bar: str) -> None:
    """Note p50, p95 and p99."""
    ordered = sorted(values)
    for share in (50, 95, 99):
        at = min(len(ordered) - 1, len(ordered) * share // 100)
        bench.note(f"{label}, p{share}", ordered[at], "ms", bar)


async def inclusion(bench: Bench, count: int = 60) -> None:
    """Measure from delivery to a published checkpoint that covers the event."""
    taken = []
    for number in range(count):
        body = orjson.dumps([event(number, bench.draw, subjects=1000).to_wire()])
        began = time.perf_counter()
        index = (await bench.deliver(body)).json()["results"][0]["index"]
        while int((await bench.get("/checkpoint")).body.split(b"\n")[1]) <= index:  # noqa: ASYNC110 - another process publishes
            await asyncio.sleep(0.01)
        taken.append((time.perf_counter() - began) * 1e3)
        await asyncio.sleep(bench.draw.random() * 0.3)
    percentiles(bench, "included in a checkpoint", taken, "<= 2,000 at p99")


async def proofs(bench: Bench, ids: list[str]) -> None:
    """Measure single proofs."""
    taken = []
    for event_id in ids:
        began = time.perf_counter()
        await bench.get(f"/v1/audit/events/{event_id}/proof")
        taken.append((time.perf_counter() - began) * 1e3)
    percentiles(bench, "proof", taken, "<= 20")


async def searches(bench: Bench, oldest: str, newest: str) -> None:
    """Measure filtered searches: frequent, rare and absent values, old and new times."""
    middle = f"since={oldest}&until={newest}"
    filters = {
        "newest of the tenant": "",
        "type": "type=prediction.made",
        "decision, 2 %": "decision=decline",
        "decision, absent": "decision=nothing",
        "model": "model=sentiment",
        "model, absent": "model=nothing",
        "principal": "principal=key:7",
        "principal, absent": "principal=key:nobody",
        "data subject": "data_subject=card:77",
        "request id": "request_id=request-77",
        "time range, old": middle,
        "time range and decision": f"{middle}&decision=review",
        "type and decision, 2 %": "type=prediction.made&decision=decline",
    }
    everything = []
    for label, query in filters.items():
        taken = []
        for _ in range(20):
            began = time.perf_counter()
            await bench.get(f"/v1/audit/events?limit=50&{query}")
            taken.append((time.perf_counter() - began) * 1e3)
        everything += taken
        bench.note(f"search, {label}, median", statistics.median(taken), "ms", "")
    percentiles(bench, "search, all filters", everything, "<= 100 at p95")


async def fill(bench: Bench, rows: int) -> None:
    """Grow the log to `rows` over the same door."""
    size = (await bench.get("/v1/audit/status")).json()["size"]
    began = time.perf_counter()
    pool = batches(20, bench.draw, 5_000)
    numbers = iter(range(max(0, (rows - size) // BATCH)))

    async def sender() -> None:
        for number in numbers:
            body = pool[number % len(pool)]
            # The same bodies under fresh ids: a duplicate would not be appended.
            documents = orjson.loads(body)
            for document in documents:
                document["id"] = f"{number}-{document['id']}"
            await bench.deliver(orjson.dumps(documents))

    await asyncio.gather(sender(), sender())
    seconds = time.perf_counter() - began
    print(f"filled to {rows:,} rows in {seconds:.0f} s", flush=True)


async def retire(bench: Bench, connection: Any, rows: int) -> None:
    """Measure the retirement of a partition of an old month beside a writer."""
    old = datetime(2020, 1, 1, tzinfo=UTC)
    await connection.execute(
        "CREATE TABLE payload_standard_202001 PARTITION OF payload_standard "
        "FOR VALUES FROM ('2020-01-01T00:00:00Z') TO ('2020-02-01T00:00:00Z')"
    )
    await connection.execute(
        "INSERT INTO payload SELECT index, $1, retention, salt, body FROM payload "
        "WHERE retention = 'standard' LIMIT $2",
        old,
        rows,
        timeout=300,
    )
    waits: list[float] = []
    is_over = asyncio.Event()

    async def write() -> None:
        while not is_over.is_set():
            body = orjson.dumps([event(1, bench.draw, subjects=0).to_wire()])
            began = time.perf_counter()
            await bench.deliver(body)
            waits.append((time.perf_counter() - began) * 1e3)

    writer = asyncio.create_task(write())
    await asyncio.sleep(1)
    before = max(waits)
    began = time.perf_counter()
    await connection.execute(
        "ALTER TABLE payload_standard DETACH PARTITION payload_standard_202001 CONCURRENTLY"
    )
    await connection.execute("DROP TABLE payload_standard_202001")
    taken = time.perf_counter() - began
    await asyncio.sleep(0.5)
    is_over.set()
    await writer
    bench.note(f"retire a partition of {rows:,} rows", taken, "s", "<= 1")
    bench.note("longest write meanwhile", max(waits), "ms", "<= 100")
    bench.note("longest write in the second before", before, "ms", "")


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[tuple[Bench, str]]:
    """Start the database, the witness and the service."""
    server = EmbeddedPostgres(directory / "pg")
    url = server.start()
    processes: list[subprocess.Popen[bytes]] = []
    try:
        await migrate(url, ["audit"])
        ensure_keys(directory / "keys", [*SERVICES, "witness"])
        ports = [_free_port(), _free_port()]
        environ = {
            **os.environ,
            "STATE_DIR": str(directory),
            "POSTGRES_URL": url,
            "AUDIT_PORT": str(ports[0]),
            "WITNESS_PORT": str(ports[1]),
            "WITNESS_URL": f"http://127.0.0.1:{ports[1]}",
            "LOG_LEVEL": "error",
            "DRAIN_S": "0",
        }
        for module in ("services.witness", "services.audit"):
            processes.append(
                subprocess.Popen(  # noqa: ASYNC220 - returns at once
                    [sys.executable, "-m", module], env=environ, stdout=sys.stderr
                )
            )
        base = f"http://127.0.0.1:{ports[0]}"
        client = ServiceClient(
            "audit", base, Signer.from_directory("inference", directory / "keys")
        )
        await _ready(base)
        audit, postgres = psutil.Process(processes[1].pid), psutil.Process(server.pid)
        yield Bench(client, base, directory, audit, postgres), url
        await client.close()
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(20)
        server.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _ready(base: str) -> None:
    deadline = time.monotonic() + 30
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"{base}/readyz") as reply:
                    if reply.status == 200:
                        return
            await asyncio.sleep(0.05)
    raise RuntimeError("audit did not become ready")


async def run(rows: int, parts: list[str]) -> None:
    """Run the parts in order."""
    with tempfile.TemporaryDirectory(prefix="gh-") as name:
        async with running(Path(name)) as (bench, url):
            steps: dict[str, Callable[[], Awaitable[None]]] = {
                "ingest": lambda: _ingest(bench),
                "appends": lambda: appends(bench, 10),
                "inclusion": lambda: inclusion(bench),
                "large": lambda: _large(bench, url, rows),
            }
            for part in parts:
                await steps[part]()
            RESULTS.parent.mkdir(exist_ok=True)
            document = {"at": datetime.now(UTC).isoformat(), "rows": rows, **bench.figures}
            RESULTS.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))


async def _ingest(bench: Bench) -> None:
    await ingest(bench, "no data subjects", 0, 53)
    await ingest(bench, "5,000 data subjects", 5_000, 53)


async def _large(bench: Bench, url: str, rows: int) -> None:
    await fill(bench, rows)
    connection = await asyncpg.connect(url, server_settings={"search_path": "audit"})
    await connection.execute("VACUUM ANALYZE")
    found = await connection.fetch(
        "SELECT id FROM event_dedup TABLESAMPLE BERNOULLI (0.1) LIMIT 200"
    )
    span = await connection.fetchrow(
        "SELECT (SELECT ingested_at FROM leaf WHERE index = $1 / 4) AS a, "
        "(SELECT ingested_at FROM leaf WHERE index = $1 / 4 + 2000) AS b",
        rows,
    )
    await proofs(bench, [row["id"] for row in found])
    times = [span[name].isoformat().replace("+00:00", "Z") for name in ("a", "b")]
    await searches(bench, *times)
    await retire(bench, connection, rows)
    await connection.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument(
        "--parts", default="ingest,appends,inclusion,large", help="comma-separated, in order"
    )
    chosen = parser.parse_args()
    asyncio.run(run(chosen.rows, chosen.parts.split(",")))

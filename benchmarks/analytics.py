"""Figures of analytics: `python -m benchmarks.analytics [PART ...]`.

Without parts, all parts run (about four minutes). Everything is on loopback: embedded PostgreSQL
and Redis, a served log, the stand-in for Gemini. Prints a table and writes
benchmarks/results/analytics.json.

    rollup     events per second from the served log into PostgreSQL, and of each step alone
    aggregate  POST /metrics/aggregated over a day of a million events; error of its P95
    reports    cached hits over HTTP; share of hits when a question is repeated; the 11th call
    killed     time until an answer by Gemini after the holder of the lock was killed
    null       false alarms of PSI, coverage of intervals, false alarms of sequences, no difference
"""

import asyncio
import math
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import orjson
import psutil
from aiohttp import web
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Table

from deploy.local.servers import EmbeddedPostgres, EmbeddedRedis
from libs.common.http_client import ServiceClient
from libs.common.migrations import migrate
from libs.common.postgres import Postgres
from services.analytics.adapters.audit_log import AuditLogReader
from services.analytics.adapters.rollup_writer import RollupWriter
from services.analytics.adapters.tail import Tailer, TailMetrics
from services.analytics.domain.compare import (
    Moments,
    mean_difference,
    quantile_difference,
    rate_difference,
)
from services.analytics.domain.drift import SIGNIFICANCE, numeric_drift
from services.analytics.domain.fold import fold
from services.analytics.domain.histogram import bucket_of
from services.analytics.domain.model_drift import ModelDrift, Told, judge
from services.analytics.domain.sequential import sequential_difference, smoothed
from services.inference.domain.drift import DriftWindow
from tests.support.analytics_processes import analytics_processes
from tests.support.gemini.server import serve_gemini

RESULTS = Path(__file__).parent / "results" / "analytics.json"
BATCH = 5_000
Row = tuple[str, str, str]


@dataclass
class Stores:
    """The embedded servers of one run."""

    directory: Path
    postgres_url: str
    redis_url: str


def documents(count: int, start: datetime, minutes: float, seed: int = 1) -> list[dict[str, Any]]:
    """Make predictions of two models and versions, spread evenly over the minutes."""
    draw = random.Random(seed)
    made = []
    for i in range(count):
        at = start + timedelta(minutes=minutes * i / count)
        is_fraud = draw.random() < 0.5
        data: dict[str, Any] = {
            "route": "/score/fraud" if is_fraud else "/predict",
            "model": "fraud" if is_fraud else "sentiment",
            "release": "1.0.0",
            "version": draw.choice("12"),
            "arm": "stable",
            "score": draw.betavariate(2, 8),
            "confidence": draw.betavariate(8, 2),
            "status": "failed" if draw.random() < 0.004 else "ok",
            "cached": draw.random() < 0.2,
            "latency_ms": {"total": draw.lognormvariate(2.5, 0.6)},
        }
        if is_fraud:
            features = {"used": 16, "missing": 0, "stale": 0, "freshness_s": draw.expovariate(0.05)}
            data |= {"risk": draw.choice(("low", "medium")), "decision": "approve"}
            data["features"] = features
        else:
            data |= {"label": draw.choice(("positive", "negative", "neutral"))}
            data["input_length"] = draw.randrange(10, 500)
        made.append(
            {
                "specversion": "1.0",
                "id": f"01900000-0000-7000-8000-{i:012x}",
                "source": "inference",
                "type": "prediction.made",
                "class": "standard",
                "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "tenant": "default",
                "data": data,
            }
        )
    return made


def write_log(directory: Path, events: int) -> None:
    """Write the answers of a log, a file per batch, without keeping the documents in memory."""
    start, minutes = datetime(2026, 11, 1, tzinfo=UTC), 60 * BATCH / events
    for at in range(0, events, BATCH):
        made = documents(BATCH, start + at / BATCH * timedelta(minutes=minutes), minutes, seed=at)
        body = {
            "items": [{"index": at + i, "leaf": "", "payload": one} for i, one in enumerate(made)],
            "next_index": at + BATCH,
            "size": events,
            "min_index": 0,
        }
        (directory / f"{at}.json").write_bytes(orjson.dumps(body))


def _batch(directory: Path, at: int) -> bytes:
    return (directory / f"{at}.json").read_bytes()


def serve_log(directory: str, port: str) -> None:
    """Serve what `write_log` wrote; a process of its own, as audit is."""

    async def entries(request: web.Request) -> web.Response:
        body = _batch(Path(directory), int(request.query["from_index"]))
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_get("/v1/audit/log/entries", entries)
    web.run_app(app, host="127.0.0.1", port=int(port), print=None, access_log=None)


@contextmanager
def served_log(directory: Path) -> Iterator[str]:
    """Start the server of the log and wait for it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "benchmarks.analytics", "serve-log", str(directory), str(port)]
    server = subprocess.Popen(command)
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def processor_s(stores: Stores, *pids: int) -> float:
    """Give the processor time of PostgreSQL and the named processes so far, children included.

    It says what an answer costs also on a machine whose cores are busy with other work.
    """
    postmaster = int((stores.directory / "pg" / "postmaster.pid").read_text().split()[0])
    total = 0.0
    for root in (psutil.Process(pid) for pid in (postmaster, *pids)):
        for process in (root, *root.children(recursive=True)):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def quantile(values: list[float], share: float) -> float:
    """Nearest-rank quantile."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


async def tail(stores: Stores, url: str, events: int) -> list[float]:
    """Follow the log to its end; give the seconds of each batch."""
    postgres = Postgres(stores.postgres_url, "analytics")
    client = ServiceClient("audit", url, None)
    tailer = Tailer(
        postgres, RollupWriter(), AuditLogReader(client), TailMetrics(CollectorRegistry()),
        batch=BATCH, poll_s=0.1,
    )  # fmt: skip
    took = []
    async with postgres.connection() as connection:
        for _ in range(events // BATCH):
            started = time.perf_counter()
            await tailer.step(connection)
            took.append(time.perf_counter() - started)
    await client.close()
    await postgres.close()
    return took


async def rollup(stores: Stores) -> list[Row]:
    """Measure the tail: read, parse, fold, upsert, commit."""
    events = 200_000
    folding = []
    with tempfile.TemporaryDirectory(prefix="gh-") as directory:
        write_log(Path(directory), events)
        for at in range(0, events, BATCH):
            body = _batch(Path(directory), at)
            started = time.perf_counter()
            fold([item["payload"] for item in orjson.loads(body)["items"]])
            folding.append(time.perf_counter() - started)
        with served_log(Path(directory)) as url:
            used = time.process_time()
            took = await tail(stores, url, events)
            used = time.process_time() - used
    return [
        ("roll-up, log to commit", f"{events / sum(took):,.0f} events/s", ">= 20,000"),
        ("  median batch", f"{BATCH / quantile(took, 0.5):,.0f} events/s", ""),
        ("  per second of its processor time", f"{events / used:,.0f} events", ""),
        ("  parse and fold alone, median", f"{BATCH / quantile(folding, 0.5):,.0f} events/s", ""),
    ]


async def aggregate(stores: Stores) -> list[Row]:
    """Measure the day's window over a million events."""
    events = 1_000_000
    end = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=7)
    latencies: list[float] = []
    took: list[float] = []
    # A hundred minutes at a time: a million documents at once would need gigabytes.
    parts, minutes = 20, 1440 / 20
    writer = RollupWriter()
    postgres = Postgres(stores.postgres_url, "analytics")
    async with postgres.connection() as connection:
        index = await writer.next_index(connection)
        for part in range(parts):
            start = end - timedelta(minutes=1440 - part * minutes)
            made = documents(events // parts, start, minutes, seed=part)
            latencies += [one["data"]["latency_ms"]["total"] for one in made]
            for at in range(0, len(made), BATCH):
                batch = fold(made[at : at + BATCH])
                await writer.apply(
                    connection, batch, from_index=index, next_index=index + BATCH, log_size=events
                )
                index += BATCH
        await connection.execute("VACUUM ANALYZE")
    await postgres.close()
    question = {"time_window_minutes": 1440, "end": end.isoformat(), "compare": "none"}
    async with _served(stores, "http://127.0.0.1:1") as (session, url, pid):
        body: dict[str, Any] = {}
        used = processor_s(stores, pid)
        for _ in range(120):
            started = time.perf_counter()
            async with session.post(f"{url}/metrics/aggregated", json=question) as answer:
                body = await answer.json()
            took.append((time.perf_counter() - started) * 1000)
        used = processor_s(stores, pid) - used
        took_compared = []
        for _ in range(60):
            started = time.perf_counter()
            compared = {**question, "compare": "previous"}
            async with session.post(f"{url}/metrics/aggregated", json=compared) as answer:
                await answer.read()
            took_compared.append((time.perf_counter() - started) * 1000)
    exact = quantile(latencies, 0.95)
    error = abs(body["latency_ms"]["p95"] - exact) / exact
    counted = body["total_predictions"]
    return [
        ("1,440 minutes over 1 M events, p95", f"{quantile(took[20:], 0.95):.1f} ms", "<= 50 ms"),
        ("  median", f"{quantile(took[20:], 0.5):.1f} ms", ""),
        ("  processor time of one", f"{used / 120 * 1000:.1f} ms", ""),
        ("  with the day before, p95", f"{quantile(took_compared, 0.95):.1f} ms", ""),
        ("  events counted", f"{counted:,} of {events:,}", "all"),
        ("  P95 against exact", f"{error * 100:.2f} %", "<= 1 %"),
    ]


@asynccontextmanager
async def _served(
    stores: Stores, audit_url: str, **environment: str
) -> AsyncIterator[tuple[aiohttp.ClientSession, str, int]]:
    values = {
        "POSTGRES_URL": stores.postgres_url,
        "REDIS_URL": stores.redis_url,
        "AUDIT_URL": audit_url,
        **environment,
    }
    with tempfile.TemporaryDirectory(prefix="gh-") as directory:
        async with (
            analytics_processes(1, Path(directory), values) as processes,
            aiohttp.ClientSession() as session,
        ):
            yield session, processes[0].url, processes[0].popen.pid


async def _ask(session: aiohttp.ClientSession, url: str, **body: Any) -> dict[str, Any]:
    async with session.post(f"{url}/analyze/performance", json=body) as answer:
        found: dict[str, Any] = await answer.json()
        return found


async def reports(stores: Stores) -> list[Row]:
    """Measure cached hits, the share of hits, and the quota."""
    async with (
        serve_gemini() as stand_in,
        _served(
            stores,
            "http://127.0.0.1:1",
            GEMINI_BASE_URL=stand_in.url,
            GEMINI_API_KEY="a key of the benchmark",
        ) as (session, url, pid),
    ):
        stand_in.set("ok", latency_ms=300)
        await _ask(session, url)
        took = []
        used = processor_s(stores, pid)
        for _ in range(1_000):
            started = time.perf_counter()
            await _ask(session, url)
            took.append((time.perf_counter() - started) * 1000)
        used = processor_s(stores, pid) - used
        # Five operators repeat three questions; the rest of the quota's minute is theirs.
        draw = random.Random(5)
        hits = asked = 0
        for _ in range(300):
            found = await _ask(session, url, time_window_minutes=draw.choice((30, 60, 1440)))
            hits += bool(found["cache"]["hit"])
            asked += 1
        calls = len(stand_in.calls)
        stand_in.set("ok")
        late = [await _ask(session, url, time_window_minutes=200 + at) for at in range(12)]
        reasons = Counter(one.get("fallback_reason") for one in late)
        metrics = {"upstream": len(stand_in.calls), "quota": reasons["quota"]}
    return [
        ("cached report, p99", f"{quantile(took, 0.99):.2f} ms", "<= 5 ms"),
        ("  median", f"{quantile(took, 0.5):.2f} ms", ""),
        ("  processor time of one", f"{used:.2f} ms", ""),
        ("hits of 300 questions of three kinds", f"{100 * hits / asked:.1f} %", ">= 90 %"),
        ("upstream calls in the minute", f"{metrics['upstream']} ({calls} before)", "10"),
        ("  answered by rules for the quota", str(metrics["quota"]), f"{12 - 10 + calls}"),
    ]


async def killed(stores: Stores) -> list[Row]:
    """Kill the holder of the lock and ask another process until Gemini has written."""
    environment = {
        "POSTGRES_URL": stores.postgres_url,
        "REDIS_URL": stores.redis_url,
        "AUDIT_URL": "http://127.0.0.1:1",
        "GEMINI_API_KEY": "a key of the benchmark",
    }
    with tempfile.TemporaryDirectory(prefix="gh-") as directory:
        async with serve_gemini() as stand_in, aiohttp.ClientSession() as session:
            environment["GEMINI_BASE_URL"] = stand_in.url
            async with analytics_processes(2, Path(directory), environment) as (holder, other):
                stand_in.set("slow", latency_ms=8_000)
                doomed = asyncio.create_task(_ask(session, holder.url, time_window_minutes=77))
                while not await _has_calls(session, stand_in.url):
                    pass
                stand_in.set("ok")
                started = time.perf_counter()
                holder.popen.kill()
                await asyncio.gather(doomed, return_exceptions=True)
                while True:
                    found = await _ask(session, other.url, time_window_minutes=77)
                    if found["generated_by"] == "gemini":
                        break
                took = time.perf_counter() - started
    return [("holder killed, next by Gemini after", f"{took:.1f} s", "<= 10 s (lock) and the call")]


async def _has_calls(session: aiohttp.ClientSession, url: str) -> bool:
    await asyncio.sleep(0.02)
    async with session.get(f"{url}/__calls") as answer:
        return bool((await answer.json())["count"])


async def null(_: Stores) -> list[Row]:
    """Simulate what must rarely happen when nothing differs."""
    rows: list[Row] = []
    for n in (200, 500, 2_000):
        alarms = _share(1_000, partial(_psi_alarms, n=n))
        rows.append((f"PSI false alarms, n = {n}, 1,000 runs", f"{alarms:.1%}", "<= 2 %"))
        alarms = _share(1_000, partial(_ks_alarms, n=n))
        rows.append((f"KS below 1 %, n = {n}, 1,000 runs", f"{alarms:.1%}", "<= 2 %"))
    reference = _inputs_reference()
    for n in (200, 2_000):
        alarms = _share(1_000, partial(_input_alarms, n=n, reference=reference))
        rows.append((f"any of 13 inputs alarms, n = {n}, 1,000 runs", f"{alarms:.1%}", "<= 2 %"))
    covers: tuple[tuple[str, Callable[[np.random.Generator], bool]], ...] = (
        ("rates", _rates_cover), ("means", _means_cover), ("P95", _quantiles_cover),
    )  # fmt: skip
    for name, covered in covers:
        share = _share(2_000, covered)
        bar = ">= 93 %" if name == "P95" else "93 to 97 %"
        rows.append((f"interval of {name} covers, 2,000 runs", f"{share:.1%}", bar))
    for rate in (0.002, 0.01, 0.1, 0.5):
        share = _share(2_000, partial(_sequence_alarms, rate=rate))
        rows.append((f"sequence alarms, rate {rate}, 100 looks", f"{share:.1%}", "<= 5 %"))
    return rows


def _share(runs: int, holds: Callable[[np.random.Generator], bool]) -> float:
    rng = np.random.default_rng(11)
    return sum(holds(rng) for _ in range(runs)) / runs


def _buckets(values: Any) -> Counter[int]:
    return Counter(map(bucket_of, values.tolist()))


def _psi_alarms(rng: np.random.Generator, n: int) -> bool:
    now, before = (_buckets(rng.lognormal(3, 0.8, n)) for _ in range(2))
    return numeric_drift(now, before).verdict != "none"


def _ks_alarms(rng: np.random.Generator, n: int) -> bool:
    now, before = (_buckets(rng.lognormal(3, 0.8, n)) for _ in range(2))
    found = numeric_drift(now, before)
    return found.ks_p is not None and found.ks_p < SIGNIFICANCE


def _inputs(rng: np.random.Generator, n: int) -> tuple[Any, Any]:
    """Draw twelve inputs, half of them counts, a tenth of each missing; and a score."""
    rows = rng.normal(0, 1, (n, 12))
    rows[:, 6:] = rng.poisson([0.1, 0.7, 1, 2, 5, 20], (n, 6))
    rows[rng.random(rows.shape) < 0.1] = np.nan
    return rows.astype(np.float32), rng.random(n)


def _inputs_reference() -> dict[str, Any]:
    rows, scores = _inputs(np.random.default_rng(7), 20_000)
    steps = np.linspace(0, 1, 11)
    features = {
        str(at): {
            "deciles": np.nanquantile(column, steps, method="inverted_cdf").tolist(),
            "missing_share": float(np.isnan(column).mean()),
        }
        for at, column in enumerate(rows.T)
    }
    score = {"deciles": np.quantile(scores, steps).tolist()}
    return {"rows": len(rows), "features": features, "score": score}


def _input_alarms(rng: np.random.Generator, n: int, reference: dict[str, Any]) -> bool:
    """Compare as inference does and judge as analytics does."""
    window = DriftWindow([str(at) for at in range(12)], reference)
    window.add(*_inputs(rng, n))
    score = window.score()
    moved = list(window.inputs().values()) + ([score] if score else [])
    told = tuple(
        Told("input", str(at), one.psi, one.ks, one.known, one.bins) for at, one in enumerate(moved)
    )
    at = datetime.now(UTC)
    found = ModelDrift("m", "1", "1.0.0", at, n, reference["rows"], len(told), told)
    return any(one.verdict != "none" for one in judge([found])[0])


def _rates_cover(rng: np.random.Generator) -> bool:
    a, b = (int(rng.binomial(300, rate)) for rate in (0.05, 0.08))
    interval = rate_difference((a, 300), (b, 300)).interval
    return interval is not None and interval[0] <= 0.03 <= interval[1]


def _moments(values: Any) -> Moments:
    return Moments(len(values), float(values.sum()), float((values**2).sum()))


def _means_cover(rng: np.random.Generator) -> bool:
    a, b = rng.lognormal(3, 0.5, 400), rng.lognormal(3, 0.7, 200)
    interval = mean_difference(_moments(a), _moments(b), looks=1, better="lower").interval
    true = math.exp(3 + 0.7**2 / 2) - math.exp(3 + 0.5**2 / 2)
    return interval is not None and interval[0] <= true <= interval[1]


def _quantiles_cover(rng: np.random.Generator) -> bool:
    a, b = _buckets(rng.lognormal(3, 0.5, 400)), _buckets(rng.lognormal(3.1, 0.5, 400))
    interval = quantile_difference(a, b, 0.95, looks=1, better="lower").interval
    true = math.exp(0.5 * 1.6448536) * (math.exp(3.1) - math.exp(3))
    return interval is not None and interval[0] <= true <= interval[1]


def _sequence_alarms(rng: np.random.Generator, rate: float) -> bool:
    hits = rng.binomial(200, rate, size=(100, 2)).cumsum(axis=0).tolist()
    for look, (a, b) in enumerate(hits, 1):
        found = sequential_difference(
            smoothed(a, look * 200), smoothed(b, look * 200), better="lower"
        )
        if found is not None and found.verdict != "no_difference":
            return True
    return False


PARTS: dict[str, Callable[[Stores], Coroutine[Any, Any, list[Row]]]] = {
    "rollup": rollup,
    "aggregate": aggregate,
    "reports": reports,
    "killed": killed,
    "null": null,
}


def main() -> None:
    """Run the named parts and print their table."""
    if sys.argv[1:2] == ["serve-log"]:
        serve_log(*sys.argv[2:])
        return
    names = sys.argv[1:] or list(PARTS)
    if unknown := set(names) - set(PARTS):
        sys.exit(f"no part {sorted(unknown)}; there are {', '.join(PARTS)}")
    table = Table("figure", "measured", "bar", title="Analytics")
    rows: list[Row] = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix="gh-") as directory:
            postgres = EmbeddedPostgres(Path(directory, "pg"))
            redis = EmbeddedRedis(Path(directory))
            try:
                stores = Stores(Path(directory), postgres.start(), redis.start())
                asyncio.run(migrate(stores.postgres_url, ["analytics"]))
                rows += asyncio.run(PARTS[name](stores))
            finally:
                redis.stop()
                postgres.stop()
        print(f"{name}: done", file=sys.stderr)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    result = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "load": os.getloadavg()[0],
        "figures": {figure.strip(): measured for figure, measured, _ in rows},
    }
    RESULTS.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    main()

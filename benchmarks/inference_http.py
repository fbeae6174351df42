"""`python -m benchmarks.inference_http`: `/predict` of the running service, called directly.

One connection with one request in flight, then 64; then arrivals on a schedule at half of what 64
reach. Rounds alternate, medians count. The service runs as in production, prediction cache off;
generator and service share the machine.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime

import orjson
from rich.console import Console
from rich.table import Table

from benchmarks.connection import request_bytes
from benchmarks.feature_feast import _redis
from benchmarks.inference_peers import ROOT, TEXTS, Side, Subject, bodies, up
from benchmarks.inference_text import sample_texts
from benchmarks.raw_client import Load, closed_loop, open_loop

RESULTS = ROOT / "benchmarks" / "results" / "inference_http.json"
CONNECTIONS = 64
BARS = {
    "64 connections / one": ">= 3",
    "short texts, 64 connections / one": ">= 3",
    "p95 at half of saturation, ms": "<= 100",
}
_OURS, _WARM_UP_S = Side("Gatehouse"), 2.0


def _round(
    port: int, requests: Sequence[bytes], short: Sequence[bytes], seconds: float
) -> dict[str, float]:
    """Load one running service in three ways, and with short texts in two."""
    one: Load = asyncio.run(closed_loop(port, requests, 1, seconds))
    many: Load = asyncio.run(closed_loop(port, requests, CONNECTIONS, seconds))
    half: Load = asyncio.run(open_loop(port, requests, int(many.per_s / 2), seconds))
    one_short = asyncio.run(closed_loop(port, short, 1, seconds))
    many_short = asyncio.run(closed_loop(port, short, CONNECTIONS, seconds))
    return {
        "one connection, texts/s": one.per_s,
        "one connection, p50 ms": one.quantile_ms(0.5),
        "64 connections, texts/s": many.per_s,
        "64 connections, p50 ms": many.quantile_ms(0.5),
        "64 connections, p99 ms": many.quantile_ms(0.99),
        "64 connections / one": many.per_s / one.per_s,
        "short texts, one connection, texts/s": one_short.per_s,
        "short texts, 64 connections, texts/s": many_short.per_s,
        "short texts, 64 connections / one": many_short.per_s / one_short.per_s,
        "p50 at half of saturation, ms": half.quantile_ms(0.5),
        "p95 at half of saturation, ms": half.quantile_ms(0.95),
        "p99 at half of saturation, ms": half.quantile_ms(0.99),
        "calls that failed": sum(load.errors for load in (one, many, half, one_short, many_short)),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    subject = Subject("sentiment", TEXTS, "sentiment", CONNECTIONS)
    with ExitStack() as stack:
        redis_url = stack.enter_context(_redis(stack.enter_context(tempfile.TemporaryDirectory())))
        port = stack.enter_context(up(subject, _OURS, redis_url))
        url = f"http://127.0.0.1:{port}"
        requests = [request_bytes(url + path, {}, body) for path, body in bodies(subject, _OURS)]
        asyncio.run(closed_loop(port, requests, CONNECTIONS, _WARM_UP_S))
        short = [
            request_bytes(f"{url}/predict", {}, orjson.dumps({"text": text}))
            for text in sample_texts("short")
        ]
        rounds = [_round(port, requests, short, arguments.seconds) for _ in range(arguments.rounds)]
    found = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    table = Table(title=f"/predict over HTTP, load {os.getloadavg()[0]:.1f}")
    for column in ("figure", "median", "rounds", "bar"):
        table.add_column(column)
    for name, value in found.items():
        shown = ", ".join(f"{one[name]:.1f}" for one in rounds)
        table.add_row(name, f"{value:.2f}", shown, BARS.get(name, ""))
    Console().print(table)
    document = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "rounds": rounds}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    main()

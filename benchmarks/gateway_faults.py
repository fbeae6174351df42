"""Stores in trouble under load: `python -m benchmarks.gateway_faults`.

One gateway, an ordinary key whose limits are counted in both stores, a steady rate. Redis and
PostgreSQL are stopped (SIGSTOP) in turn and go on again; Redis is flushed. Prints latencies before,
during and after, failed requests, log lines about the change, and how long after the end of the
fault the limits were shared again.
"""

import argparse
import asyncio
import os
import re
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import aiohttp
import psutil
import uvloop
from redis import Redis

from benchmarks.gateway_limits import ordinary_key
from benchmarks.gateway_stand import Stand, Way, stand

_BODY = b'{"card_id":"card_00000001","transaction_amount":1.0}'
_SHARED = {"redis": "key", "postgres": "ip"}


@dataclass
class _Phase:
    """What one stretch of time saw."""

    seconds: list[float] = field(default_factory=list)
    failed: int = 0

    def quantile_ms(self, share: float) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3


class _Load:
    """Sends at a steady rate; `phase` is where results go."""

    def __init__(self, way: Way, key: str, per_s: float) -> None:
        self._url = f"http://127.0.0.1:{way.port}"
        self._headers = {"X-API-Key": key, "Content-Type": "application/json"}
        self._per_s = per_s
        self.phase = _Phase()

    async def run(self) -> None:
        """Send until cancelled; a request belongs to the phase in which it began."""
        async with aiohttp.ClientSession(headers=self._headers) as session:
            running: set[asyncio.Task[None]] = set()
            started, number = time.perf_counter(), 0
            while True:
                number += 1
                due = started + number / self._per_s
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                task = asyncio.create_task(self._one(session, self.phase))
                running.add(task)
                task.add_done_callback(running.discard)

    async def _one(self, session: aiohttp.ClientSession, phase: _Phase) -> None:
        began = time.perf_counter()
        try:
            async with session.post(f"{self._url}/score/fraud", data=_BODY) as answer:
                await answer.read()
                phase.failed += answer.status != 200
        except aiohttp.ClientError:
            phase.failed += 1
        phase.seconds.append(time.perf_counter() - began)

    async def allowed_by(self, layer: str) -> float:
        """Give how many requests a layer of the limits has allowed so far."""
        async with aiohttp.ClientSession() as session, session.get(f"{self._url}/metrics") as got:
            text = await got.text()
        name = "gatehouse_gateway_limit_decisions_total"
        found = re.search(rf'{name}{{layer="{layer}",outcome="allowed"}} (\S+)', text)
        return float(found[1]) if found else 0.0

    async def shared_again(self, layer: str) -> float:
        """Give the seconds until the store decides again."""
        started, before = time.perf_counter(), await self.allowed_by(layer)
        while await self.allowed_by(layer) <= before:
            if time.perf_counter() - started > 20:
                return float("inf")
            await asyncio.sleep(0.05)
        return time.perf_counter() - started


def _signal(pid: int, number: signal.Signals) -> None:
    """Send a signal to a store and all its processes."""
    server = psutil.Process(pid)
    for process in (server, *server.children(recursive=True)):
        os.kill(process.pid, number)


def _size(log: Path) -> int:
    return log.stat().st_size


def _since(log: Path, at: int) -> str:
    return log.read_bytes()[at:].decode()


async def _fault(
    load: _Load, log: Path, name: str, store: str, begin: Callable[[], object],
    end: Callable[[], object], seconds: float,
) -> None:  # fmt: skip
    load.phase = before = _Phase()
    await asyncio.sleep(seconds)
    at = _size(log)
    load.phase = during = _Phase()
    begin()
    await asyncio.sleep(seconds)
    end()
    load.phase = after = _Phase()
    recovered = await load.shared_again(_SHARED[store])
    await asyncio.sleep(2)
    written = _since(log, at)
    lines = sum("limit store changed" in line for line in written.splitlines())
    growth = during.quantile_ms(0.99) - before.quantile_ms(0.99)
    print(
        f"| {name} | {before.quantile_ms(0.5):.2f} / {before.quantile_ms(0.99):.2f} "
        f"| {during.quantile_ms(0.5):.2f} / {during.quantile_ms(0.99):.2f} | {growth:+.1f} "
        f"| {before.failed + during.failed + after.failed} of "
        f"{len(before.seconds) + len(during.seconds) + len(after.seconds)} "
        f"| {lines} | {recovered:.1f} |",
        flush=True,
    )


async def _run(made: Stand, per_s: float, seconds: float) -> None:
    settings = {"IP_BURST_PER_S": "100000", "IP_LIMIT_REQUESTS": "10000", "IP_LIMIT_WINDOW": "1"}
    way = made.gateway(folder=None, **settings)
    await made.ready(way)
    log = made.state / f"gateway-{way.port}.log"
    load = _Load(way, await ordinary_key(made, way), per_s)
    task = asyncio.create_task(load.run())
    await asyncio.sleep(2)
    print("| fault | before p50 / p99 ms | during p50 / p99 ms | p99 grows by ms | failed "
          "| lines | shared again after s |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    for name, store in (("Redis stopped", "redis"), ("PostgreSQL stopped", "postgres")):
        stop = partial(_signal, made.store_pids[store], signal.SIGSTOP)
        go_on = partial(_signal, made.store_pids[store], signal.SIGCONT)
        await _fault(load, log, name, store, stop, go_on, seconds)
    redis = Redis.from_url(made.redis_url)
    await _fault(load, log, "Redis flushed", "redis", redis.flushall, redis.script_flush, seconds)
    task.cancel()


async def _main(state: Path, per_s: float, seconds: float) -> None:
    async with stand(state) as made:
        try:
            await _run(made, per_s, seconds)
        finally:
            for pid in made.store_pids.values():
                _signal(pid, signal.SIGCONT)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-s", type=float, default=100)
    parser.add_argument("--seconds", type=float, default=8, help="before, and of each fault")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gh-") as state:
        uvloop.run(_main(Path(state), options.per_s, options.seconds))


if __name__ == "__main__":
    main()

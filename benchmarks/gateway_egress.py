"""The quota of calls to Gemini, through everything: `python -m benchmarks.gateway_egress`.

Three gateways in front of three processes of analytics, which share Redis and PostgreSQL. Callers
ask for written analyses, each a question of its own, so that none is answered from a cache, at 20
times the quota. A stand-in for the Gemini API counts what arrives. Prints the arrivals, the most in
any minute, and who wrote the reports.
"""

import argparse
import asyncio
import collections
import itertools
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from benchmarks.gateway_limits import most_in
from benchmarks.gateway_stand import Way, stand
from tests.support.analytics_processes import analytics_processes
from tests.support.audit_log import serve_audit_log
from tests.support.gemini.server import serve_gemini
from tests.support.predictions import prediction

_PROCESSES = 3
_OVERLOAD = 20
_EVENTS = 200
_WINDOW_S = 60.0


class _Stamped(list[dict[str, Any]]):
    """The calls that the stand-in received, and when."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def append(self, call: dict[str, Any]) -> None:
        """Note the time with the call."""
        self.times.append(time.monotonic())
        super().append(call)


async def _counted(session: aiohttp.ClientSession, way: Way) -> None:
    """Wait until analytics has read the log."""
    async with asyncio.timeout(60):
        while True:
            async with session.get(f"http://127.0.0.1:{way.port}/metrics/count") as answer:
                if (await answer.json()).get("total_predictions") == _EVENTS:
                    return
            await asyncio.sleep(0.2)


async def _asked(
    ways: list[Way], key: str, per_s: float, seconds: float
) -> collections.Counter[str]:
    """Ask on a schedule, in turn at each gateway; gives how often each author wrote."""
    seen: collections.Counter[str] = collections.Counter()

    async def ask(session: aiohttp.ClientSession, way: Way, minutes: int) -> None:
        url = f"http://127.0.0.1:{way.port}/analyze/performance"
        async with session.post(url, json={"time_window_minutes": minutes}) as answer:
            body = await answer.json()
            seen[body.get("generated_by") or f"status {answer.status}"] += 1

    async with aiohttp.ClientSession(headers={"X-API-Key": key}) as session:
        await _counted(session, ways[0])
        started = time.monotonic()
        turn = itertools.cycle(ways)
        async with asyncio.TaskGroup() as group:
            for number in range(int(per_s * seconds)):
                await asyncio.sleep(max(0.0, started + number / per_s - time.monotonic()))
                group.create_task(ask(session, next(turn), 60 + number))
    return seen


async def _run(state: Path, quota: int, seconds: float) -> str:
    async with stand(state) as made, serve_gemini() as stand_in, serve_audit_log() as log:
        at = datetime.now(UTC) - timedelta(minutes=15)
        log.append(*(prediction(at, status="failed", reason="timeout") for _ in range(_EVENTS)))
        stand_in.calls = calls = _Stamped()
        environment = {
            "POSTGRES_URL": made.environment["POSTGRES_URL"],
            "REDIS_URL": made.redis_url,
            "KEYS_DIR": str(state / "keys"),
            "IDENTITY_MODE": "required",
            "AUDIT_URL": log.url,
            "GEMINI_BASE_URL": stand_in.url,
            "GEMINI_API_KEY": "any",
            "GEMINI_RATE_LIMIT": str(quota),
            "ANALYTICS_REPLICAS": str(_PROCESSES),
        }
        async with analytics_processes(_PROCESSES, state, environment) as processes:
            urls = ",".join(process.url for process in processes)
            ways = [
                made.gateway(f"gateway-{number}", ANALYTICS_URL=urls)
                for number in range(_PROCESSES)
            ]
            for way in ways:
                await made.ready(way)
            per_s = _OVERLOAD * quota / _WINDOW_S
            seen = await _asked(ways, made.key, per_s, seconds)
    most = most_in(calls.times, _WINDOW_S)
    return (
        f"quota {quota} per {_WINDOW_S:.0f} s, {sum(seen.values())} questions in {seconds:.0f} s "
        f"through {_PROCESSES} gateways and {_PROCESSES} processes of analytics: {len(calls)} "
        f"calls arrived at the stand-in, most in any {_WINDOW_S:.0f} s {most} (bar {quota}); "
        f"reports by {dict(seen)}"
    )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quota", type=int, default=10, help="calls per minute")
    parser.add_argument("--seconds", type=float, default=130)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gh-") as state:
        print(uvloop.run(_run(Path(state), options.quota, options.seconds)))


if __name__ == "__main__":
    main()

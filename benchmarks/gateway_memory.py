"""Memory of a gateway under mixed traffic: `python -m benchmarks.gateway_memory --minutes 30`.

Scores, reads with and without a known entity tag, refusals (no key, wrong key, unknown path, body
too large), streamed bodies, callers who leave, and a new key now and then, at a steady rate over
connections that come and go. Prints the resident memory minute by minute, and what it grew by from
the end of the warm-up, a sixth of the time, to the end.
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from benchmarks.gateway_stand import Stand, Way, stand

_SCORE = b'{"card_id":"card_00000001","transaction_amount":1.0}'
_JSON = {"Content-Type": "application/json"}


class _Traffic:
    """Sends one request of a random kind at a time."""

    def __init__(self, way: Way, key: str) -> None:
        self._url = f"http://127.0.0.1:{way.port}"
        self._key = {"X-API-Key": key}
        self._random = random.Random(7)
        self.statuses: dict[int, int] = {}

    async def one(self, session: aiohttp.ClientSession) -> None:
        """Send one, and count its status; 0 for a caller who left."""
        method, path, options = self._pick()
        status = 0
        try:
            async with session.request(method, self._url + path, **options) as answer:
                await answer.read()
                status = answer.status
        except TimeoutError:
            pass
        self.statuses[status] = self.statuses.get(status, 0) + 1

    def _pick(self) -> tuple[str, str, dict[str, Any]]:
        dice = self._random.random()
        keyed: dict[str, Any] = {"headers": {**self._key, **_JSON}, "data": _SCORE}
        if dice < 0.6:
            return "POST", "/score/fraud", keyed
        if dice < 0.75:
            tag = {"If-None-Match": f'"{self._random.randrange(10**9)}"'}
            return "GET", "/models", {"headers": {**self._key, **tag}}
        if dice < 0.8:
            return "GET", f"/no/such/{self._random.randrange(10**9)}", {"headers": self._key}
        if dice < 0.85:
            wrong = {"X-API-Key": f"gh_{self._random.randrange(10**11):012d}_{'x' * 49}"}
            return "POST", "/score/fraud", {**keyed, "headers": {**wrong, **_JSON}}
        if dice < 0.9:
            return "POST", "/score/fraud", {**keyed, "data": b"x" * 300_000}
        if dice < 0.95:
            return "POST", "/features/events", {**keyed, "data": _slowly(b"y" * 20_000)}
        if dice < 0.99:
            hasty = aiohttp.ClientTimeout(total=0.001)
            return "POST", "/score/fraud", {**keyed, "timeout": hasty}
        body = {"name": "soak", "scopes": ["predict:fraud"], "expires_in_s": 60}
        return "POST", "/v1/auth/keys", {"headers": self._key, "json": body}


async def _slowly(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 4_096):
        yield data[start : start + 4_096]
        await asyncio.sleep(0)


async def _load(traffic: _Traffic, per_s: float, until: float) -> None:
    while time.monotonic() < until:  # connections live for ten seconds
        session_until = min(until, time.monotonic() + 10)
        connector = aiohttp.TCPConnector(limit=64)
        async with aiohttp.ClientSession(connector=connector) as session:
            running: set[asyncio.Task[None]] = set()
            while time.monotonic() < session_until:
                task = asyncio.create_task(traffic.one(session))
                running.add(task)
                task.add_done_callback(running.discard)
                await asyncio.sleep(1 / per_s)
            await asyncio.gather(*running)


async def _run(made: Stand, minutes: float, per_s: float) -> None:
    way = made.gateway(IP_BURST_PER_S="100000", IP_LIMIT_REQUESTS="10000", IP_LIMIT_WINDOW="1")
    await made.ready(way)
    traffic = _Traffic(way, made.key)
    started = time.monotonic()
    seconds = minutes * 60
    load = asyncio.create_task(_load(traffic, per_s, started + seconds))
    every = max(1.0, min(60.0, seconds / 30))
    samples: list[tuple[float, float]] = []
    while not load.done():
        await asyncio.wait({load}, timeout=every)
        samples.append((time.monotonic() - started, way.memory_mib()))
        print(f"{samples[-1][0]:7.0f} s {samples[-1][1]:8.1f} MiB", flush=True)
    await load
    after = [mib for at, mib in samples if at >= seconds / 6]
    third = max(1, len(after) // 3)
    first, last = statistics.median(after[:third]), statistics.median(after[-third:])
    print(f"statuses: {dict(sorted(traffic.statuses.items()))}")
    print(f"{sum(traffic.statuses.values())} requests in {minutes:g} min")
    print(
        f"first third {first:.1f} MiB, last third {last:.1f} MiB: {last / first - 1:+.1%} (bar 5 %)"
    )


async def _main(state: Path, minutes: float, per_s: float) -> None:
    async with stand(state) as made:
        await _run(made, minutes, per_s)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--per-s", type=float, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gh-") as state:
        uvloop.run(_main(Path(state), options.minutes, options.per_s))


if __name__ == "__main__":
    main()

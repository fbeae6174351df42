"""Limits under overload over three processes: `python -m benchmarks.gateway_limits`.

Ingress: three gateways share PostgreSQL and Redis; one address sends 20 times its quota, spread
over them. Egress: three processes ask the shared quota for 20 times what it grants and call a
counting service with each permit. Both are counted where they arrive. Prints the largest number in
any window, the total beside what the quota allows, and whether a request that waited for its
Retry-After passed.
"""

import argparse
import asyncio
import bisect
import math
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import uvloop

from benchmarks.gateway_stand import Stand, Way, stand
from libs.common.quota import EgressQuota
from libs.common.redis import create_redis

_PROCESSES = 3
_OVERLOAD = 20
_BODY = b'{"card_id":"card_00000001","transaction_amount":1.0}'
_QUOTA_KEY = "benchmark:{provider}:attempts"


def most_in(times: list[float], window_s: float) -> int:
    """Give the largest number of arrivals in any window; one begins at each arrival."""
    times = sorted(times)
    return max(
        (bisect.bisect_left(times, at + window_s) - i for i, at in enumerate(times)), default=0
    )


async def ordinary_key(made: Stand, way: Way) -> str:
    """Make a key that no policy exempts, with a quota of its own far above the address's."""
    document = {"name": "overload", "scopes": ["predict:fraud"], "limits": {"requests_max": 10**7}}
    async with (
        aiohttp.ClientSession(headers={"X-API-Key": made.key}) as session,
        session.post(f"http://127.0.0.1:{way.port}/v1/auth/keys", json=document) as answer,
    ):
        return str((await answer.json())["key"])


async def _ingress(made: Stand, quota: int, window_s: int, seconds: float) -> str:
    """Overload three gateways from one address."""
    settings = {
        "IP_LIMIT_REQUESTS": str(quota),
        "IP_LIMIT_WINDOW": str(window_s),
        "IP_BURST_PER_S": "100000",
        "GATEWAY_REPLICAS": str(_PROCESSES),
    }
    ways = [
        made.gateway(f"gateway-{number}", folder=None, **settings) for number in range(_PROCESSES)
    ]
    for way in ways:
        await made.ready(way)
    headers = {
        "X-API-Key": await ordinary_key(made, ways[0]),
        "Content-Type": "application/json",
    }
    await asyncio.sleep(window_s)  # what the warm-up counted has left the window
    passed: list[float] = []
    statuses: dict[int, int] = {}
    waits: list[int] = []

    async def ask(session: aiohttp.ClientSession, way: Way) -> None:
        url = f"http://127.0.0.1:{way.port}/score/fraud"
        async with session.post(url, data=_BODY) as answer:
            await answer.read()
            statuses[answer.status] = statuses.get(answer.status, 0) + 1
            if answer.status == 200:
                passed.append(time.monotonic())
            elif "retry-after" in answer.headers:
                waits.append(int(answer.headers["retry-after"]))

    per_s = _OVERLOAD * quota / window_s
    async with aiohttp.ClientSession(headers=headers) as session:
        started = time.monotonic()
        tasks = []
        for number in range(int(per_s * seconds)):
            await asyncio.sleep(max(0.0, started + number / per_s - time.monotonic()))
            tasks.append(asyncio.create_task(ask(session, ways[number % _PROCESSES])))
        await asyncio.gather(*tasks)
        most, total = most_in(passed, window_s), len(passed)
        await asyncio.sleep(max(waits[-1:], default=1))
        before = statuses.get(200, 0)
        await ask(session, ways[-1])
    ideal = quota * math.ceil(seconds / window_s)
    kept = "passed" if statuses.get(200, 0) > before else "was refused"
    return (
        f"ingress: quota {quota} per {window_s} s, {per_s:.0f} requests/s over {_PROCESSES} "
        f"gateways for {seconds:.0f} s: {dict(sorted(statuses.items()))}; {total} passed where "
        f"{ideal} are allowed ({total / ideal - 1:+.1%}, bar 5 %), most in any window {most} "
        f"({most / quota - 1:+.1%}); after Retry-After a request {kept}"
    )


async def _egress(made: Stand, quota: int, window_s: float, seconds: float) -> str:
    """Let three processes ask for permits, and count what arrives."""
    arrived: list[float] = []

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\n")
        arrived.append(time.monotonic())
        writer.close()

    server = await asyncio.start_server(count, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    per_s = _OVERLOAD * quota / window_s / _PROCESSES
    command = [sys.executable, "-m", "benchmarks.gateway_limits", "--worker", made.redis_url,
               str(port), str(quota), str(window_s), str(per_s), str(seconds)]  # fmt: skip
    workers = [await asyncio.create_subprocess_exec(*command) for _ in range(_PROCESSES)]
    await asyncio.gather(*(worker.wait() for worker in workers))
    server.close()
    most = most_in(arrived, window_s)
    return (
        f"egress: quota {quota} per {window_s:g} s, {per_s * _PROCESSES:.0f} wishes/s of "
        f"{_PROCESSES} processes for {seconds:.0f} s: {len(arrived)} calls arrived, most in any "
        f"window {most} (bar {quota})"
    )


async def _work(
    url: str, port: int, quota: int, window_s: float, rate: tuple[float, float]
) -> None:
    """Be one process: wish at a rate, and call with each permit."""
    per_s, seconds = rate
    redis = create_redis(url, timeout_s=0.5)
    mine = EgressQuota(redis, _QUOTA_KEY, limit=quota, replicas=_PROCESSES, window_s=window_s)
    started = time.monotonic()
    for number in range(int(per_s * seconds)):
        await asyncio.sleep(max(0.0, started + number / per_s - time.monotonic()))
        if await mine.take() == "granted":
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"call\n")
            await writer.drain()
            writer.close()
    await redis.aclose()


async def _run(state: Path, options: argparse.Namespace) -> None:
    async with stand(state) as made:
        window_s, seconds = options.window_s, options.seconds
        lines = await asyncio.gather(
            _ingress(made, options.ingress, window_s, seconds),
            _egress(made, options.egress, window_s, seconds),
        )
        print("\n".join(lines))


def main() -> None:
    """Run and print."""
    if sys.argv[1:2] == ["--worker"]:
        url, port, quota, *rest = sys.argv[2:]
        window_s, per_s, seconds = map(float, rest)
        uvloop.run(_work(url, int(port), int(quota), window_s, (per_s, seconds)))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ingress", type=int, default=60, help="requests per window")
    parser.add_argument("--egress", type=int, default=10, help="calls per window")
    parser.add_argument("--window-s", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=90)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gh-") as state:
        uvloop.run(_run(Path(state), options))


if __name__ == "__main__":
    main()

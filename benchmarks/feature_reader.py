"""How long the online reader takes inside a process: `python -m benchmarks.feature_reader`.

Starts the embedded Redis, writes rings of the size a busy card has (65 events) and a popular
merchant has (2,000 events), reads 1, 10 and 100 rows per call and prints a table (milliseconds).
"""

import asyncio
import random
import tempfile
import time
from pathlib import Path

from deploy.local.servers import EmbeddedRedis
from libs.common.features.cache import BlobCache
from libs.common.features.contract import FeatureRequest
from libs.common.features.fraud import FRAUD_V1
from libs.common.features.layout import SERVING_KEY, VIEWS, pack_ring
from libs.common.features.reader import OnlineFeatureReader
from libs.common.features.windows import DAY_MS
from libs.common.redis import Redis, create_redis
from libs.common.redis_lean import LeanRedis

NOW_MS = 1_760_000_000_000
CARDS, MERCHANTS = 500, 50
CARD_EVENTS, MERCHANT_EVENTS = 65, 2000


async def _fill(redis: Redis) -> None:
    draw = random.Random(7)

    def records(view: str, count: int) -> bytes:
        times = sorted(NOW_MS - draw.randrange(30 * DAY_MS) for _ in range(count))
        attrs = [draw.randrange(4) for _ in VIEWS[view].attrs]
        rows = [(at, draw.randrange(50_000), draw.getrandbits(64), *attrs) for at in times]
        return pack_ring(VIEWS[view], rows)

    await redis.set(SERVING_KEY, b"1")
    for number in range(CARDS):
        await redis.set(VIEWS["card"].key("t", f"c{number}"), records("card", CARD_EVENTS))
    for number in range(MERCHANTS):
        blob = records("merchant", MERCHANT_EVENTS)
        await redis.set(VIEWS["merchant"].key("t", f"m{number}"), blob)


def _request(draw: random.Random, *, with_merchant: bool) -> FeatureRequest:
    entities = {"card": f"c{draw.randrange(CARDS)}"}
    if with_merchant:
        entities["merchant"] = f"m{draw.randrange(MERCHANTS)}"
    values = {"amount_minor": 1234, "mcc_code": "5411", "country_code": "GB"}
    return FeatureRequest(entities, values, NOW_MS)


async def _measure(
    reader: OnlineFeatureReader, rows: int, calls: int, *, with_merchant: bool
) -> list[float]:
    draw = random.Random(rows)
    seconds = []
    for _ in range(calls):
        requests = [_request(draw, with_merchant=with_merchant) for _ in range(rows)]
        started = time.perf_counter()
        await reader.read(FRAUD_V1, "t", requests)
        seconds.append(time.perf_counter() - started)
    return sorted(seconds[calls // 10 :])


async def _run(url: str) -> None:
    redis = create_redis(url, timeout_s=1.0)
    await _fill(redis)
    store = LeanRedis(redis, timeout_s=1.0)
    reader = OnlineFeatureReader(store, timeout_s=1.0)
    print(f"{'rows':>5} {'entities':<14} {'p50 ms':>8} {'p99 ms':>8}")
    for with_merchant in (False, True):
        for rows, calls in ((1, 2000), (10, 500), (100, 100)):
            took = await _measure(reader, rows, calls, with_merchant=with_merchant)
            p50, p99 = took[len(took) // 2], took[len(took) * 99 // 100]
            name = "card+merchant" if with_merchant else "card"
            print(f"{rows:>5} {name:<14} {p50 * 1e3:>8.3f} {p99 * 1e3:>8.3f}")
    await _cached(redis, store)
    await store.aclose()
    await redis.aclose()


async def _cached(redis: Redis, store: LeanRedis) -> None:
    """Measure a hit of the client-side cache, and a whole read that asks Redis for nothing."""
    cache = BlobCache(redis, views=["card", "merchant"])
    cache.start()
    while True:
        if cache.is_live:
            break
        await asyncio.sleep(0.01)
    reader = OnlineFeatureReader(store, timeout_s=1.0, cache=cache)
    await _measure(reader, 1, 4000, with_merchant=True)
    took = await _measure(reader, 1, 2000, with_merchant=True)
    key, calls = VIEWS["card"].key("t", "c1"), 100_000
    assert cache.get(key) is not None
    started = time.perf_counter()
    for _ in range(calls):
        cache.get(key)
    hit_us = (time.perf_counter() - started) / calls * 1e6
    print(f"    1 card+merchant, from the cache: p50 {took[len(took) // 2] * 1e3:.3f} ms")
    print(f"one hit of the cache: {hit_us:.2f} us")
    await cache.close()


def main() -> None:
    """Run the benchmark and print its table."""
    import uvloop

    with tempfile.TemporaryDirectory(prefix="gh-") as directory:
        server = EmbeddedRedis(Path(directory))
        server.start()
        try:
            uvloop.run(_run(server.url))
        finally:
            server.stop()


if __name__ == "__main__":
    main()

"""Golden-file replay: `python -m benchmarks.feature_golden DATA [--sample N]`.

Replays the payments of the Fraud Detection Handbook's simulation through the streaming engine, day
by day: log rows, the ring script in a Redis of its own, the online reader. Customers are cards;
terminals are a view by definition, with labels that become available seven days after the payment.
Each published row is read at its own moment and compared with what its publisher computed. Customer
windows may differ only where a customer pays twice in one second, which the publisher sorted
without a rule; such rows are counted.

DATA is the folder with `transactions.parquet` and the published features; it is never copied.
"""

import argparse
import asyncio
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.local.servers import EmbeddedRedis
from libs.common.features.computed import Aggregate, ComputedView
from libs.common.features.contract import FeatureRequest
from libs.common.features.fraud import FRAUD_V1
from libs.common.features.reader import OnlineFeatureReader
from libs.common.features.readings import read_ring
from libs.common.features.windows import DAY_MS
from libs.common.redis import Redis, create_redis
from libs.common.redis_lean import LeanRedis
from services.features.adapters.ring_writer import Lease
from services.features.adapters.rings import RedisRings
from services.features.domain.computed import label_touch, touch_of
from services.features.domain.events import Accepted, LogRow, Touch, partition_of

FIRST_DAY_MS = 1_522_540_800_000  # 2018-04-01
FIRST_DAY, LAST_DAY, LONGEST_DAYS, DELAY_MS = 115, 157, 30, 7 * DAY_MS
PUBLISHED = "features_published_2018-07-25_2018-09-04.parquet"
TENANT = "golden"
_CHUNK = 500
_DAYS = (1, 7, 30)

TERMINAL = ComputedView(
    "terminal",
    1,
    1000,
    ("merchant_id",),
    ("card_transaction",),
    "ring",
    (
        *(Aggregate(f"nb_{d}", "count", None, d * DAY_MS, DELAY_MS) for d in _DAYS),
        *(Aggregate(f"risk_{d}", "rate", None, d * DAY_MS, DELAY_MS) for d in _DAYS),
    ),
    90 * DAY_MS,
    "fraud",
)
Column = NDArray[Any]


@dataclass
class Outcome:
    """What the comparison found.

    Attributes:
        rows: published rows compared.
        customers: rows whose customer windows differ.
        untied: those of them whose customer never pays twice in one second.
        terminals: rows whose terminal windows differ.
        clock: rows whose night or weekend flag differs.
        replayed: payments replayed.
        tied: published rows of customers that pay twice in one second.
    """

    rows: int = 0
    customers: int = 0
    untied: int = 0
    terminals: int = 0
    clock: int = 0
    replayed: int = 0
    tied: int = 0


@dataclass
class _Log:
    """Stands in for Postgres: gap-free offsets per partition, and progress as Redis has it."""

    rings: RedisRings
    offsets: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    waiting: dict[int, list[LogRow]] = field(default_factory=lambda: defaultdict(list))

    def append(self, touch: Touch, arrival_ms: int) -> None:
        """Give a row its offset."""
        partition = partition_of(TENANT, touch.view, touch.entity)
        self.offsets[partition] += 1
        row = (touch.view, touch.entity, touch.record, arrival_ms)
        self.waiting[partition].append(LogRow(partition, self.offsets[partition], TENANT, *row))

    async def apply(self) -> None:
        """Write what waits, as the applier does."""
        progress = await self.rings.progress()
        texts = dict(progress.texts)
        for partition, rows in self.waiting.items():
            for first in range(0, len(rows), 2000):
                lease = Lease(1, texts[partition])
                texts |= await self.rings.apply(
                    rows[first : first + 2000], {partition: lease}, written_ms=0
                )
        self.waiting.clear()
        if not progress.is_serving:
            await self.rings.start_serving(await self.rings.progress())


def _columns(path: Path) -> dict[str, Column]:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    return {column: table[column].to_numpy() for column in table.column_names}


def _payments(data: Path, sample: int | None) -> tuple[dict[str, Column], dict[int, int]]:
    """Give the payments to replay in time order, and the published row of each that has one."""
    raw, golden = _columns(data / "transactions.parquet"), _columns(data / PUBLISHED)
    day = raw["tx_time_seconds"] // 86_400
    kept = (day >= FIRST_DAY - LONGEST_DAYS - 8) & (day <= LAST_DAY)
    place = {int(number): at for at, number in enumerate(golden["TRANSACTION_ID"])}
    if sample is not None:
        draw = np.random.default_rng(13)
        published = np.isin(raw["transaction_id"], golden["TRANSACTION_ID"])
        chosen = draw.choice(np.flatnonzero(published), sample, replace=False)
        mine = np.isin(raw["customer_id"], raw["customer_id"][chosen])
        theirs = np.isin(raw["terminal_id"], raw["terminal_id"][chosen])
        kept &= mine | theirs
        wanted = set(raw["transaction_id"][chosen].tolist())
        place = {number: at for number, at in place.items() if number in wanted}
    rows = {name: values[kept].astype(np.int64) for name, values in raw.items()}
    order = np.argsort(rows["tx_time_seconds"], kind="stable")
    rows = {name: values[order] for name, values in rows.items()}
    return {**rows, **{f"golden:{name}": values for name, values in golden.items()}}, place


async def replay(redis_url: str, data: Path, *, sample: int | None = None) -> Outcome:
    """Replay and compare.

    Args:
        redis_url: an empty server.
        data: the folder of the two files.
        sample: compare so many random published rows instead of all.
    """
    columns, place = _payments(data, sample)
    redis = create_redis(redis_url, timeout_s=10.0)
    log = _Log(RedisRings(redis, lambda tenant, key: TERMINAL))
    store = LeanRedis(redis, timeout_s=10.0)
    reader = OnlineFeatureReader(store, timeout_s=10.0)
    outcome = Outcome(replayed=len(columns["tx_time_seconds"]))
    pairs = np.stack([columns["customer_id"], columns["tx_time_seconds"]], axis=1)
    _, number, times = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    tied = set(columns["customer_id"][times[number.ravel()] > 1].tolist())
    day = columns["tx_time_seconds"] // 86_400
    labels: list[tuple[int, Touch]] = []
    try:
        for today in range(int(day.min()), int(day.max()) + 1):
            rows = np.flatnonzero(day == today)
            end_ms = FIRST_DAY_MS + (today + 1) * DAY_MS
            labels += _take(log, columns, rows)
            for available_ms, touch in [pair for pair in labels if pair[0] <= end_ms]:
                log.append(touch, available_ms)
            labels = [pair for pair in labels if pair[0] > end_ms]
            await log.apply()
            asked = [row for row in rows if int(columns["transaction_id"][row]) in place]
            for first in range(0, len(asked), _CHUNK):
                part = asked[first : first + _CHUNK]
                await _compare(outcome, reader, redis, columns, part, place, tied)
    finally:
        await store.aclose()
        await log.rings.close()
        await redis.aclose()
    return outcome


def _take(log: _Log, columns: dict[str, Column], rows: Column) -> list[tuple[int, Touch]]:
    """Append a day's payments; give the label rows that follow, by when they are available."""
    labels = []
    for row in rows.tolist():
        at_ms = FIRST_DAY_MS + int(columns["tx_time_seconds"][row]) * 1000
        entities = {
            "card_id": str(columns["customer_id"][row]),
            "merchant_id": str(columns["terminal_id"][row]),
        }
        body = {"entities": entities, "values": {"amount_minor": int(columns["amount_cents"][row])}}
        name = str(columns["transaction_id"][row])
        event = Accepted(name, "card_transaction", at_ms, at_ms, body, False)
        log.append(event.touches[0], at_ms)
        touch = touch_of(TERMINAL, name, event.type, at_ms, body)
        if touch is not None:
            log.append(touch, at_ms)
        if columns["fraud_scenario"][row]:
            facts = (name, event.type, at_ms, body)
            known_ms = at_ms + DELAY_MS
            label = label_touch(TERMINAL, facts, known_ms, before=None, after="fraud")
            if label is not None:
                labels.append((known_ms, label))
    return labels


async def _compare(
    outcome: Outcome,
    reader: OnlineFeatureReader,
    redis: Redis,
    columns: dict[str, Column],
    rows: list[Any],
    place: dict[int, int],
    tied: set[int],
) -> None:
    """Read published rows at their own moments and count what differs."""
    requests = [
        FeatureRequest(
            {"card": str(columns["customer_id"][row])},
            {"amount_minor": int(columns["amount_cents"][row])},
            FIRST_DAY_MS + int(columns["tx_time_seconds"][row]) * 1000,
            str(columns["transaction_id"][row]),
        )
        for row in rows
    ]
    read = await reader.read(FRAUD_V1, TENANT, requests)
    assert read.raw is not None
    assert not read.degraded_reasons
    at = np.array([place[int(columns["transaction_id"][row])] for row in rows])
    raw = dict(zip(FRAUD_V1.raw, read.raw.T, strict=True))
    differs = np.zeros(len(rows), dtype=bool)
    for days in _DAYS:
        count = columns[f"golden:CUSTOMER_ID_NB_TX_{days}DAY_WINDOW"][at]
        mean = columns[f"golden:CUSTOMER_ID_AVG_AMOUNT_{days}DAY_WINDOW"][at]
        differs |= raw[f"card:count_{days}d"] != count
        differs |= ~np.isclose(raw[f"card:mean_amount_{days}d"], mean, rtol=1e-9)
    is_tied = np.array([int(columns["customer_id"][row]) in tied for row in rows])
    outcome.rows += len(rows)
    outcome.customers += int(differs.sum())
    outcome.untied += int((differs & ~is_tied).sum())
    outcome.tied += int(is_tied.sum())
    clock = np.zeros(len(rows), dtype=bool)
    for name, published in (("is_night", "NIGHT"), ("is_weekend", "WEEKEND")):
        ours = read.matrix[:, FRAUD_V1.names.index(name)]
        clock |= ours != columns[f"golden:TX_DURING_{published}"][at]
    outcome.clock += int(clock.sum())
    keys = [TERMINAL.redis_key(TENANT, str(columns["terminal_id"][row])) for row in rows]
    blobs: list[Any] = await redis.mget(keys)
    published_columns = [
        *(columns[f"golden:TERMINAL_ID_NB_TX_{days}DAY_WINDOW"][at] for days in _DAYS),
        *(columns[f"golden:TERMINAL_ID_RISK_{days}DAY_WINDOW"][at] for days in _DAYS),
    ]
    expected = np.stack(published_columns, axis=1)
    found = np.array(
        [
            read_ring(TERMINAL, blob, request.now_ms).values
            for blob, request in zip(blobs, requests, strict=True)
        ]
    )
    # The publisher says 0 where the window is empty.
    same = np.isclose(np.nan_to_num(found), expected, rtol=1e-9)
    outcome.terminals += int((~same).any(axis=1).sum())


def main() -> None:
    """Replay and print what differs."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--sample", type=int)
    asked = arguments.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="gh-") as directory:
        redis = EmbeddedRedis(Path(directory))
        redis.start()
        try:
            found = asyncio.run(replay(redis.url, asked.data, sample=asked.sample))
        finally:
            redis.stop()
    print(f"payments replayed            {found.replayed:>10,}")
    print(f"published rows compared      {found.rows:>10,}")
    print(f"rows of tied customers       {found.tied:>10,}")
    print(f"customer windows differ      {found.customers:>10,}  ({found.untied} without a tie)")
    print(f"terminal windows differ      {found.terminals:>10,}")
    print(f"night or weekend differs     {found.clock:>10,}")
    print(f"took {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()

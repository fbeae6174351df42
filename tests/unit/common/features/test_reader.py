"""The online reader against brute force, and what it says when the store fails."""

import asyncio
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.features import evaluation
from libs.common.features.contract import FeatureRequest, FeatureService
from libs.common.features.fraud import FRAUD_V1
from libs.common.features.layout import SERVING_KEY, VIEWS, Past, pack_ring
from libs.common.features.personalization import PERSONALIZATION_V1
from libs.common.features.reader import OnlineFeatureReader
from libs.common.features.shipped import MERCHANT_RISK
from libs.common.features.tiles import Tiles
from libs.common.features.windows import DAY_MS
from libs.common.shared_reads import KeyStore
from tests.unit.common.features import oracle
from tests.unit.common.features.rings import (
    COUNTRIES,
    TENANT,
    DictRedis,
    interaction_blobs,
    mcc_text,
    name,
    payment_blobs,
)
from tests.unit.common.features.strategies import (
    START_MS,
    STEP,
    interaction,
    interactions,
    payments,
)

NOW_MS = 1_760_000_000_000


# Rows evaluated one by one, and all together: the same oracle holds both.
BOTH_WAYS = pytest.mark.parametrize("singly_max", [1000, 0], ids=["singly", "together"])


def _reader(redis: object) -> OnlineFeatureReader:
    return OnlineFeatureReader(cast(KeyStore, redis))


def _read(redis: object, service: Any, requests: Any, singly_max: int = 12) -> Any:
    with patch.object(evaluation, "SINGLE_ROWS_MAX", singly_max):
        return asyncio.run(_reader(redis).read(service, TENANT, requests))


def _given(**fields: object) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}


def _fraud_request(payment: oracle.Payment, event_id: str | None = None) -> FeatureRequest:
    return FeatureRequest(
        _given(card=f"c_{payment.card}", merchant=name("m", payment.merchant)),
        _given(
            amount_minor=payment.amount_minor,
            mcc_code=mcc_text(payment.mcc),
            country_code=COUNTRIES[payment.country],
            device_id=name("d", payment.device),
        ),
        payment.event_ms,
        event_id,
    )


def _assert_row(service: Any, rows: Any, index: int, expected: dict[str, float]) -> None:
    columns = {key: np.array([float(value)]) for key, value in expected.items()}
    wanted = service.derive(columns)[0].astype(np.float32)
    np.testing.assert_allclose(rows.matrix[index], wanted, rtol=1e-6)
    missing = {key for key, value in expected.items() if value != value}
    assert set(rows.missing[index]) == missing


@BOTH_WAYS
@settings(max_examples=120, deadline=None)
@given(rows=payments(), data=st.data())
def test_fraud_rows_equal_brute_force_whether_the_payment_is_ingested_or_not(
    singly_max, rows, data
):
    if not rows:
        return
    last = rows[-1]
    is_ingested = data.draw(st.booleans())
    history = rows if is_ingested else rows[:-1]
    request = _fraud_request(last, f"e{len(rows) - 1}" if is_ingested else None)
    redis = DictRedis(payment_blobs(history))
    read = _read(redis, FRAUD_V1, [request], singly_max)
    _assert_row(FRAUD_V1, read, 0, oracle.fraud_row(rows[:-1], last))
    assert read.degraded_reasons == []


PROBE = FeatureService(
    "probe",
    ("card:same_device_30d", "merchant_risk:labelled_count_7d", "merchant_risk:fraud_rate_7d"),
    (),
    lambda raw: np.column_stack(list(raw.values())),
)


@BOTH_WAYS
@settings(max_examples=60, deadline=None)
@given(rows=payments(size_max=12))
def test_devices_and_shipped_views_are_read_with_the_rings(singly_max, rows):
    if not rows:
        return
    last, now_ms = rows[-1], rows[-1].event_ms
    blobs, state = payment_blobs(rows[:-1]), Tiles.empty(MERCHANT_RISK)
    shop = [row for row in rows[:-1] if row.merchant == last.merchant != -1]
    for offset, row in enumerate(shop, 1):
        state.add(MERCHANT_RISK, MERCHANT_RISK.record(f"x{offset}", row.event_ms, {}), offset)
    merchant = name("m", last.merchant)
    if shop:
        key = MERCHANT_RISK.redis_key(TENANT, str(merchant))
        blobs[key] = state.encode(MERCHANT_RISK, written_ms=0, epoch=1, partition=0)
    read = _read(DictRedis(blobs), PROBE, [_fraud_request(last)], singly_max)
    end = (now_ms - 7 * DAY_MS) // DAY_MS * DAY_MS
    start = (now_ms - 14 * DAY_MS) // DAY_MS * DAY_MS
    labelled = len([row for row in shop if start <= row.event_ms < end])
    expected = [
        oracle.same_device(rows[:-1], last),
        labelled if merchant else np.nan,
        0.0 if merchant and labelled else np.nan,
    ]
    np.testing.assert_array_equal(read.raw[0], np.array(expected, dtype=float))


@BOTH_WAYS
@settings(max_examples=120, deadline=None)
@given(rows=interactions(), data=st.data())
def test_personalization_rows_equal_brute_force(singly_max, rows, data):
    steps = data.draw(st.lists(STEP, min_size=1, max_size=2))
    end_ms = rows[-1].event_ms if rows else START_MS
    asked = [interaction(data.draw, end_ms + step) for step in steps]
    requests = [
        FeatureRequest(
            _given(user=f"u_{row.user}", item=f"i_{row.item}", session=name("s", row.session)),
            _given(
                item_category=name("k", row.category),
                price_minor=None if row.price_minor == -1 else row.price_minor,
            ),
            row.event_ms,
        )
        for row in asked
    ]
    redis = DictRedis(interaction_blobs(rows))
    read = _read(redis, PERSONALIZATION_V1, requests, singly_max)
    for index, row in enumerate(asked):
        expected = oracle.personalization_row(rows, row)
        _assert_row(PERSONALIZATION_V1, read, index, expected)
    assert redis.calls == 1


@settings(max_examples=60, deadline=None)
@given(rows=payments(40), data=st.data())
def test_rows_read_together_equal_rows_read_alone(rows, data):
    blobs = payment_blobs(rows)
    for view, tenant_entity in (("card", "c_0"), ("merchant", "m_1")):
        if data.draw(st.booleans()):
            blobs[VIEWS[view].key(TENANT, tenant_entity)] = b"nonsense"
    requests = [
        _fraud_request(row, f"e{index}" if data.draw(st.booleans()) else None)
        for index, row in enumerate(rows)
    ]
    for request in requests:
        if data.draw(st.integers(0, 9)) == 0:
            request.values.pop("amount_minor")
    together = _read(DictRedis(blobs), FRAUD_V1, requests, singly_max=0)
    alone = _read(DictRedis(blobs), FRAUD_V1, requests, singly_max=1000)
    np.testing.assert_allclose(together.raw, alone.raw, rtol=1e-12)
    assert together.missing == alone.missing
    assert together.stale == alone.stale
    assert together.freshness_s == alone.freshness_s
    assert together.offsets == alone.offsets
    assert together.degraded_reasons == alone.degraded_reasons


def test_squares_of_large_amounts_stay_exact():
    amounts = [2**40 - 1, 2**40 - 3, 5, 2**39 + 7, 2**33 + 1]
    rows = [
        oracle.Payment(START_MS + index, 0, 1, amount, 5411, 1)
        for index, amount in enumerate(amounts)
    ]
    for singly_max in (0, 1000):
        request = _fraud_request(rows[-1])
        read = _read(DictRedis(payment_blobs(rows[:-1])), FRAUD_V1, [request], singly_max)
        _assert_row(FRAUD_V1, read, 0, oracle.fraud_row(rows[:-1], rows[-1]))


def _payment(now_ms: int = NOW_MS, amount: int = 500) -> oracle.Payment:
    return oracle.Payment(now_ms, 0, 1, amount, 5411, 1)


@pytest.mark.anyio
async def test_many_rows_of_many_entities_cost_one_round_trip() -> None:
    redis = DictRedis(payment_blobs([_payment(NOW_MS - 1000)]))
    requests = [_fraud_request(_payment(NOW_MS + index)) for index in range(50)]
    read = await _reader(redis).read(FRAUD_V1, TENANT, requests)
    assert redis.calls == 1
    assert read.matrix.shape == (50, len(FRAUD_V1.features))
    assert read.freshness_s[7] == pytest.approx(1.007)


@pytest.mark.anyio
async def test_a_card_never_seen_counts_only_the_current_payment() -> None:
    read = await _reader(DictRedis({})).read(FRAUD_V1, TENANT, [_fraud_request(_payment())])
    assert read.missing == [["card:seconds_since_last", "card:amount_z"]]
    assert read.freshness_s == [None]


@pytest.mark.anyio
async def test_a_view_older_than_its_ttl_is_stale_and_still_answered() -> None:
    redis = DictRedis(payment_blobs([_payment(NOW_MS - 31 * DAY_MS)]))
    read = await _reader(redis).read(FRAUD_V1, TENANT, [_fraud_request(_payment())])
    assert read.stale == [["card", "merchant"]]
    assert read.freshness_s == [31 * 86_400]


class _Down:
    async def mget(self, keys: list[str]) -> list[bytes | None]:
        raise ConnectionError


class _Hanging:
    async def mget(self, keys: list[str]) -> list[bytes | None]:
        await asyncio.Event().wait()
        return []


@pytest.mark.anyio
@pytest.mark.parametrize("redis", [_Down(), _Hanging()], ids=["gone", "hanging"])
async def test_a_dead_store_leaves_only_what_the_request_carries(redis: object) -> None:
    read = await _reader(redis).read(FRAUD_V1, TENANT, [_fraud_request(_payment())])
    stored = [key for key in FRAUD_V1.raw if not key.startswith("request:")]
    assert read.degraded_reasons == ["redis_unavailable"]
    assert read.missing == [stored]
    assert read.matrix[0][FRAUD_V1.names.index("amount")] == 5.0
    assert read.read_s < 0.25


@pytest.mark.anyio
async def test_an_emptied_store_is_told_apart_from_a_new_card() -> None:
    redis = DictRedis({})
    del redis.blobs[SERVING_KEY]
    read = await _reader(redis).read(FRAUD_V1, TENANT, [_fraud_request(_payment())])
    assert read.degraded_reasons == ["store_not_ready"]
    assert "card:count_1h" in read.missing[0]


@pytest.mark.anyio
async def test_an_unreadable_blob_hides_its_view_only() -> None:
    blobs = payment_blobs([_payment(NOW_MS - 1000)])
    blobs[VIEWS["card"].key(TENANT, "c_0")] = b"nonsense"
    read = await _reader(DictRedis(blobs)).read(FRAUD_V1, TENANT, [_fraud_request(_payment())])
    assert read.degraded_reasons == ["blob_unreadable"]
    assert {key.partition(":")[0] for key in read.missing[0]} == {"card"}


@pytest.mark.anyio
async def test_a_bounded_ring_says_unknown_where_it_forgot() -> None:
    view = VIEWS["merchant"]
    past = Past(10, 10_000, 10_000_000, NOW_MS - 3 * DAY_MS)
    blob = pack_ring(view, [(NOW_MS - 1000, 500, 1)], past=past)
    redis = DictRedis({view.key(TENANT, "m_1"): blob})
    read = await _reader(redis).read(FRAUD_V1, TENANT, [_fraud_request(_payment())])
    missing = [key for key in read.missing[0] if key.startswith("merchant:")]
    assert missing == [
        "merchant:count_7d",
        "merchant:count_30d",
        "merchant:mean_amount_7d",
        "merchant:mean_amount_30d",
    ]


@pytest.mark.anyio
async def test_tenants_never_meet() -> None:
    redis = DictRedis(payment_blobs([_payment(NOW_MS - 1000)] * 3))
    read = await _reader(redis).read(FRAUD_V1, "other", [_fraud_request(_payment())])
    assert read.matrix[0][FRAUD_V1.names.index("card_count_30d")] == 1

"""The payment generator: reproducible, subset-stable, labelled with delay, hard enough."""

import hashlib

import numpy as np
import pytest

from training import quality
from training.generators.frauds import SCENARIOS
from training.generators.payments import DAY_MS
from training.generators.transactions import NEVER_MS, Transactions, generate, recent_history

START_MS = 1_735_689_600_000


def _digest(payments: Transactions) -> str:
    hasher = hashlib.sha256()
    for name in ("key", "event_ms", "card", "merchant", "amount_minor", "label_available_ms"):
        hasher.update(getattr(payments, name).tobytes())
    return hasher.hexdigest()


@pytest.fixture(scope="module")
def payments() -> Transactions:
    return generate(7, 1_200, 8_000, 60, START_MS)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not():
    first, again, other = (generate(seed, 50, 500, 10, START_MS) for seed in (3, 3, 4))
    assert _digest(first) == _digest(again)
    assert _digest(first) != _digest(other)


def test_a_card_pays_the_same_whether_or_not_other_cards_exist():
    many = generate(5, 80, 500, 20, START_MS)
    few = generate(5, np.array([11, 40]), 500, 20, START_MS)
    assert len(few) > 20
    assert _digest(many.select(np.isin(many.card, [11, 40]))) == _digest(few)


def test_payments_are_in_order_of_time_inside_the_period_with_unique_ids(payments):
    assert np.all(np.diff(payments.event_ms) >= 0)
    assert payments.event_ms[0] >= START_MS
    assert payments.event_ms[-1] < START_MS + 60 * DAY_MS
    assert len(np.unique(payments.key)) == len(payments)
    assert payments.amount_minor.min() >= 50


def test_the_base_rate_is_that_of_card_fraud_and_every_scenario_occurs(payments):
    assert 0.002 <= payments.is_fraud.mean() <= 0.01
    assert set(np.unique(payments.scenario)) == set(range(len(SCENARIOS)))


def test_labels_are_late_sometimes_never_reported_and_sometimes_wrong(payments):
    fraud = payments.is_fraud
    delay = (payments.label_available_ms - payments.event_ms)[fraud] / DAY_MS
    is_never = payments.label_available_ms[fraud] == NEVER_MS
    assert 5.5 <= np.median(delay[~is_never]) <= 8.5
    assert 0.01 <= is_never.mean() <= 0.12
    is_wrong = fraud != (payments.scenario > 0)
    assert 0 < is_wrong.sum() < 0.1 * fraud.sum()


@pytest.mark.parametrize("field", ["amount", "mcc", "country", "hour", "merchant"])
def test_no_raw_field_alone_tells_fraud_apart(payments, field):
    values = {
        "amount": np.log(payments.amount_minor).astype(np.int64),
        "mcc": payments.mcc,
        "country": payments.country,
        "hour": payments.event_ms // 3_600_000 % 24,
        "merchant": payments.merchant,
    }[field]
    # Fraud shares by value learned on the first half of the time, judged on the second.
    first = payments.event_ms < START_MS + 30 * DAY_MS
    size = int(values.max()) + 1
    frauds = np.bincount(values[first], payments.is_fraud[first], size)
    rows = np.bincount(values[first], minlength=size)
    share = (frauds + 0.1) / (rows + 20.0)
    auc = quality.ranking(payments.is_fraud[~first], share[values[~first]])["auc_roc"]
    assert max(auc, 1 - auc) < 0.75


def test_recent_history_ends_now_and_knows_the_card_and_the_shop_of_the_readme():
    now_ms = START_MS + 20 * DAY_MS + 45_000_000
    history = recent_history(now_ms)
    assert 2_000 <= len(history) <= 10_000
    assert now_ms - DAY_MS < history.event_ms[-1] <= now_ms
    demo = history.select(history.card == 1234)
    assert len(demo) > 20
    assert (demo.merchant == 12345).sum() >= 3
    assert not demo.is_fraud.any()
    event = next(history.select(history.merchant == 12345).events())
    assert event["merchant_id"] == "merchant_12345"
    assert (event["mcc_code"], event["country_code"]) == ("5411", "US")
    assert next(demo.events())["card_id"] == "card_00001234"


def test_histories_of_two_starts_share_the_payments_of_the_common_days():
    earlier = recent_history(START_MS + 40 * DAY_MS)
    later = recent_history(START_MS + 41 * DAY_MS)
    demo_before = {e["transaction_id"] for e in earlier.select(earlier.card == 1234).events()}
    demo_after = {e["transaction_id"] for e in later.select(later.card == 1234).events()}
    assert len(demo_before & demo_after) > 0.8 * len(demo_before)

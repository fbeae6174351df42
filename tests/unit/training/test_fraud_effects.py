"""The rows that the effects are measured on are those that training and serving compute."""

import numpy as np
import pytest

from training.fraud import START_MS, raw_columns, request_codes
from training.fraud_effects import Again, World, circumstances
from training.generators.transactions import generate


@pytest.fixture(scope="module")
def world() -> World:
    payments = generate(7, 40, 300, 45, START_MS)
    chosen = np.arange(1_500, len(payments), 9)
    return World(payments, chosen, np.ones(len(chosen)))


def test_rows_evaluated_one_by_one_equal_the_columns_of_training(world: World):
    columns = raw_columns(world.payments, request_codes(world.payments))
    full = {name: values[world.chosen] for name, values in columns.items()}
    again = Again(world).columns(full)
    assert again.keys() == full.keys()
    for name, values in full.items():
        np.testing.assert_allclose(again[name], values, rtol=1e-9, err_msg=name)


def test_stale_history_loses_the_latest_payments_only(world: World):
    found = dict(circumstances(world))
    now, day = found["everything known"], found["history ends 1 day before the payment"]
    assert np.all(day["card:count_1d"] == 1)
    assert np.all(day["card:count_30d"] <= now["card:count_30d"])
    assert np.array_equal(day["request:amount"], now["request:amount"])


def test_a_wrong_rate_moves_foreign_amounts_alone(world: World):
    found = dict(circumstances(world))
    right, wrong = (
        found[name]["request:amount"] for name in ("everything known", "rates 20 % off")
    )
    is_foreign = world.payments.country[world.chosen] != 0
    np.testing.assert_allclose(wrong[~is_foreign], right[~is_foreign])
    np.testing.assert_allclose(wrong[is_foreign], 1.2 * right[is_foreign], rtol=0.02)


def test_a_new_card_has_made_one_payment_and_knows_no_last_one(world: World):
    found = dict(circumstances(world))["the card is new: no earlier payment"]
    assert np.all(found["card:count_30d"] == 1)
    assert np.all(np.isnan(found["card:seconds_since_last"]))
    assert np.all(found["card:same_country_30d"] == 0)

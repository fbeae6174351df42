"""The vectorised delayed fraud rates against a plain loop."""

import numpy as np

from training.generators.payments import DAY_MS
from training.generators.transactions import generate
from training.merchant_risk import DELAY_DAYS, merchant_risk_columns

START_MS = 1_735_689_600_000


def test_delayed_fraud_rates_equal_a_plain_loop_and_know_no_late_report():
    payments = generate(5, 300, 40, 60, START_MS)
    hidden = payments.key % np.uint64(7) == 0
    columns = merchant_risk_columns(payments, is_hidden=hidden)
    day = payments.event_ms // DAY_MS
    late = 0
    for row in range(0, len(payments), 97):
        same = payments.merchant == payments.merchant[row]
        for window in (1, 7, 30):
            last = day[row] - DELAY_DAYS
            inside = same & (day >= last - window) & (day < last)
            known = inside & (payments.label_available_ms <= payments.event_ms[row])
            frauds = (known & payments.is_fraud).sum()
            late += int((inside & payments.is_fraud).sum() - frauds)
            count = columns[f"merchant_risk:labelled_count_{window}d"][row]
            rate = columns[f"merchant_risk:fraud_rate_{window}d"][row]
            if hidden[row]:
                assert np.isnan(count)
                assert np.isnan(rate)
            elif not inside.sum():
                assert count == 0
                assert np.isnan(rate)
            else:
                assert (count, rate) == (inside.sum(), frauds / inside.sum())
    assert late > 0

"""Measures against hand-made cases and slow, obvious implementations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training import quality


def test_a_perfectly_calibrated_score_has_no_calibration_error():
    labels = np.array([True] + [False] * 3)
    scores = np.full(4, 0.25)
    assert quality.calibration(labels, scores)["ece"] == pytest.approx(0.0)
    assert quality.calibration(labels, np.full(4, 0.75))["ece"] == pytest.approx(0.5)


def test_card_precision_drops_cards_that_were_found_on_an_earlier_day():
    day = np.array([0, 0, 0, 1, 1, 1])
    card = np.array([1, 2, 2, 1, 2, 3])
    labels = np.array([True, False, False, True, False, True])
    scores = np.array([0.9, 0.8, 0.1, 0.9, 0.2, 0.3])
    # Day 0: top 1 is card 1 (bad). Day 1: card 1 is out, top 1 is card 3 (bad).
    assert quality.card_precision(labels, scores, day, card, top=1) == 1.0
    # Two places: day 0 finds card 1 of {1, 2}; day 1 finds card 3 of {2, 3}.
    assert quality.card_precision(labels, scores, day, card, top=2) == 0.5


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=60))
def test_the_threshold_for_precision_is_the_lowest_that_reaches_it(rows):
    labels = np.array([label for label, _ in rows])
    scores = np.array([score for _, score in rows])
    order = np.argsort(-scores, kind="stable")
    found = quality.threshold_for_precision(labels, scores, 0.8)
    prefixes = [labels[order[: n + 1]].mean() >= 0.8 for n in range(len(rows))]
    expected = (
        scores[order[max(n for n, ok in enumerate(prefixes) if ok)]]
        if any(prefixes)
        else (scores.max())
    )
    assert found == expected


def test_a_threshold_for_a_share_flags_no_more_than_that_share():
    scores = np.linspace(0, 1, 1_001)
    flagged = (scores >= quality.threshold_for_share(scores, 0.01)).mean()
    assert 0.008 <= flagged <= 0.011

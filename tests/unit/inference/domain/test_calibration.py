"""Calibration: what a manifest may say, and that no curve turns the order around."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.domain.calibration import Calibration
from training import calibration as chosen
from training import quality

CURVE = {"method": "isotonic", "x": [0.0, 0.1, 0.5, 1.0], "y": [0.0, 0.02, 0.7, 1.0]}


def test_an_isotonic_curve_goes_straight_between_its_knots():
    found = Calibration.from_manifest(CURVE).apply(np.array([0.0, 0.05, 0.1, 0.3, 1.0]))
    assert found.tolist() == pytest.approx([0.0, 0.01, 0.02, 0.36, 1.0])


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=20),
    st.sampled_from([{}, CURVE, {"method": "platt", "slope": 0.7, "intercept": -1.0}]),
)
def test_no_calibration_turns_the_order_around(scores: list[float], document: dict[str, Any]):
    ordered = np.sort(np.array(scores))
    assert np.all(np.diff(Calibration.from_manifest(document).apply(ordered)) >= 0)


@pytest.mark.parametrize(
    "document",
    [
        {"method": "beta"},
        {"method": "platt", "slope": -1.0, "intercept": 0.0},
        {"method": "platt", "slope": float("nan"), "intercept": 0.0},
        {"method": "isotonic"},
        {"method": "isotonic", "x": [0.0, 1.0], "y": [0.5, 0.2]},
        {"method": "isotonic", "x": [0.0, 0.0], "y": [0.0, 1.0]},
        {"method": "isotonic", "x": [0.0, 1.0], "y": [0.0, 1.5]},
        {"method": "isotonic", "x": [0.0, 0.5, 1.0], "y": [0.0, 1.0]},
    ],
)
def test_a_curve_that_falls_or_is_none_is_refused(document: dict[str, Any]):
    with pytest.raises(ValueError, match=r"calibration|slope|rise"):
        Calibration.from_manifest(document)


def _draw(distort: Any, rows: int = 40_000) -> tuple[Any, Any, Any]:
    """Labels by true probabilities, and scores that distort them."""
    generator = np.random.default_rng(5)
    truth = generator.beta(0.5, 6.0, rows)
    labels = generator.random(rows) < truth
    return labels, distort(truth), generator.integers(0, 2_000, rows)


def test_a_score_that_is_a_probability_is_left_alone():
    labels, scores, cards = _draw(lambda p: p)
    assert chosen.choose(labels, scores, cards).document == {"method": "none"}


@pytest.mark.parametrize("power", [0.5, 2.0])
def test_a_distorted_score_is_straightened(power: float):
    labels, scores, cards = _draw(lambda p: p**power)
    found = chosen.choose(labels, scores, cards)
    assert found.document["method"] in {"platt", "isotonic"}
    before = quality.calibration(labels, scores)["ece"]
    after = quality.calibration(labels, found.calibration.apply(scores))["ece"]
    assert after < before / 4

"""Drift against the manifest: nothing by chance, much after a shift."""

from typing import Any

import numpy as np
import pytest

from services.inference.domain.drift import ROWS_KEPT, ROWS_MIN, DriftWindow


def _reference(rows: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    steps = np.linspace(0, 1, 11)
    known = rows[~np.isnan(rows)]
    return {
        "rows": len(rows),
        "features": {
            "x": {
                "deciles": np.quantile(known, steps).tolist(),
                "missing_share": float(np.isnan(rows).mean()),
            }
        },
        "score": {"deciles": np.quantile(scores, steps).tolist()},
    }


def _draw(seed: int, count: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    rows = draw.normal(shift, 1, (count, 1)).astype(np.float32)
    rows[draw.random(count) < 0.1] = np.nan
    return rows, 1 / (1 + np.exp(-draw.normal(shift, 1, count)))


@pytest.mark.parametrize("seed", range(5))
def test_rows_of_the_same_world_do_not_drift(seed: int):
    window = DriftWindow(["x"], _reference(*_draw(100, 20_000)))
    window.add(*_draw(seed, ROWS_KEPT))
    assert (window.score_psi() or 0.0) < 0.01
    assert window.feature_psi()["x"] < 0.01


def test_a_shift_shows_in_input_and_score():
    window = DriftWindow(["x"], _reference(*_draw(100, 20_000)))
    window.add(*_draw(1, ROWS_KEPT, shift=0.7))
    assert (window.score_psi() or 0.0) > 0.25
    assert window.feature_psi()["x"] > 0.25


def test_old_rows_leave_the_window():
    window = DriftWindow(["x"], _reference(*_draw(100, 20_000)))
    window.add(*_draw(1, ROWS_KEPT, shift=3.0))
    for seed in range(4):
        window.add(*_draw(seed, ROWS_KEPT // 4))
    assert (window.score_psi() or 0.0) < 0.02


def test_few_rows_say_nothing():
    window = DriftWindow(["x"], _reference(*_draw(100, 20_000)))
    window.add(*_draw(1, ROWS_MIN - 1))
    assert window.score_psi() is None
    assert window.feature_psi() == {}


def test_an_input_of_few_values_is_left_out():
    rows = np.ones((5_000, 1), np.float32)
    window = DriftWindow(["x"], _reference(rows, np.linspace(0, 1, 5_000)))
    window.add(rows[:ROWS_MIN], np.linspace(0, 1, ROWS_MIN))
    assert window.feature_psi() == {}
    assert window.score_psi() is not None

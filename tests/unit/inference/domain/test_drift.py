"""Drift against the manifest: nothing by chance, much after a shift."""

from typing import Any

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]  # scipy ships no stubs

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


def _window(reference: dict[str, Any], *draws: tuple[np.ndarray, np.ndarray]) -> DriftWindow:
    window = DriftWindow(["x"], reference)
    for rows, scores in draws:
        window.add(rows, scores)
    return window


@pytest.mark.parametrize("seed", range(5))
def test_rows_of_the_same_world_do_not_drift(seed: int):
    window = _window(_reference(*_draw(100, 20_000)), _draw(seed, ROWS_KEPT))
    score, x = window.score(), window.inputs()["x"]
    assert score is not None
    assert max(score.psi, x.psi) < 0.01
    assert max(score.ks, x.ks) < 0.04


def test_a_shift_shows_in_input_and_score():
    window = _window(_reference(*_draw(100, 20_000)), _draw(1, ROWS_KEPT, shift=0.7))
    score, x = window.score(), window.inputs()["x"]
    assert score is not None
    assert min(score.psi, x.psi) > 0.25
    assert min(score.ks, x.ks) > 0.2


@pytest.mark.parametrize("shift", [0.0, 0.2, 1.0])
def test_the_distance_is_a_close_lower_bound_of_the_exact_one(shift: float):
    before, now = _draw(100, 20_000), _draw(2, ROWS_KEPT, shift=shift)
    exact = stats.ks_2samp(now[1], before[1]).statistic
    score = _window(_reference(*before), now).score()
    assert score is not None
    assert 0.6 * exact <= score.ks <= exact + 1e-3


def test_old_rows_leave_the_window():
    quarters = [_draw(seed, ROWS_KEPT // 4) for seed in range(4)]
    window = _window(_reference(*_draw(100, 20_000)), _draw(1, ROWS_KEPT, shift=3.0), *quarters)
    score = window.score()
    assert score is not None
    assert score.psi < 0.02


def test_few_rows_say_nothing():
    window = _window(_reference(*_draw(100, 20_000)), _draw(1, ROWS_MIN - 1))
    assert window.score() is None
    assert window.inputs() == {}


@pytest.mark.parametrize("mean", [0.05, 0.8, 2.0, 12.0])
@pytest.mark.parametrize("seed", range(5))
def test_an_input_of_few_values_does_not_drift_for_being_few(mean: float, seed: int):
    def counts(of: int, n: int, mean: float) -> tuple[np.ndarray, np.ndarray]:
        draw = np.random.default_rng(of)
        return draw.poisson(mean, (n, 1)).astype(np.float32), draw.random(n)

    reference = _reference(*counts(100, 20_000, mean))
    assert _window(reference, counts(seed, ROWS_KEPT, mean)).inputs()["x"].psi < 0.01
    moved = _window(reference, counts(seed, ROWS_KEPT, mean * 2 + 0.5)).inputs()["x"]
    assert moved.psi > 0.1
    assert moved.ks > 0.1


def test_an_input_that_is_suddenly_missing_has_moved():
    rows, scores = _draw(1, ROWS_KEPT)
    moved = _window(_reference(*_draw(100, 20_000)), (np.full_like(rows, np.nan), scores))
    x = moved.inputs()["x"]
    assert x.psi > 1
    assert x.ks == 0


@pytest.mark.parametrize("rows", [ROWS_MIN, ROWS_KEPT])
def test_a_thousand_windows_without_drift_rarely_pass_what_chance_gives(rows: int):
    reference = _reference(*_draw(100, 20_000))
    # 1 % of a chi-square with ten degrees of freedom lies above 23.2; its mean, 10, is taken off.
    limit = (23.2 - 10) * (1 / rows + 1 / 20_000)
    alarms = 0
    for seed in range(1_000):
        score = _window(reference, _draw(1_000 + seed, rows)).score()
        assert score is not None
        alarms += score.psi > limit
    assert alarms <= 20

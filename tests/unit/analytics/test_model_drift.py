"""What inference tells about drift, from its window over the event to a verdict."""

from datetime import UTC, datetime
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from libs.common.events.registry import problems_of
from services.analytics.domain.drift import Drift
from services.analytics.domain.fold import fold
from services.analytics.domain.model_drift import judge, read_event
from services.inference.drift import DriftMonitor

NAMES = tuple(f"x{at}" for at in range(12))
REFERENCE_ROWS = 20_000
AT = datetime(2026, 1, 1, tzinfo=UTC)


def draw(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Twelve inputs: half of them numbers, half counts, each tenth value missing; and a score."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(0, 1, (n, len(NAMES)))
    rows[:, 6:] = rng.poisson([0.1, 0.7, 1, 2, 5, 20], (n, 6))
    rows[rng.random(rows.shape) < 0.1] = np.nan
    return rows.astype(np.float32), rng.random(n)


@cache
def reference() -> dict[str, Any]:
    """What a manifest says of the training data."""
    rows, scores = draw(7, REFERENCE_ROWS)
    steps = np.linspace(0, 1, 11)
    return {
        "rows": len(rows),
        "features": {
            name: {
                "deciles": np.nanquantile(column, steps, method="inverted_cdf").tolist(),
                "missing_share": float(np.isnan(column).mean()),
            }
            for name, column in zip(NAMES, rows.T, strict=True)
        },
        "score": {"deciles": np.quantile(scores, steps).tolist()},
    }


def told(rows: np.ndarray, scores: np.ndarray) -> dict[str, Drift]:
    """Take rows through the monitor, the wire, the fold and the judge."""
    monitor = DriftMonitor(cast(Any, None), event_s=0.0)
    manifest = SimpleNamespace(
        name="fraud", version=3, release="3.0.0", reference_statistics=reference()
    )
    service = SimpleNamespace(names=NAMES)
    model = SimpleNamespace(name="fraud", version="3", manifest=manifest, service=service)
    monitor.add(cast(Any, model), rows, scores)
    (event,) = monitor.due_events()
    document = event.to_wire()
    assert problems_of(document, "inference") is None
    found = fold([document])
    ((key, one),) = found.drifts.items()
    assert key == ("default", "fraud", "3")
    assert (found.skipped, one.compared) == (0, len(NAMES) + 1)
    (drifts,) = judge([one])
    return {which.name: drift for which, drift in zip(one.told, drifts, strict=True)}


@pytest.mark.parametrize("n", [200, 1_000])
def test_any_of_thirteen_distributions_alarms_in_two_percent_of_null_runs_at_most(n: int):
    runs = 200
    alarms = sum(
        any(drift.verdict != "none" for drift in told(*draw(100 + seed, n)).values())
        for seed in range(runs)
    )
    assert alarms <= 0.02 * runs


def test_inputs_that_moved_are_found_and_only_those():
    rows, scores = draw(1, 1_000)
    rows[:, 0] += 0.8
    rows[:, 10] = np.where(np.isnan(rows[:, 10]), np.nan, rows[:, 10] * 2)
    rows[:600, 3] = np.nan
    found = told(rows, scores)
    assert {name for name, one in found.items() if one.verdict != "none"} == {"x0", "x10", "x3"}
    assert found["x0"].verdict == "major"
    assert all((found[name].ks_p or 0) < 1e-6 for name in ("x0", "x10"))
    # Missing values are a matter of the index; those that are there are distributed as ever.
    assert (found["x3"].ks_p or 0) > 0.01


def test_few_rows_are_told_of_but_not_judged():
    data = {"model": "m", "version": "1", "rows_compared": 150, "reference_rows": 9_000}
    one = read_event(data | {"input_psi": {"a": 3.0}, "input_ks": {"a": 0.9}}, AT)
    assert one is not None
    ((drift,),) = judge([one])
    assert (drift.verdict, drift.ks_p) == ("insufficient_data", None)


@pytest.mark.parametrize(
    "change",
    [{"model": None}, {"rows_compared": 0}, {"rows_compared": True}, {"reference_rows": -1}],
)
def test_an_event_without_model_or_sizes_is_not_read(change: dict[str, Any]):
    data = {"model": "m", "version": "1", "rows_compared": 300, "reference_rows": 9_000}
    assert read_event(data, AT) is not None
    assert read_event(data | change, AT) is None


def test_what_was_compared_but_not_told_counts_in_the_correction():
    data: dict[str, Any] = {"model": "m", "rows_compared": 1_000, "reference_rows": 9_000}
    data |= {"input_psi": {"a": 0.02}, "input_ks": {"a": 0.05}}
    alone, among_many = read_event(data, AT), read_event(data | {"inputs_compared": 200}, AT)
    assert alone is not None
    assert among_many is not None
    ((first,),), ((second,),) = judge([alone]), judge([among_many])
    assert second.p == pytest.approx(min(1.0, first.p * 201))
    assert judge([]) == []

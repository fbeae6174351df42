"""Alerts fire after patience, end below a tighter limit, and do not forget their baseline."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.analytics.domain.aggregate import Aggregate
from services.analytics.domain.alerts import (
    BASELINE_HOLD,
    Alert,
    Observation,
    Transition,
    Watched,
    baseline_end_of,
    observe,
    step,
    tightened,
)
from services.analytics.domain.fold import Sums
from services.analytics.domain.histogram import bucket_of
from services.analytics.domain.thresholds import Breach, Thresholds
from services.analytics.domain.windows import MINUTE

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATENCY = Watched("", "", "latency_p95_ms", "absolute")
BROKEN = Observation("broken", Breach("latency_p95_ms", "absolute", 250.0, 200.0, "medium", 90))
GRAVE = Observation("broken", Breach("latency_p95_ms", "absolute", 900.0, 500.0, "critical", 90))
SIGNS = {
    "b": BROKEN,
    "g": GRAVE,
    "m": Observation("between"),
    "i": Observation("inside"),
    "?": Observation("unknown"),
}


def play(signs: str, **limits: Any) -> tuple[Alert | None, list[Transition]]:
    alert: Alert | None = None
    heard = []
    for at, sign in enumerate(signs):
        now = AT + at * MINUTE
        alert, transition = step(
            alert, LATENCY, SIGNS[sign], now, Thresholds(**limits), now - 5 * MINUTE
        )
        if transition:
            heard.append(transition)
    return alert, heard


@pytest.mark.parametrize(
    ("signs", "state", "heard"),
    [
        ("bb", "pending", []),
        ("bbb", "firing", ["limit_broken"]),
        ("bbibb", "pending", []),
        ("bbm", None, []),
        ("bb?b", "firing", ["limit_broken"]),
        ("bbbm" + "m" * 50, "firing", ["limit_broken"]),
        ("bbbmi", None, ["limit_broken", "back_inside"]),
        ("bbbib", "pending", ["limit_broken", "back_inside"]),
        ("bbbgbg", "firing", ["limit_broken", "graver"]),
        ("bbb" + "?" * 60, "firing", ["limit_broken"]),
        ("bbb" + "?" * 61, None, ["limit_broken", "no_data"]),
        ("bbb" + "?" * 40 + "b" + "?" * 40, "firing", ["limit_broken"]),
        ("i?mi", None, []),
    ],
)
def test_a_row_of_observations_ends_in_the_state_that_was_described(signs, state, heard):
    alert, transitions = play(signs)
    assert (alert.state if alert else None) == state
    assert [transition.reason for transition in transitions] == heard


def test_without_patience_the_first_broken_minute_fires():
    alert, heard = play("b", alert_for_minutes=1)
    assert alert is not None
    assert (alert.state, len(heard)) == ("firing", 1)


@given(st.text("bgmi?", max_size=200))
def test_who_listens_hears_beginnings_and_ends_in_turn(signs):
    alert, heard = play(signs)
    is_firing = False
    for transition in heard:
        if transition.reason == "limit_broken":
            assert not is_firing
            is_firing = True
        else:
            assert is_firing
            is_firing = transition.reason == "graver"
    assert is_firing == (alert is not None and alert.state == "firing")


def window(n: int = 400, *, errors: int = 0, latency: float = 50.0) -> Aggregate:
    sums = Sums(n=n, errors=errors, latency_n=n, latency_sum=n * latency)
    sums.latency_min = sums.latency_max = latency
    return Aggregate(sums=sums, histograms={"latency_ms": {bucket_of(latency): n}})


def test_a_figure_between_the_limit_and_the_clear_limit_is_neither_broken_nor_inside():
    limits = Thresholds()
    for latency, seen in ((210.0, "broken"), (190.0, "between"), (170.0, "inside")):
        found = observe(window(latency=latency), window(latency=latency), limits)
        assert found["latency_p95_ms", "absolute"].seen == seen
    assert tightened(limits).max_inference_time_warning_ms == pytest.approx(180)


def test_below_the_least_sample_nothing_is_known_and_no_traffic_is_a_drop():
    few = observe(window(10, errors=10, latency=900), window(400), Thresholds())
    assert few["error_rate", "absolute"].seen == "unknown"
    assert few["latency_p95_ms", "absolute"].seen == "unknown"
    silent = observe(Aggregate(), window(400), Thresholds())
    assert silent["requests", "change"].seen == "broken"
    assert silent["error_rate", "absolute"].seen == "unknown"
    both = observe(Aggregate(), Aggregate(), Thresholds())
    assert {one.seen for one in both.values()} == {"unknown"}


def test_a_change_keeps_the_baseline_from_before_it_began_until_the_bound():
    change = Watched("", "", "error_rate", "change")
    alert = Alert(change, "firing", AT, "medium", 0.2, 0.1, 90, AT - timedelta(minutes=5))
    level = Alert(LATENCY, "firing", AT, "medium", 0.2, 0.1, 90, AT - timedelta(hours=1))
    later = AT + timedelta(hours=2)
    assert baseline_end_of([alert, level], later) == AT - timedelta(minutes=5)
    assert baseline_end_of([level], later) == later
    assert baseline_end_of([alert], AT + BASELINE_HOLD) == AT + BASELINE_HOLD

"""Breaker, adaptive limit and retry budget, on a fake clock."""

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.domain.breaker import OPEN_S_MAX, Breaker
from services.gateway.domain.gradient import Gradient
from services.gateway.domain.retries import (
    BUDGET_MIN,
    BUDGET_SHARE,
    RetryBudget,
    delay_s,
    may_retry,
)


def opened(now: float = 100.0) -> Breaker:
    breaker = Breaker()
    for _ in range(5):
        breaker.failed(now, connect=True)
    assert breaker.state == "open"
    return breaker


def test_twenty_calls_half_of_them_failed_open_it() -> None:
    breaker = Breaker()
    for index in range(19):
        breaker.failed(100.0) if index % 2 else breaker.succeeded(100.0)
    assert breaker.wait_s(101.0) == 0.0
    breaker.failed(101.0)
    assert breaker.wait_s(101.0) == 2.0


def test_old_failures_are_forgotten() -> None:
    breaker = Breaker()
    for _ in range(15):
        breaker.failed(100.0)
    for _ in range(15):
        breaker.failed(111.5)
    assert breaker.state == "closed"


def test_one_probe_at_a_time_and_a_good_one_closes_it() -> None:
    breaker = opened()
    assert breaker.wait_s(102.5) == 0.0
    assert breaker.wait_s(102.5) > 0
    breaker.succeeded(102.6)
    assert breaker.state == "closed"
    assert breaker.wait_s(102.7) == breaker.wait_s(102.7) == 0.0


def test_a_probe_whose_caller_left_makes_room_for_another() -> None:
    breaker = opened()
    assert breaker.wait_s(103.0) == 0.0
    breaker.abandoned()
    assert breaker.wait_s(103.0) == 0.0


def test_failing_probes_double_the_pause_up_to_half_a_minute() -> None:
    breaker, now, pauses = opened(0.0), 0.0, []
    for _ in range(7):
        pause = breaker.wait_s(now)
        pauses.append(pause)
        now += pause
        assert breaker.wait_s(now) == 0.0
        breaker.failed(now)
    assert pauses == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert max(pauses) == OPEN_S_MAX


@given(st.lists(st.tuples(st.floats(0, 3), st.sampled_from("sfca")), max_size=200))
def test_it_always_lets_somebody_through_in_the_end(steps: list[tuple[float, str]]) -> None:
    breaker, now = Breaker(), 0.0
    for gap, kind in steps:
        now += gap
        if breaker.wait_s(now):
            continue
        if kind == "s":
            breaker.succeeded(now)
        elif kind == "a":
            breaker.abandoned()
        else:
            breaker.failed(now, connect=kind == "c")
    assert breaker.wait_s(now + OPEN_S_MAX) == 0.0


@given(st.lists(st.tuples(st.floats(1e-4, 10), st.integers(0, 2_000), st.booleans()), max_size=300))
def test_the_limit_stays_in_its_bounds(steps: list[tuple[float, int, bool]]) -> None:
    gradient = Gradient(initial=100, smallest=10, largest=200)
    for seconds, in_flight, is_drop in steps:
        if is_drop:
            gradient.dropped()
        else:
            gradient.sample(seconds, in_flight)
        assert 10 <= gradient.limit <= 200


def test_the_limit_grows_under_use_and_not_without() -> None:
    used, idle = Gradient(initial=100), Gradient(initial=100)
    for _ in range(50):
        used.sample(0.01, used.limit)
        idle.sample(0.01, 1)
    assert used.limit > 200
    assert idle.limit == 100


def test_the_limit_shrinks_when_answers_get_slow() -> None:
    gradient = Gradient(initial=500)
    for _ in range(200):
        gradient.sample(0.01, 400)
    high = gradient.limit
    for _ in range(30):
        gradient.sample(0.5, 400)
    assert gradient.limit < high / 2


@given(st.lists(st.tuples(st.floats(0, 2), st.booleans()), min_size=1, max_size=400))
def test_retries_never_exceed_the_budget(steps: list[tuple[float, bool]]) -> None:
    """The oracle: count by hand over every ten seconds (the budget works in whole seconds)."""
    budget, now = RetryBudget(), 0.0
    requests: list[float] = []
    retries: list[float] = []
    for gap, wants_retry in steps:
        now += gap
        budget.request(now)
        requests.append(now)
        if wants_retry and budget.allow(now):
            retries.append(now)
            since = int(now) - 10
            seen = sum(int(at) > since for at in requests)
            taken = sum(int(at) > since for at in retries)
            assert taken <= max(BUDGET_MIN, BUDGET_SHARE * seen)


def test_what_may_be_sent_again() -> None:
    assert may_retry("GET", retry_safe=False, replayable=True)
    assert may_retry("POST", retry_safe=True, replayable=True)
    assert not may_retry("POST", retry_safe=False, replayable=True)
    assert not may_retry("GET", retry_safe=True, replayable=False)
    assert delay_s(0.0) == 0.025
    assert delay_s(1.0) == 0.25

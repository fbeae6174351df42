"""The choice of an instance: least loaded, outliers out, never all of them."""

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.domain.balance import FAILURES_MAX, OUT_S_MAX, OUT_S_MIN, Outlier, choose

LOADS = st.lists(st.integers(0, 50), min_size=1, max_size=8)


@given(LOADS, st.data())
def test_the_least_loaded_of_those_in_gets_the_call(loads: list[int], data: st.DataObject) -> None:
    out = data.draw(st.lists(st.booleans(), min_size=len(loads), max_size=len(loads)))
    turn = data.draw(st.integers(0, 1000))
    chosen = choose(loads, out, turn)
    able = (
        range(len(loads)) if sum(out) * 2 > len(loads) else [i for i, o in enumerate(out) if not o]
    )
    assert chosen in able
    assert loads[chosen] == min(loads[i] for i in able)


def test_equally_loaded_ones_take_turns() -> None:
    chosen = [choose([0, 0, 0], [False] * 3, turn) for turn in range(9)]
    assert sorted(chosen) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_five_failures_in_a_row_leave_an_instance_out_for_five_seconds() -> None:
    outlier = Outlier()
    for _ in range(FAILURES_MAX - 1):
        assert not outlier.failed(0.0)
    outlier.succeeded()
    for _ in range(FAILURES_MAX - 1):
        assert not outlier.failed(1.0)
    assert not outlier.is_out(1.0)
    assert outlier.failed(1.0)
    assert outlier.is_out(1.0 + OUT_S_MIN - 0.01)
    assert not outlier.is_out(1.0 + OUT_S_MIN)


def test_who_fails_again_is_out_twice_as_long_up_to_a_minute_until_a_success() -> None:
    outlier = Outlier()
    now, spans = 0.0, []
    for _ in range(FAILURES_MAX - 1):
        outlier.failed(now)
    for _ in range(6):
        outlier.failed(now)
        started = now
        while outlier.is_out(now):
            now += 0.5
        spans.append(now - started)
    assert spans == [5.0, 10.0, 20.0, 40.0, OUT_S_MAX, OUT_S_MAX]
    assert outlier.succeeded()
    assert not outlier.succeeded()
    assert not outlier.failed(now)

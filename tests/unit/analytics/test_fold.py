"""Folding: additive, order-free, honest about what it cannot use."""

import random
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.analytics.domain.fold import ADDITIVE, Fold, SlotFold, Sums, fold
from services.analytics.domain.windows import MINUTE, Window, closed_window, open_window
from tests.support.predictions import prediction, verdict

AT = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


def total(result: Fold) -> Sums:
    sums = Sums()
    for one in result.slots.values():
        sums.add(one.sums)
    return sums


@given(st.integers(0, 40), st.integers(0, 2**32))
def test_two_folds_add_up_to_one(cut, seed):
    rng = random.Random(seed)
    documents = [
        prediction(
            AT + timedelta(seconds=rng.randint(0, 200)),
            confidence=rng.randint(0, 8) / 8,
            score=rng.randint(0, 8) / 8,
            latency_ms={"total": float(rng.randint(1, 64))},
            status=rng.choice(["ok", "failed", "degraded"]),
        ).to_wire()
        for _ in range(40)
    ]
    whole, left, right = fold(documents), fold(documents[:cut]), fold(documents[cut:])
    both = total(left)
    both.add(total(right))
    for name in ADDITIVE:
        if name != "revision":
            assert getattr(both, name) == getattr(total(whole), name)
    for slot, folded in right.slots.items():
        left.slots.setdefault(slot, SlotFold()).add(folded)
    assert left.slots.keys() == whole.slots.keys()
    for slot, folded in whole.slots.items():
        assert left.slots[slot].histograms == folded.histograms
        assert left.slots[slot].categories == folded.categories


def test_an_event_lands_in_the_minute_of_its_own_time():
    result = fold([prediction(AT).to_wire()])
    (slot,) = result.slots
    assert slot.minute == AT.replace(second=0)
    assert slot.series.model == "sentiment"


def test_other_types_are_read_past_and_unusable_ones_are_counted():
    broken = prediction(AT).to_wire() | {"time": "yesterday"}
    result = fold([None, {"type": "key.created"}, broken, verdict(AT, action="block").to_wire()])
    assert (result.events, result.skipped, len(result.slots)) == (4, 1, 1)
    assert not result.predictions


def test_numbers_that_are_not_finite_are_left_out():
    result = fold([prediction(AT, confidence=float("nan"), latency_ms={"total": True}).to_wire()])
    sums = total(result)
    assert (sums.n, sums.confidence_n, sums.latency_n, sums.latency_min) == (1, 0, 0, None)


@given(st.integers(0, 5000), st.integers(1, 1440))
def test_a_split_covers_the_window_once(offset, minutes):
    window = Window(
        AT.replace(second=0) + offset * MINUTE, AT.replace(second=0) + (offset + minutes) * MINUTE
    )
    cut = window.split()
    assert window.start <= cut.hours_start <= cut.hours_end <= cut.end == window.end
    if cut.hours_start != cut.hours_end:
        assert cut.hours_start.minute == cut.hours_end.minute == 0
        assert cut.hours_start - cut.start < timedelta(hours=1)
        assert cut.end - cut.hours_end < timedelta(hours=1)
    assert cut.hours_start != cut.hours_end or cut.hours_start in {window.start, window.end}


def test_an_open_window_holds_now_and_a_closed_one_does_not():
    assert open_window(AT, 5).start <= AT < open_window(AT, 5).end
    assert closed_window(AT, 5).end <= AT
    assert closed_window(AT, 5).minutes == open_window(AT, 5).minutes == 5

"""Properties of the scheduler's core under a fake clock."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference.domain.batching import (
    BULK,
    DEFAULT,
    PAD_MULTIPLE,
    SHADOW,
    URGENT,
    BatchQueue,
    Limits,
    Work,
)
from services.inference.domain.cost import CostModel, Sample

LIMITS = Limits(batch_items=4, batch_tokens=256, waste=1.5, queue_items=30, queue_tokens=2000)
COST = CostModel(fixed_s=0.001, token_s=0.00001)


def _work(key: int, length: int = 10, *, at: float = 0.0, within: float = 60.0, priority=DEFAULT):
    return Work(key, length, at, at + within, priority)


arrivals = st.lists(
    st.tuples(
        st.integers(1, 400),  # length
        st.floats(0.0005, 5.0),  # seconds until the deadline
        st.sampled_from([URGENT, DEFAULT, BULK, SHADOW]),
        st.floats(0.0, 0.01),  # seconds since the arrival before
        st.booleans(),  # cancelled later
    ),
    max_size=60,
)


@settings(deadline=None)
@given(arrivals, st.integers(1, 6))
def test_each_admitted_item_leaves_exactly_once_and_batches_keep_their_bounds(steps, every):
    queue, now = BatchQueue(LIMITS, COST), 0.0
    waiting: dict[int, Work] = {}
    left: list[int] = []

    def run_one() -> bool:
        nonlocal now
        formed = queue.form(now)
        for work, why in formed.skipped:
            own_s = COST.predict_s(1, work.length)
            assert why == "cancelled" or work.deadline_s <= now + own_s
            left.append(work.key)
        if formed.batch is None:
            return False
        batch = formed.batch
        lengths = [work.length for work in batch.items]
        assert len(lengths) <= LIMITS.batch_items
        assert batch.padded_length % PAD_MULTIPLE == 0
        assert 0 <= batch.padded_length - max(lengths) < PAD_MULTIPLE
        if len(lengths) > 1:
            assert len(lengths) * max(lengths) <= LIMITS.batch_tokens
            assert len(lengths) * max(lengths) <= LIMITS.waste * sum(lengths)
        assert all(work.deadline_s > now for work in batch.items)
        if len(lengths) > 1:
            took = COST.predict_s(len(lengths), max(lengths))
            assert all(work.deadline_s >= now + took for work in batch.items)
        left.extend(work.key for work in batch.items)
        now += COST.predict_s(len(lengths), batch.padded_length)
        return True

    for key, (length, within, priority, gap, is_cancelled) in enumerate(steps):
        now += gap
        work = _work(key, length, at=now, within=within, priority=priority)
        shed, dropped = queue.admit(work, now)
        if shed:
            assert shed.retry_after_s >= 1
            assert not dropped
        else:
            waiting[key] = work
            if is_cancelled:
                queue.cancel(key)
        for victim in dropped:
            assert victim.priority == SHADOW
            left.append(victim.key)
        assert queue.items <= LIMITS.queue_items
        assert queue.tokens <= LIMITS.queue_tokens
        if key % every == 0:
            run_one()
    while run_one():
        pass
    assert sorted(left) == sorted(waiting)
    assert (queue.items, queue.tokens) == (0, 0)


@settings(deadline=None)
@given(st.sampled_from([DEFAULT, BULK]), st.integers(1, 100))
def test_nobody_starves_behind_an_endless_stream_of_urgent_work(priority: int, length: int):
    queue, now, key = BatchQueue(LIMITS, COST), 0.0, 1
    queue.admit(_work(0, length, within=1.0, priority=priority), now)
    while True:
        for _ in range(8):
            queue.admit(_work(key, 10, at=now, within=1.0, priority=URGENT), now)
            key += 1
        batch = queue.form(now).batch
        assert batch is not None
        if any(work.key == 0 for work in batch.items):
            break
        now += COST.predict_s(len(batch.items), batch.padded_length)
        assert now < 1.0
    assert now <= 0.5 + COST.predict_s(LIMITS.batch_items, 100)


@given(lengths=st.lists(st.integers(1, 64), min_size=1, max_size=30))
def test_nobody_behind_the_first_third_or_two_batches_overtakes(lengths: list[int]):
    queue = BatchQueue(LIMITS, COST)
    for key, length in enumerate(lengths):
        queue.admit(_work(key, length), 0.0)
    waiting = list(range(len(lengths)))
    while waiting:
        reach = max(2 * LIMITS.batch_items, math.ceil(len(waiting) / 3))
        batch = queue.form(0.001).batch
        assert batch is not None
        chosen = {work.key for work in batch.items}
        assert waiting[0] in chosen
        assert chosen <= set(waiting[:reach])
        waiting = [key for key in waiting if key not in chosen]


def test_urgent_work_goes_before_older_bulk_work():
    queue = BatchQueue(LIMITS, COST)
    for key in range(20):
        queue.admit(_work(key, 10, priority=BULK), 0.0)
    queue.admit(_work(99, 100, priority=URGENT), 0.0)
    batch = queue.form(0.001).batch
    assert batch is not None
    assert 99 in {work.key for work in batch.items}


def test_work_that_cannot_meet_its_deadline_is_refused_at_the_door():
    queue = BatchQueue(LIMITS, COST)
    shed, _ = queue.admit(_work(1, within=0.01), 0.0, busy_s=2.2)
    assert shed is not None
    assert (shed.reason, shed.retry_after_s) == ("deadline", 3)


def test_a_full_queue_drops_shadow_work_first_and_then_refuses():
    queue = BatchQueue(LIMITS, COST)
    for key in range(LIMITS.queue_items):
        queue.admit(_work(key, priority=SHADOW if key == 3 else BULK), 0.0)
    shed, dropped = queue.admit(_work(100), 0.0)
    assert (shed, [work.key for work in dropped]) == (None, [3])
    shed, dropped = queue.admit(_work(101), 0.0)
    assert shed is not None
    assert (shed.reason, dropped) == ("queue_full", [])
    assert queue.admit(_work(102, priority=SHADOW), 0.0)[0] is not None


def test_an_item_beyond_the_token_budget_runs_alone():
    queue = BatchQueue(LIMITS, COST)
    queue.admit(_work(0, 400), 0.0)
    queue.admit(_work(1, 399), 0.0)
    first, second = queue.form(0.0).batch, queue.form(0.0).batch
    assert first is not None
    assert second is not None
    assert [len(first.items), len(second.items)] == [1, 1]


@pytest.mark.parametrize(
    ("lengths", "reason"),
    [([10, 10], "idle"), ([10] * 9, "size"), ([100, 100, 100], "budget"), ([1, 60], "waste")],
)
def test_the_reason_of_a_dispatch_is_named(lengths: list[int], reason: str):
    queue = BatchQueue(LIMITS, COST)
    for key, length in enumerate(lengths):
        queue.admit(_work(key, length), 0.0)
    batch = queue.form(0.0).batch
    assert batch is not None
    assert batch.reason == reason


def test_a_batch_stops_growing_where_a_member_would_miss_its_deadline():
    queue = BatchQueue(LIMITS, COST)
    for key in range(3):
        queue.admit(_work(key, 100, within=1.0), 0.0)
    # One takes 2 ms and two 3 ms; 2.5 ms are left.
    batch = queue.form(0.9975).batch
    assert batch is not None
    assert (len(batch.items), batch.reason) == (1, "deadline")


def test_sorting_the_window_keeps_padding_low_on_a_log_normal_mix():
    from random import Random

    random = Random(7)
    limits = Limits(batch_items=32, batch_tokens=4096, queue_items=4096, queue_tokens=1 << 20)
    queue = BatchQueue(limits, COST)
    for key in range(2048):
        length = max(3, min(512, round(random.lognormvariate(math.log(30), 0.9))))
        queue.admit(_work(key, length, within=1e6), 0.0)
    real = padded = 0
    while (batch := queue.form(0.0).batch) is not None:
        real += batch.real_tokens
        padded += len(batch.items) * batch.padded_length
    assert padded / real <= 1.4


@settings(deadline=None)
@given(st.floats(0, 0.1), st.floats(0, 1e-3))
def test_a_fit_recovers_the_constants_it_was_made_from(fixed_s: float, token_s: float):
    samples = [
        Sample(items, length, fixed_s + token_s * items * length)
        for items in (1, 8, 32)
        for length in (16, 128, 512)
    ]
    fitted = CostModel.fit(samples)
    assert fitted.predict_s(4, 64) == pytest.approx(fixed_s + token_s * 256, rel=1e-6, abs=1e-9)


def test_observations_correct_their_own_length_bucket_only():
    model = CostModel(0.001, 0.00001)
    before_short, before_long = model.predict_s(4, 16), model.predict_s(4, 512)
    for _ in range(200):
        model.observe(4, 512, before_long * 2)
    assert model.predict_s(4, 512) == pytest.approx(2 * before_long, rel=1e-3)
    assert model.predict_s(4, 16) == before_short


def test_where_batches_do_not_pay_the_cap_is_one():
    slow = [Sample(1, 64, 0.01), Sample(8, 64, 0.2)]
    assert CostModel.fit(slow).best_items(64, 32) == 1
    fast = [Sample(1, 64, 0.01), Sample(8, 64, 0.02)]
    assert CostModel.fit(fast).best_items(64, 32) == 8

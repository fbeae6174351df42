"""The judge: takes back what is worse, leaves alone what is not, advances only when allowed."""

import pytest

from benchmarks.rollout_judge import DELAYS, delay_run, null_run
from libs.common.rollouts import (
    Arm,
    Counts,
    Mode,
    Plan,
    PlanError,
    Recorder,
    Stage,
    Verdict,
    decide,
)
from libs.common.rollouts.counts import SEGMENT_OBSERVATIONS

_STEPS = (Stage(100, 10, 5.0), Stage(2_500, 10, 5.0), Stage(10_000, 10, 5.0))


def _plan(**changes: object) -> Plan:
    return Plan(Mode.CANARY, _STEPS, auto_promote=True, **changes)  # type: ignore[arg-type] # test


def test_equal_arms_are_left_alone_in_seeded_streams():
    assert [run for n in range(10) if (run := null_run(n, seed=5))["rolled_back"]] == []


@pytest.mark.parametrize(
    "world", [world for world in DELAYS if world.bar_p95], ids=lambda w: w.name
)
def test_a_worse_candidate_is_taken_back_within_the_bar(world):
    found = sorted(delay_run(n, 3, world, 1_000) for n in range(20))
    assert found[10] <= world.bar_p95


def test_a_step_is_taken_after_its_observations_and_its_time():
    enough = Counts.of({"1/0/seen.c": 10, "1/0/seen.s": 990})
    assert decide(_plan(), stage=0, counts=enough, elapsed_s=4).verdict is Verdict.CONTINUE
    assert decide(_plan(), stage=0, counts=Counts(), elapsed_s=9).verdict is Verdict.CONTINUE
    assert decide(_plan(), stage=0, counts=enough, elapsed_s=5).verdict is Verdict.ADVANCE


def test_the_last_step_completes():
    counts = Counts.of({"3/2/seen.c": 10})
    assert decide(_plan(), stage=2, counts=counts, elapsed_s=5).verdict is Verdict.COMPLETE


def test_without_auto_promote_nothing_advances():
    counts = Counts.of({"1/0/seen.c": 5_000})
    plan = Plan(Mode.CANARY, _STEPS)
    assert decide(plan, stage=0, counts=counts, elapsed_s=9_999).verdict is Verdict.CONTINUE


def test_a_suspicion_holds_the_step_back():
    counts = Counts.of({"1/0/seen.c": 500, "1/0/error.c": 1, "1/0/error.s": 1})
    found = decide(_plan(), stage=0, counts=counts, elapsed_s=9)
    assert found.verdict in {Verdict.CONTINUE, Verdict.ADVANCE}
    counts.add({"1/0/error.c": 1})
    assert decide(_plan(), stage=0, counts=counts, elapsed_s=9).verdict is not Verdict.ADVANCE


def test_at_full_weight_failures_are_judged_against_the_bound():
    counts = Counts.of({"3/2/seen.c": 20, "3/2/error.c": 10})
    assert decide(_plan(), stage=2, counts=counts, elapsed_s=0).verdict is Verdict.ROLLBACK


def test_a_good_past_does_not_shield_a_candidate_that_turns_bad():
    long_and_good = {"1/0/seen.c": SEGMENT_OBSERVATIONS, "1/0/error.s": 4_000, "1/0/error.c": 40}
    counts = Counts.of(long_and_good)
    assert counts.current(0) == 2
    counts.add({"2/0/seen.c": 9, "2/0/error.c": 9})
    assert decide(_plan(), stage=0, counts=counts, elapsed_s=0).verdict is Verdict.ROLLBACK


def test_one_noisy_subject_alone_is_no_evidence():
    recorder = Recorder(_plan())
    for _ in range(200):
        recorder.observe(Arm.CANDIDATE, 77, failed=True)
    counts = Counts.of(recorder.drain())
    assert counts.segment(1, 0).get("error.c") == 1
    assert decide(_plan(), stage=0, counts=counts, elapsed_s=0).verdict is not Verdict.ROLLBACK


def test_increments_that_could_not_be_delivered_are_kept():
    recorder = Recorder(_plan())
    recorder.observe(Arm.CANDIDATE, 1, failed=True)
    taken = recorder.drain()
    recorder.restore(taken)
    assert recorder.drain() == taken
    assert recorder.drain() == {}


def test_slow_is_judged_by_the_percentile_frozen_when_the_step_began():
    recorder = Recorder(_plan())
    for number in range(400):
        recorder.observe(Arm.STABLE, number, failed=False, latency_s=0.001 * (number % 100))
    recorder.enter(0, 2)
    recorder.drain()
    assert recorder.observe(Arm.CANDIDATE, 1, failed=False, latency_s=0.2)
    assert not recorder.observe(Arm.CANDIDATE, 2, failed=False, latency_s=0.01)
    assert recorder.drain() == {"2/0/seen.c": 2, "2/0/slow.c": 1}


def test_pairs_count_flips_and_failures_of_the_candidate_alone():
    recorder = Recorder(Plan(Mode.SHADOW, (Stage(10_000),)))
    recorder.pair(candidate_failed=False, flipped=True)
    recorder.pair(candidate_failed=True)
    assert recorder.drain() == {"1/0/pair": 1, "1/0/flip": 1, "1/0/pair_error": 1}


@pytest.mark.parametrize(
    ("stages", "mode", "pointer"),
    [
        ((), Mode.CANARY, "/stages"),
        ((Stage(0),), Mode.CANARY, "/stages/0/weight"),
        ((Stage(10_001),), Mode.CANARY, "/stages/0/weight"),
        ((Stage(500), Stage(500)), Mode.CANARY, "/stages/1/weight"),
        ((Stage(100), Stage(500)), Mode.SHADOW, "/stages"),
        ((Stage(10_000),), Mode.AB, "/stages/0/weight"),
    ],
)
def test_a_plan_that_makes_no_sense_names_the_field(stages, mode, pointer):
    with pytest.raises(PlanError) as refused:
        Plan(mode, stages)
    assert refused.value.pointer == pointer


def test_a_plan_survives_its_way_through_json():
    plan = _plan()
    assert Plan.from_json(plan.to_json()) == plan

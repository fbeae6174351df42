"""Simulates the rollout judge: false rollbacks without a difference, and delays with one.

    python -m benchmarks.rollout_judge [--null-runs 1000] [--runs 400] [--seed 1]

Runs the real `Recorder` and `decide` on seeded streams of requests. Null runs: both arms equal, the
step's weight drawn from 1, 5, 10, 25 and 50 %, one million and ten thousand subjects (the latter
with tastes and bad luck of their own), judged every 25 requests over 50,000 requests. Delays: at
weight 10 %, 5 % and 1 %, judged after each candidate observation; reported in candidate
observations. Prints a table and writes benchmarks/results/rollout_judge.json.
"""

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from libs.common.rollouts import Arm, Counts, Mode, Plan, Recorder, Stage, Verdict, decide

RESULT = Path(__file__).parent / "results" / "rollout_judge.json"
NULL_REQUESTS = 50_000
NULL_WEIGHTS_BP = (100, 500, 1_000, 2_500, 5_000)
_JUDGE_EVERY = 25
# Score bands: deciles of the stable distribution used below, as a manifest would give them.
_EDGES = tuple(np.quantile(np.random.default_rng(0).beta(1.0, 6.0, 100_000), np.arange(1, 10) / 10))


@dataclass(frozen=True, slots=True)
class World:
    """Both arms of one scenario: rates of failures and slow answers, and a shift of log-odds."""

    name: str
    error_s: float = 0.01
    error_c: float = 0.01
    slow_s: float = 0.05
    slow_c: float = 0.05
    shift_c: float = 0.0
    bar_p95: int | None = None


DELAYS = (
    World("dead candidate, stable fails 0.1 %", error_s=0.001, error_c=1.0, bar_p95=5),
    World("dead candidate, stable fails 1 %", error_c=1.0),
    World("errors 1 -> 10 %", error_c=0.10, bar_p95=150),
    World("slow share 5 -> 15 %", slow_c=0.15, bar_p95=300),
    World("scores shifted by half a standard deviation", shift_c=0.5, bar_p95=500),
)
DELAY_WEIGHTS_BP = (1_000, 500, 100)


def simulate(
    world: World, weight_bp: int, seed: int, *, requests: int, subjects: int, every: int | None
) -> tuple[int | None, str]:
    """Run one stream.

    Args:
        world: the scenario.
        weight_bp: the candidate's share.
        seed: of all draws.
        requests: length of the stream.
        subjects: number of data subjects; below 100,000 they differ from one another.
        every: judge after that many requests; None judges after each candidate observation.

    Returns:
        Candidate observations until the rollback, None without one, and the signal.
    """
    draw = np.random.default_rng(seed)
    subject = draw.integers(0, subjects, requests)
    is_candidate = draw.integers(0, 10_000, subjects)[subject] < weight_bp
    own = draw.normal(0, 1, subjects) if subjects < 100_000 else np.zeros(subjects)
    luck = np.exp(own)[subject] / np.exp(0.5 if subjects < 100_000 else 0)
    failed = draw.random(requests) < np.where(is_candidate, world.error_c, world.error_s) * luck
    slow = draw.random(requests) < np.where(is_candidate, world.slow_c, world.slow_s) * luck
    base = draw.beta(1.0, 6.0, requests)
    margin = np.log(base / (1 - base))
    shifted = margin + own[subject] + np.where(is_candidate, world.shift_c * margin.std(), 0.0)
    scores = 1 / (1 + np.exp(-shifted))
    plan = Plan(Mode.CANARY, (Stage(weight_bp),), score_edges=_EDGES)
    recorder, counts, seen = _warm(plan, draw), Counts(), 0
    rows = zip(
        subject.tolist(),
        is_candidate.tolist(),
        failed.tolist(),
        slow.tolist(),
        scores.tolist(),
        strict=True,
    )
    for number, (who, candidate, bad, late, score) in enumerate(rows):
        arm = Arm.CANDIDATE if candidate else Arm.STABLE
        recorder.observe(
            arm, who, failed=bad, latency_s=2.0 if late else 0.5, score=None if bad else score
        )
        seen += candidate
        if candidate if every is None else number % every == every - 1:
            counts.add(recorder.drain())
            decision = decide(plan, stage=0, counts=counts, elapsed_s=0)
            if decision.verdict is Verdict.ROLLBACK:
                return seen, str(decision.signal)
            recorder.enter(0, counts.current(0))
    return None, ""


def _warm(plan: Plan, draw: np.random.Generator) -> Recorder:
    """Give a recorder that has seen stable's latencies: the frozen percentile is 1 second."""
    recorder = Recorder(plan)
    for number in range(1_000):
        latency = 1.0 if number >= 950 else 0.5
        recorder.observe(Arm.STABLE, -1 - number, failed=False, latency_s=latency)
    recorder.enter(0, 2)
    recorder.enter(0, 1)
    recorder.drain()
    return recorder


def null_run(index: int, seed: int) -> dict[str, Any]:
    """Simulate one stream without a difference."""
    weight_bp = NULL_WEIGHTS_BP[index % len(NULL_WEIGHTS_BP)]
    subjects = 1_000_000 if index % 2 else 10_000
    seen, signal = simulate(
        World("null"),
        weight_bp,
        seed * 1_000_003 + index,
        requests=NULL_REQUESTS,
        subjects=subjects,
        every=_JUDGE_EVERY,
    )
    return {"weight_bp": weight_bp, "subjects": subjects, "rolled_back": seen, "signal": signal}


def delay_run(index: int, seed: int, world: World, weight_bp: int) -> int:
    """Simulate one stream with a difference; gives the delay in candidate observations."""
    requests = 4_000 * 10_000 // weight_bp
    seen, _ = simulate(
        world,
        weight_bp,
        seed * 7_000_003 + index,
        requests=requests,
        subjects=1_000_000,
        every=None,
    )
    return seen if seen is not None else requests


def false_rollbacks(pool: ProcessPoolExecutor, runs: int, seed: int) -> dict[str, Any]:
    """Run the null streams."""
    found = list(pool.map(partial(null_run, seed=seed), range(runs), chunksize=10))
    alarms = [run for run in found if run["rolled_back"] is not None]
    return {"runs": runs, "requests": NULL_REQUESTS, "false": len(alarms), "alarms": alarms}


def delays(pool: ProcessPoolExecutor, runs: int, seed: int) -> list[dict[str, Any]]:
    """Run all scenarios with a difference."""
    rows = []
    for world in DELAYS:
        for weight_bp in DELAY_WEIGHTS_BP:
            count = runs if weight_bp >= 1_000 else max(20, runs // 4)
            run = partial(delay_run, seed=seed, world=world, weight_bp=weight_bp)
            found = sorted(pool.map(run, range(count), chunksize=5))
            rows.append(
                {
                    "scenario": world.name,
                    "weight_bp": weight_bp,
                    "runs": count,
                    "median": found[len(found) // 2],
                    "p95": found[int(0.95 * len(found))],
                    "bar_p95": world.bar_p95,
                }
            )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything and print the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--null-runs", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args(arguments)
    started = time.perf_counter()
    with ProcessPoolExecutor(2) as pool:
        rows = delays(pool, asked.runs, asked.seed)
        print("| scenario | weight | runs | median | p95 | bar (p95, at 10 %) |")
        print("|---|---|---|---|---|---|")
        for row in rows:
            print(
                f"| {row['scenario']} | {row['weight_bp'] / 100:g} % | {row['runs']} "
                f"| {row['median']} | {row['p95']} | {row['bar_p95'] or '-'} |"
            )
        null = false_rollbacks(pool, asked.null_runs, asked.seed)
    print(
        f"\nNull runs of {NULL_REQUESTS:,} requests: {null['false']} of {null['runs']} rolled back "
        "(bar: at most 1 %)."
    )
    document = {"seed": asked.seed, "delays": rows, "null": null}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(document, indent=1))
    print(f"{time.perf_counter() - started:.0f} s; written to {RESULT.name}")


if __name__ == "__main__":
    main()

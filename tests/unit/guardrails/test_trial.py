"""Trials of validator versions: sticky arms, fallback, rollback on whatever is worse."""

import asyncio
import random
from typing import Any
from zlib import crc32

import pytest

from libs.common.rollouts import Mode, Plan, Signal, Stage, Verdict
from services.guardrails.adapters.builtin_policies import BuiltinPolicies
from services.guardrails.adapters.redis_cache import NoCache
from services.guardrails.domain.document import Document
from services.guardrails.domain.guard import Guard
from services.guardrails.domain.policy import ValidatorRule
from services.guardrails.domain.trial import Trial
from services.guardrails.domain.verdict import Action, Detection, Span, Status

pytestmark = pytest.mark.anyio
LABELS: tuple[str, ...] = ("BAD",)
RULE = ValidatorRule(name="shout", action=Action.BLOCK, timeout_ms=1_000)


class Version:
    """A validator whose behaviour a test decides per text."""

    name, kind, labels, max_span, lookahead = "shout", "test", LABELS, 3, 0

    def __init__(self, version: str, find=lambda text: "bad" in text, *, fail=None, wait=None):
        self.version, self._find = version, find
        self._fail = fail or (lambda: False)
        self._wait = wait or (lambda: 0.0)
        self.calls = 0

    def parse(self, params):
        return None

    async def check(self, documents, rule):
        self.calls += len(documents)
        if pause := self._wait():
            await asyncio.sleep(pause)
        if self._fail():
            return [Detection(status=Status.ERROR, version=self.version)] * len(documents)
        return [
            Detection(
                spans=(Span(0, 1, "BAD", 1.0),) if self._find(document.text) else (),
                version=self.version,
            )
            for document in documents
        ]


def canary(weight_bp: int = 5_000, **more) -> Plan:
    return Plan(Mode.CANARY, (Stage(weight_bp, 300, 0),), **more)


async def run(trial: Trial, count: int, seed: int = 1) -> int:
    """Send texts until the trial ends; give how many were sent."""
    draw = random.Random(seed)
    for sent in range(count):
        text = f"{'bad' if draw.random() < 0.3 else 'fine'} {sent} {draw.random()}"
        await trial.check([Document(text)], RULE)
        await trial.settle()
        if trial.ended:
            return sent + 1
    return count


async def test_an_equal_candidate_is_not_taken_back_and_is_promoted_when_asked():
    seen: list[Any] = []
    trial = Trial(
        "t1", canary(auto_promote=True), Version("1"), Version("2"),
        on_verdict=lambda trial, decision: seen.append(decision.verdict),
    )  # fmt: skip
    await run(trial, 3_000)
    assert (trial.ended, seen) == ("promoted", [Verdict.COMPLETE])


async def test_a_broken_candidate_never_reaches_the_caller_and_is_taken_back():
    decisions: list[Any] = []
    trial = Trial(
        "t2", canary(), Version("1"), Version("2", fail=lambda: True),
        on_verdict=lambda trial, decision: decisions.append(decision),
    )  # fmt: skip
    arms: set[str] = set()
    for number in range(400):
        (found,) = await trial.check([Document(f"bad {number}")], RULE)
        assert found.status is Status.OK
        arms.add(found.arm)
    assert trial.ended == "rolled_back"
    assert decisions[0].signal in {Signal.ERRORS, Signal.SCORES}
    assert arms == {"stable", "fallback"}
    assert trial.counts.candidates(0) <= 20


async def test_ten_percent_disagreement_is_taken_back_within_two_hundred_pairs():
    worse = Version("2", find=lambda text: ("bad" in text) != (crc32(text.encode()) % 10 == 0))
    trial = Trial("t3", canary(), Version("1"), worse)
    await run(trial, 6_000)
    assert trial.ended == "rolled_back"
    pairs = sum(segment.get("pair") for segment in trial.counts.segments.values())
    assert pairs <= 200


async def test_a_slow_candidate_is_answered_by_stable_and_taken_back():
    slow = Version("2", wait=lambda: 0.05)
    trial = Trial("t4", canary(), Version("1"), slow)
    hurried = RULE.model_copy(update={"timeout_ms": 40})
    for number in range(200):
        (found,) = await trial.check([Document(f"bad {number}")], hurried)
        assert found.status is Status.OK
        if trial.ended:
            break
    assert trial.ended == "rolled_back"


async def test_shadow_never_answers_and_is_taken_back_on_disagreement():
    stable, candidate = Version("1"), Version("2", find=lambda text: True)
    trial = Trial("t5", Plan(Mode.SHADOW, (Stage(10_000),)), stable, candidate)
    answers = []
    for number in range(200):
        (found,) = await trial.check([Document(f"fine {number}")], RULE)
        answers.append(found.version)
        await trial.settle()
    assert set(answers) == {"1"}
    assert candidate.calls > 0
    assert trial.ended == "rolled_back"
    calls = candidate.calls
    await trial.check([Document("fine again")], RULE)
    await trial.settle()
    assert candidate.calls == calls


async def test_an_arm_is_sticky_and_part_of_the_cache_key():
    trial = Trial("t6", canary(2_000), Version("1"), Version("2"))
    versions = [trial.version_for("t", f"text {number}") for number in range(1_000)]
    assert versions == [trial.version_for("t", f"text {number}") for number in range(1_000)]
    assert 120 < versions.count("2/candidate") < 280
    assert [trial.version_for("u", f"text {n}") for n in range(1_000)] != versions
    guard = Guard({"shout": trial}, NoCache(), BuiltinPolicies(), b"s" * 32)
    assert guard.validators["shout"].version == "1"


async def test_null_trials_are_not_taken_back():
    ended = 0
    for seed in range(20):
        trial = Trial(f"null{seed}", canary(), Version("1"), Version("2"))
        await run(trial, 300, seed)
        ended += trial.ended == "rolled_back"
    assert ended == 0

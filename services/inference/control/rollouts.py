"""Rollouts of one replica: routing, counting, judging, and acting on the verdict.

Routing reads one dictionary and one hash. Observations are counted in memory, added up in Redis
four times a second, and judged on the total; what speaks against the candidate is judged at once
on what this replica knows, so that a dead candidate meets a handful of requests. A rollback flips
the local weight first and is written with compare-and-set afterwards.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from libs.common.context import current
from libs.common.errors import ConflictError, ServiceError, UnavailableError
from libs.common.events.envelope import EventEmitter
from libs.common.ids import uuid7
from libs.common.logging import get_logger
from libs.common.rollouts import Arm, Counts, Decision, Mode, Plan, Recorder, Verdict, decide
from services.inference.adapters.repository import Key, ModelRepository
from services.inference.control.live import Live
from services.inference.control.models import ModelControl
from services.inference.control.system_events import actor, system_event
from services.inference.domain.control import (
    COMPLETED,
    PAUSED,
    ROLLED_BACK,
    RUNNING,
    ControlStore,
    RolloutRecord,
    RolloutSums,
)
from services.inference.errors import UnknownRolloutError
from services.inference.metrics import InferenceMetrics

log = get_logger()

# Work after the answer (shadow scores, paired checks) that may wait; beyond it is dropped.
AFTER_MAX = 1_000
_SAVE_EVERY_S = 10.0
# How often labels are asked for.
_LABELS_EVERY_S = 1.0
After = Callable[[], Coroutine[Any, Any, None]]


class RolloutControl:
    """All rollouts of one process."""

    def __init__(
        self,
        models: ModelControl,
        sums: RolloutSums | None,
        events: EventEmitter,
        metrics: InferenceMetrics,
    ) -> None:
        self._models = models
        self._sums = sums
        self._events = events
        self._metrics = metrics
        self._live: dict[str, Live] = {}
        self._after: asyncio.Queue[After] = asyncio.Queue(AFTER_MAX)
        self._alarm = asyncio.Event()
        self._written = 0

    @property
    def _store(self) -> ControlStore:
        return self._models.store

    def live(self, model: str) -> Live | None:
        """Give the live rollout of a model, None when there is none; called on every request."""
        return self._live.get(model)

    def held(self) -> frozenset[Key]:
        """List versions that live rollouts need in memory."""
        return frozenset(
            (name, version)
            for name, item in self._live.items()
            for version in (item.record.stable, item.record.candidate)
        )

    def observe(
        self,
        live: Live,
        arm: Arm,
        key: int,
        *,
        failed: bool,
        latency_s: float | None = None,
        score: float | None = None,
    ) -> None:
        """Count one answer; evidence against the candidate is judged at once."""
        if live.verdict is not None:
            return
        is_bad = live.recorder.observe(arm, key, failed=failed, latency_s=latency_s, score=score)
        if is_bad:
            self._judge_at_once(live)

    def pair(
        self,
        live: Live,
        *,
        candidate_failed: bool = False,
        flipped: bool = False,
        candidate_s: float | None = None,
        stable_s: float | None = None,
    ) -> None:
        """Count one request that both versions answered."""
        if live.verdict is not None:
            return
        if live.recorder.pair(
            candidate_failed=candidate_failed,
            flipped=flipped,
            candidate_s=candidate_s,
            stable_s=stable_s,
        ):
            self._judge_at_once(live)

    def later(self, work: After) -> None:
        """Do something after the answer; dropped and counted when too much waits."""
        try:
            self._after.put_nowait(work)
        except asyncio.QueueFull:
            self._metrics.shadow.labels("dropped").inc()

    async def work_after(self) -> None:
        """Work off what was put behind the answers, one by one, for ever."""
        while True:
            work = await self._after.get()
            try:
                await work()
                self._metrics.shadow.labels("done").inc()
            except ServiceError as error:
                self._metrics.shadow.labels("failed").inc()
                log.warning("work after the answer failed", reason=error.problem_code)
            finally:
                self._after.task_done()
            await asyncio.sleep(0)

    async def start(
        self, model: str, candidate: int, plan: Plan, *, stable: int | None = None
    ) -> RolloutRecord:
        """Start a rollout; the candidate is loaded and proven first.

        Raises:
            UnknownModelError, VersionBrokenError, ConflictError, UnavailableError.
        """
        repository = self._models.repository
        repository.status(model, candidate)
        now_stable = repository.serving_version(model)
        if now_stable is None:
            raise ConflictError("No version of the model serves.", hint="Promote one first.")
        if candidate == now_stable:
            raise ConflictError("The candidate serves already.")
        if stable is not None and stable != now_stable:
            raise ConflictError(f"Version {now_stable} serves, not {stable}.")
        if any(item.model == model for item in await self._store.rollouts(live_only=True)):
            raise ConflictError(
                "The model has a rollout already.", hint="End it before starting another."
            )
        await self._models.prepare(model, candidate)
        _check_comparable(repository, model, now_stable, candidate)
        now = datetime.now(UTC)
        wish = RolloutRecord(
            uuid7(), model, now_stable, candidate, plan, RUNNING, 0, now, 1, actor(), now
        )
        record = await self._store.add_rollout(wish)
        self._written += 1
        await self._enter(record)
        await self._announce(record, "start")
        return record

    async def act(
        self, model: str, rollout_id: str, what: str, expected: int | None
    ) -> RolloutRecord:
        """Carry out an operator's wish: promote (next step), pause, resume or rollback.

        Raises:
            UnknownRolloutError, ConflictError.
        """
        found = await self._store.rollouts(live_only=False, model=model)
        record = next((item for item in found if item.id == rollout_id), None)
        if record is None:
            raise UnknownRolloutError("The model has no such rollout.")
        if not record.is_live:
            raise ConflictError(f"The rollout is {record.state.replace('_', ' ')} already.")
        if expected is not None and expected != record.generation:
            raise ConflictError(f"The rollout is at generation {record.generation}.")
        if what == "rollback":
            return await self._end(record, ROLLED_BACK, reason="asked for")
        if what in {"pause", "resume"}:
            state = PAUSED if what == "pause" else RUNNING
            if state == record.state:
                raise ConflictError(f"The rollout is {state} already.")
            changed = replace(record, state=state, stage_since=datetime.now(UTC))
            return await self._change(changed, what)
        return await self._step(record)

    async def history(self, model: str) -> list[RolloutRecord]:
        """Give the rollouts of a model, newest first."""
        return await self._store.rollouts(live_only=False, model=model)

    async def follow(self) -> None:
        """Read the live rollouts and carry out what is new; UnavailableError when down."""
        written = -1
        while written != self._written:  # what was written here meanwhile is newer than the read
            written = self._written
            found = await self._store.rollouts(live_only=True)
        records = {item.model: item for item in found}
        for model in set(self._live) - set(records):
            self._leave(model)
        for record in records.values():
            known = self._live.get(record.model)
            is_new = known is None or known.id != record.id
            if is_new or (known and known.record.generation != record.generation):
                await self._enter(record)

    async def tick(self) -> None:
        """Add up, judge and act; each replica does so, and compare-and-set lets one win."""
        for live in list(self._live.values()):
            await self._take_labels(live)
            await self._add_up(live)
            stage = live.record.stage
            live.recorder.enter(stage, live.total.current(stage))
            decision = live.verdict or self._judge(live, live.known)
            if not live.is_ready:
                continue
            try:
                await self._follow_verdict(live, decision)
            except ConflictError:
                await self.follow()  # another replica was first
            except UnavailableError:
                log.warning("the rollout's verdict waits for the database", rollout=live.id)

    async def wait(self, seconds: float) -> None:
        """Sleep, but no longer than until something speaks against a candidate."""
        try:
            async with asyncio.timeout(seconds):
                await self._alarm.wait()
        except TimeoutError:
            return
        self._alarm.clear()

    async def _follow_verdict(self, live: Live, decision: Decision) -> None:
        record = live.record
        if decision.verdict is Verdict.ROLLBACK:
            live.verdict, live.weight_bp = decision, 0
            await self._end(
                record,
                ROLLED_BACK,
                signal=str(decision.signal),
                reason=f"evidence on {decision.signal}",
                evidence={str(k): round(v, 3) for k, v in decision.evidence.items()},
            )
        elif record.state == RUNNING and decision.verdict is Verdict.ADVANCE:
            await self._step(record)
        elif record.state == RUNNING and decision.verdict is Verdict.COMPLETE:
            await self._end(record, COMPLETED, reason="all steps passed")

    async def _step(self, record: RolloutRecord) -> RolloutRecord:
        """Take the next step; after the last one the candidate becomes stable."""
        if record.plan.mode is not Mode.CANARY or record.stage == len(record.plan.stages) - 1:
            return await self._end(record, COMPLETED, reason="promoted")
        changed = replace(record, stage=record.stage + 1, stage_since=datetime.now(UTC))
        return await self._change(changed, "advance")

    async def _change(self, record: RolloutRecord, what: str) -> RolloutRecord:
        written = await self._store.put_rollout(record, record.generation)
        self._written += 1
        await self._enter(written)
        await self._announce(written, what)
        return written

    async def _end(
        self,
        record: RolloutRecord,
        state: str,
        *,
        reason: str,
        signal: str = "",
        evidence: dict[str, float] | None = None,
    ) -> RolloutRecord:
        """End a rollout; a completed one makes the candidate stable in the same transaction."""
        ended = replace(record, state=state, reason=reason, signal=signal, evidence=evidence or {})
        model = None
        if state == COMPLETED:
            known = await self._store.model(record.model)
            model = replace(known, stable=record.candidate, previous=record.stable)
        written = await self._store.put_rollout(ended, record.generation, model)
        self._written += 1
        live = self._live.get(record.model)
        if live is not None:
            await self._store.save_counts(record.id, live.total.wire())
        self._leave(record.model)
        self._metrics.rollouts.labels(state).inc()
        log.info("rollout ended", rollout=record.id, model=record.model, state=state, reason=signal)
        await self._announce(written, "complete" if state == COMPLETED else "rollback")
        await self._models.follow()
        if state == ROLLED_BACK:
            await self._drop(record)
        return written

    async def _drop(self, record: RolloutRecord) -> None:
        """Unload a candidate that was taken back, unless it stands by or an ensemble has it."""
        wish = self._models.records.get(record.model)
        is_held = self._models.repository.is_held((record.model, record.candidate))
        if not is_held and (wish is None or record.candidate not in wish.standby):
            await asyncio.to_thread(
                self._models.repository.unload, record.model, record.candidate, "taken back"
            )

    async def _enter(self, record: RolloutRecord) -> None:
        """Route by this record from now on, once the candidate is loaded here."""
        known = self._live.get(record.model)
        weight_bp = record.plan.stages[record.stage].weight_bp
        if known is not None and known.id == record.id:
            known.record, known.weight_bp = record, weight_bp
        else:
            counts = Counts.of(record.counts)
            segment = counts.current(record.stage)
            recorder = Recorder(record.plan, stage=record.stage, segment=segment)
            known = Live(record, recorder, counts, weight_bp)
            self._live[record.model] = known
            if self._sums is not None and record.counts:
                await self._sums.restore(record.id, record.counts)
        self._models.repository.held = self.held()
        known.recorder.enter(record.stage, known.total.current(record.stage))
        if not known.is_ready:
            try:
                await self._models.prepare(record.model, record.candidate)
                known.is_ready = True
            except ServiceError as error:
                log.error(
                    "the candidate does not load here", rollout=record.id, reason=error.detail
                )

    def _leave(self, model: str) -> None:
        self._live.pop(model, None)
        self._models.repository.held = self.held()

    async def _add_up(self, live: Live) -> None:
        """Deliver our increments and take the total; without Redis ours wait."""
        increments = live.recorder.drain()
        total = await self._sums.add(live.id, increments) if self._sums is not None else None
        if total is None:
            live.recorder.restore(increments)
        else:
            live.total = Counts.of(total)
        if time.monotonic() - live.saved_at >= _SAVE_EVERY_S:
            live.saved_at = time.monotonic()
            try:
                await self._store.save_counts(live.id, live.total.wire())
            except UnavailableError:
                return

    async def _take_labels(self, live: Live) -> None:
        """Put our answers where every replica finds them, and count labels that came for any."""
        if self._sums is None or live.verdict is not None:
            return
        waiting, live.answers = live.answers, {}
        await self._sums.remember(live.id, waiting)
        if time.monotonic() - live.labels_at < _LABELS_EVERY_S:
            return
        live.labels_at = time.monotonic()
        since = live.labels_read or str(int(live.record.created_at.timestamp() * 1e3))
        arrived, live.labels_read = await self._sums.labels(since)
        for answer, label in await self._sums.recall(live.id, arrived):
            live.learn(answer, label)

    def _judge(self, live: Live, counts: Counts) -> Decision:
        elapsed = (datetime.now(UTC) - live.record.stage_since).total_seconds()
        stage = live.record.stage
        live.decision = decide(live.plan, stage=stage, counts=counts, elapsed_s=elapsed)
        for signal, value in live.decision.evidence.items():
            self._metrics.rollout_evidence.labels(live.record.model, signal.value).set(value)
        return live.decision

    def _judge_at_once(self, live: Live) -> None:
        """Judge on the last total and our pending counts; a verdict stops routing right here."""
        decision = self._judge(live, live.known)
        if decision.verdict is Verdict.ROLLBACK:
            live.verdict, live.weight_bp = decision, 0
            self._alarm.set()

    async def _announce(self, record: RolloutRecord, what: str) -> None:
        if self._sums is not None:
            await self._sums.notify()
        data: dict[str, object] = {
            "what": what,
            "rollout": record.id,
            "model": record.model,
            "step": record.stage,
            "from": str(record.stable),
            "to": str(record.candidate),
            "by": actor() if current().caller else "service:inference",
        }
        if record.reason:
            data["reason"] = f"{record.reason}"
        if record.evidence:
            data["evidence"] = record.evidence
        await self._events.emit(system_event("rollout.changed", data))


def _check_comparable(repository: ModelRepository, model: str, stable: int, candidate: int) -> None:
    """Refuse a candidate whose answers mean something else than stable's."""
    one, other = repository.manifest(model, stable), repository.manifest(model, candidate)
    assert one is not None, "the serving version is loaded"
    assert other is not None, "the candidate is loaded"
    if one.task != other.task:
        raise ConflictError(f"The candidate's task is {other.task}, not {one.task}.")
    if set(one.labels) != set(other.labels):
        raise ConflictError("The candidate's labels are not those of the serving version.")

"""What all scorers share: the read, the clock, the common answer fields and the event."""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import numpy as np

from libs.common.context import current
from libs.common.errors import DeadlineExceededError, InvalidInputError, ServiceError
from libs.common.events.envelope import Event, EventEmitter, event_for_request
from libs.common.features.contract import FeatureReader, FeatureRequest, FeatureRows, FeatureService
from libs.common.rollouts import Arm
from libs.common.telemetry import get_telemetry
from services.inference.control.live import Live
from services.inference.control.rollouts import RolloutControl
from services.inference.dataplane import DataPlane
from services.inference.domain.ensemble import EnsembleFacts
from services.inference.domain.model import TabularModel
from services.inference.domain.scoring import confidence_of
from services.inference.metrics import InferenceMetrics
from services.inference.scoring.trial import Sample, Trial

# A clock that runs ahead further than this is wrong.
_AHEAD_MS_MAX = 5 * 60_000
# Rows answered in one turn of the event loop; a row was measured at about 0.15 ms.
_ROWS_PER_TURN = 16
# Reasons of the reader that mean: nothing stored could be read, the row knows the request only.
_BLIND_REASONS = frozenset({"redis_unavailable", "store_not_ready"})


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a call came from: its endpoint, and its place in a batch."""

    endpoint: str
    batch_id: str | None = None
    indexes: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Scored:
    """One row's score, who gave it, and of an ensemble who took part."""

    model: TabularModel
    arm: Arm
    score: float
    model_s: float
    ensemble: EnsembleFacts | None


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """All rows of one call, by place, with the rollout that routed them.

    Attributes:
        live: None when the model has no rollout.
        keys: arm and key of each row; empty without a rollout.
    """

    scored: Mapping[int, Scored]
    live: Live | None = None
    keys: Sequence[tuple[Arm, int]] = ()


# Builds the failed events of an arm's places: model, arm, places, reason, rollout.
Failures = Callable[[TabularModel, Arm, Sequence[int], str, Live | None], list[Event]]


class ScorerBase:
    """Holds what scoring leans on; subclasses score one kind of request."""

    def __init__(
        self,
        plane: DataPlane,
        reader: FeatureReader,
        events: EventEmitter,
        metrics: InferenceMetrics,
        rollouts: RolloutControl,
    ) -> None:
        self.trial = Trial(plane.repository, events, rollouts)
        self._plane = plane
        self._reader = reader
        self._events = events
        self._metrics = metrics

    async def read(self, service: FeatureService, requests: list[FeatureRequest]) -> FeatureRows:
        """Read the rows of all requests in one round trip, and count what was found.

        Raises:
            DeadlineExceededError: no time is left, so neither store nor model is asked.
        """
        caller = current().caller
        if current().remaining_s(1.0) <= 0:
            raise DeadlineExceededError("The deadline passed before scoring began.")
        with get_telemetry().span("features.read", {"rows": len(requests)}):
            rows = await self._reader.read(service, caller.tenant if caller else "", requests)
        self._metrics.feature_fetch.labels(service.name).observe(rows.read_s)
        total = len(service.raw) * len(requests)
        missing = sum(map(len, rows.missing))
        self._metrics.feature_status.labels("missing").inc(missing)
        self._metrics.feature_status.labels("present").inc(total - missing)
        return rows

    async def score_rows(
        self, stable: TabularModel, subjects: Sequence[str], rows: FeatureRows, failures: Failures
    ) -> ScoredRows:
        """Score rows, each by the version that a rollout gives its subject, one call per version.

        Args:
            stable: the version that serves.
            subjects: whom each row is about.
            rows: what the model reads.
            failures: builds the failed events that are recorded when a version fails.

        Raises:
            InferenceFailedError: stable failed; a candidate that fails is answered by stable.
        """
        live = self.trial.live(stable.name)
        if live is None:
            everyone = range(len(subjects))
            return ScoredRows(
                await self._score_places(stable, Arm.STABLE, everyone, rows, failures, None)
            )
        keys = self.trial.route(live, subjects)

        async def run(arm: Arm, places: list[int]) -> dict[int, Scored]:
            version = live.record.candidate if arm is Arm.CANDIDATE else live.record.stable
            model = stable
            if version != stable.manifest.version:
                model = self._plane.resolve_version(stable.name, version)
            return await self._score_places(model, arm, places, rows, failures, live)

        return ScoredRows(await self.trial.run_arms(live, keys, run), live, keys)

    async def _score_places(
        self,
        model: TabularModel,
        arm: Arm,
        places: Sequence[int],
        rows: FeatureRows,
        failures: Failures,
        live: Live | None,
    ) -> dict[int, Scored]:
        """Score the rows at `places` by one version, in one call; failed events if it fails."""
        is_all = len(places) == len(rows.matrix)
        try:
            answer = await self._plane.run_rows(
                model, rows.matrix if is_all else rows.matrix[list(places)]
            )
        except ServiceError as error:
            await self.record(failures(model, arm, places, error.problem_code, live))
            raise
        return {
            place: Scored(model, arm, score, answer.model_s, answer.facts(at))
            for at, (place, score) in enumerate(zip(places, answer.scores.tolist(), strict=True))
        }

    def again(self, name: str, rows: FeatureRows, index: int) -> Callable[[int], Awaitable[Sample]]:
        """Let an exact version of a model score a row again, from a copy of it."""
        row = rows.matrix[index].copy().reshape(1, -1)

        async def score(version: int) -> Sample:
            model = self._plane.resolve_version(name, version)
            answer = await self._plane.run_rows(model, row)
            return sample_of(model, float(answer.scores[0]), answer.model_s)

        return score

    def common(
        self,
        rows: FeatureRows,
        index: int,
        model: TabularModel,
        arm: Arm = Arm.STABLE,
        ensemble: EnsembleFacts | None = None,
    ) -> dict[str, Any]:
        """Build the answer fields that every kind of score has; an ensemble's name its members."""
        freshness = rows.freshness_s[index]
        reasons = list(rows.degraded_reasons)
        if rows.stale[index]:
            reasons.append("features_stale")
        if ensemble is not None and ensemble.reason is not None:
            reasons.append(ensemble.reason)
        for reason in reasons:
            self._metrics.degraded.labels(reason).inc()
        return {
            "features_used": int(np.count_nonzero(~np.isnan(rows.matrix[index]))),
            "model_version": model.model_version,
            "feature_freshness_sec": None if freshness is None else int(freshness),
            "request_id": current().request_id,
            "model_arm": arm.value,
            "features_missing": rows.missing[index],
            "features_stale": rows.stale[index],
            "degraded": bool(reasons),
            "degraded_reasons": reasons,
            **({"ensemble": ensemble.to_wire()} if ensemble is not None else {}),
        }

    async def record(self, events: Sequence[Event]) -> None:
        """Make the events durable; the answer may leave only afterwards.

        Raises:
            UnavailableError: they cannot be made durable.
        """
        await self._events.emit(*events)


def sample_of(model: TabularModel, score: float, seconds: float) -> Sample:
    """Describe a score for a rollout; the decision is the band by the version's own thresholds."""
    if model.bands is None:
        word = "yes" if score >= 0.5 else "no"
        return Sample(score, word, word, confidence_of(score), seconds)
    level = model.bands.level(score)
    says = "no" if level == "low" else "yes"
    return Sample(score, level, says, confidence_of(score), seconds)


def is_blind(rows: FeatureRows) -> bool:
    """Whether no stored feature could be read at all."""
    return not _BLIND_REASONS.isdisjoint(rows.degraded_reasons)


async def give_way(index: int) -> None:
    """Let other requests run now and then, so that a large batch does not hold the loop."""
    if index % _ROWS_PER_TURN == _ROWS_PER_TURN - 1:
        await asyncio.sleep(0)


def minor_units(amount: float) -> int:
    """Turn major units into integer minor units, rounded half to even."""
    return int((Decimal(repr(amount)) * 100).quantize(Decimal(1), ROUND_HALF_EVEN))


def event_time_ms(timestamp: str | None) -> int:
    """Give the time at which windows end: the request's, or now.

    Raises:
        InvalidInputError: more than five minutes ahead of this process's clock.
    """
    now_ms = time.time_ns() // 1_000_000
    if timestamp is None:
        return now_ms
    asked_ms = int(datetime.fromisoformat(timestamp).timestamp() * 1000)
    if asked_ms > now_ms + _AHEAD_MS_MAX:
        raise InvalidInputError.field("/timestamp", "is more than 5 minutes ahead")
    return asked_ms


def prediction_event(
    model: TabularModel,
    origin: Origin,
    index: int,
    *,
    data_subject: str,
    status: str,
    details: Mapping[str, Any],
    arm: Arm = Arm.STABLE,
    kind: str = "prediction.made",
) -> Event:
    """Build the event of one answer or one failure.

    Its id is the prediction's id, so that an answer leads straight to its record.
    """
    data: dict[str, Any] = {
        "route": origin.endpoint,
        "model": model.name,
        "release": model.manifest.release,
        "version": model.version,
        "arm": arm.value,
        "status": status,
        **details,
    }
    if origin.batch_id is not None:
        data["batch_id"] = origin.batch_id
        data["index"] = origin.indexes[index]
    event = event_for_request(
        kind,
        "inference",
        "sampled" if kind == "prediction.shadow" else "standard",
        data,
        data_subject=data_subject,
    )
    data["prediction_id"] = event.id
    return event


def feature_facts(rows: FeatureRows, index: int, used: int) -> dict[str, Any]:
    """Say in the event which features the answer rests on."""
    return {
        "used": used,
        "missing": len(rows.missing[index]),
        "stale": len(rows.stale[index]),
        "freshness_s": rows.freshness_s[index],
    }


def input_digest(rows: FeatureRows, index: int) -> str:
    """Hash what the model read; the vector holds no id and no text."""
    return hashlib.sha256(rows.matrix[index].tobytes()).hexdigest()[:32]

"""What all scorers share: the read, the clock, the common answer fields and the event."""

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import numpy as np

from libs.common.context import current
from libs.common.errors import DeadlineExceededError, InvalidInputError
from libs.common.events.envelope import Event, EventEmitter, event_for_request
from libs.common.features.contract import FeatureReader, FeatureRequest, FeatureRows, FeatureService
from libs.common.rollouts import Arm
from libs.common.telemetry import get_telemetry
from services.inference.dataplane import DataPlane
from services.inference.domain.model import TabularModel
from services.inference.metrics import InferenceMetrics

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


class ScorerBase:
    """Holds what scoring leans on; subclasses score one kind of request."""

    def __init__(
        self,
        plane: DataPlane,
        reader: FeatureReader,
        events: EventEmitter,
        metrics: InferenceMetrics,
    ) -> None:
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

    def common(
        self, rows: FeatureRows, index: int, model: TabularModel, arm: Arm = Arm.STABLE
    ) -> dict[str, Any]:
        """Build the answer fields that every kind of score has."""
        freshness = rows.freshness_s[index]
        reasons = list(rows.degraded_reasons)
        if rows.stale[index]:
            reasons.append("features_stale")
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
        }

    async def record(self, events: Sequence[Event]) -> None:
        """Make the events durable; the answer may leave only afterwards.

        Raises:
            UnavailableError: they cannot be made durable.
        """
        await self._events.emit(*events)


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
    """Build the event of one answer or one failure (CONTRACTS section 5).

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

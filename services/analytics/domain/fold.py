"""Folding events into per-minute sums; pure, additive, order-free.

Only sums, counts, minima and maxima are kept, so two folds of two batches add up to the fold of
both. Exactly once is the writer's business: it commits the fold and the new offset together.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, NamedTuple

from services.analytics.domain.histogram import bucket_of
from services.analytics.domain.windows import floor_minute

# event type -> kind of series; other types do not concern analytics
KINDS: Mapping[str, str] = {
    "prediction.made": "prediction",
    "prediction.shadow": "shadow",
    "verdict.given": "verdict",
    "verdict.blocked": "verdict",
}
NAME_CHARS_MAX = 200


class Series(NamedTuple):
    """What a roll-up row is about; empty strings where an event says nothing."""

    tenant: str
    kind: str
    model: str
    version: str
    release: str
    arm: str
    route: str


class Slot(NamedTuple):
    """One series in one minute."""

    series: Series
    minute: datetime


@dataclass(slots=True)
class Sums:
    """Additive figures of one slot. Pairs are (input length, latency), for their correlation."""

    n: int = 0
    errors: int = 0
    degraded: int = 0
    cached: int = 0
    cacheable: int = 0
    confidence_n: int = 0
    confidence_sum: float = 0.0
    latency_n: int = 0
    latency_sum: float = 0.0
    pair_n: int = 0
    pair_x: float = 0.0
    pair_y: float = 0.0
    pair_xx: float = 0.0
    pair_yy: float = 0.0
    pair_xy: float = 0.0
    features_used: int = 0
    features_missing: int = 0
    features_stale: int = 0
    freshness_n: int = 0
    freshness_sum: float = 0.0
    revision: int = 0
    latency_min: float | None = None
    latency_max: float | None = None

    def add(self, other: "Sums") -> None:
        """Add another slot's figures to these."""
        for name in ADDITIVE:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for value in (other.latency_min, other.latency_max):
            if value is not None:
                self._bound(value)

    def _bound(self, latency: float) -> None:
        self.latency_min = latency if self.latency_min is None else min(self.latency_min, latency)
        self.latency_max = latency if self.latency_max is None else max(self.latency_max, latency)

    def add_latency(self, latency: float) -> None:
        """Count one latency in milliseconds."""
        self.latency_n += 1
        self.latency_sum += latency
        self._bound(latency)

    def add_pair(self, x: float, y: float) -> None:
        """Count one (input length, latency) pair."""
        self.pair_n += 1
        self.pair_x += x
        self.pair_y += y
        self.pair_xx += x * x
        self.pair_yy += y * y
        self.pair_xy += x * y


ADDITIVE: tuple[str, ...] = tuple(
    item.name for item in fields(Sums) if item.name not in {"latency_min", "latency_max"}
)


@dataclass(slots=True)
class Fold:
    """A folded batch, ready to be added to what is stored."""

    sums: dict[Slot, Sums] = field(default_factory=dict)
    buckets: Counter[tuple[Slot, str, int]] = field(default_factory=Counter)
    categories: Counter[tuple[Slot, str, str]] = field(default_factory=Counter)
    predictions: Counter[str] = field(default_factory=Counter)
    events: int = 0
    skipped: int = 0
    last_time: datetime | None = None


def fold(documents: Iterable[Mapping[str, Any] | None]) -> Fold:
    """Fold wire documents of the log.

    Args:
        documents: event documents (`libs.common.events.envelope`); None for an erased one.

    Returns:
        The sums. `skipped` counts documents without a usable time; other event types are read past.
    """
    result = Fold()
    for document in documents:
        result.events += 1
        kind = KINDS.get(str(document.get("type"))) if document else None
        if document is None or kind is None:
            continue
        minute, moment = _minute_of(document)
        data = document.get("data")
        if minute is None or moment is None or not isinstance(data, Mapping):
            result.skipped += 1
            continue
        if result.last_time is None or moment > result.last_time:
            result.last_time = moment
        _fold_one(result, kind, Slot(_series_of(document, kind, data), minute), data)
    return result


def _minute_of(document: Mapping[str, Any]) -> tuple[datetime | None, datetime | None]:
    try:
        moment = datetime.fromisoformat(str(document["time"])).astimezone(UTC)
    except (KeyError, ValueError, OverflowError):
        return None, None
    return floor_minute(moment), moment


def _series_of(document: Mapping[str, Any], kind: str, data: Mapping[str, Any]) -> Series:
    is_verdict = kind == "verdict"
    return Series(
        tenant=_name(document.get("tenant")),
        kind=kind,
        model=_name(data.get("policy" if is_verdict else "model")),
        version=_name(data.get("version")),
        release=_name(data.get("release")),
        arm=_name(data.get("arm")),
        route=_name(data.get("route")),
    )


def _name(value: Any) -> str:
    # PostgreSQL text cannot hold NUL.
    return "" if value is None else str(value).replace("\0", "")[:NAME_CHARS_MAX]


def number(value: Any) -> float | None:
    """Give a finite number, or None for anything else (booleans included)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _fold_one(result: Fold, kind: str, slot: Slot, data: Mapping[str, Any]) -> None:
    sums = result.sums.get(slot)
    if sums is None:
        sums = result.sums[slot] = Sums(revision=1)
    sums.n += 1
    status = data.get("status")
    sums.errors += status == "failed"
    sums.degraded += status == "degraded"
    sums.cached += data.get("cached") is True
    sums.cacheable += isinstance(data.get("cached"), bool)
    if kind == "prediction":
        result.predictions[slot.series.tenant] += 1
    _fold_measures(result, sums, slot, data)
    _fold_features(result, sums, slot, data.get("features"))
    if status == "failed":
        result.categories[slot, "reason", _name(data.get("reason")) or "unknown"] += 1
    for metric in ("label", "risk", "decision", "action"):
        if data.get(metric) is not None:
            result.categories[slot, metric, _name(data[metric])] += 1


def _fold_measures(result: Fold, sums: Sums, slot: Slot, data: Mapping[str, Any]) -> None:
    raw_latency = data.get("latency_ms")
    latency = number(raw_latency.get("total") if isinstance(raw_latency, Mapping) else raw_latency)
    length = number(data.get("input_length", data.get("length")))
    confidence = number(data.get("confidence"))
    if latency is not None:
        sums.add_latency(latency)
        if length is not None:
            sums.add_pair(length, latency)
    if confidence is not None:
        sums.confidence_n += 1
        sums.confidence_sum += confidence
    measured = {
        "latency_ms": latency,
        "confidence": confidence,
        "score": number(data.get("score")),
        "input_length": length,
    }
    for metric, value in measured.items():
        if value is not None:
            result.buckets[slot, metric, bucket_of(value)] += 1


def _fold_features(result: Fold, sums: Sums, slot: Slot, features: Any) -> None:
    if not isinstance(features, Mapping):
        return
    sums.features_used += _count(features.get("used"))
    sums.features_missing += _count(features.get("missing"))
    sums.features_stale += _count(features.get("stale"))
    freshness = number(features.get("freshness_s"))
    if freshness is not None:
        sums.freshness_n += 1
        sums.freshness_sum += freshness
        result.buckets[slot, "freshness_s", bucket_of(freshness)] += 1


def _count(value: Any) -> int:
    """Events carry either a count or the list of names."""
    if isinstance(value, list | tuple):
        return len(value)
    counted = number(value)
    return int(counted) if counted is not None and counted > 0 else 0

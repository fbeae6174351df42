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
from services.analytics.domain.model_drift import EVENT_TYPE as DRIFT
from services.analytics.domain.model_drift import ModelDrift, read_event
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
    """Additive figures of one slot; `_sq` are sums of squares.

    Pairs are (input length, latency), for their correlation.
    """

    n: int = 0
    errors: int = 0
    degraded: int = 0
    cached: int = 0
    cacheable: int = 0
    confidence_n: int = 0
    confidence_sum: float = 0.0
    confidence_sq: float = 0.0
    score_n: int = 0
    score_sum: float = 0.0
    score_sq: float = 0.0
    latency_n: int = 0
    latency_sum: float = 0.0
    latency_sq: float = 0.0
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
                self.bound(value)

    def bound(self, latency: float) -> None:
        """Widen minimum and maximum to hold a latency."""
        self.latency_min = latency if self.latency_min is None else min(self.latency_min, latency)
        self.latency_max = latency if self.latency_max is None else max(self.latency_max, latency)


ADDITIVE: tuple[str, ...] = tuple(
    item.name for item in fields(Sums) if item.name not in {"latency_min", "latency_max"}
)


@dataclass(slots=True)
class SlotFold:
    """Everything one slot saw: sums, histogram per number, counts per category."""

    sums: Sums = field(default_factory=Sums)
    histograms: dict[str, Counter[int]] = field(default_factory=dict)
    categories: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, other: "SlotFold") -> None:
        """Add another slot's figures to these."""
        self.sums.add(other.sums)
        for metric, buckets in other.histograms.items():
            self.histograms.setdefault(metric, Counter()).update(buckets)
        for metric, counts in other.categories.items():
            self.categories.setdefault(metric, Counter()).update(counts)


@dataclass(slots=True)
class Fold:
    """A folded batch, ready to be added to what is stored.

    `drifts` has the newest drift by (tenant, model, version); of two at one time the later counts.
    """

    slots: dict[Slot, SlotFold] = field(default_factory=dict)
    drifts: dict[tuple[str, str, str], ModelDrift] = field(default_factory=dict)
    predictions: Counter[str] = field(default_factory=Counter)
    events: int = 0
    skipped: int = 0
    last_time: datetime | None = None


class _Gathered:
    """Raw values of one slot. Lists are appended per event and summed once per batch."""

    __slots__ = ("cacheable", "cached", "categories", "degraded", "errors", "features", "n",
                 "numbers", "pairs")  # fmt: skip

    def __init__(self) -> None:
        self.n = self.errors = self.degraded = self.cached = self.cacheable = 0
        self.numbers: dict[str, list[float]] = {metric: [] for metric in NUMBERS}
        self.categories: dict[str, list[str]] = {}
        self.pairs: list[tuple[float, float]] = []
        self.features = [0, 0, 0]

    def folded(self) -> SlotFold:
        """Give the sums of what was gathered."""
        numbers = self.numbers
        latency, confidence, score = (numbers[m] for m in ("latency_ms", "confidence", "score"))
        used, missing, stale = self.features
        sums = Sums(
            n=self.n, errors=self.errors, degraded=self.degraded,
            cached=self.cached, cacheable=self.cacheable,
            confidence_n=len(confidence), confidence_sum=sum(confidence),
            confidence_sq=_squares(confidence),
            score_n=len(score), score_sum=sum(score), score_sq=_squares(score),
            latency_n=len(latency), latency_sum=sum(latency), latency_sq=_squares(latency),
            pair_n=len(self.pairs),
            pair_x=sum(x for x, _ in self.pairs), pair_y=sum(y for _, y in self.pairs),
            pair_xx=sum(x * x for x, _ in self.pairs), pair_yy=sum(y * y for _, y in self.pairs),
            pair_xy=sum(x * y for x, y in self.pairs),
            features_used=used, features_missing=missing, features_stale=stale,
            freshness_n=len(numbers["freshness_s"]), freshness_sum=sum(numbers["freshness_s"]),
            revision=1,
            latency_min=min(latency, default=None), latency_max=max(latency, default=None),
        )  # fmt: skip
        return SlotFold(
            sums,
            {
                metric: Counter(map(bucket_of, values))
                for metric, values in numbers.items()
                if values
            },
            {metric: Counter(values) for metric, values in self.categories.items()},
        )


# Numbers that get a histogram, and categories that are counted, of each event.
NUMBERS: tuple[str, ...] = ("latency_ms", "confidence", "score", "input_length", "freshness_s")
CATEGORIES: tuple[str, ...] = ("label", "risk", "decision", "action")


def fold(documents: Iterable[Mapping[str, Any] | None]) -> Fold:
    """Fold wire documents of the log.

    Args:
        documents: event documents (`libs.common.events.envelope`); None for an erased one.

    Returns:
        The sums. `skipped` counts documents without a usable time; other event types are read past.
    """
    result = Fold()
    gathered: dict[tuple[Any, ...], tuple[Slot, _Gathered]] = {}
    last_time = datetime.min.replace(tzinfo=UTC)
    for document in documents:
        result.events += 1
        if document is None:
            continue
        kind = KINDS.get(str(document.get("type")))
        if kind is None:
            if document.get("type") == DRIFT:
                _keep_drift(result, document)
            continue
        data = document.get("data")
        moment = _moment_of(document)
        if moment is None or not isinstance(data, dict):
            result.skipped += 1
            continue
        last_time = max(last_time, moment)
        slot, into = _gathered_for(gathered, document, kind, data, moment)
        if kind == "prediction":
            result.predictions[slot.series.tenant] += 1
        _gather(into, data)
    for slot, into in gathered.values():
        result.slots.setdefault(slot, SlotFold()).add(into.folded())
    if gathered:
        result.last_time = last_time
    return result


def _keep_drift(result: Fold, document: Mapping[str, Any]) -> None:
    data, moment = document.get("data"), _moment_of(document)
    found = read_event(data, moment) if isinstance(data, dict) and moment is not None else None
    if found is None:
        result.skipped += 1
        return
    key = _name(document.get("tenant")), found.model, found.version
    known = result.drifts.get(key)
    if known is None or found.at >= known.at:
        result.drifts[key] = found


def _moment_of(document: Mapping[str, Any]) -> datetime | None:
    try:
        return datetime.fromisoformat(str(document["time"])).astimezone(UTC)
    except (KeyError, ValueError, OverflowError):
        return None


def _gathered_for(
    gathered: dict[tuple[Any, ...], tuple[Slot, _Gathered]],
    document: Mapping[str, Any],
    kind: str,
    data: Mapping[str, Any],
    moment: datetime,
) -> tuple[Slot, _Gathered]:
    """Find the slot of an event by its raw names, so that they are cleaned once per batch."""
    minute = floor_minute(moment)
    get = data.get
    names = (
        document.get("tenant"), kind, get("policy" if kind == "verdict" else "model"),
        get("version"), get("release"), get("arm"), get("route"),
    )  # fmt: skip
    try:
        found = gathered.get((*names, minute))
    except TypeError:  # a list or an object where a name belongs
        names = tuple(_name(name) for name in names)  # type: ignore[assignment] # as many
        found = gathered.get((*names, minute))
    if found is None:
        found = Slot(Series(*(_name(name) for name in names)), minute), _Gathered()
        gathered[(*names, minute)] = found
    return found


def _name(value: Any) -> str:
    # PostgreSQL text cannot hold NUL.
    return "" if value is None else str(value).replace("\0", "")[:NAME_CHARS_MAX]


def number(value: Any) -> float | None:
    """Give a finite number, or None for anything else (booleans included)."""
    if type(value) is float:
        return value if math.isfinite(value) else None
    return float(value) if type(value) is int and abs(value) < _INT_MAX else None


# Larger integers do not fit a float, and no event has a use for them.
_INT_MAX = 1 << 62


def _gather(into: _Gathered, data: Mapping[str, Any]) -> None:
    into.n += 1
    get, numbers = data.get, into.numbers
    status, cached = get("status"), get("cached")
    if status == "degraded":
        into.degraded += 1
    elif status == "failed":
        into.errors += 1
        into.categories.setdefault("reason", []).append(_name(get("reason")) or "unknown")
    if cached is True or cached is False:
        into.cacheable += 1
        into.cached += cached
    latency = get("latency_ms")
    if isinstance(latency, dict):
        latency = latency.get("total")
    latency = number(latency)
    length = number(get("input_length", get("length")))
    if latency is not None:
        numbers["latency_ms"].append(latency)
        if length is not None:
            into.pairs.append((length, latency))
    if length is not None:
        numbers["input_length"].append(length)
    for metric in ("confidence", "score"):
        value = number(get(metric))
        if value is not None:
            numbers[metric].append(value)
    for metric in CATEGORIES:
        name = get(metric)
        if name is not None:
            into.categories.setdefault(metric, []).append(_name(name))
    features = get("features")
    if isinstance(features, dict):
        _gather_features(into, features)


def _gather_features(into: _Gathered, features: Mapping[str, Any]) -> None:
    for at, name in enumerate(("used", "missing", "stale")):
        into.features[at] += _count(features.get(name))
    freshness = number(features.get("freshness_s"))
    if freshness is not None:
        into.numbers["freshness_s"].append(freshness)


def _squares(values: list[float]) -> float:
    return sum(value * value for value in values)


def _count(value: Any) -> int:
    """Events carry either a count or the list of names."""
    if isinstance(value, list | tuple):
        return len(value)
    counted = number(value)
    return int(counted) if counted is not None and counted > 0 else 0

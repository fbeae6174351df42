"""Drift and comparison over the roll-ups: read, compute, shape."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from libs.common.errors import InvalidInputError, NotFoundError
from services.analytics import schemas
from services.analytics.domain.aggregate import Aggregate, by_key
from services.analytics.domain.compare import (
    Difference,
    Direction,
    Moments,
    is_split_valid,
    mean_difference,
    quantile_difference,
    rate_difference,
)
from services.analytics.domain.drift import Drift, category_drift, judge_all, numeric_drift
from services.analytics.domain.fold import Sums
from services.analytics.domain.model_drift import judge
from services.analytics.domain.ports import Filters, RollupReader, SeriesFigures
from services.analytics.domain.sequential import (
    METHOD,
    Sequential,
    sequential_difference,
    smoothed,
)
from services.analytics.domain.windows import HOUR, Window, closed_window, floor_minute

_NUMBERS = ("score", "confidence", "input_length", "latency_ms", "freshness_s")
_CATEGORIES = ("label", "risk", "decision")
# Feature values that were there or not; events carry counts, no values of single features.
_FEATURE_SHARES: dict[str, Callable[[Sums], dict[str, int]]] = {
    "missing_features": lambda s: {"used": s.features_used, "missing": s.features_missing},
    "stale_features": lambda s: {
        "fresh": max(0, s.features_used - s.features_stale),
        "stale": s.features_stale,
    },
}
# How far back the fixed start of a comparison may lie.
COMPARISON_MAX = timedelta(days=31)
_RATES: tuple[tuple[str, Direction, Callable[[Sums], int]], ...] = (
    ("error_rate", "lower", lambda sums: sums.errors),
    ("degraded_rate", "lower", lambda sums: sums.degraded),
)
_MEANS: tuple[tuple[str, Direction, Callable[[Sums], Moments]], ...] = (
    (
        "average_confidence",
        "higher",
        lambda s: Moments(s.confidence_n, s.confidence_sum, s.confidence_sq),
    ),
    ("latency_mean_ms", "lower", lambda s: Moments(s.latency_n, s.latency_sum, s.latency_sq)),
    ("score_mean", "neither", lambda s: Moments(s.score_n, s.score_sum, s.score_sq)),
)


class Statistics:
    """Answers the drift and comparison routes."""

    def __init__(self, reader: RollupReader) -> None:
        self._reader = reader

    async def drift(
        self, tenant: str, query: schemas.DriftQuery, now: datetime
    ) -> schemas.DriftReport:
        """Compare the last closed window with the one before or a reference, per model version.

        Raises:
            InvalidInputError: the reference does not end before the window starts.
        """
        window = closed_window(now, query.time_window_minutes)
        reference = _reference(query, window)
        filters = Filters("prediction", query.model, query.version, histograms=_NUMBERS)
        current = _by_version(await self._reader.read(tenant, window, filters))
        before = _by_version(await self._reader.read(tenant, reference, filters))
        found = {
            (*key, metric): one
            for key in sorted({*current, *before})
            for metric, one in _drifts(
                current.get(key, Aggregate()), before.get(key, Aggregate())
            ).items()
        }
        # One family: every metric of every version that this answer looks at.
        judged = judge_all({"\0".join(key): one for key, one in found.items()})
        return schemas.DriftReport(
            start=window.start,
            end=window.end,
            reference_start=reference.start,
            reference_end=reference.end,
            items=[
                schemas.DriftView(
                    model=key[0], version=key[1], metric=key[2], **asdict(judged["\0".join(key)])
                )
                for key in found
            ],
            inputs=await self._inputs(tenant, query, window),
        )

    async def _inputs(
        self, tenant: str, query: schemas.DriftQuery, window: Window
    ) -> list[schemas.InputDriftView]:
        """Give what was told in the window or since, and in the hour before its end at least."""
        since = min(window.start, window.end - HOUR)
        told = await self._reader.model_drifts(tenant, since, query.model, query.version)
        return [
            schemas.InputDriftView(
                model=one.model,
                version=one.version,
                release=one.release,
                kind=which.kind,
                name=which.name,
                at=one.at,
                **asdict(drift),
            )
            for one, drifts in zip(told, judge(told), strict=True)
            for which, drift in zip(one.told, drifts, strict=True)
        ]

    async def compare(
        self, tenant: str, query: schemas.ComparisonQuery, now: datetime
    ) -> schemas.Comparison:
        """Compare two versions of a model over the last closed window.

        Raises:
            NotFoundError: neither version was seen in the window.
        """
        window = closed_window(now, query.time_window_minutes)
        if query.since is not None:
            window = _since(query.since, window.end)
        series = await self._reader.read(tenant, window, Filters("prediction", query.model))
        versions = _by_version(series)
        a = versions.get((query.model, query.version_a), Aggregate())
        b = versions.get((query.model, query.version_b), Aggregate())
        if not a.requests and not b.requests:
            raise NotFoundError("Neither version was seen in the window.")
        return schemas.Comparison(
            start=window.start,
            end=window.end,
            looks=query.looks,
            is_split_valid=(
                None
                if query.share_b is None
                else is_split_valid(a.requests, b.requests, query.share_b)
            ),
            items=_differences(a, b, query.looks, is_sequence=query.since is not None),
        )


def _reference(query: schemas.DriftQuery, window: Window) -> Window:
    end = window.start
    if query.reference_end is not None:
        end = floor_minute(query.reference_end.astimezone(UTC))
        if end > window.start:
            raise InvalidInputError.field("/reference_end", "must not lie after the window's start")
    minutes = query.reference_minutes or query.time_window_minutes
    return Window(end - timedelta(minutes=minutes), end)


def _since(start: datetime, end: datetime) -> Window:
    """Give the window from a fixed start, cut to the minute.

    Raises:
        InvalidInputError: it is not before the end, or too long ago.
    """
    aligned = floor_minute(start.astimezone(UTC))
    if not timedelta(0) < end - aligned <= COMPARISON_MAX:
        raise InvalidInputError.field(
            "/since", f"must be a closed minute of the last {COMPARISON_MAX.days} days"
        )
    return Window(aligned, end)


def _differences(
    a: Aggregate, b: Aggregate, looks: int, *, is_sequence: bool
) -> list[schemas.DifferenceView]:
    items = []
    for metric, better, rate in _RATES:
        hits_a, hits_b = rate(a.sums), rate(b.sums)
        found = rate_difference(
            (hits_a, a.requests), (hits_b, b.requests), looks=looks, better=better
        )
        moments = smoothed(hits_a, a.requests), smoothed(hits_b, b.requests)
        sequence = sequential_difference(*moments, better=better) if is_sequence else None
        items.append(_difference_view(metric, found, sequence))
    for metric, better, moments_of in _MEANS:
        mean_a, mean_b = moments_of(a.sums), moments_of(b.sums)
        found = mean_difference(mean_a, mean_b, looks=looks, better=better)
        sequence = sequential_difference(mean_a, mean_b, better=better) if is_sequence else None
        items.append(_difference_view(metric, found, sequence))
    histograms = [one.histograms.get("latency_ms", {}) for one in (a, b)]
    for metric, share in (("latency_p50_ms", 0.5), ("latency_p95_ms", 0.95)):
        found = quantile_difference(
            histograms[0], histograms[1], share, looks=looks, better="lower"
        )
        items.append(_difference_view(metric, found, None))
    return items


def _by_version(series: list[SeriesFigures]) -> dict[tuple[str, ...], Aggregate]:
    return by_key(series, lambda one: (one.series.model, one.series.version))


def _drifts(current: Aggregate, before: Aggregate) -> dict[str, Drift]:
    """Compare each metric that either window has."""
    found = {
        metric: numeric_drift(current.histograms.get(metric, {}), before.histograms.get(metric, {}))
        for metric in _NUMBERS
        if metric in current.histograms or metric in before.histograms
    }
    for metric in _CATEGORIES:
        if current.counts(metric) or before.counts(metric):
            found[metric] = category_drift(current.counts(metric), before.counts(metric))
    for metric, counts_of in _FEATURE_SHARES.items():
        counts = [counts_of(window.sums) for window in (current, before)]
        if any(any(one.values()) for one in counts):
            found[metric] = category_drift(*counts)
    return found


def _difference_view(
    metric: str, found: Difference, sequence: Sequential | None
) -> schemas.DifferenceView:
    shown = schemas.SequentialView(method=METHOD, **asdict(sequence)) if sequence else None
    return schemas.DifferenceView(metric=metric, sequential=shown, **asdict(found))

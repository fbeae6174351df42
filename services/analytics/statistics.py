"""Drift and comparison over the roll-ups: read, compute, shape."""

from dataclasses import asdict
from datetime import datetime

from libs.common.errors import NotFoundError
from services.analytics import schemas
from services.analytics.domain.aggregate import Aggregate, by_key
from services.analytics.domain.compare import Difference, is_split_valid, rate_difference
from services.analytics.domain.drift import Drift, category_drift, judge_all, numeric_drift
from services.analytics.domain.ports import Filters, RollupReader, SeriesFigures
from services.analytics.domain.windows import closed_window

_NUMBERS = ("score", "confidence", "input_length", "latency_ms", "freshness_s")
_CATEGORIES = ("label", "risk", "decision")


class Statistics:
    """Answers the drift and comparison routes."""

    def __init__(self, reader: RollupReader) -> None:
        self._reader = reader

    async def drift(
        self, tenant: str, query: schemas.DriftQuery, now: datetime
    ) -> schemas.DriftReport:
        """Compare the last closed window with the one before, per model version."""
        window = closed_window(now, query.time_window_minutes)
        filters = Filters("prediction", query.model, query.version, histograms=_NUMBERS)
        current = _by_version(await self._reader.read(tenant, window, filters))
        before = _by_version(await self._reader.read(tenant, window.previous(), filters))
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
            reference_start=window.previous().start,
            items=[
                schemas.DriftView(
                    model=key[0], version=key[1], metric=key[2], **asdict(judged["\0".join(key)])
                )
                for key in found
            ],
        )

    async def compare(
        self, tenant: str, query: schemas.ComparisonQuery, now: datetime
    ) -> schemas.Comparison:
        """Compare two versions of a model over the last closed window.

        Raises:
            NotFoundError: neither version was seen in the window.
        """
        window = closed_window(now, query.time_window_minutes)
        series = await self._reader.read(
            tenant, window, Filters("prediction", query.model, histograms=())
        )
        versions = _by_version(series)
        a = versions.get((query.model, query.version_a), Aggregate())
        b = versions.get((query.model, query.version_b), Aggregate())
        if not a.requests and not b.requests:
            raise NotFoundError("Neither version was seen in the window.")
        pairs = {
            "error_rate": ((a.sums.errors, a.requests), (b.sums.errors, b.requests)),
            "degraded_rate": ((a.sums.degraded, a.requests), (b.sums.degraded, b.requests)),
        }
        return schemas.Comparison(
            start=window.start,
            end=window.end,
            looks=query.looks,
            is_split_valid=(
                None
                if query.share_b is None
                else is_split_valid(a.requests, b.requests, query.share_b)
            ),
            items=[
                _difference_view(metric, rate_difference(*pair, looks=query.looks))
                for metric, pair in pairs.items()
            ],
        )


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
    features = [_feature_counts(window) for window in (current, before)]
    if any(any(counts.values()) for counts in features):
        found["missing_features"] = category_drift(*features)
    return found


def _feature_counts(window: Aggregate) -> dict[str, int]:
    """Give how many feature values were there and how many were missing."""
    return {"used": window.sums.features_used, "missing": window.sums.features_missing}


def _difference_view(metric: str, found: Difference) -> schemas.DifferenceView:
    return schemas.DifferenceView(metric=metric, **asdict(found))

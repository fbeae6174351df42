"""From series to the figures of a window: totals, rates, quantiles; None where nothing was seen."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from services.analytics.domain.fold import Sums
from services.analytics.domain.histogram import merge, quantiles
from services.analytics.domain.ports import SeriesFigures

SENTIMENTS = ("positive", "neutral", "negative")
# A correlation of fewer pairs says nothing.
CORRELATION_PAIRS_MIN = 3


@dataclass(slots=True)
class Aggregate:
    """Figures of any set of series."""

    sums: Sums = field(default_factory=Sums)
    histograms: dict[str, dict[int, int]] = field(default_factory=dict)
    categories: dict[str, Counter[str]] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        """How many events."""
        return self.sums.n

    @property
    def error_rate(self) -> float | None:
        """Failed over all, None without traffic."""
        return ratio(self.sums.errors, self.sums.n)

    @property
    def average_confidence(self) -> float | None:
        """Mean of the confidences given, None when none was."""
        return ratio(self.sums.confidence_sum, self.sums.confidence_n)

    @property
    def latency_mean(self) -> float | None:
        """Exact mean latency in milliseconds."""
        return ratio(self.sums.latency_sum, self.sums.latency_n)

    @property
    def missing_rate(self) -> float | None:
        """Missing features over all features asked for."""
        asked = self.sums.features_used + self.sums.features_missing
        return ratio(self.sums.features_missing, asked)

    @property
    def blocked(self) -> int:
        """How many verdicts blocked."""
        return self.categories.get("action", Counter())["block"]

    def quantiles(self, metric: str, shares: Iterable[float]) -> list[float | None]:
        """Estimate quantiles of a metric within 1 %; latency stays within its exact bounds."""
        found = quantiles(self.histograms.get(metric, {}), shares)
        low, high = self.sums.latency_min, self.sums.latency_max
        if metric != "latency_ms" or low is None or high is None:
            return found
        return [None if value is None else min(max(value, low), high) for value in found]

    @property
    def p95(self) -> float | None:
        """95th percentile of the latency in milliseconds."""
        return self.quantiles("latency_ms", (0.95,))[0]

    def counts(self, metric: str) -> dict[str, int]:
        """Counts per category of a metric, largest first."""
        return dict(self.categories.get(metric, Counter()).most_common())

    def sentiments(self) -> dict[str, int]:
        """Counts of the three sentiments, zeros included."""
        labels = self.categories.get("label", Counter())
        return {name: labels[name] for name in SENTIMENTS}

    def length_latency_correlation(self) -> float | None:
        """Pearson correlation of input length and latency; None below 3 pairs or without spread."""
        s = self.sums
        if s.pair_n < CORRELATION_PAIRS_MIN:
            return None
        spread_x = s.pair_n * s.pair_xx - s.pair_x**2
        spread_y = s.pair_n * s.pair_yy - s.pair_y**2
        # Sums of squares cancel; below this share of the sum the spread is rounding noise.
        if spread_x <= 1e-9 * s.pair_n * s.pair_xx or spread_y <= 1e-9 * s.pair_n * s.pair_yy:
            return None
        value = (s.pair_n * s.pair_xy - s.pair_x * s.pair_y) / math.sqrt(spread_x * spread_y)
        return max(-1.0, min(1.0, value))


def ratio(part: float, whole: float) -> float | None:
    """Divide, or give None when there is nothing to divide by."""
    return part / whole if whole else None


def aggregate(series: Iterable[SeriesFigures]) -> Aggregate:
    """Add the figures of several series."""
    result = Aggregate()
    for one in series:
        result.sums.add(one.sums)
        for metric, histogram in one.histograms.items():
            result.histograms[metric] = merge((result.histograms.get(metric, {}), histogram))
        for metric, counts in one.categories.items():
            result.categories.setdefault(metric, Counter()).update(counts)
    return result


def by_key(
    series: Sequence[SeriesFigures], key: Callable[[SeriesFigures], tuple[str, ...]]
) -> dict[tuple[str, ...], Aggregate]:
    """Aggregate per group, in the order of the group keys."""
    groups: dict[tuple[str, ...], list[SeriesFigures]] = {}
    for one in series:
        groups.setdefault(key(one), []).append(one)
    return {name: aggregate(groups[name]) for name in sorted(groups)}

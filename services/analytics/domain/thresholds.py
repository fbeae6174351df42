"""Thresholds and their judgement: limits on levels and on change against the window before.

Absolute limits are the mission's: average confidence and inference time (its 95th percentile), each
with a warning and a critical level. Changes need `samples_min` requests in both windows; below it
nothing is said. Rates are compared with a two-proportion z statistic, so that noise is no change.
"""

import math
from dataclasses import dataclass, fields
from typing import Literal

from services.analytics.domain.aggregate import Aggregate

Severity = Literal["low", "medium", "high", "critical"]
Status = Literal["OK", "WARNING", "CRITICAL"]
Kind = Literal["absolute", "change"]
SEVERITIES: tuple[Severity, ...] = ("low", "medium", "high", "critical")
# A rate must move by this many standard errors before it counts as changed (p < 0.001, one-sided).
CHANGE_Z_MIN = 3.1


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Limits of one tenant; defaults are the mission's where it gives any.

    Confidence and rates are shares in [0, 1]; `*_change_ratio` compares with the window before.
    `alert_*` say how alerts are judged: over which window, after how many minutes in a row, and at
    which share of the limit they end.
    """

    min_confidence_warning: float = 0.6
    min_confidence_critical: float = 0.4
    max_inference_time_warning_ms: float = 200.0
    max_inference_time_critical_ms: float = 500.0
    max_error_rate_warning: float = 0.01
    max_error_rate_critical: float = 0.05
    latency_change_ratio: float = 1.5
    traffic_drop_ratio: float = 0.5
    samples_min: int = 50
    alert_window_minutes: int = 5
    alert_for_minutes: int = 3
    alert_clear_ratio: float = 0.9


THRESHOLD_NAMES = tuple(item.name for item in fields(Thresholds))


@dataclass(frozen=True, slots=True)
class Breach:
    """One limit that a window broke; `n` is the sample it was judged on."""

    metric: str
    kind: Kind
    value: float
    limit: float
    severity: Severity
    n: int


def crossings(limits: Thresholds) -> list[tuple[str, str]]:
    """List the fields that contradict each other, as (field, what is wrong)."""
    wrong = []
    if limits.min_confidence_critical >= limits.min_confidence_warning:
        wrong.append(("min_confidence_critical", "must be below min_confidence_warning"))
    if limits.max_inference_time_critical_ms <= limits.max_inference_time_warning_ms:
        wrong.append(
            ("max_inference_time_critical_ms", "must be above max_inference_time_warning_ms")
        )
    if limits.max_error_rate_critical <= limits.max_error_rate_warning:
        wrong.append(("max_error_rate_critical", "must be above max_error_rate_warning"))
    return wrong


def judge(
    current: Aggregate,
    previous: Aggregate | None,
    limits: Thresholds,
    *,
    change_z: float = CHANGE_Z_MIN,
) -> list[Breach]:
    """List what a window broke, gravest first; an empty window breaks no level.

    Args:
        current, previous: the two windows; without `previous` changes are not judged.
        limits: what counts as broken.
        change_z: standard errors by which a rate must move before it counts as changed.
    """
    found = [*_levels(current, limits)]
    if previous is not None:
        found += _changes(current, previous, limits, change_z)
    return sorted(found, key=lambda breach: (-SEVERITIES.index(breach.severity), breach.metric))


def status_of(breaches: list[Breach]) -> Status:
    """Give the mission's status word: critical levels, any other breach, or none."""
    if any(breach.severity == "critical" for breach in breaches):
        return "CRITICAL"
    return "WARNING" if breaches else "OK"


def _levels(current: Aggregate, limits: Thresholds) -> list[Breach]:
    found: list[Breach] = []

    def check(
        metric: str, value: float | None, warning: float, critical: float, n: int, *, low: bool
    ) -> None:
        if value is None:
            return
        for limit, severity in ((critical, "critical"), (warning, "medium")):
            if value < limit if low else value > limit:
                level: Severity = "critical" if severity == "critical" else "medium"
                found.append(Breach(metric, "absolute", value, limit, level, n))
                return

    check(
        "average_confidence",
        current.average_confidence,
        limits.min_confidence_warning,
        limits.min_confidence_critical,
        current.sums.confidence_n,
        low=True,
    )
    check(
        "latency_p95_ms",
        current.p95,
        limits.max_inference_time_warning_ms,
        limits.max_inference_time_critical_ms,
        current.sums.latency_n,
        low=False,
    )
    if current.requests >= limits.samples_min:
        check(
            "error_rate",
            current.error_rate,
            limits.max_error_rate_warning,
            limits.max_error_rate_critical,
            current.requests,
            low=False,
        )
    return found


def _changes(
    current: Aggregate, previous: Aggregate, limits: Thresholds, change_z: float
) -> list[Breach]:
    found: list[Breach] = []
    n, m = current.requests, previous.requests
    # Traffic that stops is its own rule: there is no error rate to look at.
    if m >= limits.samples_min and n < limits.traffic_drop_ratio * m:
        severity: Severity = "high" if n == 0 else "medium"
        found.append(Breach("requests", "change", n, limits.traffic_drop_ratio * m, severity, m))
    if n < limits.samples_min or m < limits.samples_min:
        return found
    now, before = current.p95, previous.p95
    if now is not None and before is not None and now > limits.latency_change_ratio * before:
        limit = limits.latency_change_ratio * before
        found.append(
            Breach("latency_p95_ms", "change", now, limit, "medium", current.sums.latency_n)
        )
    for metric in ("error_rate", "missing_features_rate", "block_rate"):
        rates = _rate(metric, current), _rate(metric, previous)
        found += _rate_change(metric, *rates, limits, change_z)
    return found


def _rate(metric: str, figures: Aggregate) -> tuple[int, int]:
    """Give (hits, trials) of a rate."""
    sums = figures.sums
    if metric == "missing_features_rate":
        return sums.features_missing, sums.features_used + sums.features_missing
    if metric == "block_rate":
        return figures.blocked, sum(figures.counts("action").values())
    return sums.errors, sums.n


def _rate_change(
    metric: str,
    current: tuple[int, int],
    previous: tuple[int, int],
    limits: Thresholds,
    change_z: float,
) -> list[Breach]:
    """Two-proportion z test, one-sided, pooled; needs `samples_min` trials on both sides.

    The limit shown is the previous rate plus `change_z` standard errors.
    """
    (hits, n), (hits_before, m) = current, previous
    if n < limits.samples_min or m < limits.samples_min:
        return []
    pooled = (hits + hits_before) / (n + m)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    limit = hits_before / m + change_z * error
    rate = hits / n
    return [Breach(metric, "change", rate, limit, "medium", n)] if rate > limit else []

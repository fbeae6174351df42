"""Alerts: one small state machine per watched figure, with patience and hysteresis; pure.

    quiet   --limit broken-->                    pending
    pending --not broken-->                      quiet
    pending --broken for `alert_for_minutes`-->  firing
    firing  --inside the tighter clear limits--> quiet
    firing  --nothing known for an hour-->       quiet

A figure between its limit and its clear limit changes nothing. Changes are judged against the
window before the first broken one: else the new level would be its own baseline after one window
and the alert would end while nothing is better. After `BASELINE_HOLD` the new level is the usual.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from services.analytics.domain.aggregate import Aggregate
from services.analytics.domain.thresholds import (
    CHANGE_Z_MIN,
    SEVERITIES,
    Breach,
    Kind,
    Severity,
    Thresholds,
    judge,
)
from services.analytics.domain.windows import MINUTE

State = Literal["quiet", "pending", "firing"]
Seen = Literal["broken", "between", "inside", "unknown"]
Reason = Literal["limit_broken", "graver", "back_inside", "no_data"]
FORGET_AFTER = timedelta(hours=1)
BASELINE_HOLD = timedelta(hours=6)


class Watched(NamedTuple):
    """What an alert is about; empty model and release mean all traffic."""

    model: str
    release: str
    metric: str
    kind: Kind


WATCHED: tuple[tuple[str, Kind], ...] = (
    ("average_confidence", "absolute"),
    ("latency_p95_ms", "absolute"),
    ("error_rate", "absolute"),
    ("requests", "change"),
    ("latency_p95_ms", "change"),
    ("error_rate", "change"),
    ("missing_features_rate", "change"),
    ("block_rate", "change"),
)


@dataclass(frozen=True, slots=True)
class Observation:
    """How a figure stands to its limits; `breach` is given when it broke one."""

    seen: Seen
    breach: Breach | None = None


@dataclass(frozen=True, slots=True)
class Alert:
    """The present state of one watched figure.

    Attributes:
        since: the minute in which this state began.
        severity, value, limit, n: of the gravest, respectively the latest broken limit.
        baseline_end: changes are judged against the window that ends here.
        unknown_since: since when nothing is known of the figure, None when it is.
    """

    watched: Watched
    state: State
    since: datetime
    severity: Severity
    value: float
    limit: float
    n: int
    baseline_end: datetime
    unknown_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Transition:
    """What somebody should hear of: an alert that fires, gets graver, or ends."""

    alert: Alert
    before: State
    at: datetime
    reason: Reason


def tightened(limits: Thresholds) -> Thresholds:
    """Give the clear limits: what a figure must reach before its alert ends."""
    share = limits.alert_clear_ratio
    return replace(
        limits,
        min_confidence_warning=min(1.0, limits.min_confidence_warning / share),
        min_confidence_critical=min(1.0, limits.min_confidence_critical / share),
        max_inference_time_warning_ms=limits.max_inference_time_warning_ms * share,
        max_inference_time_critical_ms=limits.max_inference_time_critical_ms * share,
        max_error_rate_warning=limits.max_error_rate_warning * share,
        max_error_rate_critical=limits.max_error_rate_critical * share,
        latency_change_ratio=1 + (limits.latency_change_ratio - 1) * share,
        traffic_drop_ratio=1 - (1 - limits.traffic_drop_ratio) * share,
    )


def observe(
    current: Aggregate, baseline: Aggregate, limits: Thresholds
) -> dict[tuple[str, Kind], Observation]:
    """Say of each watched figure how it stands; below `samples_min` nothing is known."""
    broken = {(b.metric, b.kind): b for b in reversed(judge(current, baseline, limits))}
    strict = {
        (b.metric, b.kind)
        for b in judge(
            current, baseline, tightened(limits), change_z=CHANGE_Z_MIN * limits.alert_clear_ratio
        )
    }
    found = {}
    for metric, kind in WATCHED:
        key = (metric, kind)
        if not _is_known(metric, kind, current, baseline, limits.samples_min):
            found[key] = Observation("unknown")
        elif key in broken:
            found[key] = Observation("broken", broken[key])
        else:
            found[key] = Observation("between" if key in strict else "inside")
    return found


def _is_known(
    metric: str, kind: Kind, current: Aggregate, baseline: Aggregate, samples_min: int
) -> bool:
    sides = [current] if kind == "absolute" else [current, baseline]
    if metric == "requests":
        sides = [baseline]
    return all(_samples(metric, side) >= samples_min for side in sides)


def _samples(metric: str, figures: Aggregate) -> int:
    sums = figures.sums
    samples: Mapping[str, int] = {
        "average_confidence": sums.confidence_n,
        "latency_p95_ms": sums.latency_n,
        "missing_features_rate": sums.features_used + sums.features_missing,
        "block_rate": sum(figures.counts("action").values()),
    }
    return samples.get(metric, sums.n)


def step(
    alert: Alert | None,
    watched: Watched,
    seen: Observation,
    at: datetime,
    limits: Thresholds,
    window_start: datetime,
) -> tuple[Alert | None, Transition | None]:
    """Move one alert by one observation.

    Args:
        alert: its state, None when quiet.
        watched: what it is about.
        seen: how the figure stands now.
        at: end of the observed window.
        limits: with `alert_for_minutes`.
        window_start: start of the observed window, the baseline's end of a new alert.

    Returns:
        The new state (None when quiet) and what somebody should hear of, if anything.
    """
    if alert is None:
        if seen.breach is None:
            return None, None
        b = seen.breach
        begun = Alert(watched, "pending", at, b.severity, b.value, b.limit, b.n, window_start)
        return _ripened(begun, at, limits)
    if seen.seen == "unknown":
        since = alert.unknown_since or at
        if at - since >= FORGET_AFTER:
            return None, _ending(alert, at, "no_data")
        return replace(alert, unknown_since=since), None
    alert = replace(alert, unknown_since=None)
    if seen.breach is not None:
        return _broken_again(alert, seen.breach, at, limits)
    if alert.state == "pending" or seen.seen == "inside":
        return None, _ending(alert, at, "back_inside")
    return alert, None


def _broken_again(
    alert: Alert, breach: Breach, at: datetime, limits: Thresholds
) -> tuple[Alert, Transition | None]:
    is_graver = SEVERITIES.index(breach.severity) > SEVERITIES.index(alert.severity)
    severity = breach.severity if is_graver else alert.severity
    updated = replace(alert, severity=severity, value=breach.value, limit=breach.limit, n=breach.n)
    if updated.state == "pending":
        return _ripened(updated, at, limits)
    return updated, Transition(updated, "firing", at, "graver") if is_graver else None


def _ripened(alert: Alert, at: datetime, limits: Thresholds) -> tuple[Alert, Transition | None]:
    """Let a pending alert fire once it was broken for `alert_for_minutes` in a row."""
    if at - alert.since + MINUTE < limits.alert_for_minutes * MINUTE:
        return alert, None
    firing = replace(alert, state="firing", since=at)
    return firing, Transition(firing, "pending", at, "limit_broken")


def _ending(alert: Alert, at: datetime, reason: Reason) -> Transition | None:
    """Nobody heard of a pending alert, so nobody hears of its end."""
    if alert.state == "pending":
        return None
    return Transition(replace(alert, state="quiet", since=at), "firing", at, reason)


def baseline_end_of(alerts: list[Alert], window_start: datetime) -> datetime:
    """Choose the baseline of a scope: frozen while one of its changes is open, up to a bound."""
    frozen = [
        alert.baseline_end
        for alert in alerts
        if alert.watched.kind == "change" and window_start - alert.baseline_end < BASELINE_HOLD
    ]
    return min(frozen, default=window_start)

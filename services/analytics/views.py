"""Shaping of domain values into wire models."""

from dataclasses import asdict
from datetime import datetime

from services.analytics.domain.aggregate import Aggregate, aggregate, by_key, ratio
from services.analytics.domain.histogram import RELATIVE_ERROR_MAX
from services.analytics.domain.ports import SeriesFigures, Watermark
from services.analytics.domain.thresholds import Breach, status_of
from services.analytics.domain.windows import SETTLE, Window
from services.analytics.schemas import (
    Aggregated,
    BreachView,
    CacheView,
    GuardrailsView,
    LatencyView,
    ModelView,
    PreviousView,
    Totals,
    WatermarkView,
    WindowView,
)


def window_view(window: Window, mark: Watermark, now: datetime) -> WindowView:
    """Describe a window and whether all of it is counted."""
    reached = mark.caught_up_at
    return WindowView(
        start=window.start,
        end=window.end,
        minutes=window.minutes,
        complete=reached is not None and reached >= window.end + SETTLE,
        watermark=WatermarkView(
            log_index=mark.log_index,
            log_size=mark.log_size,
            event_time=mark.event_time,
            age_s=None if reached is None else round((now - reached).total_seconds(), 3),
        ),
    )


def latency_view(figures: Aggregate) -> LatencyView:
    """Describe the latencies."""
    p50, p95, p99 = figures.quantiles("latency_ms", (0.5, 0.95, 0.99))
    return LatencyView(
        count=figures.sums.latency_n,
        min=figures.sums.latency_min,
        max=figures.sums.latency_max,
        mean=figures.latency_mean,
        p50=p50,
        p95=p95,
        p99=p99,
        max_relative_error=RELATIVE_ERROR_MAX,
    )


def _totals(figures: Aggregate, elapsed_s: float) -> Totals:
    return Totals(
        requests=figures.requests,
        errors=figures.sums.errors,
        degraded=figures.sums.degraded,
        error_rate=figures.error_rate,
        throughput_rps=ratio(figures.requests, elapsed_s),
    )


def _models(series: list[SeriesFigures]) -> list[ModelView]:
    groups = by_key(
        series,
        lambda one: (one.series.model, one.series.version, one.series.release, one.series.arm),
    )
    return [
        ModelView(
            model=model,
            version=version,
            release=release,
            arm=arm,
            requests=figures.requests,
            error_rate=figures.error_rate,
            average_confidence=figures.average_confidence,
            p95=figures.p95,
        )
        for (model, version, release, arm), figures in groups.items()
    ]


def _guardrails(verdicts: list[SeriesFigures]) -> GuardrailsView:
    figures = aggregate(verdicts)
    actions = figures.counts("action")
    return GuardrailsView(
        checked=figures.requests,
        blocked=actions.get("block", 0),
        masked=actions.get("mask", 0),
        flagged=actions.get("flag", 0),
    )


def _previous(figures: Aggregate | None) -> PreviousView | None:
    if figures is None:
        return None
    return PreviousView(
        requests=figures.requests,
        error_rate=figures.error_rate,
        average_confidence=figures.average_confidence,
        p95=figures.p95,
    )


def aggregated(
    *,
    window: WindowView,
    elapsed_s: float,
    series: list[SeriesFigures],
    verdicts: list[SeriesFigures],
    previous: Aggregate | None,
    breaches: list[Breach],
    thresholds_version: int,
) -> Aggregated:
    """Build the answer of `POST /metrics/aggregated`."""
    figures = aggregate(series)
    sums = figures.sums
    return Aggregated(
        status=status_of(breaches),
        total_predictions=figures.requests,
        average_confidence=figures.average_confidence,
        sentiment_distribution=figures.sentiments(),
        label_distribution=figures.counts("label"),
        input_length_latency_correlation=figures.length_latency_correlation(),
        window=window,
        totals=_totals(figures, elapsed_s),
        latency_ms=latency_view(figures),
        guardrails=_guardrails(verdicts),
        cache=CacheView(
            hits=sums.cached,
            misses=sums.cacheable - sums.cached,
            hit_rate=ratio(sums.cached, sums.cacheable),
        ),
        by_model=_models(series),
        previous=_previous(previous),
        breaches=[BreachView(**asdict(breach)) for breach in breaches],
        thresholds_version=str(thresholds_version),
    )

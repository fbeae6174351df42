"""The charts: read, compute what is drawn, draw; each serves for the rest of its minute."""

from collections import OrderedDict
from datetime import datetime, timedelta
from typing import Literal

from services.analytics import schemas
from services.analytics.adapters.charts import Bars, Bins, ChartRenderer, Lines
from services.analytics.adapters.rollups import RollupStore
from services.analytics.adapters.thresholds import ThresholdStore
from services.analytics.domain.aggregate import Aggregate, aggregate
from services.analytics.domain.chart_data import (
    HOUR_STEP,
    SHARES,
    binned,
    edges_of,
    step_minutes,
)
from services.analytics.domain.drift import CATEGORIES_MAX
from services.analytics.domain.ports import Filters
from services.analytics.domain.windows import MINUTE, Window, closed_window, floor_hour
from services.analytics.statistics import Statistics

Kind = Literal["latency", "confidence", "distribution", "drift"]
KINDS: tuple[Kind, ...] = ("latency", "confidence", "distribution", "drift")
_CATEGORIES = frozenset({"label", "risk", "decision"})
_UNITS = {"latency_ms": "ms", "input_length": "characters", "freshness_s": "s"}
# Drawn charts kept per process; one is 15 to 60 kB.
KEPT_MAX = 128


class Charts:
    """Answers the chart routes."""

    def __init__(
        self,
        store: RollupStore,
        thresholds: ThresholdStore,
        statistics: Statistics,
        renderer: ChartRenderer,
    ) -> None:
        self._store = store
        self._thresholds = thresholds
        self._statistics = statistics
        self._renderer = renderer
        self._kept: OrderedDict[tuple[object, ...], bytes] = OrderedDict()

    async def svg(self, tenant: str, kind: Kind, query: schemas.ChartQuery, now: datetime) -> bytes:
        """Give a chart of the last closed window.

        Raises:
            UnavailableError: the database does not answer.
        """
        window = closed_window(now, query.time_window_minutes)
        limits = await self._thresholds.current(tenant)
        key = (tenant, kind, query, window, limits.version)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        chart: Lines | Bins | Bars
        if kind in ("latency", "confidence"):
            chart = await self._over_time(tenant, kind, query, window)
        elif kind == "distribution":
            chart = await self._distribution(tenant, query, window)
        else:
            chart = await self._drift(tenant, query, now)
        drawn = await self._renderer.draw(chart)
        self._kept[key] = drawn
        while len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
        return drawn

    async def _over_time(
        self, tenant: str, kind: Kind, query: schemas.ChartQuery, window: Window
    ) -> Lines:
        step = step_minutes(window.minutes)
        start = floor_hour(window.start) if step == HOUR_STEP else window.start
        wanted = ("latency_ms",) if kind == "latency" else ()
        filters = Filters(
            "prediction", query.model, query.version, query.release, query.route, wanted
        )
        found = await self._store.points(tenant, Window(start, window.end), filters, step)
        count = -(-int((window.end - start) / MINUTE) // step)
        times = [start + timedelta(minutes=step * at) for at in range(count)]
        figures = [found.get(at, Aggregate()) for at in times]
        limits = (await self._thresholds.current(tenant)).limits
        where = _where(query)
        if kind == "confidence":
            return Lines(
                f"Average confidence{where}",
                "confidence",
                times,
                {"mean": [one.average_confidence for one in figures]},
                (limits.min_confidence_warning, limits.min_confidence_critical),
            )
        shares = (0.5, 0.95, 0.99)
        columns = zip(*(one.quantiles("latency_ms", shares) for one in figures), strict=True)
        return Lines(
            f"Latency{where}",
            "ms",
            times,
            dict(zip(("p50", "p95", "p99"), columns, strict=True)),
            (limits.max_inference_time_warning_ms, limits.max_inference_time_critical_ms),
        )

    async def _distribution(self, tenant: str, query: schemas.ChartQuery, window: Window) -> Bins:
        metric = query.metric
        filters = Filters(
            "prediction", query.model, query.version, query.release, query.route, (metric,)
        )
        now, before = [
            aggregate(await self._store.read(tenant, part, filters))
            for part in (window, window.previous())
        ]
        title = f"Distribution of {metric}{_where(query)}, now and in the window before"
        if metric in _CATEGORIES:
            counts, counts_before = now.counts(metric), before.counts(metric)
            names = list(dict.fromkeys((*counts, *counts_before)))[:CATEGORIES_MAX]
            return Bins(
                title, "", _shares(counts, names), _shares(counts_before, names), names=names
            )
        histograms = [one.histograms.get(metric, {}) for one in (now, before)]
        edges = edges_of(metric, histograms)
        shares, shares_before = (binned(one, edges) for one in histograms)
        is_log = metric not in SHARES
        unit = _UNITS.get(metric, metric)
        return Bins(title, unit, shares, shares_before, edges=edges, is_log=is_log)

    async def _drift(self, tenant: str, query: schemas.ChartQuery, now: datetime) -> Bars:
        report = await self._statistics.drift(
            tenant,
            schemas.DriftQuery(
                time_window_minutes=query.time_window_minutes,
                model=query.model,
                version=query.version,
            ),
            now,
        )
        rows = [
            (f"{row.model} {row.version} {row.metric}", row.effect, row.verdict)
            for row in report.items
        ]
        rows += [
            (f"{row.model} {row.version} {_watched(row)}", row.effect, row.verdict)
            for row in report.inputs
        ]
        rows.sort(key=lambda row: (-row[1], row[0]))
        title = f"Drift{_where(query)}: against the window before, inputs against training"
        return Bars(title, rows)


def _shares(counts: dict[str, int], names: list[str]) -> list[float]:
    total = sum(counts.values())
    return [counts.get(name, 0) / total if total else 0.0 for name in names]


def _watched(row: schemas.InputDriftView) -> str:
    return "score against training" if row.kind == "score" else f"input {row.name}"


def _where(query: schemas.ChartQuery) -> str:
    parts = [part for part in (query.model, query.version, query.release, query.route) if part]
    return f" of {' '.join(parts)}" if parts else ""

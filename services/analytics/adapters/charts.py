"""Charts as SVG by matplotlib.

The library costs 0.7 s and 56 MiB, so it is imported with the first chart and on a thread of its
own: it is not safe for several threads at once, and the event loop must go on meanwhile. Figures
are made without pyplot, which would keep each of them; they are gone when the bytes are.
Text stays text (readable, searchable) and is never read as formula.
"""

import asyncio
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from services.analytics.domain.drift import MINOR_BELOW, MODERATE_BELOW

_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gatehouse",
    "text.parse_math": False,
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}
_SIZE_INCHES = (8.0, 3.0)
_COLOURS = {"p50": "#4c78a8", "p95": "#f58518", "p99": "#b279a2", "mean": "#4c78a8",
            "now": "#4c78a8", "before": "#9d9d9d"}  # fmt: skip
_VERDICTS = {"insufficient_data": "#bab0ac", "none": "#54a24b", "minor": "#eeca3b",
             "moderate": "#f58518", "major": "#e45756"}  # fmt: skip
_WARNING, _CRITICAL = "#eeca3b", "#e45756"
BARS_MAX = 30
_BAR_INCHES = 0.2


@dataclass(frozen=True, slots=True)
class Lines:
    """Values over time; None is a gap. Limits are (warning, critical)."""

    title: str
    unit: str
    times: Sequence[datetime]
    series: dict[str, Sequence[float | None]]
    limits: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Bins:
    """Shares per bin, now and before; `edges` for numbers, `names` for categories."""

    title: str
    unit: str
    now: Sequence[float]
    before: Sequence[float]
    edges: Sequence[float] = ()
    names: Sequence[str] = ()
    is_log: bool = False


@dataclass(frozen=True, slots=True)
class Bars:
    """Effects by name with their verdicts, the largest first."""

    title: str
    rows: Sequence[tuple[str, float, str]]


class ChartRenderer:
    """Draws charts on one thread; one per process."""

    def __init__(self, cache_directory: Path) -> None:
        self._directory = cache_directory
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="charts")

    async def draw(self, chart: Lines | Bins | Bars) -> bytes:
        """Give the SVG document of a chart."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._draw, chart)

    def _draw(self, chart: Lines | Bins | Bars) -> bytes:
        # Without it the library writes its list of fonts below the home directory.
        os.environ.setdefault("MPLCONFIGDIR", str(self._directory))
        import matplotlib as mpl
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        with mpl.rc_context(_RC):
            figure = Figure(figsize=_size_of(chart), layout="constrained")
            FigureCanvasSVG(figure)
            axes = figure.add_subplot()
            axes.set_title(chart.title, loc="left")
            _draw_on(axes, chart)
            written = io.BytesIO()
            metadata = {"Title": chart.title, "Date": None, "Creator": None}
            figure.savefig(written, format="svg", transparent=True, metadata=metadata)
        return written.getvalue()

    def close(self) -> None:
        """End the thread once the chart in hand is done."""
        self._thread.shutdown(wait=True, cancel_futures=True)


def _size_of(chart: Lines | Bins | Bars) -> tuple[float, float]:
    """Give width and height in inches; bars get the room that their names need."""
    width, height = _SIZE_INCHES
    if isinstance(chart, Bars):
        height = max(height, 1 + _BAR_INCHES * min(len(chart.rows), BARS_MAX))
    return width, height


def _draw_on(axes: Any, chart: Lines | Bins | Bars) -> None:
    if isinstance(chart, Lines):
        is_drawn = _lines(axes, chart)
    elif isinstance(chart, Bins):
        is_drawn = _bins(axes, chart)
    else:
        is_drawn = _bars(axes, chart)
    if not is_drawn:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no data", ha="center", va="center", transform=axes.transAxes)


def _lines(axes: Any, chart: Lines) -> bool:
    import matplotlib.dates

    dates: Any = matplotlib.dates

    if not any(value is not None for values in chart.series.values() for value in values):
        return False
    for name, values in chart.series.items():
        shown = [float("nan") if value is None else value for value in values]
        axes.plot(chart.times, shown, label=name, color=_COLOURS[name], marker=".", linewidth=1.4)
    for limit, colour, name in zip(
        chart.limits, (_WARNING, _CRITICAL), ("warning", "critical"), strict=True
    ):
        axes.axhline(limit, color=colour, linewidth=1, linestyle="--", label=name)
    locator = dates.AutoDateLocator(tz=UTC)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, tz=UTC))
    axes.set_ylabel(chart.unit)
    axes.set_ylim(bottom=0)
    # The whole window, also where few of its minutes have a value.
    if len(chart.times) > 1:
        axes.set_xlim(chart.times[0], chart.times[-1])
    # Above the drawing: inside it would lie on the limits.
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=5)
    return True


def _bins(axes: Any, chart: Bins) -> bool:
    if not any(chart.now) and not any(chart.before):
        return False
    if chart.names:
        at = range(len(chart.names))
        axes.bar([x - 0.2 for x in at], chart.before, 0.4, label="before", color=_COLOURS["before"])
        axes.bar([x + 0.2 for x in at], chart.now, 0.4, label="now", color=_COLOURS["now"])
        axes.set_xticks(list(at), list(chart.names))
    else:
        axes.stairs(chart.before, chart.edges, fill=True, label="before",
                    color=_COLOURS["before"], alpha=0.6)  # fmt: skip
        axes.stairs(chart.now, chart.edges, label="now", color=_COLOURS["now"], linewidth=1.6)
        if chart.is_log:
            axes.set_xscale("log")
        axes.set_xlabel(chart.unit)
    axes.set_ylabel("share")
    axes.legend(loc="upper right", ncols=2)
    return True


def _bars(axes: Any, chart: Bars) -> bool:
    if not chart.rows:
        return False
    rows = list(reversed(chart.rows[:BARS_MAX]))
    axes.barh(
        range(len(rows)),
        [effect for _, effect, _ in rows],
        color=[_VERDICTS[verdict] for _, _, verdict in rows],
    )
    axes.set_yticks(range(len(rows)), [f"{name} ({verdict})" for name, _, verdict in rows])
    axes.axvline(MINOR_BELOW, color=_WARNING, linewidth=1, linestyle="--")
    axes.axvline(MODERATE_BELOW, color=_CRITICAL, linewidth=1, linestyle="--")
    axes.set_xlabel("effect (PSI less its expectation without drift, nats)")
    axes.set_xlim(left=0)
    return True

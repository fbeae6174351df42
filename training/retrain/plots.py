"""The report's pictures, as PNG bytes; the object API of matplotlib, so that no state is shared."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from training import quality
from training.quality import Bools, Floats

_SIZE, _DPI = (5.6, 3.8), 110
_COLOURS = {"champion": "#7a7a7a", "challenger": "#1f6fb2"}
# Below this share of a bin a point of the reliability curve is noise.
_BIN_ROWS_MIN = 20


def precision_recall(labels: Bools, scores: Mapping[str, Floats]) -> bytes:
    """Precision over recall, one line per model."""
    from sklearn.metrics import precision_recall_curve

    figure, axes = _figure("Precision and recall", "recall", "precision")
    for name, values in scores.items():
        precision, recall, _ = precision_recall_curve(labels, values)
        axes.plot(recall, precision, label=name, color=_COLOURS.get(name), linewidth=1.4)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.legend()
    return _png(figure)


def reliability(labels: Bools, scores: Mapping[str, Floats]) -> bytes:
    """Share of fraud over mean score, ten bins; on the diagonal a score is a probability."""
    figure, axes = _figure("Reliability", "mean score", "share of fraud")
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1, linestyle="--")
    for name, values in scores.items():
        bins = [b for b in quality.reliability(labels, values) if b.rows >= _BIN_ROWS_MIN]
        axes.plot(
            [b.mean_score for b in bins],
            [b.positive_share for b in bins],
            marker="o",
            markersize=4,
            label=name,
            color=_COLOURS.get(name),
        )
    axes.legend()
    return _png(figure)


def score_histogram(labels: Bools, scores: Floats, thresholds: Mapping[str, float]) -> bytes:
    """Scores of both classes on a logarithmic count, thresholds as lines."""
    figure, axes = _figure("Scores of the challenger", "score", "payments (log)")
    edges = np.linspace(0, 1, 41)
    axes.hist(scores[~labels], edges, color="#9ab8d3", label="genuine", log=True)
    axes.hist(scores[labels], edges, color="#c0392b", alpha=0.7, label="fraud", log=True)
    for name, value in thresholds.items():
        axes.axvline(value, color="#333333", linewidth=0.9, linestyle=":")
        axes.text(value, axes.get_ylim()[1] * 0.5, f" {name}", rotation=90, fontsize=7)
    axes.legend()
    return _png(figure)


def bars(title: str, label: str, values: Mapping[str, float], mark: float | None = None) -> bytes:
    """Horizontal bars, largest on top, and a line at `mark`."""
    ordered = sorted(values.items(), key=lambda item: item[1])
    figure, axes = _figure(title, label, "")
    names = [name for name, _ in ordered]
    axes.barh(names, [value for _, value in ordered], color=_COLOURS["challenger"])
    axes.tick_params(axis="y", labelsize=7)
    if mark is not None:
        axes.axvline(mark, color="#c0392b", linewidth=1, linestyle="--")
    return _png(figure)


def recall_bars(title: str, rows: Sequence[tuple[str, float, float, float]]) -> bytes:
    """Recall with its interval per slice: name, value, low, high."""
    figure, axes = _figure(title, "recall at review", "")
    for place, (_, value, low, high) in enumerate(reversed(rows)):
        axes.plot([low, high], [place, place], color="#7a7a7a", linewidth=2)
        axes.plot([value], [place], marker="o", color=_COLOURS["challenger"])
    axes.set_yticks(range(len(rows)), [row[0] for row in reversed(rows)], fontsize=7)
    axes.set_xlim(0, 1)
    return _png(figure)


def _figure(title: str, x: str, y: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.grid(alpha=0.25)
    return figure, axes


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()

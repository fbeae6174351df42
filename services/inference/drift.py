"""Watches the rows and scores of each loaded tabular version and shows their drift as metrics."""

from typing import Any

from services.inference.domain.drift import DriftWindow
from services.inference.domain.model import TabularModel
from services.inference.domain.ports import Rows, Scores
from services.inference.metrics import InferenceMetrics

# Versions watched at once; the oldest gives way.
_WATCHED_MAX = 16


class DriftMonitor:
    """One window per version."""

    def __init__(self, metrics: InferenceMetrics) -> None:
        self._metrics = metrics
        self._windows: dict[tuple[str, str], DriftWindow] = {}

    def add(self, model: TabularModel, rows: Rows, scores: Scores) -> None:
        """Keep what a version has just scored."""
        window = self._windows.get((model.name, model.version))
        if window is None:
            if len(self._windows) >= _WATCHED_MAX:
                del self._windows[next(iter(self._windows))]
            window = DriftWindow(model.service.names, model.manifest.reference_statistics)
            self._windows[model.name, model.version] = window
        window.add(rows, scores)

    def publish(self) -> None:
        """Compute all indexes, about 2 ms per version, and set the gauges."""
        for (name, version), window in list(self._windows.items()):
            score = window.score_psi()
            if score is not None:
                self._metrics.score_drift.labels(name, version).set(score)
            for feature, value in window.feature_psi().items():
                self._metrics.input_drift.labels(name, version, feature).set(value)

    def report(self, name: str, version: str) -> dict[str, Any] | None:
        """Describe the drift of one version, None before it scored anything."""
        window = self._windows.get((name, version))
        if window is None:
            return None
        return {
            "rows_seen": window.seen,
            "score_psi": _short(window.score_psi()),
            "input_psi": {key: _short(value) for key, value in window.feature_psi().items()},
        }


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)

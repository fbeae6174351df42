"""Watches the rows and scores of each loaded version: drift as metrics, and as events.

Text models have no rows; their scores are watched where the manifest has a reference for them.
"""

import time
from typing import Any

import numpy as np

from libs.common.events.envelope import Event
from libs.common.manifest import Manifest
from services.inference.domain.drift import DriftWindow
from services.inference.domain.model import TabularModel
from services.inference.domain.ports import Rows, Scores
from services.inference.metrics import InferenceMetrics

# Versions watched at once; the oldest gives way.
_WATCHED_MAX = 16
# Inputs that an event names, the most drifted first.
_INPUTS_TOLD = 20


class DriftMonitor:
    """One window per version."""

    def __init__(self, metrics: InferenceMetrics, *, event_s: float = 300.0) -> None:
        self._metrics = metrics
        self._event_s = event_s
        self._told_at = time.monotonic()
        self._told: dict[tuple[str, str], int] = {}
        self._windows: dict[tuple[str, str], tuple[Manifest, DriftWindow]] = {}

    def add(self, model: TabularModel, rows: Rows, scores: Scores) -> None:
        """Keep what a version has just scored."""
        found = self._windows.get((model.name, model.version))
        window = found[1] if found else self._open(model.manifest, model.service.names)
        window.add(rows, scores)

    def add_scores(self, manifest: Manifest, scores: list[float]) -> None:
        """Keep scores of a text model, if its manifest has a reference to hold them against."""
        if "score" not in manifest.reference_statistics:
            return
        found = self._windows.get((manifest.name, str(manifest.version)))
        window = found[1] if found else self._open(manifest, ())
        window.add(np.empty((len(scores), 0), np.float32), np.asarray(scores, np.float64))

    def publish(self) -> None:
        """Compute all indexes, about 2 ms per version, and set the gauges."""
        for (name, version), (_, window) in list(self._windows.items()):
            score = window.score_psi()
            if score is not None:
                self._metrics.score_drift.labels(name, version).set(score)
            for feature, value in window.feature_psi().items():
                self._metrics.input_drift.labels(name, version, feature).set(value)

    def due_events(self) -> list[Event]:
        """Describe each version that answered since the last events; none before their time."""
        if time.monotonic() - self._told_at < self._event_s:
            return []
        self._told_at = time.monotonic()
        events = []
        for key, (manifest, window) in list(self._windows.items()):
            score = window.score_psi()
            if score is None or self._told.get(key) == window.seen:
                continue
            self._told[key] = window.seen
            inputs = sorted(window.feature_psi().items(), key=lambda pair: -pair[1])
            data = {
                "model": manifest.name,
                "version": str(manifest.version),
                "release": manifest.release,
                "rows": window.seen,
                "score_psi": _short(score),
                "input_psi": {name: _short(value) for name, value in inputs[:_INPUTS_TOLD]},
            }
            events.append(
                Event(
                    type="model.drift",
                    source="inference",
                    event_class="sampled",
                    data=data,
                    tenant="default",
                    principal="service:inference",
                )
            )
        return events

    def report(self, name: str, version: str) -> dict[str, Any] | None:
        """Describe the drift of one version, None before it scored anything."""
        found = self._windows.get((name, version))
        if found is None:
            return None
        window = found[1]
        return {
            "rows_seen": window.seen,
            "score_psi": _short(window.score_psi()),
            "input_psi": {key: _short(value) for key, value in window.feature_psi().items()},
        }

    def _open(self, manifest: Manifest, names: tuple[str, ...]) -> DriftWindow:
        if len(self._windows) >= _WATCHED_MAX:
            del self._windows[next(iter(self._windows))]
        window = DriftWindow(names, manifest.reference_statistics)
        self._windows[manifest.name, str(manifest.version)] = (manifest, window)
        return window


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)

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
        """Compute all indexes, a few milliseconds per version, and set the gauges."""
        for (name, version), (_, window) in list(self._windows.items()):
            score = window.score()
            if score is not None:
                self._metrics.score_drift.labels(name, version).set(score.psi)
            for feature, moved in window.inputs().items():
                self._metrics.input_drift.labels(name, version, feature).set(moved.psi)

    def due_events(self) -> list[Event]:
        """Describe each version that answered since the last events; none before their time."""
        if time.monotonic() - self._told_at < self._event_s:
            return []
        self._told_at = time.monotonic()
        events = []
        for key, (manifest, window) in list(self._windows.items()):
            score = window.score()
            if score is None or self._told.get(key) == window.seen:
                continue
            self._told[key] = window.seen
            inputs = window.inputs()
            told = sorted(inputs, key=lambda name: -inputs[name].psi)[:_INPUTS_TOLD]
            data = {
                "model": manifest.name,
                "version": str(manifest.version),
                "release": manifest.release,
                "rows": window.seen,
                "rows_compared": window.held,
                "reference_rows": window.reference_rows,
                "score_psi": _short(score.psi),
                "score_ks": _short(score.ks),
                "score_bins": score.bins,
                "inputs_compared": len(inputs),
                "input_psi": {name: _short(inputs[name].psi) for name in told},
                "input_ks": {name: _short(inputs[name].ks) for name in told},
                "input_known": {name: inputs[name].known for name in told},
                "input_bins": {name: inputs[name].bins for name in told},
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
        score, inputs = window.score(), window.inputs()
        return {
            "rows_seen": window.seen,
            "score_psi": _short(score.psi) if score else None,
            "score_ks": _short(score.ks) if score else None,
            "input_psi": {key: _short(moved.psi) for key, moved in inputs.items()},
            "input_ks": {key: _short(moved.ks) for key, moved in inputs.items()},
        }

    def _open(self, manifest: Manifest, names: tuple[str, ...]) -> DriftWindow:
        if len(self._windows) >= _WATCHED_MAX:
            del self._windows[next(iter(self._windows))]
        window = DriftWindow(names, manifest.reference_statistics)
        self._windows[manifest.name, str(manifest.version)] = (manifest, window)
        return window


def _short(value: float) -> float:
    return round(value, 4)

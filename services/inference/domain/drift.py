"""Drift of one model version: recent inputs and scores against the manifest's reference.

The population stability index over the reference's tenths. Without any drift it is about
`(1/n + 1/m) (bins - 1)` (see the drift notes of analytics); that much is taken off, so that 0 means
"no more than chance" whatever the number of rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS_KEPT = 2_000
# Below this the index says nothing.
ROWS_MIN = 200
_FLOOR = 1e-4


class DriftWindow:
    """The last rows and scores of a version; adding costs one copy."""

    def __init__(self, names: Sequence[str], reference: Mapping[str, Any]) -> None:
        self._names = list(names)
        self._features: Mapping[str, Any] = reference.get("features", {})
        self._score: Sequence[float] = reference.get("score", {}).get("deciles", ())
        self._reference_rows = int(reference.get("rows", 0))
        self._rows = np.full((ROWS_KEPT, len(self._names)), np.nan, np.float32)
        self._scores = np.full(ROWS_KEPT, np.nan)
        self.seen = 0

    def add(self, rows: NDArray[np.float32], scores: NDArray[np.float64]) -> None:
        """Keep rows, shape (n, features), and their scores, shape (n,)."""
        rows, scores = rows[-ROWS_KEPT:], scores[-ROWS_KEPT:]
        at = (self.seen + np.arange(len(rows))) % ROWS_KEPT
        self._rows[at], self._scores[at] = rows, scores
        self.seen += len(rows)

    def score_psi(self) -> float | None:
        """Give the index of the scores, None without enough rows or a reference."""
        if self._held < ROWS_MIN or not _are_distinct(self._score):
            return None
        return self._psi(self._scores[: self._held], self._score, 0.0)

    def feature_psi(self) -> dict[str, float]:
        """Give the index per input; missing values are a bin of their own.

        Inputs of few values are left out: where deciles coincide, they do not say how many rows
        hold the shared value, and any index over them would be made up.
        """
        if self._held < ROWS_MIN or not self._reference_rows:
            return {}
        found = {}
        for column, name in enumerate(self._names):
            known = self._features.get(name, {})
            deciles, missing = known.get("deciles", ()), float(known.get("missing_share", 0.0))
            if _are_distinct(deciles):
                values = self._rows[: self._held, column].astype(np.float64)
                found[name] = self._psi(values, deciles, missing)
        return found

    @property
    def _held(self) -> int:
        return min(self.seen, ROWS_KEPT)

    def _psi(
        self, values: NDArray[np.float64], deciles: Sequence[float], missing_share: float
    ) -> float:
        edges = np.asarray(deciles[1:-1], np.float64)
        expected = np.full(len(edges) + 1, (1 - missing_share) / (len(edges) + 1))
        is_known = ~np.isnan(values)
        bins = np.searchsorted(edges, values[is_known], side="left")
        actual = np.bincount(bins, minlength=len(edges) + 1) / len(values)
        expected = np.append(expected, missing_share)
        actual = np.append(actual, 1 - is_known.mean())
        expected, actual = np.maximum(expected, _FLOOR), np.maximum(actual, _FLOOR)
        index = float(np.sum((actual - expected) * np.log(actual / expected)))
        chance = (1 / len(values) + 1 / self._reference_rows) * (len(expected) - 1)
        return max(0.0, index - chance)


def _are_distinct(deciles: Sequence[float]) -> bool:
    """Whether deciles cut a distribution into real tenths."""
    inner = deciles[1:-1]
    return len(inner) >= 2 and len(set(inner)) == len(inner)

"""Drift of one model version: recent inputs and scores against the manifest's reference.

The population stability index over the reference's tenths. Without any drift it is about
`(1/n + 1/m) (bins - 1)` (see the drift notes of analytics); that much is taken off, so that 0 means
"no more than chance" whatever the number of rows. Beside it stands the largest distance of the two
distribution functions at the tenths (Kolmogorov-Smirnov), a lower bound of the exact one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS_KEPT = 2_000
# Below this the index says nothing.
ROWS_MIN = 200
_FLOOR = 1e-4
# Rows per bin that are added as the reference expects them: without, the index of 200 rows has a
# longer tail than chance is taken for.
_PRIOR = 0.5
# With the least and the largest value.
_DECILES_MIN = 4


@dataclass(frozen=True, slots=True)
class Moved:
    """How far one distribution is from its reference.

    Attributes:
        psi: population stability index less its expectation without drift, at least 0.
        ks: largest distance of the distribution functions of known values at the tenths.
        known: rows that have a value.
        bins: bins of the index, that of missing values included.
    """

    psi: float
    ks: float
    known: int
    bins: int


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

    @property
    def held(self) -> int:
        """Rows that are compared."""
        return min(self.seen, ROWS_KEPT)

    @property
    def reference_rows(self) -> int:
        """Rows behind the reference."""
        return self._reference_rows

    def score(self) -> Moved | None:
        """Compare the scores, None without enough rows or a reference."""
        if self.held < ROWS_MIN or not self._reference_rows or len(self._score) < _DECILES_MIN:
            return None
        return self._moved(self._scores[: self.held], self._score, 0.0)

    def inputs(self) -> dict[str, Moved]:
        """Compare each input; missing values are a bin of their own."""
        if self.held < ROWS_MIN or not self._reference_rows:
            return {}
        found = {}
        for column, name in enumerate(self._names):
            known = self._features.get(name, {})
            deciles, missing = known.get("deciles", ()), float(known.get("missing_share", 0.0))
            if len(deciles) >= _DECILES_MIN:
                values = self._rows[: self.held, column]
                found[name] = self._moved(values, deciles, missing)
        return found

    def _moved(self, values: NDArray[Any], deciles: Sequence[float], missing_share: float) -> Moved:
        known = np.sort(values[~np.isnan(values)])
        # As the values are kept: a tenth that was rounded must meet the rows that hold it.
        edges = np.asarray(deciles[1:-1], values.dtype)
        below, expected_below = _below(known, edges)
        known_share = len(known) / len(values)
        actual = np.append(np.diff([0.0, *below, 1.0]) * known_share, 1 - known_share)
        shares = np.diff([0.0, *expected_below, 1.0]) * (1 - missing_share)
        expected = np.append(shares, missing_share)
        prior = _PRIOR * len(expected)
        actual = (actual * len(values) + prior * expected) / (len(values) + prior)
        expected, actual = np.maximum(expected, _FLOOR), np.maximum(actual, _FLOOR)
        index = float(np.sum((actual - expected) * np.log(actual / expected)))
        chance = (1 / len(values) + 1 / self._reference_rows) * (len(expected) - 1)
        distance = float(np.max(np.abs(below - expected_below)))
        return Moved(max(0.0, index - chance), distance, len(known), len(expected))


def _below(
    known: NDArray[Any], edges: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the share of sorted values up to each distinct edge, and what the reference expects.

    Tenths that coincide are one edge: a value that many rows share is never cut. A tenth says that
    the reference reaches it within that value, not how far beyond; what rows share the value says
    how far it can be, and the nearest that is possible is expected. So inputs of few values never
    look moved for being few, and what is found is a lower bound.
    """
    tenths = np.arange(1, len(edges) + 1) / (len(edges) + 1)
    distinct, at = np.unique(edges, return_index=True)
    first, beyond = tenths[at], np.append(tenths[at[1:]], 1.0)
    last = np.append(tenths[at[1:] - 1], tenths[-1])
    if not len(known):
        return last, last
    under, upto = (
        np.searchsorted(known, distinct, side) / len(known) for side in ("left", "right")
    )
    # A value of one row is no shared one: that is how numbers without ties come.
    shared = np.maximum(0.0, upto - under - 1 / len(known))
    possible = np.maximum(last, np.minimum(first + shared, beyond))
    return upto, np.clip(upto, last, possible)

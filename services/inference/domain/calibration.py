"""Calibration: from a model's own probability to the one that answers show; pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from services.inference.domain.ports import Scores


@dataclass(frozen=True)
class Calibration:
    """From the model's own probability to the one that answers show; never turns the order around.

    Platt scaling of the margin, `sigmoid(slope * margin + intercept)`, or straight lines between
    `knots` (probability before, after). Slope 1, intercept 0 and no knots leave it as it is.
    """

    slope: float = 1.0
    intercept: float = 0.0
    knots: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    @classmethod
    def from_manifest(cls, document: Mapping[str, object]) -> "Calibration":
        """Read the manifest's `calibration`: absent, `{"method": "none"}`,
        `{"method": "platt", "slope", "intercept"}` or `{"method": "isotonic", "x", "y"}`.

        Raises:
            ValueError: another method, numbers that are none, or a curve that falls.
        """
        method = document.get("method", "none")
        if method == "none":
            return cls()
        if method == "isotonic":
            return cls(knots=_knots(document))
        if method != "platt":
            raise ValueError(f"calibration method {method} is not known")
        slope, intercept = float(str(document["slope"])), float(str(document["intercept"]))
        if not (slope > 0 and math.isfinite(slope) and math.isfinite(intercept)):
            raise ValueError("the slope of a calibration must be a number above 0")
        return cls(slope, intercept)

    @cached_property
    def _curve(self) -> NDArray[np.float64]:
        """The knots as arrays, so that no score pays for their conversion."""
        return np.array(self.knots, np.float64)

    def apply(self, probabilities: Scores) -> Scores:
        """Calibrate probabilities, shape kept."""
        if self.knots is not None:
            return np.asarray(np.interp(probabilities, *self._curve))
        if self.slope == 1.0 and self.intercept == 0.0:
            return probabilities
        clipped = np.clip(probabilities, 1e-12, 1 - 1e-12)
        margins = np.log(clipped / (1 - clipped))
        return np.asarray(1.0 / (1.0 + np.exp(-(self.slope * margins + self.intercept))))


def _knots(document: Mapping[str, object]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Read the two ends of each line; both rise within [0, 1]."""
    left, right = document.get("x"), document.get("y")
    if not isinstance(left, list) or not isinstance(right, list):
        raise ValueError("an isotonic calibration needs the lists x and y")
    x, y = tuple(map(float, left)), tuple(map(float, right))
    rises = all(a < b for a, b in pairwise(x)) and all(a <= b for a, b in pairwise(y))
    if len(x) != len(y) or len(x) < 2 or not rises or min(*x, *y) < 0 or max(*x, *y) > 1:
        raise ValueError("x and y of an isotonic calibration must rise within 0 and 1")
    return x, y

"""Chooses how raw scores become probabilities, on validation rows: as they are, Platt, isotonic.

Each candidate is fitted on one half of the cards and judged on the other, both ways round, by log
loss. A candidate replaces "as they are" only if it is better by more than one standard error of
the paired difference: three parameters that gain nothing are three ways to be wrong later.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.inference.domain.calibration import Calibration
from training.quality import Bools, Floats, Ints

_EPSILON = 1e-12
# Blocks of the isotonic fit are merged until each holds this many rows, so that no step hangs on
# a handful of payments.
_BLOCK_ROWS_MIN = 50
_NEWTON_STEPS = 50
_STEP_MIN = 1e-9


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen.

    Attributes:
        document: `calibration` of the manifest.
        log_loss: held-out log loss of each candidate.
        gain: log loss of "none" minus that of each other candidate, with its standard error.
    """

    document: dict[str, Any]
    log_loss: dict[str, float]
    gain: dict[str, tuple[float, float]]

    @property
    def calibration(self) -> Calibration:
        """The calibration that serving applies."""
        return Calibration.from_manifest(self.document)


def choose(labels: Bools, scores: Floats, cards: Ints) -> Choice:
    """Choose on validation rows.

    Args:
        labels: shape (n,).
        scores: raw probabilities, shape (n,).
        cards: which card each row is of; a card is in one half only.
    """
    half = np.unique(cards, return_inverse=True)[1] % 2
    losses = {}
    for method in ("none", "platt", "isotonic"):
        held_out = np.empty(len(scores))
        for side in (0, 1):
            fitted = fit(method, labels[half != side], scores[half != side])
            chosen = half == side
            held_out[chosen] = Calibration.from_manifest(fitted).apply(scores[chosen])
        losses[method] = _losses(labels, held_out)
    gain, best = {}, "none"
    for method in ("platt", "isotonic"):
        difference = losses["none"] - losses[method]
        error = float(difference.std(ddof=1) / np.sqrt(len(difference)))
        gain[method] = (float(difference.mean()), error)
        is_worth_it = difference.mean() > error
        if is_worth_it and losses[method].mean() < losses[best].mean():
            best = method
    means = {method: float(values.mean()) for method, values in losses.items()}
    return Choice(fit(best, labels, scores), means, gain)


def fit(method: str, labels: Bools, scores: Floats) -> dict[str, Any]:
    """Fit one method; gives the manifest's `calibration`."""
    if method == "none" or labels.all() or not labels.any():
        return {"method": "none"}
    return _platt(labels, scores) if method == "platt" else _isotonic(labels, scores)


def _losses(labels: Bools, scores: Floats) -> Floats:
    clipped = np.clip(scores, _EPSILON, 1 - _EPSILON)
    return np.where(labels, -np.log(clipped), -np.log1p(-clipped))


def _platt(labels: Bools, scores: Floats) -> dict[str, Any]:
    """Logistic regression on the margin by Newton's method (Platt 1999, smoothed targets)."""
    clipped = np.clip(scores, _EPSILON, 1 - _EPSILON)
    margin = np.log(clipped / (1 - clipped))
    positives = int(labels.sum())
    high, low = (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2)
    target = np.where(labels, high, low)
    design = np.column_stack([margin, np.ones(len(margin))])
    weights = np.array([1.0, 0.0])
    for _ in range(_NEWTON_STEPS):
        p = _sigmoid(design @ weights)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, design.T @ (target - p))
        before = _cross_entropy(target, p)
        while _cross_entropy(target, _sigmoid(design @ (weights + step))) > before:
            step = step / 2  # Newton overshoots where the curve is flat
            if float(np.abs(step).max()) < _STEP_MIN:
                break
        weights = weights + step
        if float(np.abs(step).max()) < _STEP_MIN:
            break
    slope = max(float(weights[0]), 1e-3)  # a falling curve would turn the order around
    return {"method": "platt", "slope": slope, "intercept": float(weights[1])}


def _sigmoid(margin: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(margin, -35.0, 35.0))))


def _cross_entropy(target: Floats, p: Floats) -> float:
    return -float(target @ np.log(p) + (1 - target) @ np.log1p(-p))


def _isotonic(labels: Bools, scores: Floats) -> dict[str, Any]:
    """Pool adjacent violators, then straight lines between the blocks' centres."""
    order = np.argsort(scores, kind="stable")
    blocks: list[list[float]] = []  # rows, sum of scores, positives
    for start in range(0, len(order), _BLOCK_ROWS_MIN):
        rows = order[start : start + _BLOCK_ROWS_MIN]
        blocks.append([float(len(rows)), float(scores[rows].sum()), float(labels[rows].sum())])
        while len(blocks) > 1 and blocks[-2][2] / blocks[-2][0] >= blocks[-1][2] / blocks[-1][0]:
            last = blocks.pop()
            blocks[-1] = [one + other for one, other in zip(blocks[-1], last, strict=True)]
    x = np.array([total / rows for rows, total, _ in blocks])
    y = np.array([positives / rows for rows, _, positives in blocks])
    keep: NDArray[np.bool_] = np.concatenate([[True], np.diff(x) > 0])
    x, y = np.concatenate([[0.0], x[keep], [1.0]]), np.concatenate([[0.0], y[keep], [1.0]])
    return {"method": "isotonic", "x": x.tolist(), "y": np.maximum.accumulate(y).tolist()}

"""Figures and calibration of text models; pure, in numpy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def average_precision(scores: NDArray[Any], truth: NDArray[Any]) -> float:
    """Area under the precision-recall curve by the step rule."""
    order = np.argsort(-scores, kind="stable")
    hits = truth[order]
    if not hits.any():
        return float("nan")
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / hits.sum())


def fit_platt(logits: NDArray[Any], truth: NDArray[Any]) -> tuple[float, float]:
    """Fit scale and offset on held-out logits by Newton steps on the log loss."""
    scale, offset = 1.0, 0.0
    for _ in range(50):
        probability = 1 / (1 + np.exp(-(scale * logits + offset)))
        error = probability - truth
        weight = probability * (1 - probability) + 1e-6
        gradient = np.array([(error * logits).sum() + 1e-3 * (scale - 1), error.sum()])
        hessian = np.array(
            [
                [(weight * logits * logits).sum() + 1e-3, (weight * logits).sum()],
                [(weight * logits).sum(), weight.sum()],
            ]
        )
        step = np.linalg.solve(hessian, gradient)
        scale, offset = scale - step[0], offset - step[1]
        if np.abs(step).max() < 1e-8:
            break
    return float(scale), float(offset)


def macro_recall(predicted: NDArray[Any], truth: NDArray[Any]) -> float:
    """Mean of the recalls of the three classes."""
    return float(np.mean([(predicted[truth == label] == label).mean() for label in range(3)]))


def fit_temperature(logits: NDArray[Any], truth: NDArray[Any]) -> float:
    """Choose the temperature that minimises log loss on the development split."""
    best, found = np.inf, 1.0
    for temperature in np.linspace(0.6, 2.5, 77):
        scaled = logits / temperature
        scaled = scaled - scaled.max(1, keepdims=True)
        loss = -(scaled[np.arange(len(truth)), truth] - np.log(np.exp(scaled).sum(1))).mean()
        if loss < best:
            best, found = loss, float(temperature)
    return found


def fit_bias(logits: NDArray[Any], truth: NDArray[Any]) -> list[float]:
    """Choose class offsets that maximise macro-recall on the development split."""
    best, found = -1.0, [0.0, 0.0, 0.0]
    grid = np.linspace(-0.6, 0.6, 13)
    for negative in grid:
        for positive in grid:
            offsets = np.array([negative, 0.0, positive])
            score = macro_recall((logits + offsets).argmax(1), truth)
            score -= 0.002 * (abs(negative) + abs(positive))
            if score > best:
                best, found = score, [float(negative), 0.0, float(positive)]
    return found

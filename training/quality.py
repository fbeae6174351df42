"""How good a probability is: ranking, calibration and the analyst's hundred cards a day."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Bin:
    """One bin of the reliability curve: rows, mean score and share of positives in it."""

    rows: int
    mean_score: float
    positive_share: float


def ranking(labels: Bools, scores: Floats) -> dict[str, float]:
    """AUC ROC and average precision (the step-wise area under precision and recall)."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    return {
        "auc_roc": float(roc_auc_score(labels, scores)),
        "average_precision": float(average_precision_score(labels, scores)),
    }


def reliability(labels: Bools, scores: Floats, bins: int = 10) -> list[Bin]:
    """Bin scores by equal width on [0, 1]; empty bins are left out."""
    index = np.minimum((scores * bins).astype(np.int64), bins - 1)
    rows = np.bincount(index, minlength=bins)
    score_sum = np.bincount(index, weights=scores, minlength=bins)
    label_sum = np.bincount(index, weights=labels.astype(np.float64), minlength=bins)
    return [
        Bin(int(rows[b]), float(score_sum[b] / rows[b]), float(label_sum[b] / rows[b]))
        for b in range(bins)
        if rows[b]
    ]


def calibration(labels: Bools, scores: Floats) -> dict[str, float]:
    """Expected calibration error over ten equal bins, log loss and Brier score."""
    clipped = np.clip(scores, 1e-15, 1 - 1e-15)
    losses = np.where(labels, -np.log(clipped), -np.log1p(-clipped))
    curve = reliability(labels, scores)
    error = sum(b.rows * abs(b.mean_score - b.positive_share) for b in curve) / len(scores)
    return {
        "ece": float(error),
        "log_loss": float(losses.mean()),
        "brier": float(((scores - labels) ** 2).mean()),
    }


def at_threshold(labels: Bools, scores: Floats, threshold: float) -> dict[str, float]:
    """Both classes at one threshold: recall, false-positive rate, precision and flagged share."""
    flagged = scores >= threshold
    hits = int((flagged & labels).sum())
    positives, negatives = int(labels.sum()), int((~labels).sum())
    return {
        "threshold": float(threshold),
        "recall": hits / max(1, positives),
        "false_positive_rate": float((flagged & ~labels).sum()) / max(1, negatives),
        "precision": hits / max(1, int(flagged.sum())),
        "flagged_share": float(flagged.mean()),
    }


def card_precision(labels: Bools, scores: Floats, day: Ints, card: Ints, top: int = 100) -> float:
    """Mean over days of the precision among the `top` cards by their maximum score.

    A card that was found (in the top and compromised) on an earlier day is left out of later days.
    """
    found: set[int] = set()
    precisions: list[float] = []
    for today in np.unique(day):
        rows = (day == today) & ~np.isin(card, np.array(sorted(found), dtype=np.int64))
        cards, number = np.unique(card[rows], return_inverse=True)
        best = np.full(len(cards), -np.inf)
        np.maximum.at(best, number, scores[rows])
        is_bad = np.zeros(len(cards), dtype=bool)
        np.logical_or.at(is_bad, number, labels[rows])
        chosen = np.argsort(-best, kind="stable")[:top]
        hits = chosen[is_bad[chosen]]
        found.update(int(cards[row]) for row in hits)
        precisions.append(len(hits) / top)
    return float(np.mean(precisions))


def threshold_for_share(scores: Floats, share: float) -> float:
    """Lowest threshold that flags at most `share` of the rows."""
    return float(np.quantile(scores, 1.0 - share, method="higher"))


def threshold_for_precision(labels: Bools, scores: Floats, precision: float) -> float:
    """Lowest threshold whose flagged rows reach `precision`; the highest score if none does."""
    order = np.argsort(-scores, kind="stable")
    reached = np.cumsum(labels[order]) / np.arange(1, len(order) + 1)
    good = np.flatnonzero(reached >= precision)
    return float(scores[order[good[-1]]]) if good.size else float(scores.max())


def decision_thresholds(labels: Bools, scores: Floats) -> dict[str, float]:
    """Choose thresholds on validation: review 1.5 %, challenge 0.5 %, decline at 85 % precision."""
    review = threshold_for_share(scores, 0.015)
    challenge = max(review, threshold_for_share(scores, 0.005))
    decline = max(challenge, threshold_for_precision(labels, scores, 0.85))
    return {
        "review": round(review, 4),
        "challenge": round(challenge, 4),
        "decline": round(decline, 4),
    }

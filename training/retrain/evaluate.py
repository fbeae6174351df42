"""Measures of champion and challenger on the same rows: intervals, slices, drift, and a verdict.

Intervals are 95 %, by a seeded bootstrap over cards (200 resamples): payments of one card are no
independent draws, and a fraud episode is one event however many payments it has. Differences are
paired: both models meet the same resample.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from services.inference.domain.drift import DriftWindow
from training import quality
from training.packaging import Matrix
from training.quality import Bools, Floats, Ints

RESAMPLES = 200
_Z = 1.959964
_LOWER_IS_BETTER = frozenset({"log_loss", "brier", "ece"})
# A challenger may rank this much worse, at the lower end of the interval, and still pass: below
# it, a difference is the noise of a few dozen frauds rather than a loss.
AP_LOSS_MAX = 0.02
ECE_MAX = 0.02
TEST_FRAUDS_MIN = 30


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def text(self, digits: int = 4) -> str:
        """Show as `0.7123 (0.69 to 0.73)`."""
        if math.isnan(self.value):
            return "not measurable"
        return f"{self.value:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


@dataclass(frozen=True)
class Scored:
    """Test rows with the scores of each model by name; arrays of shape (n,)."""

    is_fraud: Bools
    card: Ints
    scores: Mapping[str, Floats]
    review: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """Champion against challenger.

    Attributes:
        measures: model -> measure -> interval.
        difference: measure -> challenger minus champion, paired; empty without a champion.
    """

    measures: dict[str, dict[str, Interval]]
    difference: dict[str, Interval]


@dataclass(frozen=True)
class Slice:
    """One value of a slicing field: how many rows, and how the challenger does there."""

    name: str
    rows: int
    frauds: int
    recall: Interval
    flagged: float
    average_precision: float
    mean_score: float


@dataclass(frozen=True)
class Verdict:
    """Whether the challenger may be registered, and why."""

    word: str
    reasons: list[str] = field(default_factory=list)

    @property
    def is_registrable(self) -> bool:
        """Whether it is at least not worse than what serves."""
        return self.word in {"better", "not worse", "first"}


class WeightedMeasures:
    """Measures of one score under any weights of the rows; sorts once."""

    def __init__(self, labels: Bools, scores: Floats, threshold: float) -> None:
        order = np.argsort(-scores, kind="stable")
        ordered = scores[order]
        self._order = order
        self._is_end = np.append(ordered[1:] != ordered[:-1], True)
        self._labels = labels[order].astype(np.float64)
        clipped = np.clip(scores, 1e-15, 1 - 1e-15)
        self._losses = np.where(labels, -np.log(clipped), -np.log1p(-clipped))
        self._squares = (scores - labels) ** 2
        self._truth = labels.astype(np.float64)
        self._scores = scores
        self._flagged = (scores >= threshold).astype(np.float64)
        self._bins = np.minimum((scores * 10).astype(np.int64), 9)

    def at(self, weights: Floats) -> dict[str, float]:
        """Compute all measures; NaN where one class has no weight."""
        ordered = weights[self._order]
        hits = np.cumsum(ordered * self._labels)[self._is_end]
        misses = np.cumsum(ordered * (1 - self._labels))[self._is_end]
        total, positives = float(weights.sum()), float(hits[-1])
        caught = float((weights * self._truth * self._flagged).sum())
        flagged = float((weights * self._flagged).sum())
        found = {
            "auc_roc": math.nan,
            "average_precision": math.nan,
            "log_loss": float(weights @ self._losses) / total,
            "brier": float(weights @ self._squares) / total,
            "ece": self._ece(weights),
            "recall_at_review": caught / positives if positives else math.nan,
            "precision_at_review": caught / flagged if flagged else math.nan,
            "flagged_share": flagged / total,
        }
        if positives > 0 and misses[-1] > 0:
            tpr, fpr = hits / positives, misses / misses[-1]
            found["auc_roc"] = float(np.trapezoid(np.append(0.0, tpr), np.append(0.0, fpr)))
            precision = hits / np.maximum(hits + misses, 1e-12)
            found["average_precision"] = float(np.diff(tpr, prepend=0.0) @ precision)
        return found

    def _ece(self, weights: Floats) -> float:
        score = np.bincount(self._bins, weights * self._scores, minlength=10)
        truth = np.bincount(self._bins, weights * self._truth, minlength=10)
        return float(np.abs(score - truth).sum() / weights.sum())


def compare(data: Scored, *, champion: str | None, challenger: str, seed: int = 7) -> Comparison:
    """Measure all models with intervals, and their paired differences."""
    models = {
        name: WeightedMeasures(data.is_fraud, scores, data.review[name])
        for name, scores in data.scores.items()
    }
    once = {name: model.at(np.ones(len(data.is_fraud))) for name, model in models.items()}
    generator = np.random.default_rng(seed)
    cards, place = np.unique(data.card, return_inverse=True)
    drawn: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    for _ in range(RESAMPLES):
        counts = generator.multinomial(len(cards), np.full(len(cards), 1 / len(cards)))
        weights = counts[place].astype(np.float64)
        for name, model in models.items():
            drawn[name].append(model.at(weights))
    measures = {
        name: {
            measure: _interval(value, [draw[measure] for draw in drawn[name]])
            for measure, value in once[name].items()
        }
        for name in models
    }
    difference = {}
    if champion is not None:
        for measure in once[challenger]:
            pairs = zip(drawn[challenger], drawn[champion], strict=True)
            value = once[challenger][measure] - once[champion][measure]
            difference[measure] = _interval(value, [a[measure] - b[measure] for a, b in pairs])
    return Comparison(measures, difference)


def _interval(value: float, draws: list[float]) -> Interval:
    known = np.array([draw for draw in draws if not math.isnan(draw)])
    if not len(known):
        return Interval(value, math.nan, math.nan)
    low, high = np.quantile(known, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def wilson(hits: int, count: int) -> Interval:
    """Give hits / count with Wilson's 95 % interval; NaN without rows."""
    if not count:
        return Interval(math.nan, math.nan, math.nan)
    rate, square = hits / count, _Z * _Z
    middle = (rate + square / (2 * count)) / (1 + square / count)
    spread = math.sqrt(rate * (1 - rate) / count + square / (4 * count * count))
    reach = _Z * spread / (1 + square / count)
    return Interval(rate, max(0.0, middle - reach), min(1.0, middle + reach))


def slices(
    names: NDArray[np.str_], labels: Bools, scores: Floats, review: float, *, most: int = 15
) -> list[Slice]:
    """Measure each value of a field that has the most rows, largest first; empty is `unknown`."""
    found = []
    values, counts = np.unique(names, return_counts=True)
    for value in values[np.argsort(-counts, kind="stable")][:most]:
        mine = names == value
        truth, score = labels[mine], scores[mine]
        frauds = int(truth.sum())
        precision = math.nan
        if 0 < frauds < len(truth):
            precision = quality.ranking(truth, score)["average_precision"]
        caught = int((score[truth] >= review).sum())
        found.append(
            Slice(
                str(value) or "unknown",
                int(mine.sum()),
                frauds,
                wilson(caught, frauds),
                float((score >= review).mean()),
                precision,
                float(score.mean()),
            )
        )
    return found


def drift(
    names: tuple[str, ...], reference: Mapping[str, object], rows: Matrix, scores: Floats
) -> tuple[dict[str, float], float | None]:
    """Population stability index per input and of the score, against the champion's training.

    The newest 2,000 rows count, as in serving; chance is taken off, so that 0 is "no more than
    chance".
    """
    window = DriftWindow(names, reference)
    window.add(rows, scores)
    score = window.score()
    return {
        name: moved.psi for name, moved in window.inputs().items()
    }, score.psi if score else None


def judge(comparison: Comparison, challenger: str, test_frauds: int) -> Verdict:
    """Say whether the challenger may be registered."""
    reasons = []
    if test_frauds < TEST_FRAUDS_MIN:
        return Verdict(
            "too little data",
            [f"{test_frauds} frauds in the test period, at least {TEST_FRAUDS_MIN} are needed"],
        )
    ece = comparison.measures[challenger]["ece"].value
    if ece > ECE_MAX:
        return Verdict("worse", [f"calibration error {ece:.4f} is above {ECE_MAX}"])
    if not comparison.difference:
        return Verdict("first", ["there is no champion to compare with"])
    gain = comparison.difference["average_precision"]
    reasons.append(f"average precision differs by {gain.text()}")
    if gain.low < -AP_LOSS_MAX:
        return Verdict("worse", [*reasons, f"it may have lost more than {AP_LOSS_MAX}"])
    return Verdict("better" if gain.low > 0 else "not worse", reasons)


def lower_is_better(measure: str) -> bool:
    """Whether a smaller figure is the better one."""
    return measure in _LOWER_IS_BETTER

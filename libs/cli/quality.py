"""Measures of detection quality: pure functions of labels, scores and spans.

Both classes are always reported. Intervals are 95 %: Wilson for shares, a seeded bootstrap over
texts for what is no share (F2, AUPRC). A span counts as found if a span of the same label overlaps
it with an intersection over union of at least 0.5, each span used once.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

IOU_MIN = 0.5
_Z = 1.959964
_RESAMPLES = 200


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure with its 95 % interval; `value` is None where nothing was there to measure."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    count: int = 0


@dataclass(frozen=True, slots=True)
class Marked:
    """A labelled stretch of a text, code points, end exclusive."""

    start: int
    end: int
    label: str


@dataclass(slots=True)
class Matches:
    """True positives, false positives and false negatives."""

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def add(self, other: "Matches") -> None:
        """Add counts."""
        self.tp, self.fp, self.fn = self.tp + other.tp, self.fp + other.fp, self.fn + other.fn


def share(name: str, hits: int, count: int) -> Measure:
    """Give hits / count with Wilson's interval."""
    if not count:
        return Measure(name, None)
    rate, square = hits / count, _Z * _Z
    middle = (rate + square / (2 * count)) / (1 + square / count)
    reach = (
        _Z
        * math.sqrt(rate * (1 - rate) / count + square / (4 * count * count))
        / (1 + square / count)
    )
    return Measure(name, rate, max(0.0, middle - reach), min(1.0, middle + reach), count)


def f_beta(matches: Matches, beta: float = 2.0) -> float | None:
    """Give F-beta; recall weighs beta times as much. None when there is nothing to find or say."""
    square = beta * beta
    whole = (1 + square) * matches.tp + square * matches.fn + matches.fp
    return (1 + square) * matches.tp / whole if whole else None


def average_precision(labels: Sequence[bool], scores: Sequence[float]) -> float | None:
    """Give the area under precision over recall (average precision); ties are one step.

    Source: sum over thresholds of (R_n - R_{n-1}) P_n, as scikit-learn defines it.
    """
    positives = sum(labels)
    if not positives:
        return None
    ranked = sorted(zip(scores, labels, strict=True), reverse=True)
    area, hits, seen, index = 0.0, 0, 0, 0
    while index < len(ranked):
        score, gained = ranked[index][0], 0
        while index < len(ranked) and ranked[index][0] == score:
            gained += ranked[index][1]
            seen += 1
            index += 1
        hits += gained
        area += gained / positives * (hits / seen)
    return area


def recall_at_fpr(labels: Sequence[bool], scores: Sequence[float], rate: float) -> float | None:
    """Give the best recall among thresholds whose false-positive rate is at most `rate`."""
    positives, negatives = sum(labels), len(labels) - sum(labels)
    if not positives or not negatives:
        return None
    best = 0.0
    for threshold in sorted(set(scores)):
        flagged = [label for label, score in zip(labels, scores, strict=True) if score >= threshold]
        if (len(flagged) - sum(flagged)) / negatives <= rate:
            best = max(best, sum(flagged) / positives)
    return best


def bootstrap(
    name: str, size: int, statistic: Callable[[Sequence[int]], float | None], *, seed: int = 1
) -> Measure:
    """Give a statistic over rows with its percentile interval.

    Args:
        name: of the figure.
        size: number of rows.
        statistic: from row numbers, with repeats, to the figure.
        seed: of the resampling.
    """
    draw = random.Random(seed)
    value = statistic(range(size))
    drawn = (statistic(draw.choices(range(size), k=size)) for _ in range(_RESAMPLES))
    values = sorted(item for item in drawn if item is not None) if value is not None else []
    if not values:
        return Measure(name, value, count=size)
    last = len(values) - 1
    return Measure(name, value, values[int(0.025 * last)], values[math.ceil(0.975 * last)], size)


def classification(
    labels: Sequence[bool], flagged: Sequence[bool], scores: Sequence[float]
) -> list[Measure]:
    """Measure decisions about whole texts."""
    pairs = Counter(zip(labels, flagged, strict=True))
    tp, fp = pairs[True, True], pairs[False, True]
    fn, tn = pairs[True, False], pairs[False, False]

    def f2(rows: Sequence[int]) -> float | None:
        found = Counter((labels[row], flagged[row]) for row in rows)
        return f_beta(Matches(found[True, True], found[False, True], found[True, False]))

    def macro_f1(rows: Sequence[int]) -> float | None:
        found = Counter((labels[row], flagged[row]) for row in rows)
        wrong = found[False, True], found[True, False]
        both = (
            f_beta(Matches(found[True, True], *wrong), 1.0),
            f_beta(Matches(found[False, False], *reversed(wrong)), 1.0),
        )
        return sum(score or 0.0 for score in both) / 2

    def auprc(rows: Sequence[int]) -> float | None:
        return average_precision([labels[r] for r in rows], [scores[r] for r in rows])

    return [
        share("precision", tp, tp + fp),
        share("recall", tp, tp + fn),
        bootstrap("F2", len(labels), f2),
        bootstrap("macro-F1", len(labels), macro_f1),
        bootstrap("AUPRC", len(labels), auprc),
        share("false-positive rate", fp, fp + tn),
        share("precision, negative class", tn, tn + fn),
        share("recall, negative class", tn, tn + fp),
    ]


def overlap(one: Marked, other: Marked) -> float:
    """Give the intersection over the union of two spans."""
    shared = min(one.end, other.end) - max(one.start, other.start)
    return shared / (max(one.end, other.end) - min(one.start, other.start)) if shared > 0 else 0.0


def match(expected: Sequence[Marked], found: Sequence[Marked]) -> dict[str, Matches]:
    """Match the spans of one text by label, best overlaps first; counts by label."""
    pairs = sorted(
        (
            (overlap(want, have), w, h)
            for w, want in enumerate(expected)
            for h, have in enumerate(found)
            if want.label == have.label and overlap(want, have) >= IOU_MIN
        ),
        reverse=True,
    )
    used_want: set[int] = set()
    used_have: set[int] = set()
    counts: dict[str, Matches] = {}
    for _, w, h in pairs:
        if w not in used_want and h not in used_have:
            used_want.add(w)
            used_have.add(h)
            counts.setdefault(expected[w].label, Matches()).tp += 1
    for w, want in enumerate(expected):
        if w not in used_want:
            counts.setdefault(want.label, Matches()).fn += 1
    for h, have in enumerate(found):
        if h not in used_have:
            counts.setdefault(have.label, Matches()).fp += 1
    return counts


def spans(
    expected: Sequence[Sequence[Marked]], found: Sequence[Sequence[Marked]]
) -> dict[str, list[Measure]]:
    """Measure spans by label and over all (`ALL`); of texts without any, how many are flagged."""
    rows = [match(want, have) for want, have in zip(expected, found, strict=True)]
    labels = sorted({label for row in rows for label in row})
    clean = [bool(have) for want, have in zip(expected, found, strict=True) if not want]
    measured = {label: _of_label(rows, [label]) for label in labels}
    measured["ALL"] = _of_label(rows, labels)
    measured["ALL"].append(share("clean texts flagged", sum(clean), len(clean)))
    return measured


def _of_label(rows: Sequence[dict[str, Matches]], labels: Sequence[str]) -> list[Measure]:
    kept = [[row[label] for label in labels if label in row] for row in rows]

    def total(numbers: Sequence[int]) -> Matches:
        sum_of = Matches()
        for number in numbers:
            for item in kept[number]:
                sum_of.add(item)
        return sum_of

    whole = total(range(len(kept)))
    return [
        share("precision", whole.tp, whole.tp + whole.fp),
        share("recall", whole.tp, whole.tp + whole.fn),
        bootstrap("F2", len(kept), lambda numbers: f_beta(total(numbers))),
    ]

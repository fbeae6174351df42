"""Names in texts: what a token classifier reads beside tokens, and how its answers become spans.

The encoder's vocabulary has no case, and case is half of what makes a name; the shape of a token's
word travels in the high bits of the token id, and the engine gives it to the graph as token types.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

# A window's element is `shape << SHAPE_BITS | token id`; texts without shapes have zeros there.
SHAPE_BITS = 24
SHAPES = 6
# Longer spans are no names.
SPAN_CHARACTERS_MAX = 120
_TRIMMED = " \t\r\n.,;:!?\"'()[]{}<>|*_-"
# What may follow a name as a part of it: "Jr.", "Inc.", "U.S.".
_ABBREVIATED = frozenset(
    [
        "inc",
        "ltd",
        "co",
        "corp",
        "jr",
        "sr",
        "bros",
        "st",
        "llc",
        "s.a",
        "u.s",
        "d.c",
        "u.k",
        "s.p.a",
        "plc",
        "mt",
        "ft",
        "dept",
        "assoc",
        "univ",
        "no",
    ]
)


@dataclass(frozen=True, slots=True)
class Marks:
    """Where the tokens of one window stand.

    Attributes:
        offsets: shape (tokens, 2), code points of the text; equal for special tokens.
        words: shape (tokens,), number of the word in the text, -1 for special tokens.
    """

    offsets: IntArray
    words: IntArray


@dataclass(frozen=True, slots=True)
class Span:
    """A name in a text, `text[start:end]` in code points, with its calibrated probability."""

    start: int
    end: int
    label: str
    score: float


def word_shape(word: str) -> int:
    """Classify how a word is written.

    Returns:
        0 without capitals, 1 Capitalised, 2 ALL CAPITALS, 3 miXed, 4 one capital letter, 5 with
        digits.
    """
    if any(char.isdigit() for char in word):
        return 5
    if not any(char.isupper() for char in word):
        return 0
    if len(word) == 1:
        return 4
    if word.isupper():
        return 2
    return 1 if word[0].isupper() and not any(char.isupper() for char in word[1:]) else 3


def shapes_of(text: str, marks: Marks) -> IntArray:
    """Give the shape of each token's word; special tokens have 0."""
    found = np.zeros(len(marks.words), dtype=np.int64)
    start = 0
    while start < len(marks.words):
        end = start + 1
        while end < len(marks.words) and marks.words[end] == marks.words[start]:
            end += 1
        if marks.words[start] >= 0:
            word = text[int(marks.offsets[start, 0]) : int(marks.offsets[end - 1, 1])]
            found[start:end] = word_shape(word)
        start = end
    return found


def packed(ids: IntArray, shapes: IntArray) -> IntArray:
    """Put shapes into the high bits of token ids."""
    return np.asarray(ids | (shapes << SHAPE_BITS))


def joined(
    windows: Sequence[FloatArray], marks: Sequence[Marks], overlap: int
) -> tuple[FloatArray, Marks]:
    """Join the windows of a text: a token in two windows is read where it has more context.

    Args:
        windows: per window, shape (tokens, tags).
        marks: per window.
        overlap: tokens that neighbouring windows share.
    """
    tags, offsets, words = [], [], []
    for number, (window, mark) in enumerate(zip(windows, marks, strict=True)):
        inside = np.flatnonzero(mark.words >= 0)
        first = 0 if number == 0 else overlap // 2
        last = len(inside) if number == len(windows) - 1 else len(inside) - (overlap - overlap // 2)
        kept = inside[first : max(first, last)]
        tags.append(window[kept])
        offsets.append(mark.offsets[kept])
        words.append(mark.words[kept])
    return np.concatenate(tags), Marks(np.concatenate(offsets), np.concatenate(words))


def spans_of(
    text: str, tags: FloatArray, marks: Marks, labels: Sequence[str], floors: Mapping[str, float]
) -> list[Span]:
    """Read spans from the probabilities of tags.

    Words, not word pieces, are judged: a word has the mean of its pieces. A word belongs to the
    label with the most probability if that reaches the label's floor; neighbouring words of one
    label are one span unless the later one begins a new name.

    Args:
        text: the original.
        tags: shape (tokens, 1 + 2 * labels): none, then begin and inside of each label.
        marks: of the tokens.
        labels: names, in the order of the tags.
        floors: by label, the least probability of a word; 0.5 where missing.
    """
    if not len(tags):
        return []
    starts = np.flatnonzero(np.r_[True, marks.words[1:] != marks.words[:-1]])
    ends = np.r_[starts[1:], len(marks.words)]
    sizes = (ends - starts)[:, None]
    begin, inside = tags[:, 1::2], tags[:, 2::2]
    by_word = np.add.reduceat(begin + inside, starts, axis=0) / sizes
    is_new = begin[starts] > inside[starts]
    best = by_word.argmax(axis=1)
    least = np.array([floors.get(label, 0.5) for label in labels])
    is_name = by_word[np.arange(len(best)), best] >= least[best]
    spans: list[Span] = []
    word = 0
    while word < len(starts):
        if not is_name[word]:
            word += 1
            continue
        label, stop = best[word], word + 1
        while stop < len(starts) and is_name[stop] and best[stop] == label:
            if is_new[stop, label]:
                break
            stop += 1
        score = float(by_word[word:stop, label].mean())
        begins, finishes = (
            int(marks.offsets[starts[word], 0]),
            int(marks.offsets[ends[stop - 1] - 1, 1]),
        )
        span = _trimmed(text, begins, finishes)
        if span is not None:
            spans.append(Span(*span, labels[label], score))
        word = stop
    return spans


def _trimmed(text: str, start: int, end: int) -> tuple[int, int] | None:
    """Cut blanks and punctuation off both ends; None when nothing or too much is left."""
    while start < end and text[start] in _TRIMMED:
        start += 1
    while end > start and text[end - 1] in _TRIMMED:
        if text[end - 1] == "." and _is_abbreviated(text[start : end - 1]):
            break
        end -= 1
    return (start, end) if 0 < end - start <= SPAN_CHARACTERS_MAX else None


def _is_abbreviated(name: str) -> bool:
    last = name.split()[-1] if name.split() else ""
    return last.lower().lstrip("(") in _ABBREVIATED or (len(last) == 1 and last.isupper())

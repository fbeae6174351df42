"""Spans from tags: what was written into the tags is read back, wherever windows were cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.domain.entities import (
    SPAN_CHARACTERS_MAX,
    FloatArray,
    Marks,
    joined,
    packed,
    shapes_of,
    spans_of,
    word_shape,
)

LABELS = ("person", "location", "organization")
# One word, how many word pieces it has, and the label it belongs to, if any.
WORDS = st.lists(
    st.tuples(
        st.sampled_from(["Anna", "of", "Zürich", "🙂x", "Ng", "an"]),
        st.integers(1, 3),
        st.sampled_from([-1, -1, 0, 1, 2]),
        st.booleans(),
    ),
    min_size=1,
    max_size=60,
)


def _tagged(
    words: list[tuple[str, int, int, bool]],
) -> tuple[str, FloatArray, Marks, list[tuple[int, int, str]]]:
    """Give text, tags of certainty, marks, and the spans that were meant."""
    text, tags, offsets, numbers = "", [], [], []
    spans: list[tuple[int, int, str]] = []
    before = -1
    for number, (word, pieces, label, is_new) in enumerate(words):
        text += " " if text else ""
        start = len(text)
        text += word
        begins = label >= 0 and (label != before or is_new)
        for piece in range(pieces):
            row = np.full(1 + 2 * len(LABELS), 0.01)
            row[0 if label < 0 else (1 if begins and piece == 0 else 2) + 2 * label] = 0.94
            tags.append(row)
            offsets.append((start, len(text)))
            numbers.append(number)
        if begins:
            spans.append((start, len(text), LABELS[label]))
        elif label >= 0:
            spans[-1] = (spans[-1][0], len(text), LABELS[label])
        before = label
    marks = Marks(np.array(offsets), np.array(numbers))
    return text, np.array(tags), marks, spans


@given(WORDS)
def test_spans_written_into_tags_are_read_back(words):
    text, tags, marks, meant = _tagged(words)
    found = spans_of(text, tags, marks, LABELS, {})
    short = [span for span in meant if span[1] - span[0] <= SPAN_CHARACTERS_MAX]
    assert [(span.start, span.end, span.label) for span in found] == short
    assert all(0.94 < span.score <= 1 for span in found)


@given(WORDS, st.integers(2, 12), st.integers(0, 8))
def test_windows_join_to_the_whole_text_whatever_their_length(words, step, overlap):
    text, tags, marks, _ = _tagged(words)
    parts, places, start, size = [], [], 0, step + overlap
    while True:
        piece = slice(start, start + size)
        # Special tokens stand around each window and belong to no word.
        parts.append(np.vstack([np.zeros(7), tags[piece], np.zeros(7)]))
        places.append(
            Marks(
                np.vstack([[0, 0], marks.offsets[piece], [0, 0]]),
                np.r_[-1, marks.words[piece], -1],
            )
        )
        if start + size >= len(tags):
            break
        start += step
    whole, together = joined(parts, places, overlap)
    assert np.array_equal(whole, tags)
    assert np.array_equal(together.offsets, marks.offsets)
    assert spans_of(text, whole, together, LABELS, {}) == spans_of(text, tags, marks, LABELS, {})


@pytest.mark.parametrize(
    ("word", "shape"),
    [
        ("anna", 0),
        ("Anna", 1),
        ("NASA", 2),
        ("McDonald", 3),
        ("iPhone", 3),
        ("J", 4),
        ("B2B", 5),
        (",", 0),
        ("ß", 0),
        ("Ærø", 1),
    ],
)
def test_the_shape_says_how_a_word_is_written(word: str, shape: int):
    assert word_shape(word) == shape


def test_word_pieces_share_the_shape_of_their_word_and_ids_survive_packing():
    marks = Marks(np.array([[0, 0], [0, 3], [3, 8], [9, 13], [0, 0]]), np.array([-1, 0, 0, 1, -1]))
    shapes = shapes_of("Lindqvis left", marks)
    assert shapes.tolist() == [0, 1, 1, 0, 0]
    ids = np.array([101, 30_521, 7, 2_187, 102])
    both = packed(ids, shapes)
    assert (both & 0xFFFFFF).tolist() == ids.tolist()
    assert (both >> 24).tolist() == shapes.tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(Anna)", "Anna"),
        ("Acme Inc.", "Acme Inc."),
        ("Anna.", "Anna"),
        ("John F.", "John F."),
        ("'Porto',", "Porto"),
    ],
)
def test_punctuation_around_a_name_is_cut_off_but_not_that_of_abbreviations(text, expected):
    tags = np.array([[0.02, 0.98, 0.0]])
    (span,) = spans_of(text, tags, Marks(np.array([[0, len(text)]]), np.array([0])), ("x",), {})
    assert text[span.start : span.end] == expected


def test_a_text_without_words_has_no_spans():
    empty = Marks(np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=np.int64))
    assert spans_of("", np.zeros((0, 3)), empty, ("x",), {}) == []

"""Rows of the entity model: spans lie where the made-up names stand; scores count as defined."""

import random

import pytest

from training.text.entity_names import Lookalikes, Names
from training.text.entity_rows import LABELS, Filler, Marked, cased, generated, wnut
from training.text.evaluation import span_scores
from training.text.sources import DATA


@pytest.fixture(scope="module")
def names() -> Names:
    # Faker is only in the training environment; its lists are not needed here.
    return Names(
        random.Random(4),
        firsts=["Quillona", "Brevik", "Zsófia"],
        lasts=["Vantermeer", "Oduya", "Lindqvist"],
        wholes=["Tamsin Oduya"],
        towns=["Greyford", "Ózd", "Pellworm"],
        countries=["Utopistan"],
        companies=["Hollin-Marsh"],
        addresses=["12 Quay Lane\nGreyford, OX1 2AB"],
        jobs=["Farrier"],
    )


def test_a_filled_template_marks_exactly_what_was_filled_in(names: Names):
    row = Filler(names, random.Random(1)).fill('{{"at": "{A}", "who": "{F}", "day": "{w}"}}')
    assert [LABELS[kind] for _, _, kind in row.spans] == ["address", "person"]
    before, between = row.text[: row.spans[0][0]], row.text[row.spans[0][1] : row.spans[1][0]]
    assert (before, between) == ('{"at": "', '", "who": "')


def test_generated_rows_have_spans_in_order_apart_and_without_blanks_around(names: Names):
    rows = generated(1_500, 3, names)
    assert {kind for row in rows for *_, kind in row.spans} == {0, 1, 2, 3}
    assert sum(not row.spans for row in rows) > 50
    for row in rows:
        end_before = 0
        for start, end, _ in row.spans:
            assert end_before <= start < end <= len(row.text)
            assert row.text[start:end] == row.text[start:end].strip()
            end_before = end


def test_a_change_of_case_moves_no_span():
    rng = random.Random(2)
    row = Marked("İzmir and Straße belong to Anna", [(0, 5, 1), (27, 31, 0)], "generated")
    for _ in range(200):
        changed = cased(row, rng, share=1.0)
        assert len(changed.text) == len(row.text)
        assert changed.text[27:31].lower() == "anna"


def test_lookalikes_have_the_letters_of_their_models():
    like = Lookalikes(["Lindqvist", "Lindberg", "Sundqvist", "Sundberg"])
    rng = random.Random(8)
    made = {like.make(rng) for _ in range(50)}
    assert all(4 <= len(name) <= 14 and name[0] in "LS" for name in made)


@pytest.mark.skipif(not DATA.exists(), reason="the text sets are not part of the repository")
def test_wnut_spans_are_whole_tokens():
    rows = wnut("emerging.dev.conll", random.Random(1))
    assert len(rows) == 1_009
    assert sum(len(row.spans) for row in rows) == 617
    assert all(row.text[start:end].strip() for row in rows for start, end, _ in row.spans)


def test_typed_spans_are_hit_once_at_half_overlap():
    meant = [[(0, 10, "person"), (20, 30, "person"), (40, 44, "location")]]
    found = [[(0, 5, "person"), (5, 10, "person"), (21, 33, "location"), (40, 44, "location")]]
    scores = span_scores(meant, found, ("person", "location"))
    assert scores["person"] == {
        "spans": 2,
        "precision": 0.5,
        "recall": 0.5,
        "f1": 0.5,
        "f2": 0.5,
    }
    assert scores["location"]["precision"] == 0.5
    assert scores["all"]["recall"] == 0.6667
    assert scores["all"]["f2"] == round(10 / (10 + 4 + 2), 4)

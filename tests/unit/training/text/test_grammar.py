"""The grammar of training rows: nothing held out is trained on; labels say what was meant."""

import random
import re
import string
from collections import defaultdict

import pytest

from training.text import grammar
from training.text.sources import HELD, Row
from training.text.splits import split

SLOTS, MORE, KINDS = grammar.load()
ROWS = grammar.rows(5, training=6_000, held=2_000)


def test_further_words_belong_to_slots():
    assert MORE.keys() <= {*SLOTS, *grammar._EXTRA}


def of_kind(name: str) -> list[Row]:
    return [row for row in ROWS if f"g:{name}:" in row.cluster]


def test_every_form_names_slots_that_exist_and_labels_that_are_heads():
    known = {*SLOTS, *grammar._EXTRA, *"gsn", "slur", "sexword", "noise"}
    forms = [form for kind in KINDS for form in kind["forms"]]
    for text in [*forms, *(item for items in SLOTS.values() for item in items)]:
        fields = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
        assert fields <= known, text
    for kind in KINDS:
        assert set(kind["labels"]) <= set(grammar.HEADS), kind["name"]
        assert set(map(str, kind["labels"].values())) <= {"0", "1", "?", "w"}


def test_names_of_kinds_and_forms_of_a_kind_are_unique():
    names = [kind["name"] for kind in KINDS]
    assert len(names) == len(set(names))
    for kind in KINDS:
        assert len(kind["forms"]) == len(set(kind["forms"])), kind["name"]


def test_no_group_form_or_text_lies_on_both_sides():
    training, held = split(ROWS)
    assert training
    assert held
    assert {row.text for row in training}.isdisjoint(row.text for row in held)
    forms = defaultdict(set)
    for row in ROWS:
        forms[row.cluster.startswith(HELD)].add(row.cluster.removeprefix(HELD))
    assert forms[True].isdisjoint(forms[False])
    of_held = re.compile("|".join(sorted(grammar.HELD_GROUPS)), re.IGNORECASE)
    assert not any(of_held.search(row.text) for row in training if "g:meant:" in row.cluster)


@pytest.mark.parametrize("items", [list("abcdefghij"), ["a"], [("x", "y"), ("z", "w")]])
def test_a_list_is_cut_in_two_unless_it_is_too_short(items):
    kept, held = grammar.side_of(items, held=False), grammar.side_of(items, held=True)
    if len(items) < 4:
        assert kept == held == items
    else:
        assert sorted(kept + held) == items
        assert held


@pytest.mark.parametrize("kind", ["meant", "threat", "negated good", "sly"])
def test_what_is_meant_against_a_group_is_hate_and_against_women_sexist(kind):
    rows = of_kind(kind)
    assert rows
    assert all(row.labels["hate"] == row.labels["toxic"] == 1 for row in rows)
    assert {row.labels["sexist"] for row in rows} == {0.0, 1.0}


@pytest.mark.parametrize("kind", ["counter", "negated bad", "neutral", "threat twin", "safe"])
def test_what_is_denied_quoted_or_harmless_is_neither(kind):
    rows = of_kind(kind)
    assert rows
    assert all(row.labels[head] == 0 for row in rows for head in ("hate", "toxic", "injection"))


def test_an_output_that_a_kind_says_nothing_about_is_masked():
    assert all("toxic" not in row.labels for row in of_kind("sexual"))
    assert all("violence" not in row.labels for row in of_kind("meant"))


def test_a_disguise_keeps_something_of_the_text():
    rng = random.Random(2)
    text = "everybody here thinks that people matter"
    made = {grammar.disguised(text, rng) for _ in range(200)}
    assert len(made) > 20
    assert all(len(item) >= len(text) - 4 for item in made)

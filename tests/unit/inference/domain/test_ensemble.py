"""Voting: soft and hard, weights, labels by name, agreement, and who suffices."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from libs.common.manifest import EnsembleSpec
from services.inference.domain.ensemble import (
    EnsembleFacts,
    Part,
    TextVote,
    aligned,
    suffices,
    vote_on_rows,
    vote_on_text,
)
from services.inference.domain.text import TextHead

LABELS = ("negative", "neutral", "positive")
HEAD = TextHead(LABELS, "softmax", np.ones(3), np.zeros(3), {})
GUARD = TextHead(("toxic", "attack"), "sigmoid", np.ones(2), np.zeros(2), {"attack": 0.8})


def spec(**fields) -> EnsembleSpec:
    members = [{"model": "a", "version": 1}, {"model": "b", "version": 2, "weight": 3.0}]
    return EnsembleSpec.model_validate({"members": members, **fields})


def vote(label: str, *scores: float, weight: float = 1.0) -> TextVote:
    return TextVote(weight, label, np.array(scores))


def test_soft_voting_is_the_weighted_mean():
    votes = [vote("positive", 0.0, 0.0, 1.0), vote("negative", 1.0, 0.0, 0.0, weight=3.0)]
    label, confidence, scores, agreement = vote_on_text("soft", HEAD, votes)
    assert (label, confidence, agreement) == ("negative", 0.75, 0.75)
    assert scores.tolist() == [0.75, 0.0, 0.25]


def test_hard_voting_counts_weights_and_not_probabilities():
    votes = [
        vote("positive", 0.34, 0.32, 0.34),
        vote("positive", 0.3, 0.3, 0.4),
        vote("negative", 0.98, 0.01, 0.01),
    ]
    label, confidence, scores, agreement = vote_on_text("hard", HEAD, votes)
    assert label == "positive"
    assert confidence == pytest.approx(2 / 3)
    assert agreement == pytest.approx(2 / 3)
    assert scores.tolist() == pytest.approx([1 / 3, 0.0, 2 / 3])


def test_equal_votes_are_told_apart_by_probability():
    votes = [vote("positive", 0.2, 0.2, 0.6), vote("negative", 0.9, 0.05, 0.05)]
    assert vote_on_text("hard", HEAD, votes)[0] == "negative"


def test_independent_labels_are_voted_on_one_by_one():
    votes = [vote("attack", 0.1, 0.9), vote("none", 0.2, 0.7), vote("attack", 0.1, 0.95)]
    label, confidence, scores, _ = vote_on_text("hard", GUARD, votes)
    assert label == "attack"
    assert confidence == pytest.approx(2 / 3)
    assert scores.tolist() == pytest.approx([0.0, 2 / 3])
    assert vote_on_text("hard", GUARD, votes[1:2])[:2] == ("none", 1.0)


def test_scores_are_aligned_by_label_name():
    other = TextHead(LABELS[::-1], "softmax", np.ones(3), np.zeros(3), {})
    assert aligned(LABELS, other, np.array([0.7, 0.2, 0.1])).tolist() == [0.1, 0.2, 0.7]


@given(
    st.lists(
        st.tuples(st.floats(0.1, 5), st.lists(st.floats(0, 1), min_size=4, max_size=4)),
        min_size=1,
        max_size=5,
    )
)
def test_scores_of_rows_stay_between_the_members(votes):
    wire = [(weight, np.array(scores)) for weight, scores in votes]
    scores, agreement = vote_on_rows(spec(), wire)
    matrix = np.stack([row for _, row in wire])
    assert np.all(scores >= matrix.min(axis=0) - 1e-9)
    assert np.all(scores <= matrix.max(axis=0) + 1e-9)
    assert np.all((agreement >= -1e-9) & (agreement <= 1 + 1e-9))
    hard, _ = vote_on_rows(spec(method="hard"), wire)
    total = sum(weight for weight, _ in wire)
    for at in range(4):
        share = sum(weight for weight, row in wire if row[at] >= 0.5) / total
        assert hard[at] == pytest.approx(share)


@pytest.mark.parametrize(
    ("fields", "statuses", "is_enough"),
    [
        ({}, ["ok", "failed"], True),
        ({}, ["failed", "timeout"], False),
        ({"min_members": 2}, ["ok", "timeout"], False),
        ({"min_members": 2}, ["ok", "ok"], True),
    ],
)
def test_enough_members_must_answer(fields, statuses, is_enough):
    assert suffices(spec(**fields), statuses) is is_enough


def test_a_required_member_must_be_there():
    members = [{"model": "a", "version": 1, "required": True}, {"model": "b", "version": 2}]
    assert not suffices(spec(members=members), ["timeout", "ok"])
    assert suffices(spec(members=members), ["ok", "timeout"])


def test_the_answer_says_who_took_part():
    first, second = spec().members
    parts = (Part(first, "ok"), Part(second, "timeout"))
    facts = EnsembleFacts("soft", parts, 0.8)
    assert facts.reason == "ensemble_member_missing"
    assert [one["status"] for one in facts.to_wire()["members"]] == ["ok", "timeout"]
    assert EnsembleFacts("soft", parts, 0.0, is_fallback=True).reason == "ensemble_fallback"
    assert EnsembleFacts("soft", parts[:1], 1.0).reason is None


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"members": [{"model": "a", "version": 1}]}, "members"),
        ({"members": [{"model": "a", "version": 1}] * 2}, "twice"),
        ({"min_members": 3}, "min_members"),
        ({"method": "loud"}, "method"),
        ({"members": [{"model": "a", "version": 1, "weight": 0}] * 2}, "weight"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused(fields, names):
    with pytest.raises(ValidationError, match=names):
        spec(**fields)

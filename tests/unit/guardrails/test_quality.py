"""Measures of quality against scikit-learn and hand-counted cases; reading of data files."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from benchmarks import guardrails_corpus
from benchmarks.guardrails_quality import corpus, evasion
from libs.cli import quality
from libs.cli.evasion import DISGUISES
from libs.cli.guardrails import DataError, read_rows
from libs.cli.quality import Marked, Matches
from services.guardrails.domain.pii import PiiValidator
from services.guardrails.domain.secrets import SecretsValidator


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.5, 0.9])), min_size=1))
def test_average_precision_agrees_with_scikit_learn(rows):
    labels, scores = [label for label, _ in rows], [score for _, score in rows]
    ours = quality.average_precision(labels, scores)
    if not any(labels):
        assert ours is None
    else:
        assert ours == pytest.approx(average_precision_score(labels, scores))


def test_wilson_interval_of_a_published_value():
    # Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662.
    measure = quality.share("x", 81, 263)
    assert (round(measure.low or 0, 4), round(measure.high or 0, 4)) == (0.2553, 0.3662)


def test_a_span_needs_its_label_half_of_it_and_counts_once():
    want = [Marked(0, 10, "A"), Marked(20, 30, "A")]
    have = [Marked(0, 6, "A"), Marked(2, 10, "A"), Marked(20, 30, "B"), Marked(24, 60, "A")]
    counts = quality.match(want, have)
    assert counts["A"] == Matches(tp=1, fp=2, fn=1)
    assert counts["B"] == Matches(tp=0, fp=1, fn=0)
    assert quality.f_beta(Matches(tp=1, fp=2, fn=1)) == pytest.approx(5 / (5 + 4 + 2))


def test_recall_at_a_false_positive_rate():
    labels = [True, True, False, False, False, False]
    scores = [0.9, 0.4, 0.5, 0.1, 0.1, 0.1]
    assert quality.recall_at_fpr(labels, scores, 0.01) == 0.5
    assert quality.recall_at_fpr(labels, scores, 0.25) == 1.0


def _value(groups: Any, label: str, name: str) -> Any:
    return next(m.value for m in groups[label] if m.name == name)


@pytest.mark.parametrize(
    ("label", "precision", "recall"),
    [
        ("EMAIL_ADDRESS", 0.99, 0.99), ("IBAN_CODE", 0.99, 0.99), ("US_SSN", 0.99, 0.99),
        ("IP_ADDRESS", 0.99, 0.99), ("CREDIT_CARD", 0.98, 0.90), ("PHONE_NUMBER", 0.80, 0.80),
        ("US_DRIVER_LICENSE", 0.50, 0.80),
    ],
)  # fmt: skip
def test_personal_data_meets_the_bars_on_the_generated_corpus(label, precision, recall):
    groups = corpus(list(guardrails_corpus.pii(1_400, seed=5)), PiiValidator(), {})
    assert _value(groups, label, "precision") >= precision
    assert _value(groups, label, "recall") >= recall
    assert _value(groups, "ALL", "clean texts flagged") <= 0.01


def test_secrets_meet_the_bars_on_the_generated_corpus():
    groups = corpus(list(guardrails_corpus.secrets(1_200, seed=5)), SecretsValidator(), {})
    assert _value(groups, "ALL", "precision") >= 0.95
    assert _value(groups, "ALL", "recall") >= 0.95
    assert _value(groups, "ALL", "clean texts flagged") <= 0.01


def test_disguised_attacks_stay_detected():
    report = evasion()
    kept = [report[name][0].value or 0 for name in DISGUISES]
    assert sum(kept) / len(kept) >= 0.95
    assert all(report[name][1].value == 1.0 for name in DISGUISES)


@pytest.mark.parametrize(
    ("name", "content", "with_spans"),
    [
        ("a.csv", "text,label\nhello,maybe\n", False),
        ("a.jsonl", '{"text": "a"}', False),
        ("a.jsonl", "not json", False),
        ("a.jsonl", '{"text": "a", "spans": [{"start": 0}]}', True),
        ("a.csv", "text,label\n", False),
    ],
)
def test_a_file_without_labels_is_refused(tmp_path, name, content, with_spans):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError):
        read_rows(path, with_spans=with_spans)


def test_csv_jsonl_and_presidio_arrays_are_read(tmp_path):
    (tmp_path / "a.csv").write_text('text,label\n"two\nlines",1\nb,0\n')
    assert [(r.text, r.label) for r in read_rows(tmp_path / "a.csv", with_spans=False)] == [
        ("two\nlines", True),
        ("b", False),
    ]
    span = {"start_position": 0, "end_position": 3, "entity_type": "PERSON"}
    (tmp_path / "a.json").write_text(json.dumps([{"full_text": "Amy", "spans": [span]}]))
    (row,) = read_rows(tmp_path / "a.json", with_spans=True)
    assert row.spans == (Marked(0, 3, "PERSON"),)

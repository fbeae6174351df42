"""Every rule finds its positives, with exact offsets, and none of its negatives."""

import pytest

from services.guardrails.domain import rules
from services.guardrails.domain.document import Document
from services.guardrails.domain.lexical import (
    RuleValidator,
    injection_validator,
    labelled_rules,
    malicious_validator,
)
from services.guardrails.domain.pii import recognizers
from services.guardrails.domain.secrets import SecretsValidator, secret_rules

REPORTED = 0.4  # the default threshold of a policy
_LABELLED = {"injection": injection_validator(), "malicious": malicious_validator()}


def _recognizer_cases(kind: str):
    for rule in recognizers():
        for example in rule.examples[kind]:
            yield pytest.param(rule, example, id=f"{rule.name}: {example}")


@pytest.mark.parametrize(("rule", "example"), list(_recognizer_cases("positives")))
def test_a_recognizer_finds_its_positive_at_the_marked_place(rule, example):
    text, start, end = rules.unmark(example)
    hits = [hit.span for hit in rule.hits(Document(text).original.utf8)]
    assert (start, end) in [(s.start, s.end) for s in hits if s.score >= REPORTED]
    assert all(s.end - s.start <= rule.max_span for s in hits)


@pytest.mark.parametrize(("rule", "example"), list(_recognizer_cases("negatives")))
def test_a_recognizer_leaves_its_negative_alone(rule, example):
    hits = [hit.span for hit in rule.hits(Document(example).original.utf8)]
    assert [span for span in hits if span.score >= REPORTED] == []


def test_there_are_at_least_thirty_recognizers_with_unique_names():
    names = [rule.name for rule in recognizers()]
    assert len(names) == len(set(names)) >= 30


@pytest.mark.parametrize("rule", secret_rules(), ids=lambda rule: rule.name)
def test_a_secret_rule_finds_its_positives_and_none_of_its_negatives(rule):
    validator = SecretsValidator()
    for example in rule.positives:
        text, start, end = rules.unmark(example)
        found = [(s.start, s.end, s.rule) for s in validator.detect(Document(text)).spans]
        assert (start, end, rule.name) in found
    for example in rule.negatives:
        assert validator.detect(Document(example)).spans == ()


def _labelled_cases(kind: str):
    for file in _LABELLED:
        for rule in labelled_rules(file):
            for example in getattr(rule, kind):
                yield pytest.param(_LABELLED[file], rule, example, id=f"{rule.name}: {example}")


@pytest.mark.parametrize(("validator", "rule", "example"), list(_labelled_cases("positives")))
def test_a_labelled_rule_finds_its_positive(validator: RuleValidator, rule, example):
    text, start, end = rules.unmark(example)
    spans = validator.detect(Document(text)).spans
    assert (start, end, rule.label) in [(s.start, s.end, s.label) for s in spans]


@pytest.mark.parametrize(("validator", "rule", "example"), list(_labelled_cases("negatives")))
def test_a_labelled_rule_leaves_its_negative_alone(validator: RuleValidator, rule, example):
    assert [s for s in validator.detect(Document(example)).spans if s.rule == rule.name] == []

"""Uploaded rule sets: what may be published, and what a published one finds."""

import pytest
from pydantic import ValidationError

from services.guardrails.domain.document import Document
from services.guardrails.domain.rulesets import RuleSet, RuleSetDetector, RuleSetError

BADGE = {
    "name": "badge", "label": "BADGE", "pattern": r"\b[A-Z]{2}-[0-9]{4}\b", "score": 0.3,
    "context": ["badge"], "positives": ["my badge «ZX-1234» please"], "negatives": ["ZX-12345"],
}  # fmt: skip
CARD = {
    "name": "member", "label": "MEMBER", "pattern": r"\b[0-9]{16}\b", "check": "luhn",
    "positives": ["«4111111111111111»"], "negatives": ["4111111111111112"],
}  # fmt: skip


def rule_set(*rules, version="1.0.0") -> RuleSet:
    return RuleSet.model_validate({"name": "house", "version": version, "rules": rules})


def test_a_rule_set_finds_with_checksum_and_context_at_exact_offsets():
    detector = RuleSetDetector(rule_set(BADGE, CARD))
    text = "ü badge ZX-1234, number 4111111111111111 and 4111111111111112"
    spans = detector.detect(Document(text)).spans
    assert [(s.start, s.end, s.label, s.score) for s in spans] == [
        (8, 15, "BADGE", 0.65), (24, 40, "MEMBER", 1.0)
    ]  # fmt: skip
    assert detector.labels == ("BADGE", "MEMBER")
    assert detector.hold() == 18


def test_the_version_names_the_content():
    one, other = rule_set(BADGE), rule_set({**BADGE, "score": 0.4})
    assert RuleSetDetector(one).version != RuleSetDetector(other).version
    assert RuleSetDetector(one).version.startswith("1.0.0+")


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"pattern": r"(a)\1"}, "/rules/0/pattern"),
        ({"pattern": "(?=a)a"}, "/rules/0/pattern"),
        ({"pattern": "(x+x+)+y"}, "/rules/0/pattern"),
        ({"pattern": "a{1000}{1000}"}, "/rules/0/pattern"),
        ({"pattern": "(?:a{900}){2}"}, "/rules/0/pattern"),
        ({"pattern": "["}, "/rules/0/pattern"),
        ({"check": "nope"}, "/rules/0/check"),
        ({"boundary": "nope"}, "/rules/0/boundary"),
        ({"positives": ["my badge ZX-1234"]}, "/rules/0/positives/0"),
        ({"positives": ["badge «ZX-123»"]}, "/rules/0/positives/0"),
        ({"negatives": ["ok", "badge ZX-1234"]}, "/rules/0/negatives/1"),
    ],
)
def test_a_rule_that_could_explode_or_fails_its_examples_is_refused_by_pointer(changes, pointer):
    with pytest.raises(RuleSetError) as refused:
        RuleSetDetector(rule_set({**BADGE, **changes}))
    assert refused.value.pointer == pointer
    assert "ZX" not in str(refused.value)


def test_two_rules_of_one_name_are_refused():
    with pytest.raises(RuleSetError):
        RuleSetDetector(rule_set(BADGE, BADGE))


@pytest.mark.parametrize(
    "changes", [{"score": float("nan")}, {"label": "x y"}, {"negatives": []}, {"more": 1}]
)
def test_a_rule_of_another_shape_is_no_rule(changes):
    with pytest.raises(ValidationError):
        rule_set({**BADGE, **changes})

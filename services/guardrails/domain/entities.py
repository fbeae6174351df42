"""Findings of the entity model beside those of the rules. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from services.guardrails.domain.verdict import Span

# What the model calls them, and what the rules and policies do.
LABELS = {
    "person": "PERSON",
    "location": "LOCATION",
    "organization": "ORGANIZATION",
    "address": "ADDRESS",
}
RULE_PREFIX = "entities."


def of_model(row: Mapping[str, Any], size: int) -> Span:
    """Read one span of the model.

    Raises:
        KeyError: a member is missing or the label unknown.
        ValueError: offsets or score are out of range.
    """
    start, end, score = row["start"], row["end"], row["score"]
    label = row["label"]
    is_whole = type(start) is int and type(end) is int
    if not is_whole or not 0 <= start < end <= size or not 0 <= score <= 1:
        raise ValueError("a span lies outside its text, or its score outside 0 to 1")
    return Span(start, end, LABELS[label], float(score), RULE_PREFIX + label)


def rule_entities(params: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """Give the parameters for the rules when the model finds names: they leave these to it."""
    wanted = params.get("entities")
    if wanted is None:
        return dict(params)
    return {**params, "entities": [name for name in wanted if name not in LABELS.values()]}


def joined(
    of_rules: Sequence[Span], named: Sequence[Span], entities: Sequence[str] | None
) -> tuple[Span, ...]:
    """Put both together; what lies within a finding of the rules is no name.

    Args:
        of_rules: what the rules found.
        named: what the model found.
        entities: labels that the policy asks for; None means all.
    """
    kept = [
        span
        for span in named
        if (entities is None or span.label in entities)
        and not any(rule.contains(span) for rule in of_rules)
    ]
    return tuple(sorted((*of_rules, *kept), key=lambda span: (span.start, -span.end)))

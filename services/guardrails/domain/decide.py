"""From detections to a decision: thresholds, allow-lists, actions, coverage, one pass of edits."""

from collections.abc import Sequence

from services.guardrails.domain.merge import apply_edits
from services.guardrails.domain.operators import TenantKeys, edit
from services.guardrails.domain.policy import PolicyBody, ValidatorRule
from services.guardrails.domain.verdict import (
    Action,
    Decision,
    Detection,
    Overall,
    Span,
    Status,
    Verdict,
    strictest,
)


def judge(text: str, rule: ValidatorRule, detection: Detection, version: str) -> Verdict:
    """Turn one detection into a verdict under one rule of the policy.

    A check that failed in part still counts for what it found.
    """
    allowed = {entry.casefold() for entry in rule.allow_list}
    spans = tuple(
        span
        for span in detection.spans
        if span.score >= rule.threshold_of(span.label, detection.thresholds.get(span.rule))
        and not (allowed and text[span.start : span.end].casefold() in allowed)
    )
    scores = {
        label: score
        for label, score in detection.scores.items()
        if score >= rule.threshold_of(label, detection.thresholds.get(label))
    }
    labels = {span.label for span in spans} | set(scores)
    top = max([*(span.score for span in spans), *detection.scores.values()], default=0.0)
    actions = [rule.action_of(label) for label in labels]
    failed = detection.status not in {Status.OK, Status.SKIPPED}
    if failed and rule.on_error == "closed":
        actions.append(Action.BLOCK)
    return Verdict(
        name=rule.name,
        version=detection.version or version,
        status=detection.status,
        action=strictest(actions),
        score=round(top, 4),
        spans=spans,
        scores=scores,
        arm=detection.arm,
        guarded=detection.guarded,
        measured=detection.scores,
    )


def decide(
    text: str,
    policy: PolicyBody,
    verdicts: Sequence[Verdict],
    keys: TenantKeys,
    *,
    cached: bool = False,
) -> Decision:
    """Take the strictest verdict and apply its edits once."""
    action = strictest([verdict.action for verdict in verdicts])
    shown = ""
    if action is not Action.BLOCK:
        shown = edited(text, policy, verdicts, keys) if action is Action.MASK else text
    return Decision(
        action=action,
        score=max((verdict.score for verdict in verdicts), default=0.0),
        text=shown,
        verdicts=tuple(verdicts),
        status=overall([verdict.status for verdict in verdicts]),
        guarded=_guarded(text, verdicts),
        total=len(text),
        cached=cached,
    )


def edited(text: str, policy: PolicyBody, verdicts: Sequence[Verdict], keys: TenantKeys) -> str:
    """Apply the operators to every span whose action is mask."""
    rules: dict[Span, ValidatorRule] = {}
    for verdict in verdicts:
        rule = policy.rule(verdict.name)
        if rule:
            for span in verdict.spans:
                if rule.action_of(span.label) is Action.MASK:
                    rules.setdefault(span, rule)
    operators = {(span.rule, span.label): rule for span, rule in rules.items()}
    return apply_edits(
        text,
        rules,
        lambda span, found: edit(
            operators[span.rule, span.label].operator_of(span.label), span.label, found, keys
        ),
    )


def overall(statuses: Sequence[Status]) -> Overall:
    """Say whether the policy ran whole, in part, or not at all."""
    done = [status in {Status.OK, Status.SKIPPED} for status in statuses]
    if all(done):
        return Overall.SUCCESS
    return Overall.PARTIAL if any(done) else Overall.FAILURE


def _guarded(text: str, verdicts: Sequence[Verdict]) -> int:
    seen = [
        verdict.guarded if verdict.guarded is not None else len(text)
        for verdict in verdicts
        if verdict.status is Status.OK
    ]
    return min(seen, default=0)

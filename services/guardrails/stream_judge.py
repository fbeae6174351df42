"""Judges the stretches of one stream under a policy and remembers what it found."""

from collections.abc import Mapping, Sequence
from typing import Any

from services.guardrails.domain.decide import judge, overall
from services.guardrails.domain.document import Document
from services.guardrails.domain.lexical import LengthValidator
from services.guardrails.domain.operators import TenantKeys, edit
from services.guardrails.domain.policy import Policy, ValidatorRule
from services.guardrails.domain.streaming import Judged
from services.guardrails.domain.verdict import Action, Decision, Span, Status, Verdict, strictest


def _local(rule: ValidatorRule) -> dict[str, Any]:
    """Give the parameters without those that ask for a model."""
    return {name: value for name, value in rule.params.items() if name != "model"}


def _moved(span: Span, by: int) -> Span:
    return Span(span.start + by, span.end + by, span.label, span.score, span.rule)


class StreamJudge:
    """Pure validators over the stretches of one stream; state of one connection."""

    def __init__(self, policy: Policy, detectors: Mapping[str, Any], keys: TenantKeys) -> None:
        """Read the parameters of the policy's validators once.

        Args:
            policy: rules whose validator is not in `detectors` are judged elsewhere.
            detectors: pure validators by name.
            keys: of the tenant.

        Raises:
            UnboundedError: a validator would have to hold back without end.
        """
        self._policy = policy
        self._keys = keys
        self._rules: list[tuple[ValidatorRule, Any, Any]] = [
            (rule, detectors[rule.name], detectors[rule.name].parse(_local(rule)))
            for rule in policy.body.validators
            if rule.name in detectors
        ]
        self._owners: dict[tuple[str, str], ValidatorRule] = {}
        self._found: dict[str, Verdict] = {}
        self._elsewhere: list[Span] = []  # found in windows; offsets of the stream
        self.hold = max((detector.hold(params) for _, detector, params in self._rules), default=0)

    def __call__(self, text: str, total: int, ended: bool) -> Judged:
        """Judge one stretch of a stream of `total` characters so far."""
        document = Document(text)
        masked: list[Span] = []
        actions: list[Action] = []
        for rule, detector, params in self._rules:
            if isinstance(detector, LengthValidator):
                detection = detector.detect_size(total, params, ended=ended)
            else:
                detection = detector.detect(document, params)
            verdict = judge(text, rule, detection, detector.version)
            actions.append(verdict.action)
            self._remember(verdict)
            for span in verdict.spans:
                if rule.action_of(span.label) is Action.MASK:
                    self._owners[span.rule, span.label] = rule
                    masked.append(span)
        return Judged((*masked, *self._within(total - len(text))), strictest(actions))

    def remember(self, verdicts: Sequence[tuple[int, Verdict]]) -> None:
        """Take verdicts of validators that judge windows elsewhere, each with its window's start.

        It is called before the window's text reaches the buffer, so no span comes too late.
        """
        for start, verdict in verdicts:
            self._remember(verdict)
            rule = self._policy.body.rule(verdict.name)
            for span in verdict.spans if rule else ():
                if rule and rule.action_of(span.label) is Action.MASK:
                    self._owners[span.rule, span.label] = rule
                    self._elsewhere.append(_moved(span, start))

    def _within(self, start: int) -> list[Span]:
        """Give the spans of windows that reach behind `start`, relative to it."""
        self._elsewhere = [span for span in self._elsewhere if span.end > start]
        return [_moved(span, -start) for span in self._elsewhere if span.start >= start]

    def edit(self, span: Span, text: str) -> str:
        """Give the replacement of a masked span."""
        rule = self._owners[span.rule, span.label]
        return edit(rule.operator_of(span.label), span.label, text, self._keys)

    def _remember(self, verdict: Verdict) -> None:
        """Keep the strictest verdict of each validator, with every label seen."""
        known = self._found.get(verdict.name)
        scores = dict.fromkeys(verdict.labels, verdict.score)
        for label, score in known.scores.items() if known else ():
            scores[label] = max(score, scores.get(label, 0.0))
        failed = known is not None and known.status not in {Status.OK, Status.SKIPPED}
        self._found[verdict.name] = Verdict(
            verdict.name,
            verdict.version,
            known.status if known and failed else verdict.status,
            strictest([verdict.action, known.action if known else Action.ALLOW]),
            max(verdict.score, known.score if known else 0.0),
            scores=scores,
        )

    def decision(self, total: int, guarded: int, *, blocked: bool) -> Decision:
        """Sum up the stream; spans are left out, their offsets were relative to stretches."""
        verdicts: Sequence[Verdict] = tuple(self._found.values())
        statuses: list[Status] = [verdict.status for verdict in verdicts]
        action = strictest([verdict.action for verdict in verdicts])
        return Decision(
            action=Action.BLOCK if blocked else action,
            score=max((verdict.score for verdict in verdicts), default=0.0),
            text="",
            verdicts=tuple(verdicts),
            status=overall(statuses),
            guarded=guarded,
            total=total,
        )

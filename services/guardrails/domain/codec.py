"""Verdicts as plain data for the cache: actions, scores, offsets and labels, never text."""

from collections.abc import Sequence
from typing import Any

from services.guardrails.domain.verdict import Action, Span, Status, Verdict

# Names this form in the keys of entries, so that another form is never read as this one.
FORM = "2"


def verdicts_to(verdicts: Sequence[Verdict]) -> list[list[Any]]:
    """Turn verdicts into lists of plain values."""
    return [
        [
            verdict.name,
            verdict.version,
            verdict.status.value,
            verdict.action.value,
            verdict.score,
            [[span.start, span.end, span.label, span.score, span.rule] for span in verdict.spans],
            verdict.scores,
            verdict.arm,
            verdict.guarded,
            verdict.measured,
        ]
        for verdict in verdicts
    ]


def verdicts_from(rows: Sequence[Sequence[Any]]) -> tuple[Verdict, ...]:
    """Turn them back."""
    return tuple(
        Verdict(
            name=name,
            version=version,
            status=Status(status),
            action=Action(action),
            score=score,
            spans=tuple(Span(*span) for span in spans),
            scores=scores,
            arm=arm,
            guarded=guarded,
            measured=measured,
        )
        for name, version, status, action, score, spans, scores, arm, guarded, measured in rows
    )

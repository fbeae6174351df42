"""Merging of spans and the one pass of edits.

Every character of every span is edited exactly once. Overlaps resolve left to right and
neighbouring spans are not joined: a chain of neighbours would otherwise grow beyond any hold-back
of a stream.
"""

from collections.abc import Callable, Iterable

from services.guardrails.domain.verdict import Span


def drop_contained(spans: Iterable[Span]) -> list[Span]:
    """Remove spans that lie within a span of a score at least as high; sorted by start.

    Of equal spans with equal scores the first given stays.
    """
    kept: list[Span] = []
    active: list[Span] = []
    for span in sorted(spans, key=lambda item: (item.start, -item.end, -item.score)):
        active = [other for other in active if other.end > span.start]
        if not any(other.contains(span) and other.score >= span.score for other in active):
            kept.append(span)
            active.append(span)
    return kept


def disjoint(spans: Iterable[Span]) -> list[Span]:
    """Trim overlapping spans so that none share a character and none of the union is lost.

    The span that starts first wins; at one start the higher score, then the longer. A later span
    keeps what sticks out.
    """
    result: list[Span] = []
    reached = 0
    for span in sorted(spans, key=lambda item: (item.start, -item.score, -item.end)):
        start = max(span.start, reached)
        if start >= span.end:
            continue
        result.append(Span(start, span.end, span.label, span.score, span.rule))
        reached = span.end
    return result


def apply_edits(text: str, spans: Iterable[Span], edit: Callable[[Span, str], str]) -> str:
    """Replace each span of the text once, right to left.

    Args:
        text: the original.
        spans: may overlap; `disjoint` is applied first.
        edit: gives the replacement from the span and its text.
    """
    for span in reversed(disjoint(spans)):
        text = text[: span.start] + edit(span, text[span.start : span.end]) + text[span.end :]
    return text

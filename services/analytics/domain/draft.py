"""Drafts: prose with placeholders, by Gemini or by rules; checked, then filled with figures.

A draft is refused when it has a digit or a number word of its own, names a fact that does not
exist, raises an issue without a broken limit behind it, or holds markup or an address.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.analytics.domain.facts import Fact, FactSheet, shown
from services.analytics.domain.thresholds import SEVERITIES, Severity

SUMMARY_CHARS_MAX = 2_000
_PLACEHOLDER = re.compile(r"\{([FM]\d{1,3})(?:\.(previous|limit|n))?\}")
_NUMBER_WORDS = re.compile(
    r"\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen|twenty|thirty|forty|"
    r"fifty|sixty|seventy|eighty|ninety|hundreds?|thousands?|millions?|billions?|percent|half|"
    r"twice|thrice|doubled?|tripled?|halved)\b",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"://|[<>`\[\]\\]|www\.", re.IGNORECASE)

Refusal = Literal["invented_number", "unknown_fact", "unsupported_issue", "unsafe_text"]
Prose = Annotated[str, Field(min_length=1, max_length=600)]


class DraftIssue(BaseModel):
    """Something wrong, with the facts that show it."""

    model_config = ConfigDict(extra="ignore")
    title: Annotated[str, Field(min_length=1, max_length=300)]
    severity: Severity
    evidence: Annotated[list[str], Field(min_length=1, max_length=20)]


class Draft(BaseModel):
    """What a writer hands in; its JSON Schema is given to Gemini."""

    model_config = ConfigDict(extra="ignore")
    summary: Annotated[str, Field(min_length=1, max_length=SUMMARY_CHARS_MAX)]
    identified_issues: Annotated[list[DraftIssue], Field(max_length=20)]
    root_cause_hypothesis: Prose | None
    recommendations: Annotated[list[Prose], Field(min_length=1, max_length=10)]
    confidence_score: Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True)
class Issue:
    """An issue as the report shows it; severity is that of its gravest fact."""

    title: str
    severity: Severity
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Written:
    """A draft with its figures filled in."""

    summary: str
    severity: Severity
    identified_issues: tuple[Issue, ...]
    root_cause_hypothesis: str | None
    recommendations: tuple[str, ...]
    confidence_score: float


def refusal_of(draft: Draft, sheet: FactSheet) -> Refusal | None:
    """Say why a draft cannot be used, or None when it can."""
    prose = [draft.summary, draft.root_cause_hypothesis or "", *draft.recommendations]
    prose += [issue.title for issue in draft.identified_issues]
    for text in prose:
        for name, part in _PLACEHOLDER.findall(text):
            if name not in sheet.by_id and (name not in sheet.names or part):
                return "unknown_fact"
        bare = _PLACEHOLDER.sub("", text)
        if any(character.isnumeric() for character in bare) or _NUMBER_WORDS.search(bare):
            return "invented_number"
        if _MARKUP.search(bare) or "{" in bare or "}" in bare:
            return "unsafe_text"
    for issue in draft.identified_issues:
        if any(name not in sheet.by_id for name in issue.evidence):
            return "unknown_fact"
        if not any(sheet.by_id[name].status == "breached" for name in issue.evidence):
            return "unsupported_issue"
    return None


def fill(draft: Draft, sheet: FactSheet) -> Written:
    """Put the figures into a draft that `refusal_of` let pass."""
    return Written(
        summary=_filled(draft.summary, sheet)[:SUMMARY_CHARS_MAX],
        severity=sheet.severity,
        identified_issues=tuple(
            Issue(
                _filled(issue.title, sheet),
                _gravest([sheet.by_id[name] for name in issue.evidence]),
                tuple(dict.fromkeys(issue.evidence)),
            )
            for issue in draft.identified_issues
        ),
        root_cause_hypothesis=(
            _filled(draft.root_cause_hypothesis, sheet) if draft.root_cause_hypothesis else None
        ),
        recommendations=tuple(_filled(text, sheet) for text in draft.recommendations),
        confidence_score=min(draft.confidence_score, sheet.confidence_max),
    )


def _gravest(facts: list[Fact]) -> Severity:
    return max((fact.severity or "low" for fact in facts), key=SEVERITIES.index)


def _filled(text: str, sheet: FactSheet) -> str:
    def figure(match: re.Match[str]) -> str:
        name, part = match[1], match[2]
        if name in sheet.names:
            return f'"{sheet.names[name]}"'
        fact = sheet.by_id[name]
        if part == "n":
            return str(fact.n)
        value = {"previous": fact.previous, "limit": fact.limit}.get(part, fact.value)
        return shown(value, fact.unit)

    return _PLACEHOLDER.sub(figure, text)

"""Recognizers of personal data: a pattern, its neighbours, a checksum, context words.

Scoring follows Presidio: a low base score; a check that passes raises to 1.0 (or, where the check
is weak, leaves the score), one that fails drops; a context word among the five words before adds
0.35 with a floor of 0.4. Every hit explains itself.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.guardrails.domain.checksums import CHECKS
from services.guardrails.domain.fitting import FITTERS
from services.guardrails.domain.patterns import Pattern
from services.guardrails.domain.text import Utf8
from services.guardrails.domain.verdict import Span

CONTEXT_BOOST = 0.35
CONTEXT_FLOOR = 0.4
_CONTEXT_WORDS = 5
# Five words of ordinary length; a longer run has no five words worth reading.
_CONTEXT_CHARS = 120


@dataclass(frozen=True, slots=True)
class Hit:
    """A span with the reasons for its score.

    Attributes:
        validated: what the check said; None where the rule has none.
        context_word: the word before that raised the score, from the rule's own list.
    """

    span: Span
    recognizer: "Recognizer"
    original_score: float
    validated: bool | None
    context_word: str | None

    @property
    def context_improvement(self) -> float:
        """How much the context word added."""
        base = 1.0 if self.validated and self.recognizer.check_raises else self.original_score
        return round(self.span.score - base, 4) if self.context_word else 0.0


@dataclass(frozen=True)
class Recognizer:
    """One rule; see the head of rules/pii.toml for the meaning of its fields."""

    name: str
    entity: str
    pattern: Pattern
    score: float
    check: Callable[[str], bool] | None = None
    check_raises: bool = True
    fit: Callable[[str], Iterable[tuple[int, int]]] | None = None
    context: frozenset[str] = frozenset()
    needs_context: bool = False
    boundary: str = "word"
    country: str = ""
    max_span: int = 256
    examples: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def from_rule(cls, rule: dict[str, Any]) -> "Recognizer":
        """Build from one table of the rule file."""
        return cls(
            name=rule["name"],
            entity=rule["entity"],
            pattern=Pattern(rule["pattern"]),
            score=rule["score"],
            check=CHECKS[rule["check"]] if "check" in rule else None,
            check_raises=rule.get("check_raises", True),
            fit=FITTERS[rule["fit"]] if "fit" in rule else None,
            context=frozenset(rule.get("context", ())),
            needs_context=rule.get("needs_context", False),
            boundary=rule.get("boundary", "word"),
            country=rule.get("country", ""),
            max_span=rule["max_span"],
            examples={"positives": rule["positives"], "negatives": rule["negatives"]},
        )

    def hits(self, utf8: Utf8, extra_context: Sequence[str] = ()) -> Iterator[Hit]:
        """Find every hit with a score above zero, left to right.

        Args:
            utf8: the text.
            extra_context: words that count as standing before every span.
        """
        word, may_have_context = None, not self.context.isdisjoint(utf8.words.all)
        if extra_context:
            word = next((w.lower() for w in extra_context if w.lower() in self.context), None)
        if self.needs_context and word is None and not may_have_context:
            return
        for start, end in self.pattern.find(utf8, self.fit):
            near = word
            if near is None and may_have_context:
                near = self._context_word(utf8, start)
            hit = self._judge(utf8.text, start, end, near)
            if hit:
                yield hit

    def _judge(self, text: str, start: int, end: int, word: str | None) -> Hit | None:
        if self.needs_context and word is None:
            return None
        if not BOUNDARIES[self.boundary](text, start, end):
            return None
        validated = self.check(text[start:end]) if self.check else None
        if validated is False:
            return None
        score = 1.0 if validated and self.check_raises else self.score
        if word is not None:
            score = min(1.0, max(score + CONTEXT_BOOST, CONTEXT_FLOOR))
        span = Span(start, end, self.entity, round(score, 4), self.name)
        return Hit(span, self, self.score, validated, word)

    def _context_word(self, utf8: Utf8, start: int) -> str | None:
        for word in utf8.words.before(start, _CONTEXT_WORDS, _CONTEXT_CHARS):
            if word in self.context:
                return word
        return None


def _word_char(text: str, index: int) -> bool:
    return 0 <= index < len(text) and (text[index].isalnum() or text[index] == "_")


def _word(text: str, start: int, end: int) -> bool:
    return not (
        (_word_char(text, start) and _word_char(text, start - 1))
        or (_word_char(text, end - 1) and _word_char(text, end))
    )


def _number(text: str, start: int, end: int) -> bool:
    if not _word(text, start, end):
        return False
    joins_left = start > 1 and text[start - 1] in ".,-/+" and text[start - 2].isdigit()
    joins_right = end + 1 < len(text) and text[end] in ".,-/" and text[end + 1].isdigit()
    return not (joins_left or joins_right)


def _colon(text: str, start: int, end: int) -> bool:
    before, after = text[max(0, start - 1) : start], text[end : end + 1]
    goes_on = after in {":", "-"} and (text[end + 1 : end + 2] == ":" or _word_char(text, end + 1))
    comes_on = before in {":", "-"} or (text[start] == ":" and _word_char(text, start - 1))
    return _word(text, start, end) and not comes_on and not goes_on


def _host(text: str, start: int, end: int) -> bool:
    before, after = text[max(0, start - 1) : start], text[end : end + 1]
    return _word(text, start, end) and before not in {"@", "/", "."} and after not in {"@", "/"}


# Which neighbours a match may have, by the rule's `boundary`.
BOUNDARIES: dict[str, Callable[[str, int, int], bool]] = {
    "word": _word,
    "number": _number,
    "colon": _colon,
    "host": _host,
    "none": lambda text, start, end: True,
}

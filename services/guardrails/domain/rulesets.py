"""Rule sets as data: a validator without code, checked whole before it may be published. Pure.

Every expression is RE2's (linear time) and has a longest match, so that a stream can hold back for
it; every rule finds its own positives at the marked place and leaves its negatives alone.
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from services.guardrails.domain.checksums import CHECKS
from services.guardrails.domain.document import Document
from services.guardrails.domain.lexical import HOLD_CHARS_MAX
from services.guardrails.domain.merge import drop_contained
from services.guardrails.domain.params import check_names
from services.guardrails.domain.patterns import Pattern, PatternError
from services.guardrails.domain.pii import Analyzer, PiiParams
from services.guardrails.domain.plugins import NAME_PATTERN, VERSION_PATTERN
from services.guardrails.domain.recognizer import BOUNDARIES, Recognizer
from services.guardrails.domain.rules import unmark
from services.guardrails.domain.text import Utf8
from services.guardrails.domain.verdict import Detection, Span
from services.guardrails.domain.width import longest_match

RULES_MAX = 500
_Example = Annotated[str, Field(max_length=2_000)]
_Examples = Annotated[tuple[_Example, ...], Field(min_length=1, max_length=100)]
_Word = Annotated[str, Field(min_length=1, max_length=64)]


class RuleSetError(ValueError):
    """A rule cannot run or fails its own examples; `pointer` names it, no text holds a value."""

    def __init__(self, pointer: str, message: str) -> None:
        super().__init__(message)
        self.pointer = pointer


class Rule(BaseModel):
    """One expression with its label, score, context and examples.

    `boundary` says which neighbours a match may have, `check` names a checksum: a match that fails
    it is none. A word of `context` among the five before raises the score; with `needs_context`
    there is no finding without one. Positives mark the match as `a «match» here`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=NAME_PATTERN)
    label: str = Field(pattern="^[A-Z][A-Z0-9_]{0,63}$")
    pattern: str = Field(min_length=1, max_length=2_000)
    score: float = Field(default=0.6, gt=0, le=1, allow_inf_nan=False)
    context: Annotated[tuple[_Word, ...], Field(max_length=100)] = ()
    needs_context: bool = False
    check: str | None = None
    boundary: str = "word"
    positives: _Examples
    negatives: _Examples


class RuleSet(BaseModel):
    """One version of a rule set; a published version never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=NAME_PATTERN)
    version: str = Field(pattern=VERSION_PATTERN)
    rules: Annotated[tuple[Rule, ...], Field(min_length=1, max_length=RULES_MAX)]

    @property
    def digest(self) -> str:
        """SHA-256 of what it says."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def labels(self) -> tuple[str, ...]:
        """What it can report."""
        return tuple(sorted({rule.label for rule in self.rules}))


class RuleSetDetector:
    """Finds what one version describes, in the original and the stripped view."""

    kind = "rules"
    lookahead = 2

    def __init__(self, rule_set: RuleSet) -> None:
        """Compile and run the examples.

        Raises:
            RuleSetError: a rule cannot run, or fails its own examples.
        """
        names = [rule.name for rule in rule_set.rules]
        if len(set(names)) < len(names):
            raise RuleSetError("/rules", "may name a rule once only")
        recognizers = tuple(
            _recognizer(rule, f"/rules/{index}") for index, rule in enumerate(rule_set.rules)
        )
        for index, (rule, recognizer) in enumerate(zip(rule_set.rules, recognizers, strict=True)):
            _try(rule, recognizer, f"/rules/{index}")
        self.name = rule_set.name
        self.version = f"{rule_set.version}+{rule_set.digest[:8]}"
        self.labels = rule_set.labels
        self.max_span = max(recognizer.max_span for recognizer in recognizers)
        self._params = PiiParams(entities=frozenset(self.labels))
        try:
            self._analyzer = Analyzer(recognizers)
        except PatternError as error:
            raise RuleSetError("/rules", str(error)) from None

    def parse(self, params: Mapping[str, Any]) -> None:
        """Accept no parameters."""
        check_names(params, set())

    def hold(self, params: None = None) -> int:
        """Give the longest match of any rule, with its look-ahead."""
        return self.max_span + self.lookahead

    def detect(self, document: Document, params: None = None) -> Detection:
        """Find every match of every rule."""
        spans: list[Span] = [
            view.to_original(hit.span)
            for view in document.plain_views
            for hit in self._analyzer.hits(view, self._params)
        ]
        return Detection(spans=tuple(drop_contained(spans)), version=self.version)


def _recognizer(rule: Rule, pointer: str) -> Recognizer:
    if rule.check is not None and rule.check not in CHECKS:
        raise RuleSetError(f"{pointer}/check", "is not a checksum of this service")
    if rule.boundary not in BOUNDARIES:
        raise RuleSetError(f"{pointer}/boundary", f"must be one of {', '.join(BOUNDARIES)}")
    try:
        pattern = Pattern(rule.pattern)
    except PatternError as error:
        raise RuleSetError(f"{pointer}/pattern", str(error)) from None
    width = longest_match(rule.pattern)
    if width is None or not 0 < width <= HOLD_CHARS_MAX:
        raise RuleSetError(
            f"{pointer}/pattern",
            f"must match 1 to {HOLD_CHARS_MAX} characters; give repetitions an upper bound",
        )
    return Recognizer(
        name=rule.name,
        entity=rule.label,
        pattern=pattern,
        score=rule.score,
        check=CHECKS[rule.check] if rule.check else None,
        context=frozenset(word.lower() for word in rule.context),
        needs_context=rule.needs_context,
        boundary=rule.boundary,
        max_span=width,
    )


def _try(rule: Rule, recognizer: Recognizer, pointer: str) -> None:
    """Run a rule on its own examples."""
    for number, example in enumerate(rule.positives):
        at = f"{pointer}/positives/{number}"
        try:
            text, start, end = unmark(example)
        except ValueError:
            raise RuleSetError(at, "must mark the match with « and »") from None
        found = [(hit.span.start, hit.span.end) for hit in recognizer.hits(Utf8(text))]
        if (start, end) not in found:
            raise RuleSetError(at, "is not found at the marked place")
    for number, example in enumerate(rule.negatives):
        if any(True for _ in recognizer.hits(Utf8(example))):
            raise RuleSetError(f"{pointer}/negatives/{number}", "is found")

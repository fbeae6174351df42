"""Validators over rule files and over a policy's own patterns, words and bounds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from services.guardrails.domain import rules
from services.guardrails.domain.document import Document, View
from services.guardrails.domain.merge import drop_contained
from services.guardrails.domain.params import ParamsError, check_names, string_list, whole_number
from services.guardrails.domain.patterns import Pattern, PatternError, PatternSet
from services.guardrails.domain.verdict import Detection, Span
from services.guardrails.domain.width import longest_match

REGEXES_MAX = 100
# Longest match of a policy's own expression that a stream holds back for.
HOLD_CHARS_MAX = 1_024


class UnboundedError(ValueError):
    """A stream cannot hold back enough for a validator with these parameters."""


@dataclass(frozen=True)
class LabelledRule:
    """One rule of a file of labelled patterns."""

    name: str
    label: str
    pattern: Pattern
    score: float
    positives: tuple[str, ...]
    negatives: tuple[str, ...]


@lru_cache
def labelled_rules(file: str) -> tuple[LabelledRule, ...]:
    """Build every rule of a file, once."""
    return tuple(
        LabelledRule(
            rule["name"],
            rule["label"],
            Pattern(rule["pattern"]),
            rule["score"],
            tuple(rule["positives"]),
            tuple(rule["negatives"]),
        )
        for rule in rules.load(file)["rule"]
    )


class RuleValidator:
    """Finds what the rules of one file describe in the views it is given."""

    kind = "pattern"
    # Rules match at most 254 characters, 127 where letter spacing doubles them; a test holds them.
    max_span = 254
    lookahead = 2

    def __init__(self, name: str, views: Callable[[Document], Sequence[View]]) -> None:
        """Build over `rules/<name>.toml`.

        Args:
            name: of the validator and its file.
            views: the readings in which it looks.
        """
        self.name = name
        self.version = rules.version(name)
        self._views = views
        self._rules = labelled_rules(name)
        self._set = PatternSet([rule.pattern.source for rule in self._rules])
        self.labels = tuple(sorted({rule.label for rule in self._rules}))

    def parse(self, params: Mapping[str, Any]) -> None:
        """Accept no parameters."""
        check_names(params, set())

    def hold(self, params: None = None) -> int:
        """Give the characters that a stream holds back."""
        return self.max_span + self.lookahead

    def detect(self, document: Document, params: None = None) -> Detection:
        """Find every match in every view, in original offsets."""
        spans = [
            view.to_original(Span(start, end, rule.label, rule.score, rule.name))
            for view in self._views(document)
            for rule in (self._rules[index] for index in self._set.candidates(view.utf8))
            for start, end in rule.pattern.find(view.utf8)
        ]
        return Detection(spans=tuple(drop_contained(spans)), version=self.version)


def injection_validator() -> RuleValidator:
    """Find instructions to the model, in every reading in which they could hide."""
    return RuleValidator("injection", lambda document: document.evasion_views)


def malicious_validator() -> RuleValidator:
    """Find script, SQL, template and command injection, in the plain and the decoded views."""
    return RuleValidator(
        "malicious", lambda document: (*document.plain_views, *document.decoded_views)
    )


@dataclass(frozen=True)
class LengthParams:
    """Bounds in characters."""

    chars_min: int
    chars_max: int


class LengthValidator:
    """Finds texts that are too short or too long."""

    name = "length"
    kind = "bound"
    version = "1.0.0"
    labels = ("TOO_LONG", "TOO_SHORT")
    max_span = 0
    lookahead = 0

    def parse(self, params: Mapping[str, Any]) -> LengthParams:
        """Read `chars_min` and `chars_max`."""
        check_names(params, {"chars_min", "chars_max"})
        bounds = LengthParams(
            whole_number(params, "chars_min", 0, 0, 2_000_000),
            whole_number(params, "chars_max", 2_000_000, 0, 2_000_000),
        )
        if bounds.chars_min > bounds.chars_max:
            raise ParamsError("/chars_min", "is larger than chars_max")
        return bounds

    def hold(self, params: LengthParams) -> int:
        """Hold nothing: a length needs no text."""
        return 0

    def detect(self, document: Document, params: LengthParams) -> Detection:
        """Score 1 for a bound that is passed."""
        return self.detect_size(len(document.text), params, ended=True)

    def detect_size(self, size: int, params: LengthParams, *, ended: bool) -> Detection:
        """Judge a length; a text that goes on is not yet too short."""
        scores = {}
        if size > params.chars_max:
            scores["TOO_LONG"] = 1.0
        elif ended and size < params.chars_min:
            scores["TOO_SHORT"] = 1.0
        return Detection(scores=scores, version=self.version)


class WordListValidator:
    """Finds a policy's words, whole and in any spelling that folding undoes."""

    name = "words"
    kind = "list"
    version = "1.0.0"
    labels = ("WORD",)
    max_span = 128
    lookahead = 2

    def parse(self, params: Mapping[str, Any]) -> frozenset[str]:
        """Read `words`; entries are compared folded to lower case."""
        check_names(params, {"words"})
        words = string_list(params, "words")
        if not words or any(not word.strip() or len(word) > self.max_span for word in words):
            raise ParamsError("/words", f"must list words of 1 to {self.max_span} characters")
        return frozenset(word.lower() for word in words)

    def hold(self, params: frozenset[str]) -> int:
        """Give the longest word, twice for letter spacing, and a neighbour on each side."""
        return 2 * max(map(len, params)) + self.lookahead

    def detect(self, document: Document, params: frozenset[str]) -> Detection:
        """Find whole words and phrases."""
        spans: list[Span] = []
        for view in document.evasion_views:
            text = view.utf8.text
            for word in params:
                at = text.find(word)
                while at >= 0:
                    end = at + len(word)
                    if _is_whole(text, at, end):
                        spans.append(view.to_original(Span(at, end, "WORD", 1.0, "words")))
                    at = text.find(word, at + 1)
        return Detection(spans=tuple(drop_contained(spans)), version=self.version)


def _is_whole(text: str, start: int, end: int) -> bool:
    before, after = text[max(0, start - 1) : start], text[end : end + 1]
    return not before.isalnum() and not after.isalnum()


@lru_cache(maxsize=1_024)
def _compiled(source: str) -> Pattern:
    return Pattern(source)


class RegexValidator:
    """Finds a policy's own patterns: linear time, or refused when the policy is written."""

    name = "regex"
    kind = "list"
    version = "1.0.0"
    labels = ("REGEX",)
    max_span = 254
    lookahead = 2

    def parse(self, params: Mapping[str, Any]) -> dict[str, Pattern]:
        """Read `patterns`, a table of name to expression."""
        check_names(params, {"patterns"})
        patterns = params.get("patterns")
        if not isinstance(patterns, Mapping) or not 1 <= len(patterns) <= REGEXES_MAX:
            raise ParamsError("/patterns", f"must be a table of 1 to {REGEXES_MAX} expressions")
        compiled = {}
        for name, source in patterns.items():
            if not isinstance(source, str):
                raise ParamsError(f"/patterns/{name}", "must be an expression")
            try:
                compiled[str(name)] = _compiled(source)
            except PatternError as error:
                raise ParamsError(f"/patterns/{name}", str(error)) from None
        return compiled

    def hold(self, params: Mapping[str, Pattern]) -> int:
        """Give the longest match of any expression.

        Raises:
            UnboundedError: an expression can match without end, or far.
        """
        widths = [longest_match(pattern.source) for pattern in params.values()]
        known = [width for width in widths if width is not None]
        if len(known) < len(widths) or max(known) > HOLD_CHARS_MAX:
            raise UnboundedError(
                f"an expression of the validator regex matches more than {HOLD_CHARS_MAX} "
                "characters; give its repetitions an upper bound"
            )
        return max(known) + self.lookahead

    def detect(self, document: Document, params: Mapping[str, Pattern]) -> Detection:
        """Find every match in the plain views; the rule is the pattern's name."""
        spans = [
            view.to_original(Span(start, end, "REGEX", 1.0, name))
            for view in document.plain_views
            for name, pattern in params.items()
            for start, end in pattern.find(view.utf8)
        ]
        return Detection(spans=tuple(drop_contained(spans)), version=self.version)

"""The secrets validator: keyword scan, pattern, stop words, entropy; then the decoded views."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from services.guardrails.domain import rules
from services.guardrails.domain.document import Document, View
from services.guardrails.domain.merge import drop_contained
from services.guardrails.domain.params import check_names
from services.guardrails.domain.patterns import Pattern, PatternSet
from services.guardrails.domain.verdict import Detection, Span


def entropy(text: str) -> float:
    """Shannon entropy in bits per character; 0 for an empty text."""
    size = len(text)
    return -sum(n / size * math.log2(n / size) for n in Counter(text).values())


@dataclass(frozen=True)
class SecretRule:
    """One rule of rules/secrets.toml."""

    name: str
    entity: str
    keywords: tuple[str, ...]
    pattern: Pattern
    entropy_min: float
    needs_digit: bool
    score: float
    positives: tuple[str, ...]
    negatives: tuple[str, ...]

    @classmethod
    def from_rule(cls, rule: dict[str, Any]) -> "SecretRule":
        """Build from one table of the rule file."""
        return cls(
            name=rule["name"],
            entity=rule["entity"],
            keywords=tuple(rule["keywords"]),
            pattern=Pattern(rule["pattern"]),
            entropy_min=rule["entropy"],
            needs_digit=rule.get("needs_digit", False),
            score=rule["score"],
            positives=tuple(rule["positives"]),
            negatives=tuple(rule["negatives"]),
        )

    def accepts(self, secret: str, stop_words: tuple[str, ...]) -> bool:
        """Say whether a match is random enough and no placeholder."""
        if self.needs_digit and not any(char.isdigit() for char in secret):
            return False
        lowered = secret.lower()
        if any(word in lowered for word in stop_words):
            return False
        return entropy(secret) >= self.entropy_min


@lru_cache
def secret_rules() -> tuple[SecretRule, ...]:
    """Build every rule of the file, once."""
    return tuple(SecretRule.from_rule(rule) for rule in rules.load("secrets")["rule"])


class SecretsValidator:
    """Finds credentials; labels are kinds of credential."""

    name = "secrets"
    kind = "pattern"
    # A token that spans more is held by the streaming rule for runs without a space.
    max_span = 254
    lookahead = 2

    def __init__(self) -> None:
        self.version = rules.version("secrets")
        self._rules = secret_rules()
        self._stop_words = tuple(rules.load("secrets")["stop_words"])
        self.labels = tuple(sorted({rule.entity for rule in self._rules}))
        owners: dict[str, list[SecretRule]] = {}
        for rule in self._rules:
            for keyword in rule.keywords:
                owners.setdefault(keyword, []).append(rule)
        self._owners = list(owners.values())
        self._keywords = PatternSet([_literal(keyword) for keyword in owners])

    def parse(self, params: Mapping[str, Any]) -> None:
        """Accept no parameters."""
        check_names(params, set())

    def hold(self, params: None = None) -> int:
        """Give the characters that a stream holds back."""
        return self.max_span + self.lookahead

    def detect(self, document: Document, params: None = None) -> Detection:
        """Find credentials in the plain and the decoded views."""
        spans: list[Span] = []
        for view in (*document.plain_views, *document.decoded_views):
            spans += [view.to_original(span) for span in self._in_view(view)]
        return Detection(spans=tuple(drop_contained(spans)), version=self.version)

    def _in_view(self, view: View) -> list[Span]:
        wanted: dict[str, SecretRule] = {}
        for index in self._keywords.candidates(view.utf8):
            wanted.update({rule.name: rule for rule in self._owners[index]})
        text = view.utf8.text
        return [
            Span(start, end, rule.entity, rule.score, rule.name)
            for rule in wanted.values()
            for start, end in rule.pattern.find(view.utf8)
            if rule.accepts(text[start:end], self._stop_words)
        ]


def _literal(keyword: str) -> str:
    escaped = "".join(char if char.isalnum() or char == "_" else f"\\{char}" for char in keyword)
    return f"(?i){escaped}"

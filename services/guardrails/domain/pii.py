"""The PII validator: every enabled recognizer over the original text and its stripped view."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from services.guardrails.domain import rules
from services.guardrails.domain.document import Document, View
from services.guardrails.domain.merge import drop_contained
from services.guardrails.domain.params import ParamsError, check_names, string_list
from services.guardrails.domain.patterns import PatternSet
from services.guardrails.domain.recognizer import Hit, Recognizer
from services.guardrails.domain.verdict import Detection, Span

# Rules whose matches never hold white space.
_WORD_RULES = frozenset({"url", "host"})
# International rules and those of two countries; a policy may name others.
DEFAULT_COUNTRIES = ("", "us", "uk")
# Hosts, dates and ages are personal only together with something else, and lists of names miss and
# mistake too much to mask by: off unless asked for.
DEFAULT_EXCLUDED = frozenset(
    {"DATE_TIME", "AGE", "URL", "PERSON", "LOCATION", "ORGANIZATION", "ADDRESS"}
)


@dataclass(frozen=True)
class PiiParams:
    """What a policy may choose.

    Attributes:
        entities: only these; None means all of the countries but the default exclusions.
        countries: which national rules run; `""` is the international set.
        context: words that count as standing before every span.
    """

    entities: frozenset[str] | None = None
    countries: tuple[str, ...] = DEFAULT_COUNTRIES
    context: tuple[str, ...] = ()

    def wants(self, recognizer: Recognizer) -> bool:
        """Say whether the recognizer runs."""
        if self.entities is not None:
            return recognizer.entity in self.entities
        return recognizer.country in self.countries and recognizer.entity not in DEFAULT_EXCLUDED


@lru_cache
def recognizers() -> tuple[Recognizer, ...]:
    """Build every recognizer of the rule file, once."""
    return tuple(Recognizer.from_rule(rule) for rule in rules.load("pii")["rule"])


def wanted_entities(params: Mapping[str, Any]) -> frozenset[str]:
    """Give the entities that the rules look for under a policy's parameters, already checked."""
    entities, countries = params.get("entities"), params.get("countries")
    parsed = PiiParams(
        entities=None if entities is None else frozenset(entities),
        countries=DEFAULT_COUNTRIES if countries is None else ("", *countries),
    )
    return frozenset(r.entity for r in recognizers() if parsed.wants(r))


@dataclass(frozen=True)
class Analyzer:
    """Recognizers with one scan in front that says which of them can match at all."""

    recognizers: Sequence[Recognizer]
    _set: PatternSet = field(init=False)

    def __post_init__(self) -> None:
        """Compile the scan."""
        sources = [recognizer.pattern.source for recognizer in self.recognizers]
        object.__setattr__(self, "_set", PatternSet(sources))

    def hits(self, view: View, params: PiiParams) -> Iterable[Hit]:
        """Give the hits of the wanted recognizers in one view, with offsets of that view."""
        for index in self._set.candidates(view.utf8):
            recognizer = self.recognizers[index]
            if params.wants(recognizer):
                yield from recognizer.hits(view.utf8, params.context)


@lru_cache
def default_analyzer() -> Analyzer:
    """Give the analyzer over the rule file."""
    return Analyzer(recognizers())


class PiiValidator:
    """Finds personal data; labels are entity types."""

    name = "pii"
    kind = "pattern"

    def __init__(self) -> None:
        self._analyzer = default_analyzer()
        self.version = rules.version("pii")
        self.labels = tuple(sorted({r.entity for r in self._analyzer.recognizers}))
        # URLs are longer but hold no space: the stream holds unfinished words by itself.
        self.max_span = max(
            r.max_span for r in self._analyzer.recognizers if r.name not in _WORD_RULES
        )
        self.lookahead = 2

    def parse(self, params: Mapping[str, Any]) -> PiiParams:
        """Read `entities`, `countries` and `context`."""
        check_names(params, {"entities", "countries", "context"})
        entities = string_list(params, "entities")
        unknown = set(entities or ()) - set(self.labels)
        if unknown:
            raise ParamsError("/entities", "names an entity that no recognizer finds")
        countries = string_list(params, "countries")
        return PiiParams(
            entities=None if entities is None else frozenset(entities),
            countries=DEFAULT_COUNTRIES if countries is None else ("", *countries),
            context=string_list(params, "context") or (),
        )

    def hold(self, params: PiiParams) -> int:
        """Give the longest match of the recognizers that the policy runs."""
        wanted = [r for r in self._analyzer.recognizers if params.wants(r)]
        longest = max((r.max_span for r in wanted if r.name not in _WORD_RULES), default=0)
        return longest + self.lookahead

    def detect(self, document: Document, params: PiiParams) -> Detection:
        """Find spans in the original and the stripped view."""
        spans: list[Span] = []
        for view in document.plain_views:
            for hit in self._analyzer.hits(view, params):
                spans.append(view.to_original(hit.span))
        return Detection(spans=tuple(drop_contained(spans)), version=self.version)

"""The Presidio endpoints under /presidio, with Presidio's own shapes of answers and errors."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

from libs.common.errors import InvalidInputError
from services.guardrails.domain import presidio
from services.guardrails.domain.document import Document
from services.guardrails.domain.entities import LABELS
from services.guardrails.domain.patterns import Pattern, PatternError
from services.guardrails.domain.pii import Analyzer, PiiParams, default_analyzer, recognizers
from services.guardrails.domain.recognizer import Hit, Recognizer
from services.guardrails.domain.verdict import Span
from services.guardrails.errors import TextTooLongError
from services.guardrails.schemas import BATCH_TEXTS_MAX, Text

router = APIRouter(prefix="/presidio", tags=["presidio"])
AD_HOC_MAX = 50
# Python's re flags, as Presidio sends them; DOTALL, MULTILINE and IGNORECASE by default.
_FLAGS = {2: "i", 8: "m", 16: "s"}
REGEX_FLAGS_DEFAULT = 26


# What explains a finding of the entity model; it has no expression of its own.
MODEL = Recognizer("entities", "PERSON", Pattern(r"\z"), 0.0)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class AdHocPattern(_Strict):
    """One expression of an ad-hoc recognizer."""

    name: str
    regex: str
    score: float = Field(ge=0, le=1)


class AdHocRecognizer(_Strict):
    """A recognizer that lives for one request."""

    name: str
    supported_language: str = "en"
    supported_entity: str = Field(pattern="^[A-Za-z0-9_]{1,64}$")
    patterns: list[AdHocPattern] = Field(default=[], max_length=AD_HOC_MAX)
    deny_list: list[str] = Field(default=[], max_length=1_000)
    context: list[str] = Field(default=[], max_length=100)


class AnalyzeRequest(_Strict):
    """What to look for in which text."""

    text: Text | Annotated[list[Text], Field(min_length=1, max_length=BATCH_TEXTS_MAX)]
    language: str
    score_threshold: float = Field(default=0.0, ge=0, le=1)
    entities: list[str] | None = None
    correlation_id: str | None = None
    return_decision_process: bool = False
    ad_hoc_recognizers: list[AdHocRecognizer] = Field(default=[], max_length=AD_HOC_MAX)
    context: list[str] = Field(default=[], max_length=100)
    allow_list: list[str] = Field(default=[], max_length=1_000)
    allow_list_match: str = Field(default="exact", pattern="^(exact|regex)$")
    regex_flags: int = Field(default=REGEX_FLAGS_DEFAULT, ge=0)


class ResultIn(BaseModel):
    """A finding to edit; further members of an analyzer result are ignored."""

    start: int = Field(ge=0)
    end: int = Field(ge=0)
    entity_type: str
    score: float = 1.0


class AnonymizeRequest(_Strict):
    """A text, its findings, and an operator per entity."""

    text: Text
    analyzer_results: list[ResultIn] = Field(max_length=10_000)
    anonymizers: dict[str, dict[str, Any]] = {}


class DeanonymizeRequest(_Strict):
    """A text, its items, and an operator per entity."""

    text: Text
    anonymizer_results: list[ResultIn] = Field(max_length=10_000)
    deanonymizers: dict[str, dict[str, Any]]


@router.post("/analyze", summary="Find entities")
async def analyze(body: AnalyzeRequest, request: Request, response: Response) -> Any:
    """Give the findings of one text, or a list of them for a list of texts.

    Names come from the entity model; while it does not answer the rules answer alone, and the
    header `x-guardrails-status` says `partial`.
    """
    if body.language != "en":
        raise InvalidInputError.field("/language", "only en is supported")
    texts = [body.text] if isinstance(body.text, str) else body.text
    limit = request.state.checker.text_chars_max
    for text in texts:
        if len(text) > limit:
            raise TextTooLongError("/text", limit)
    analyzer = _analyzer(body)
    allowed = _allow_list(body)
    work = request.state.offload
    named: list[Sequence[Span]] = [()] * len(texts)
    if body.entities is None or not LABELS.keys().isdisjoint(map(str.lower, body.entities)):
        found = await request.state.names([Document(text) for text in texts])
        response.headers["x-guardrails-status"] = "partial" if found is None else "success"
        named = found or named
    results = [
        await work(_analyze, text, body, analyzer, allowed, spans)
        for text, spans in zip(texts, named, strict=True)
    ]
    return results[0] if isinstance(body.text, str) else results


def _analyzer(body: AnalyzeRequest) -> Analyzer:
    if not body.ad_hoc_recognizers:
        return default_analyzer()
    return Analyzer((*recognizers(), *_ad_hoc(body)))


def _prefix(flags: int) -> str:
    letters = "".join(letter for bit, letter in _FLAGS.items() if flags & bit)
    return f"(?{letters})" if letters else ""


def _ad_hoc(body: AnalyzeRequest) -> Iterable[Recognizer]:
    prefix = _prefix(body.regex_flags)
    for index, sent in enumerate(body.ad_hoc_recognizers):
        sources = [(p.name, p.regex, p.score) for p in sent.patterns]
        if sent.deny_list:
            words = "|".join(_escape(word) for word in sent.deny_list)
            sources.append(("deny_list", rf"\b(?:{words})\b", 1.0))
        for name, source, score in sources:
            try:
                pattern = Pattern(prefix + source)
            except PatternError as error:
                pointer = f"/ad_hoc_recognizers/{index}/patterns"
                raise InvalidInputError.field(pointer, str(error)) from None
            yield Recognizer(
                name=f"{sent.name}:{name}",
                entity=sent.supported_entity,
                pattern=pattern,
                score=score,
                context=frozenset(word.lower() for word in sent.context),
                boundary="none",
            )


def _escape(word: str) -> str:
    return "".join(
        char if char.isalnum() else f"\\{char}" if char.isascii() else char for char in word
    )


def _allow_list(body: AnalyzeRequest) -> Any:
    if body.allow_list_match == "exact":
        return frozenset(body.allow_list).__contains__
    try:
        prefix = _prefix(body.regex_flags)
        patterns = [Pattern(prefix + source) for source in body.allow_list]
    except PatternError as error:
        raise InvalidInputError.field("/allow_list", str(error)) from None
    return lambda text: any(pattern.search(text) for pattern in patterns)


def _analyze(
    text: str, body: AnalyzeRequest, analyzer: Analyzer, allowed: Any, named: Sequence[Span]
) -> list[Any]:
    """Analyze one text.

    Args:
        named: what the entity model found; the lists of names then say nothing.
    """
    entities = frozenset(body.entities or {r.entity for r in analyzer.recognizers})
    of_rules = entities - set(LABELS.values()) if named else entities
    params = PiiParams(entities=of_rules, context=tuple(body.context))
    hits = [
        hit
        for hit in [
            *analyzer.hits(Document(text).original, params),
            *(Hit(span, MODEL, span.score, None, None) for span in named if span.label in entities),
        ]
        if hit.span.score > 0
        and hit.span.score >= body.score_threshold
        and not allowed(text[hit.span.start : hit.span.end])
    ]
    ordered = sorted(hits, key=lambda h: (-h.span.score, h.span.start, h.span.start - h.span.end))
    kept: list[Hit] = []
    for hit in ordered:
        if not any(k.span.label == hit.span.label and k.span.contains(hit.span) for k in kept):
            kept.append(hit)
    return [_result(hit, body) for hit in kept]


def _result(hit: Hit, body: AnalyzeRequest) -> dict[str, Any]:
    return {
        "entity_type": hit.span.label,
        "start": hit.span.start,
        "end": hit.span.end,
        "score": hit.span.score,
        "analysis_explanation": _explanation(hit, body) if body.return_decision_process else None,
    }


def _explanation(hit: Hit, body: AnalyzeRequest) -> dict[str, Any]:
    return {
        "recognizer": hit.recognizer.name,
        "pattern_name": hit.recognizer.name,
        "pattern": hit.recognizer.pattern.source,
        "original_score": hit.original_score,
        "score": hit.span.score,
        "textual_explanation": f"Detected by `{hit.recognizer.name}`",
        "score_context_improvement": hit.context_improvement,
        "supportive_context_word": hit.context_word or "",
        "validation_result": hit.validated,
        "regex_flags": body.regex_flags,
    }


def _spans(text: str, results: list[ResultIn], pointer: str) -> list[Span]:
    for index, result in enumerate(results):
        if not 0 <= result.start < result.end <= len(text):
            raise InvalidInputError.field(f"{pointer}/{index}", "lies outside the text")
    return [Span(r.start, r.end, r.entity_type, r.score) for r in results]


def _edited(text: str, spans: list[Span], operators: dict[str, dict[str, Any]]) -> dict[str, Any]:
    try:
        new, items = presidio.apply(text, spans, operators)
    except presidio.OperatorError as error:
        translated = InvalidInputError(str(error))
        translated.status = error.status  # type: ignore[misc] # one instance, not the class
        raise translated from None
    return {
        "text": new,
        "items": [
            {
                "operator": item.operator,
                "entity_type": item.entity_type,
                "start": item.start,
                "end": item.end,
                "text": item.text,
            }
            for item in items
        ],
    }


@router.post("/anonymize", summary="Edit findings")
async def anonymize(body: AnonymizeRequest) -> dict[str, Any]:
    """Merge the findings and run the operators."""
    spans = presidio.merge(body.text, _spans(body.text, body.analyzer_results, "/analyzer_results"))
    if any(spec.get("type") in presidio.DEANONYMIZERS for spec in body.anonymizers.values()):
        raise InvalidInputError.field("/anonymizers", "names an operator of /deanonymize")
    return _edited(body.text, spans, body.anonymizers)


@router.post("/deanonymize", summary="Undo reversible edits")
async def deanonymize(body: DeanonymizeRequest) -> dict[str, Any]:
    """Run decrypt or deanonymize_keep on the items."""
    spans = presidio.merge(
        body.text, _spans(body.text, body.anonymizer_results, "/anonymizer_results")
    )
    for spec in body.deanonymizers.values():
        if spec.get("type") not in presidio.DEANONYMIZERS:
            raise InvalidInputError.field("/deanonymizers", "names no operator of /deanonymize")
    missing = {span.label for span in spans} - set(body.deanonymizers)
    if missing and "DEFAULT" not in body.deanonymizers:
        raise InvalidInputError.field("/deanonymizers", "has no operator for an entity")
    return _edited(body.text, spans, body.deanonymizers)


def _language(language: str) -> None:
    if language != "en":
        raise InvalidInputError.field("/language", "only en is supported")


@router.get("/recognizers", summary="Names of the recognizers")
async def list_recognizers(language: Annotated[str, Query()] = "en") -> list[str]:
    """List the recognizers."""
    _language(language)
    return [recognizer.name for recognizer in recognizers()]


@router.get("/supportedentities", summary="Names of the entities")
async def supported_entities(language: Annotated[str, Query()] = "en") -> list[str]:
    """List the entities."""
    _language(language)
    return sorted({recognizer.entity for recognizer in recognizers()})


@router.get("/anonymizers", summary="Names of the anonymizers")
async def list_anonymizers() -> list[str]:
    """List the operators of /anonymize."""
    return list(presidio.ANONYMIZERS)


@router.get("/deanonymizers", summary="Names of the deanonymizers")
async def list_deanonymizers() -> list[str]:
    """List the operators of /deanonymize."""
    return list(presidio.DEANONYMIZERS)


@router.get("/health", summary="Presidio's health text")
async def presidio_health() -> PlainTextResponse:
    """Say that the service is up."""
    return PlainTextResponse("Presidio Analyzer service is up")

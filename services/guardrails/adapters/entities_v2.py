"""Personal data with names: the rules here, and the entity model in inference beside them.

The model reads sentence by sentence, cut by the text alone, so that a stream and one check see the
same. When it does not answer well the rules' findings stand, with status ERROR.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import orjson

from libs.common.errors import ServiceError
from libs.common.logging import get_logger
from services.guardrails.adapters.local import LocalValidator
from services.guardrails.adapters.v2_model import TEXTS_MAX, MalformedReplyError, V2Model
from services.guardrails.domain.document import Document, View
from services.guardrails.domain.entities import RULE_PREFIX, joined, of_model, rule_entities
from services.guardrails.domain.params import ParamsError
from services.guardrails.domain.policy import ValidatorRule
from services.guardrails.domain.sentences import windows
from services.guardrails.domain.verdict import Detection, Span, Status

log = get_logger()
Mode = bool | Literal["only"]


class EntityModel(V2Model):
    """The entity model in inference."""

    async def find(self, texts: Sequence[str]) -> list[list[Span]]:
        """Give the spans of each text, labelled as the rules label them, whatever their score.

        Raises:
            ServiceError: inference cannot be reached or is late.
            MalformedReplyError: it did not answer as its contract says.
        """
        found: list[list[Span]] = []
        for begin in range(0, len(texts), TEXTS_MAX):
            part = list(texts[begin : begin + TEXTS_MAX])
            data = await self.infer(part, "spans")
            if not isinstance(data, list) or len(data) != len(part):
                raise MalformedReplyError("not one list of spans per text")
            found += [_spans(item, len(text)) for item, text in zip(data, part, strict=True)]
        return found

    @property
    def thresholds(self) -> dict[str, float]:
        """Calibrated thresholds, by the rule names that spans of the model carry."""
        return {RULE_PREFIX + label: value for label, value in self.config.thresholds.items()}


def _spans(item: Any, size: int) -> list[Span]:
    try:
        return [of_model(row, size) for row in orjson.loads(item)]
    except (KeyError, TypeError, ValueError, orjson.JSONDecodeError):
        raise MalformedReplyError("spans have a wrong shape or range") from None


class PiiWithNames:
    """The PII rules, and with the parameter `model` the entity model beside them."""

    name = "pii"
    kind = "pattern"

    def __init__(self, rules: LocalValidator, model: EntityModel) -> None:
        """Build.

        Args:
            rules: the rules.
            model: finds names, places, organisations and addresses.
        """
        self.rules = rules
        self.labels = rules.labels
        self.max_span = rules.max_span
        self.lookahead = rules.lookahead
        self._model = model

    @property
    def version(self) -> str:
        """Version of the rules and, once it answered, of the model."""
        model = self._model.version
        return f"{self.rules.version}+model.{model}" if model else self.rules.version

    def parse(self, params: Mapping[str, Any]) -> Mode:
        """Read `model`: false, true, or `only` for the model without the rules."""
        self.rules.parse(_without_model(params))
        mode = params.get("model", False)
        if mode == "only":
            return "only"
        if not isinstance(mode, bool):
            raise ParamsError("/model", "must be true, false or only")
        return mode

    def check_now(
        self, documents: Sequence[Document], rule: ValidatorRule
    ) -> list[Detection] | None:
        """Run the rules on short texts where no model is asked."""
        if rule.params.get("model"):
            return None
        return self.rules.check_now(documents, _of_rules(rule, rule.params))

    async def check(self, documents: Sequence[Document], rule: ValidatorRule) -> list[Detection]:
        """Run the rules, and the model in one call for all sentences of all texts."""
        mode = self.parse(rule.params)
        if not mode:
            return await self.rules.check(documents, _of_rules(rule, rule.params))
        entities = rule.params.get("entities")
        of_rules = _of_rules(rule, rule_entities(rule.params, self.labels))
        named, found = await asyncio.gather(
            self._named(documents),
            self._nothing(documents) if mode == "only" else self.rules.check(documents, of_rules),
        )
        if named is None:
            return [replace(item, status=Status.ERROR, version=self.version) for item in found]
        return [
            replace(
                item,
                spans=joined(item.spans, spans, entities),
                thresholds=self._model.thresholds,
                version=self.version,
            )
            for item, spans in zip(found, named, strict=True)
        ]

    async def _nothing(self, documents: Sequence[Document]) -> list[Detection]:
        return [Detection()] * len(documents)

    async def names(self, documents: Sequence[Document]) -> list[list[Span]] | None:
        """Give the model's spans above its own thresholds; None when it does not answer well."""
        found = await self._named(documents)
        if found is None:
            return None
        limits = self._model.thresholds
        return [[s for s in spans if s.score >= limits.get(s.rule, 0.0)] for spans in found]

    async def _named(self, documents: Sequence[Document]) -> list[list[Span]] | None:
        """Give the model's spans in original offsets; None when it does not answer well."""
        views = [document.plain_views[-1] for document in documents]
        places = [
            (index, start, end)
            for index, view in enumerate(views)
            for start, end in windows(view.utf8.text, ended=True)
            if not view.utf8.text[start:end].isspace()
        ]
        try:
            rows = await self._model.find([views[i].utf8.text[a:b] for i, a, b in places])
        except (ServiceError, MalformedReplyError) as error:
            log.warning(
                "model did not answer", model=self._model.model, error_type=type(error).__name__
            )
            return None
        found: list[list[Span]] = [[] for _ in documents]
        for (index, start, _), spans in zip(places, rows, strict=True):
            found[index] += [_original(views[index], span, start) for span in spans]
        return found


def _original(view: View, span: Span, start: int) -> Span:
    return view.to_original(
        Span(span.start + start, span.end + start, span.label, span.score, span.rule)
    )


def _without_model(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if name != "model"}


def _of_rules(rule: ValidatorRule, params: Mapping[str, Any]) -> ValidatorRule:
    return rule.model_copy(update={"params": _without_model(params)})

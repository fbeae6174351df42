"""Neural validators: one V2 call to inference per batch of texts.

Failure policy: anything that is not a well-formed answer (no model, 503, timeout, wrong shapes) is
status ERROR for every text of the call; the policy's `on_error` then decides between PARTIAL and a
block. It is never taken for "nothing found".
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from libs.common.context import RequestContext, current
from libs.common.errors import ServiceError
from libs.common.logging import get_logger
from services.guardrails.adapters.local import LocalValidator
from services.guardrails.adapters.v2_model import TEXTS_MAX, Caller, MalformedReplyError, V2Model
from services.guardrails.domain.document import Document
from services.guardrails.domain.params import ParamsError, check_names
from services.guardrails.domain.policy import ValidatorRule
from services.guardrails.domain.readings import readings, wholes
from services.guardrails.domain.verdict import Detection, Status

log = get_logger()


@dataclass(frozen=True)
class Scored:
    """Probabilities by label, and the version and thresholds of the model that gave them."""

    scores: dict[str, float]
    version: str
    thresholds: dict[str, float]


class GuardModel(V2Model):
    """The guard model in inference.

    Validators that ask during one turn of the event loop for one request share one call, and a text
    that several of them ask about is sent once.
    """

    def __init__(self, model: str, client: Caller) -> None:
        super().__init__(model, client)
        self._waiting: dict[int, _Pending] = {}

    async def score(self, texts: Sequence[str]) -> list[Scored]:
        """Score texts, in order.

        Raises:
            ServiceError: inference cannot be reached or is late.
            MalformedReplyError: it did not answer as V2 says.
        """
        context = current()
        pending = self._waiting.get(id(context))
        if pending is None:
            pending = self._waiting[id(context)] = _Pending(context)
            pending.task = asyncio.ensure_future(self._flush(pending))
            # Somebody who gave up does not read the error; that is no defect.
            pending.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        pending.texts.update(dict.fromkeys(texts))
        assert pending.task is not None  # set right above
        # One validator that gives up must not take the call away from the others.
        found = await asyncio.shield(pending.task)
        return [found[text] for text in texts]

    async def _flush(self, pending: "_Pending") -> dict[str, Scored]:
        await asyncio.sleep(0)  # the other validators of this request join in
        del self._waiting[id(pending.context)]
        texts, found = list(pending.texts), {}
        for begin in range(0, len(texts), TEXTS_MAX):
            part = texts[begin : begin + TEXTS_MAX]
            data = await self.infer(part, "probabilities")
            config = self.config
            thresholds = dict(config.thresholds)
            for text, row in zip(part, _rows(data, len(part), len(config.labels)), strict=True):
                scores = dict(zip(config.labels, row, strict=True))
                found[text] = Scored(scores, config.version, thresholds)
        return found


class _Pending:
    """Texts of one request that wait for the end of this turn."""

    def __init__(self, context: RequestContext) -> None:
        self.context = context
        self.texts: dict[str, None] = {}
        self.task: asyncio.Task[dict[str, Scored]] | None = None


class ToxicityValidator:
    """Toxicity by category: whole texts and readings that undo a disguise; highest scores count."""

    name = "toxicity"
    kind = "model"
    max_span = 0
    lookahead = 0

    def __init__(self, model: GuardModel, labels: Sequence[str]) -> None:
        """Build.

        Args:
            model: scores texts.
            labels: which of its labels are reported.
        """
        self.labels = tuple(labels)
        self._model = model

    @property
    def version(self) -> str:
        """Version of the model as it last answered."""
        return self._model.version

    def parse(self, params: Mapping[str, Any]) -> None:
        """Accept no parameters."""
        check_names(params, set())

    async def check(self, documents: Sequence[Document], rule: ValidatorRule) -> list[Detection]:
        """Score all texts in one call."""
        views = [wholes(document) for document in documents]
        scored = await _scored(self._model, [text for texts in views for text in texts])
        ends = list(accumulate(map(len, views)))
        return [
            self._detection(scored[end - len(texts) : end])
            for texts, end in zip(views, ends, strict=True)
        ]

    def _detection(self, scored: Sequence[Scored | None]) -> Detection:
        known = [item for item in scored if item is not None]
        if len(known) < len(scored):
            return Detection(status=Status.ERROR, version=self.version)
        top = {label: max(item.scores[label] for item in known) for label in known[0].scores}
        return _detection(replace(known[0], scores=top), self.labels)


class InjectionValidator:
    """Prompt injection: rules, and with the parameter `model` the guard model beside them.

    The model sees the whole text or the readings that undo its disguise, and their sentences (an
    attack in a long text drowns in the rest); the highest score counts. A model that fails leaves
    what the rules found, with status ERROR.
    """

    name = "injection"
    kind = "pattern"

    def __init__(self, rules: LocalValidator, model: GuardModel, label: str = "injection") -> None:
        """Build.

        Args:
            rules: the rules.
            model: scores texts.
            label: the model's label for injections.
        """
        self.rules = rules
        self.labels = (*rules.labels, label)
        self.max_span = rules.max_span
        self.lookahead = rules.lookahead
        self._model = model
        self._label = label

    @property
    def version(self) -> str:
        """Version of the rules and, once it answered, of the model."""
        model = self._model.version
        return f"{self.rules.version}+model.{model}" if model else self.rules.version

    def parse(self, params: Mapping[str, Any]) -> bool:
        """Read `model`: whether the guard model is asked, default false."""
        check_names(params, {"model"})
        wanted = params.get("model", False)
        if not isinstance(wanted, bool):
            raise ParamsError("/model", "must be true or false")
        return wanted

    def check_now(
        self, documents: Sequence[Document], rule: ValidatorRule
    ) -> list[Detection] | None:
        """Run the rules on short texts where no model is asked."""
        if self.parse(rule.params):
            return None
        return self.rules.check_now(documents, rule.model_copy(update={"params": {}}))

    async def check(self, documents: Sequence[Document], rule: ValidatorRule) -> list[Detection]:
        """Run the rules, and the model in one call for all texts and windows."""
        of_rules = rule.model_copy(update={"params": {}})
        if not self.parse(rule.params):
            return await self.rules.check(documents, of_rules)
        views = [readings(document) for document in documents]
        local, scored = await asyncio.gather(
            self.rules.check(documents, of_rules),
            _scored(self._model, [text for texts in views for text in texts]),
        )
        found, at = [], 0
        for detection, texts in zip(local, views, strict=True):
            own = scored[at : at + len(texts)]
            at += len(texts)
            found.append(self._merged(detection, own))
        return found

    def _merged(self, local: Detection, scored: Sequence[Scored | None]) -> Detection:
        known = [item for item in scored if item is not None]
        if len(known) < len(scored) or not known:
            return replace(local, status=Status.ERROR, version=self.version)
        best = max(known, key=lambda item: item.scores.get(self._label, 0.0))
        model = _detection(best, (self._label,))
        return replace(
            local, scores=model.scores, thresholds=model.thresholds, version=self.version
        )


async def _scored(model: GuardModel, texts: Sequence[str]) -> Sequence[Scored | None]:
    """Score texts; None for all of them when the model does not answer well."""
    try:
        return await model.score(texts)
    except (ServiceError, MalformedReplyError) as error:
        log.warning("model did not answer", model=model.model, error_type=type(error).__name__)
        return [None] * len(texts)


def _detection(scored: Scored, labels: Sequence[str]) -> Detection:
    return Detection(
        scores={label: scored.scores[label] for label in labels if label in scored.scores},
        version=scored.version,
        thresholds=scored.thresholds,
    )


def _rows(data: Any, texts: int, labels: int) -> list[list[float]]:
    """Give the probabilities, one row per text, from flat or nested data."""
    if not isinstance(data, list):
        raise MalformedReplyError("no tensor named probabilities")
    flat = [x for row in data for x in row] if data and isinstance(data[0], list) else data
    is_fine = all(isinstance(value, int | float) and 0 <= value <= 1 for value in flat)
    if len(flat) != texts * labels or not is_fine:
        raise MalformedReplyError("probabilities have a wrong shape or range")
    return [flat[index * labels : (index + 1) * labels] for index in range(texts)]

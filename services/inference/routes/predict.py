"""POST /predict, /predict/batch, /v1/models/{name}/predict and the prediction cache's endpoints."""

import asyncio
import re
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from libs.common.context import current
from libs.common.errors import InvalidInputError, ServiceError, UnavailableError
from libs.common.ids import uuid7
from libs.common.plain import PlainRoute, body_of, parse, respond
from libs.common.redis import UNAVAILABLE
from services.inference.dataplane import check_access
from services.inference.domain.ensemble import AnyTextModel
from services.inference.domain.repository import Repository
from services.inference.domain.span_head import SpanHead
from services.inference.domain.text import TextAnswer
from services.inference.errors import ModelNotLoadedError, UnknownModelError
from services.inference.metrics import InferenceMetrics
from services.inference.routes.measured import Measured
from services.inference.schemas_text import (
    PredictAnswer,
    PredictBatchAnswer,
    PredictBatchRequest,
    PredictRequest,
    TextPredictAnswer,
    TextPredictRequest,
)
from services.inference.scoring.text import (
    Answered,
    TextScorer,
    item_error,
    scores_of,
    sentiment_body,
    spans_body,
    timing_of,
)

router = APIRouter(route_class=PlainRoute, tags=["text"])
named_router = APIRouter(route_class=PlainRoute, tags=["text"])

SENTIMENT = "sentiment"
# Whoever shares this key meets the same version of a rollout.
EXPERIMENT_KEY, _EXPERIMENT_KEY_MAX = "x-experiment-key", 128
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Texts:
    """What the text routes use, under `request.state.texts`.

    Attributes:
        want: told the name of a model that was asked for and is not loaded.
    """

    repository: Repository
    scorer: TextScorer
    metrics: InferenceMetrics
    want: Callable[[str], None] = lambda _: None

    def resolve(self, name: str, version: str | None = None) -> AnyTextModel:
        """Give the serving version of a text model, or another loaded one.

        Raises:
            UnknownModelError: no such model, or it takes no texts.
            ModelNotLoadedError: it exists but does not serve.
            ForbiddenError: the model asks for a scope that the caller does not hold.
        """
        if not NAME.fullmatch(name) or name not in self.repository.names():
            raise UnknownModelError("The repository has no model of this name.")
        try:
            model = (
                self.repository.serving(name)
                if version is None
                else self.repository.loaded(name, int(version))
            )
        except ModelNotLoadedError:
            self.want(name)
            raise
        if not isinstance(model, AnyTextModel):
            raise UnknownModelError("This model does not take texts.", hint="Use /score or /v2.")
        check_access(model)
        return model


async def unless_gone(request: Request, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Run the work; a caller who leaves cancels it, so that nothing runs for nobody."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(request.receive())
    try:
        while True:
            await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if watch.result()["type"] == "http.disconnect":
                task.cancel()
                await asyncio.wait({task})
                raise ClientGoneError("The caller left.")
            watch = asyncio.ensure_future(request.receive())
    finally:
        watch.cancel()
        if not task.done():
            task.cancel()


class ClientGoneError(ServiceError):
    """The caller closed the connection; nobody reads this answer."""

    status, code, title = 499, "client_gone", "Client closed the connection"


def _json(document: object, cache: str | None = None) -> Response:
    return respond(document, {"x-gatehouse-cache": cache} if cache else None)


def _wants_fresh(request: Request) -> bool:
    return "no-cache" in request.headers.get("cache-control", "")


def subject_of(request: Request) -> str | None:
    """Give whom a rollout assigns, where the caller says so."""
    key = request.headers.get(EXPERIMENT_KEY, "")
    return key[:_EXPERIMENT_KEY_MAX] or None


def _cache_word(answers: list[Answered], *, is_fresh: bool) -> str:
    if is_fresh:
        return "bypass"
    hits = [isinstance(one.outcome, TextAnswer) and one.outcome.cached for one in answers]
    return "hit" if hits and all(hits) else "miss"


@router.post(
    "/predict",
    summary="Sentiment of a text",
    openapi_extra=body_of(PredictRequest),
    responses={200: {"model": PredictAnswer}},
)
async def predict(request: Request) -> Response:
    """Classify one text as positive, negative or neutral."""
    texts: Texts = request.state.texts
    started = time.perf_counter()
    with Measured(texts.metrics, "/predict", SENTIMENT) as measured:
        item = await parse(request, PredictRequest)
        model = _sentiment(texts)
        measured.version = model.version
        is_fresh = _wants_fresh(request)
        work = texts.scorer.score(
            model,
            (item.text,),
            "/predict",
            partial=False,
            use_cache=not is_fresh,
            subject=subject_of(request),
        )
        answers = await unless_gone(request, work)
        measured.version = answers[0].model.version
        body = sentiment_body(
            item.text,
            answers[0],
            include_metrics=item.include_metrics,
            seconds=time.perf_counter() - started,
        )
        return _json(body, _cache_word(answers, is_fresh=is_fresh))


@router.post(
    "/predict/batch",
    summary="Sentiment of many texts",
    openapi_extra=body_of(PredictBatchRequest),
    responses={200: {"model": PredictBatchAnswer}},
)
async def predict_batch(request: Request) -> Response:
    """Classify many texts; each is checked and answered by itself, in order."""
    texts: Texts = request.state.texts
    started = time.perf_counter()
    with Measured(texts.metrics, "/predict/batch", SENTIMENT) as measured:
        batch = await parse(request, PredictBatchRequest)
        model = _sentiment(texts)
        measured.version = model.version
        problems = {
            index: error
            for index, text in enumerate(batch.texts)
            if (error := text_problem(index, text)) is not None
        }
        good = [(index, text) for index, text in enumerate(batch.texts) if index not in problems]
        batch_id = batch.batch_id or uuid7()
        answers: list[Answered] = []
        if good:
            work = texts.scorer.score(
                model,
                [str(text) for _, text in good],
                "/predict/batch",
                partial=True,
                batch_id=batch_id,
                use_cache=not _wants_fresh(request),
                subject=subject_of(request),
            )
            answers = await unless_gone(request, work)
        seconds = time.perf_counter() - started
        results: dict[int, dict[str, Any]] = {
            index: item_error(index, error, "/predict/batch") for index, error in problems.items()
        }
        for (index, text), answered in zip(good, answers, strict=True):
            if isinstance(answered.outcome, ServiceError):
                results[index] = item_error(index, answered.outcome, "/predict/batch")
                continue
            body = sentiment_body(
                str(text), answered, include_metrics=batch.include_metrics, seconds=seconds
            )
            timing = timing_of(answered.outcome)
            results[index] = {"index": index, "status": 200, **body, **timing}
        ordered = [results[index] for index in range(len(batch.texts))]
        succeeded = sum(item["status"] == 200 for item in ordered)
        return _json(
            {
                "batch_id": batch_id,
                "results": ordered,
                "succeeded": succeeded,
                "failed": len(ordered) - succeeded,
                "model_version": model.model_version,
                "latency_ms": round(seconds * 1e3, 3),
            },
            _cache_word(answers, is_fresh=_wants_fresh(request)),
        )


@named_router.post(
    "/v1/models/{name}/predict",
    summary="Predict with a named text model",
    openapi_extra=body_of(TextPredictRequest),
    responses={200: {"model": TextPredictAnswer}},
)
async def predict_named(request: Request) -> Response:
    """Classify texts with any text model."""
    texts: Texts = request.state.texts
    started = time.perf_counter()
    endpoint = "/v1/models/{name}/predict"
    with Measured(texts.metrics, endpoint, "") as measured:
        item = await parse(request, TextPredictRequest)
        model = texts.resolve(request.path_params["name"], item.version)
        measured.model, measured.version = model.name, model.version
        parameters = item.parameters
        if parameters.timeout_ms is not None:
            context = current()
            ours = time.monotonic() + parameters.timeout_ms / 1e3
            context.deadline = min(context.deadline or ours, ours)
        work = texts.scorer.score(
            model,
            item.inputs,
            endpoint,
            partial=False,
            use_cache=not _wants_fresh(request),
            is_pinned=item.version is not None,
            subject=subject_of(request),
        )
        answers = await unless_gone(request, work)
        predictions = []
        for answered in answers:
            answer = answered.outcome
            assert isinstance(answer, TextAnswer), "errors were raised"
            scores = scores_of(answered.model, answer)
            if parameters.top_k is not None:
                ranked = sorted(scores.items(), key=lambda pair: -pair[1])
                scores = dict(ranked[: parameters.top_k])
            predictions.append(
                {
                    "label": answer.label,
                    "probability": round(answer.confidence, 6),
                    "scores": scores,
                    "windows": answer.windows,
                    "truncated": answer.is_truncated,
                    "prediction_id": answered.prediction_id,
                    **({"spans": spans_body(answer)} if isinstance(model.head, SpanHead) else {}),
                    **timing_of(answer),
                }
            )
        word = _cache_word(answers, is_fresh=_wants_fresh(request))
        first = answers[0]
        return _json(
            {
                "request_id": current().request_id,
                "model": {
                    "name": model.name,
                    "version": first.model.version,
                    "model_version": first.model.model_version,
                    "arm": first.arm.value,
                },
                "predictions": predictions,
                "cached": word == "hit",
                "degraded": any(item.get("degraded", False) for item in predictions),
                "latency_ms": round((time.perf_counter() - started) * 1e3, 3),
            },
            word,
        )


@named_router.get("/v1/predictions/cache", summary="Statistics of the prediction cache")
async def cache_statistics(request: Request) -> Response:
    """Tell hits, misses, joined calls and refusals of this process."""
    texts: Texts = request.state.texts
    return _json(texts.scorer.plane.statistics())


@named_router.delete("/v1/predictions/cache", summary="Empty the caller's prediction cache")
async def clear_cache(request: Request) -> Response:
    """Raise the tenant's epoch: every value stored before counts as absent from now on."""
    texts: Texts = request.state.texts
    caller = current().caller
    try:
        epoch = await texts.scorer.plane.cache.clear(caller.tenant if caller else "")
    except UNAVAILABLE:
        raise UnavailableError("The cache's store does not answer; nothing was cleared.") from None
    return _json({"cleared": True, "epoch": epoch})


def _sentiment(texts: Texts) -> AnyTextModel:
    """Give the sentiment model; a service without one says 503, as the mission does."""
    try:
        return texts.resolve(SENTIMENT)
    except UnknownModelError:
        raise ModelNotLoadedError(
            "No sentiment model is loaded.", hint="GET /models says why."
        ) from None


def text_problem(index: int, text: object) -> InvalidInputError | None:
    """Say what is wrong with one text of a batch, by the rules of /predict."""
    pointer = f"/texts/{index}"
    if not isinstance(text, str):
        return InvalidInputError.field(pointer, "must be a string")
    if not text.strip():
        return InvalidInputError.field(pointer, "must not be blank")
    if len(text) > PredictRequest.CHARACTERS_MAX:
        return InvalidInputError.field(
            pointer, f"must have at most {PredictRequest.CHARACTERS_MAX} characters"
        )
    return None

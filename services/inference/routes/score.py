"""POST /score/fraud, /score/personalization, /score/batch."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from libs.common.ids import uuid7
from libs.common.plain import PlainRoute, body_of, parse, respond
from services.inference.dataplane import DataPlane
from services.inference.metrics import InferenceMetrics
from services.inference.routes.measured import Measured
from services.inference.schemas import (
    BatchAnswer,
    BatchRequest,
    FraudAnswer,
    FraudRequest,
    PersonalizationAnswer,
    PersonalizationRequest,
)
from services.inference.scoring import fraud, personalization
from services.inference.scoring.base import Origin
from services.inference.scoring.batch import BatchScorer, summary
from services.inference.scoring.fraud import FraudScorer
from services.inference.scoring.personalization import PersonalizationScorer

NDJSON = "application/x-ndjson"
router = APIRouter(route_class=PlainRoute, tags=["scoring"])
_FRAUD = Origin("/score/fraud")
_PERSONALIZATION = Origin("/score/personalization")


@dataclass(frozen=True, slots=True)
class Scoring:
    """What the scoring routes use, under `request.state.scoring`."""

    plane: DataPlane
    fraud: FraudScorer
    personalization: PersonalizationScorer
    batch: BatchScorer
    metrics: InferenceMetrics


@router.post(
    "/score/fraud",
    summary="Score a card payment",
    openapi_extra=body_of(FraudRequest),
    responses={200: {"model": FraudAnswer}},
)
async def score_fraud(request: Request) -> Response:
    """Score one payment, decide and explain."""
    scoring: Scoring = request.state.scoring
    with Measured(scoring.metrics, "/score/fraud", fraud.MODEL) as measured:
        item = await parse(request, FraudRequest)
        measured.version = scoring.plane.resolve(fraud.MODEL).version
        answers = await scoring.fraud.score((item,), _FRAUD)
        return respond(answers[0])


@router.post(
    "/score/personalization",
    summary="Score a user and an item",
    openapi_extra=body_of(PersonalizationRequest),
    responses={200: {"model": PersonalizationAnswer}},
)
async def score_personalization(request: Request) -> Response:
    """Score one pair of user and item."""
    scoring: Scoring = request.state.scoring
    with Measured(scoring.metrics, "/score/personalization", personalization.RELEVANCE) as measured:
        item = await parse(request, PersonalizationRequest)
        measured.version = scoring.plane.resolve(personalization.RELEVANCE).version
        answers = await scoring.personalization.score((item,), _PERSONALIZATION)
        return respond(answers[0])


@router.post(
    "/score/batch",
    summary="Score up to 1,000 requests in one call",
    openapi_extra=body_of(BatchRequest),
    responses={200: {"model": BatchAnswer}},
)
async def score_batch(request: Request) -> Response:
    """Score many requests of one kind; `Accept: application/x-ndjson` streams the items."""
    scoring: Scoring = request.state.scoring
    is_streamed = NDJSON in request.headers.get("accept", "")
    measured = Measured(scoring.metrics, "/score/batch", "")
    with measured:
        batch = await parse(request, BatchRequest)
        is_fraud = batch.model_type == "fraud_detection"
        measured.model = fraud.MODEL if is_fraud else personalization.RELEVANCE
        measured.version = scoring.plane.resolve(measured.model).version
        if not is_streamed:
            return respond(await scoring.batch.score(batch))
    return StreamingResponse(_lines(scoring, batch), media_type=NDJSON)


async def _lines(scoring: Scoring, batch: BatchRequest) -> AsyncIterator[bytes]:
    """Give one line per item as its chunk is done, and a last line with the counts."""
    started, batch_id = time.perf_counter(), batch.batch_id or uuid7()
    results: list[dict[str, int]] = []
    async for chunk in scoring.batch.chunks(batch, batch_id):
        results += [{"status": item["status"]} for item in chunk]
        yield b"".join(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE) for item in chunk)
    last = {"batch_id": batch_id, **summary(results, started)}
    yield orjson.dumps(last, option=orjson.OPT_APPEND_NEWLINE)

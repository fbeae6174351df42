"""Routes of history, samples, labels and erasure."""

import time
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from libs.common.context import current
from libs.common.errors import InvalidInputError
from libs.common.events.envelope import EventEmitter, event_for_request
from services.features.adapters.erasure import Eraser
from services.features.adapters.label_stream import tell_label
from services.features.adapters.labels import Label, LabelStore
from services.features.historical import Join, encoding_of
from services.features.parity import Parity
from services.features.rows_in import (
    ErasureBody,
    FeedbackBody,
    HistoricalBody,
    SamplesBody,
    milliseconds,
)

# Served as written and under /v1; feedback and samples have one path each.
router = APIRouter(tags=["history"])
fixed_router = APIRouter(tags=["history"])


def _tenant() -> str:
    caller = current().caller
    return caller.tenant if caller else ""


@router.post("/features/historical", summary="Point-in-time join")
async def read_history(request: Request, body: HistoricalBody) -> Response:
    """Stream one line per row: NDJSON, or what `Accept` asks for, Arrow or Parquet.

    The header `X-Job-Id` names a job whose progress `GET /features/backfills/{job_id}` tells.
    """
    now_ms = time.time_ns() // 1_000_000
    for index, row in enumerate(body.rows):
        if milliseconds(row.as_of) > now_ms:
            raise InvalidInputError.field(f"/rows/{index}/as_of", "lies in the future")
    if body.labels_known_by is not None and any(row.event_id is None for row in body.rows):
        raise InvalidInputError.field("/labels_known_by", "needs an event_id in every row")
    join: Join = request.state.join
    encode, media_type = encoding_of(request.headers.get("accept", ""))
    columns = await join.columns(_tenant(), body)
    job_id = await join.begin(_tenant(), len(body.rows))
    stream = encode(join.chunks(_tenant(), body, columns, job_id))
    return StreamingResponse(stream, media_type=media_type, headers={"X-Job-Id": job_id})


@router.get("/features/parity", summary="Online against offline")
async def report_parity(request: Request) -> dict[str, Any]:
    """Give how many served vectors were computed again from history, and what differed."""
    parity: Parity = request.state.parity
    return await parity.report(_tenant())


@fixed_router.post("/features/samples", summary="Served vectors, for the parity job")
async def take_samples(request: Request, body: SamplesBody) -> dict[str, int]:
    """Keep served vectors; a repeated id changes nothing."""
    parity: Parity = request.state.parity
    accepted = await parity.keep(_tenant(), body.samples)
    return {"accepted": accepted, "duplicates": len(body.samples) - accepted}


@fixed_router.post("/features/erasures", summary="Erase one entity")
async def erase(request: Request, body: ErasureBody) -> dict[str, int]:
    """Erase an entity online, in history and in samples; safe to repeat."""
    eraser: Eraser = request.state.eraser
    return await eraser.erase(_tenant(), body.entity, body.id)


@fixed_router.post("/v1/feedback", summary="Label a decision")
async def take_feedback(request: Request, body: FeedbackBody) -> dict[str, Any]:
    """Keep a label with the time at which it became available, and tell it to the event log."""
    if (body.transaction_id is None) == (body.prediction_id is None):
        raise InvalidInputError.field("/transaction_id", "or prediction_id: exactly one of them")
    now_ms = time.time_ns() // 1_000_000
    occurred_ms = None if body.occurred_at is None else milliseconds(body.occurred_at)
    if occurred_ms is not None and occurred_ms > now_ms:
        raise InvalidInputError.field("/occurred_at", "lies in the future")
    kind = "transaction" if body.transaction_id is not None else "prediction"
    subject = str(body.transaction_id or body.prediction_id)
    text = str(body.label).lower() if isinstance(body.label, bool) else body.label
    store: LabelStore = request.state.labels
    is_new = await store.keep(_tenant(), Label(kind, subject, text, occurred_ms, now_ms))
    data: dict[str, Any] = {
        f"{kind}_id": subject,
        "label": text,
        "available_at": _rfc3339(now_ms),
    }
    if occurred_ms is not None:
        data["occurred_at"] = _rfc3339(occurred_ms)
    # Also for a repeated one: the first answer may have been lost before its event was kept.
    emitter: EventEmitter = request.state.events
    await emitter.emit(event_for_request("label.received", "features", "standard", data))
    await tell_label(request.state.labels_redis, _tenant(), kind, subject, text)
    return {**data, "accepted": is_new}


def _rfc3339(at_ms: int) -> str:
    return str(np.datetime_as_string(np.datetime64(at_ms, "ms"), unit="ms", timezone="UTC"))

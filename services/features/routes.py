"""Native routes: events in, definitions and freshness out."""

import time
from typing import Any

import orjson
from fastapi import APIRouter, Request

from libs.common.context import current
from libs.common.errors import BadRequestError, InvalidInputError, UnavailableError
from libs.common.features.layout import VIEWS
from libs.common.redis import UNAVAILABLE as REDIS_UNAVAILABLE
from services.features.adapters.log import PostgresEventLog
from services.features.adapters.rings import RedisRings
from services.features.domain.definitions import documents
from services.features.ingest import Ingestion
from services.features.schemas import IngestAnswer

router = APIRouter(tags=["features"])


def tenant() -> str:
    """Give the tenant of the caller; the edge let nobody through without one."""
    caller = current().caller
    return caller.tenant if caller else ""


@router.post("/features/events", summary="Ingest events", response_model=IngestAnswer)
async def take_events(request: Request) -> IngestAnswer:
    """Answer after the Postgres commit; bad events are named by index and nothing of them kept."""
    return await _take(request, is_backfill=False)


@router.post("/features/backfills", summary="Load history", response_model=IngestAnswer)
async def take_history(request: Request) -> IngestAnswer:
    """Take events with the time at which each became known (`arrival_ms`)."""
    return await _take(request, is_backfill=True)


@router.get("/features/definitions", summary="Entities, views, feature services")
async def list_definitions() -> dict[str, Any]:
    """Give every definition that this release serves."""
    return {"items": documents(), "next": None}


@router.get("/features/freshness", summary="Lag and age per view")
async def report_freshness(request: Request) -> dict[str, Any]:
    """Give the age of the newest event per view and how far the rings are behind the log."""
    log: PostgresEventLog = request.state.log
    rings: RedisRings = request.state.rings
    now_ms = time.time_ns() // 1_000_000
    try:
        progress = await rings.progress()
        newest = await rings.newest_ms(tenant())
    except REDIS_UNAVAILABLE as error:
        raise UnavailableError("The online store does not answer.") from error
    heads = await log.heads()
    applied = {partition: progress.offset(partition) for partition in heads}
    oldest_ms = await log.oldest_unapplied_ms(applied)
    return {
        "items": [
            {
                "view": name,
                "newest_event_age_s": _age_s(now_ms, newest.get(name)),
                "ttl_s": view.ttl_ms // 1000,
            }
            for name, view in VIEWS.items()
        ],
        "next": None,
        "is_serving": progress.is_serving,
        "lag_events": sum(head.last_offset - applied[p] for p, head in heads.items()),
        "oldest_unapplied_age_s": _age_s(now_ms, oldest_ms),
    }


def _age_s(now_ms: int, at_ms: int | None) -> float | None:
    return None if at_ms is None else max(0, now_ms - at_ms) / 1000.0


async def _take(request: Request, *, is_backfill: bool) -> IngestAnswer:
    ingestion: Ingestion = request.state.ingestion
    batch = _events_of(await request.body(), request.state.events_max)
    answer = await ingestion.take(tenant(), batch, is_backfill=is_backfill)
    if batch and len(answer.rejected) == len(batch):
        errors = [{"pointer": r.pointer, "message": r.reason} for r in answer.rejected[:20]]
        detail = f"{errors[0]['pointer']}: {errors[0]['message']}"
        raise InvalidInputError(detail, errors=errors)
    return answer


def _events_of(body: bytes, events_max: int) -> list[Any]:
    """Parse the envelope; the events themselves are judged one by one."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(
            "The body is not valid JSON.", hint='Send {"events": [...]}.'
        ) from error
    if not isinstance(document, dict):
        raise InvalidInputError.field("", "must be an object")
    unknown = sorted(set(document) - {"events"})
    if unknown:
        raise InvalidInputError.field(f"/{unknown[0][:64]}", "is not known here")
    events = document.get("events")
    if not isinstance(events, list) or not events:
        raise InvalidInputError.field("/events", "must be a list of at least one event")
    if len(events) > events_max:
        raise InvalidInputError.field("/events", f"holds more than {events_max} events")
    return events

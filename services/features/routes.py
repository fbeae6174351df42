"""Native routes: events in, definitions and freshness out."""

import time
from typing import Any

import orjson
from fastapi import APIRouter, Request

from libs.common.context import current
from libs.common.errors import (
    BadRequestError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from libs.common.features.layout import VIEWS
from libs.common.ids import uuid7
from libs.common.redis import UNAVAILABLE as REDIS_UNAVAILABLE
from services.features.adapters.definitions import DefinitionStore
from services.features.adapters.jobs import JobStore
from services.features.adapters.log import PostgresEventLog
from services.features.adapters.rings import RedisRings
from services.features.domain.definitions import documents
from services.features.domain.names import DefinitionError
from services.features.domain.pushed import check, fingerprint_of
from services.features.ingest import Ingestion
from services.features.lines import LineStream
from services.features.schemas import IngestAnswer

router = APIRouter(tags=["features"])

_DEFINITIONS_MAX = 200
_NDJSON = "application/x-ndjson"


def tenant() -> str:
    """Give the tenant of the caller; the edge let nobody through without one."""
    caller = current().caller
    return caller.tenant if caller else ""


@router.post(
    "/features/events",
    summary="Ingest events",
    response_model=IngestAnswer,
    response_model_exclude_none=True,
)
async def take_events(request: Request) -> IngestAnswer:
    """Answer after the Postgres commit; bad events are named by index and nothing of them kept.

    With the content type `application/x-ndjson` the body is one event per line, as for
    `/features/events/stream`.
    """
    if request.headers.get("content-type", "").startswith(_NDJSON):
        return await take_stream(request)
    return await _take(request, is_backfill=False)


@router.post(
    "/features/events/stream",
    summary="Ingest a stream of lines",
    response_model=IngestAnswer,
    response_model_exclude_none=True,
)
async def take_stream(request: Request) -> IngestAnswer:
    """Take one event per line, as many as 2 GiB hold, committed in parts while they arrive.

    The sender is slowed to the pace of the commits and the appliers, so memory stays bounded by one
    part. A stream that ends in an error goes on from the error's `bytes_taken`; one that breaks off
    is sent again whole, what is known is skipped.
    """
    return await LineStream(request.state.ingestion, tenant()).take(request.stream())


@router.post(
    "/features/backfills",
    summary="Load history",
    response_model=IngestAnswer,
    response_model_exclude_none=True,
)
async def take_history(request: Request) -> IngestAnswer:
    """Take events with the time at which each became known (`arrival_ms`).

    The answer's `job_id` tells by `GET /features/backfills/{job_id}` when all of it is readable.
    """
    answer = await _take(request, is_backfill=True)
    jobs: JobStore = request.state.jobs
    heads = await request.state.log.heads()
    details = {"heads": {str(p): head.last_offset for p, head in heads.items()}}
    answer.job_id = uuid7()
    await jobs.keep(tenant(), answer.job_id, "backfill", details, answer.accepted)
    return answer


@router.get("/features/backfills/{job_id}", summary="Progress of a backfill")
async def report_job(request: Request, job_id: str) -> dict[str, Any]:
    """Give the state of a backfill or materialization: running, done or failed."""
    jobs: JobStore = request.state.jobs
    job = await jobs.get(tenant(), job_id)
    if job is None:
        raise NotFoundError("There is no such job.")
    if job["kind"] == "backfill" and job["state"] == "running":
        heads = {int(partition): offset for partition, offset in job["details"]["heads"].items()}
        try:
            progress = await request.state.rings.progress()
        except REDIS_UNAVAILABLE as error:
            raise UnavailableError("The online store does not answer.") from error
        behind = sum(max(0, offset - progress.offset(p)) for p, offset in heads.items())
        if behind == 0:
            await jobs.end(tenant(), job_id, "done", job["total"])
            job = {**job, "state": "done"}
        job["done"] = job["total"] if behind == 0 else max(0, job["total"] - behind)
    job.pop("details")
    return job


@router.get("/features/definitions", summary="Entities, views, feature services")
async def list_definitions(request: Request) -> dict[str, Any]:
    """Give every definition that this release serves, then the tenant's own."""
    store: DefinitionStore = request.state.definitions
    catalog = await store.catalog(tenant())
    own = []
    for (kind, name), document in catalog.documents.items():
        item = {**document, "fingerprint": fingerprint_of(document)}
        if kind == "feature_view" and "source" in document:
            newest = [v for (n, _), v in catalog.computed_versions.items() if n == name][-1]
            state = "building" if newest.key in catalog.building else "ready"
            item |= {"version": newest.version, "schema_id": newest.schema_id, "state": state}
        elif kind == "feature_view":
            view = catalog.views[name]
            item |= {"version": view.version, "schema_id": view.layout.schema_id}
        own.append(item)
    return {"items": [*documents(), *own], "next": None}


@router.post("/features/definitions", summary="Plan or apply definitions")
async def apply_definitions(request: Request) -> dict[str, Any]:
    """Take `{"definitions": [...], "dry_run"?}`; say per document what changes, all or none."""
    document = _object(await request.body(), {"definitions", "dry_run"})
    wanted, is_dry = document.get("definitions"), document.get("dry_run", False)
    if not isinstance(wanted, list) or not 1 <= len(wanted) <= _DEFINITIONS_MAX:
        raise InvalidInputError.field("/definitions", f"must be a list of 1 to {_DEFINITIONS_MAX}")
    if not isinstance(is_dry, bool):
        raise InvalidInputError.field("/dry_run", "must be a boolean")
    store: DefinitionStore = request.state.definitions
    place = ""
    try:
        for index, item in enumerate(wanted):
            place = f"/definitions/{index}"
            check(item)
        place = "/definitions"
        changes = await store.apply(tenant(), wanted, is_dry=is_dry)
    except DefinitionError as error:
        raise InvalidInputError.field(place + error.pointer, error.reason) from None
    if not is_dry:
        request.state.builder.wake.set()
    return {
        "changes": [
            {
                "action": change.action,
                "kind": change.kind,
                "name": change.name,
                "from": change.from_fingerprint,
                "to": change.to_fingerprint,
                "details": list(change.details),
            }
            for change in changes
        ],
        "applied": not is_dry,
    }


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
                "ttl_s": ttl_ms // 1000,
            }
            for name, ttl_ms in await _ttls(request)
        ],
        "next": None,
        "is_serving": progress.is_serving,
        "lag_events": sum(head.last_offset - applied[p] for p, head in heads.items()),
        "oldest_unapplied_age_s": _age_s(now_ms, oldest_ms),
    }


async def _ttls(request: Request) -> list[tuple[str, int]]:
    """List every view that the tenant can read, with its ttl."""
    store: DefinitionStore = request.state.definitions
    catalog = await store.catalog(tenant())
    views = {name: view.ttl_ms for name, view in VIEWS.items()}
    views |= {name: view.ttl_ms for name, view in catalog.computed.items()}
    return list((views | {name: view.ttl_ms for name, view in catalog.views.items()}).items())


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


def _object(body: bytes, known: set[str]) -> dict[str, Any]:
    """Parse a JSON object with known members."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequestError("The body is not valid JSON.", hint="Send a JSON object.") from error
    if not isinstance(document, dict):
        raise InvalidInputError.field("", "must be an object")
    unknown = sorted(set(document) - known)
    if unknown:
        raise InvalidInputError.field(f"/{unknown[0][:64]}", "is not known here")
    return document


def _events_of(body: bytes, events_max: int) -> list[Any]:
    """Parse the envelope; the events themselves are judged one by one."""
    document = _object(body, {"events"})
    events = document.get("events")
    if not isinstance(events, list) or not events:
        raise InvalidInputError.field("/events", "must be a list of at least one event")
    if len(events) > events_max:
        raise InvalidInputError.field("/events", f"holds more than {events_max} events")
    return events

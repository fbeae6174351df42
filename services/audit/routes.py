"""HTTP of audit: ingest, search, tail, status."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, cast

import orjson
from fastapi import APIRouter, Query, Request, Response

from libs.common.context import Caller, current
from libs.common.errors import BadRequestError, ForbiddenError, InvalidInputError
from libs.common.transparency.leaf import rfc3339
from services.audit.adapters.log_reader import Search
from services.audit.adapters.sequencer import BREATH_EVENTS
from services.audit.domain.cursor import decode_cursor, encode_cursor
from services.audit.domain.events import Accepted, accept
from services.audit.errors import NoSuchEventError
from services.audit.schemas import EntriesQuery, ErasureRequest, EventFilter, EventQuery
from services.audit.state import AuditState

router = APIRouter(tags=["audit"])
BATCH_EVENTS_MAX = 1_000


def state_of(request: Request) -> AuditState:
    """Give the service's parts."""
    return cast(AuditState, request.state.audit)


def caller_of() -> Caller:
    """Give the caller; the edge let nobody in without one."""
    caller = current().caller
    if caller is None:
        raise ForbiddenError("No caller.")
    return caller


def answer(document: Any, status: int = 200) -> Response:
    """Render JSON."""
    return Response(orjson.dumps(document), status, media_type="application/json")


@router.post("/v1/audit/events:batch", summary="Deliver a batch of events")
async def deliver(request: Request) -> Response:
    """Append a batch; answered only after COMMIT."""
    try:
        documents = orjson.loads(await request.body())
    except orjson.JSONDecodeError:
        raise BadRequestError("The body is not JSON.") from None
    if not isinstance(documents, list) or not 1 <= len(documents) <= BATCH_EVENTS_MAX:
        raise InvalidInputError.field("", f"must be a list of 1 to {BATCH_EVENTS_MAX} events")
    source = _service_of(caller_of())
    judged: list[Accepted | str] = []
    for start in range(0, len(documents), BREATH_EVENTS):
        judged += [accept(item, source) for item in documents[start : start + BREATH_EVENTS]]
        await asyncio.sleep(0)
    state = state_of(request)
    taken = [item for item in judged if isinstance(item, Accepted)]
    if state.anonymizer:
        taken = await state.anonymizer.clean(taken)
    outcomes = iter(await state.sequencer.append(taken))
    results: list[dict[str, Any]] = []
    for document, item in zip(documents, judged, strict=True):
        if isinstance(item, Accepted):
            outcome = next(outcomes)
            result = {"id": item.id, "index": outcome.index, "status": outcome.status}
            error = outcome.error
        else:
            event_id = document.get("id") if isinstance(document, Mapping) else None
            result = {"id": event_id, "index": None, "status": "rejected"}
            error = item
        results.append(result if error is None else {**result, "error": error})
    for status, count in Counter(result["status"] for result in results).items():
        state.metrics.events.labels(status).inc(count)
    return answer({"size": (await state.reader.state()).size, "results": results})


def _service_of(caller: Caller) -> str:
    """Give the service that the caller is; no one else may write."""
    kind, _, name = caller.principal.partition(":")
    if kind != "service" or caller.issuer != name:
        raise ForbiddenError("Only services deliver events, each in its own name.")
    return name


@router.get("/v1/audit/events", summary="Search the log, newest first")
async def search(request: Request, query: Annotated[EventQuery, Query()]) -> Response:
    """Search the caller's tenant."""
    state = state_of(request)
    below = None
    if query.cursor is not None:
        try:
            below = decode_cursor(query.cursor, state.keys.index)
        except ValueError:
            raise InvalidInputError.field("/cursor", "is not a cursor of this log") from None
    wanted = await search_for(state, query, limit=query.limit + 1, below=below)
    items = await state.reader.search(wanted) if wanted else []
    page = items[: query.limit]
    for item in page:
        hide_seals(item)
    more = len(items) > len(page)
    cursor = encode_cursor(page[-1]["index"], state.keys.index) if more else None
    return answer({"items": page, "next": cursor})


async def search_for(
    state: AuditState, query: EventFilter, *, limit: int, below: int | None = None
) -> Search | None:
    """Turn wire filters into a search of the caller's tenant; None when nothing can match."""
    tenant, subject = caller_of().tenant, None
    if query.data_subject is not None:
        subject = await state.pseudonym_of(tenant, query.data_subject)
        if subject is None:
            return None
    names = {"type", "source", "decision", "model", "request_id", "since", "until"}
    return Search(
        tenant=tenant,
        limit=limit,
        below=below,
        subject=subject,
        actor=state.subjects.actor_of(tenant, query.principal) if query.principal else None,
        **query.model_dump(include=names),
    )


@router.get("/v1/audit/events/{event_id}", summary="One event")
async def one_event(request: Request, event_id: str) -> Response:
    """Give one event of the caller's tenant."""
    item = await find_event(request, event_id)
    if caller_of().may("audit:personal"):
        item = await state_of(request).unsealed(item)
    else:
        hide_seals(item)
    return answer(item)


def hide_seals(item: dict[str, Any]) -> None:
    """Show a data subject as its pseudonym."""
    subject = item.get("data_subject")
    if isinstance(subject, dict):
        item["data_subject"] = {"pseudonym": subject["pseudonym"]}


async def find_event(request: Request, event_id: str) -> dict[str, Any]:
    """Give one event of the caller's tenant.

    Raises:
        NoSuchEventError: unknown, or of another tenant.
    """
    item = None
    if event_id.isprintable() and len(event_id) <= 128:
        item = await state_of(request).reader.find(caller_of().tenant, event_id)
    if item is None:
        raise NoSuchEventError(
            "No such event in your tenant.",
            hint="Events arrive within a second or two of the answer that they describe.",
        )
    return item


@router.post("/v1/audit/erasures", summary="Destroy the key of a data subject")
async def erase(request: Request, body: ErasureRequest) -> Response:
    """Erase a data subject of the caller's tenant; proofs stay valid."""
    erasure = await state_of(request).erasures.erase(caller_of().tenant, body.data_subject)
    return answer(
        {
            "pseudonym": erasure.pseudonym,
            "events": erasure.events,
            "status": "erased" if erasure.was_erased_now else "already_erased",
        }
    )


@router.post("/v1/audit/keys:rotate", summary="Rotate the key-encryption key")
async def rotate(request: Request) -> Response:
    """Re-wrap every subject key and destroy the old key-encryption key."""
    name, count = await state_of(request).erasures.rotate()
    return answer({"kek": name, "subject_keys": count})


@router.get("/v1/audit/log/entries", summary="Read the log by index")
async def entries(request: Request, query: Annotated[EntriesQuery, Query()]) -> Response:
    """Give the tail to services: every tenant, personal fields sealed."""
    _service_of(caller_of())
    return answer(await state_of(request).reader.entries(query.from_index, query.limit))


@router.get("/v1/audit/status", summary="Size and health of the log")
async def status(request: Request) -> Response:
    """Give size, root, last checkpoint, and how to verify it."""
    state = state_of(request)
    now, last = await state.reader.state(), await state.checkpoints.latest()
    return answer(
        {
            "size": now.size,
            "root": now.root.hex(),
            "min_index": now.min_index,
            "epoch": now.epoch,
            "last_ingested_at": rfc3339(now.ingested_at) if now.size and now.ingested_at else None,
            "consistent": not state.checkpoints.is_forked,
            "checkpoint": {
                "size": last["size"],
                "published_at": rfc3339(last["published_at"]),
                "witnessed": last["witnessed_at"] is not None,
            }
            if last
            else None,
            "verifier_key": str(state.keys.verifier),
            "witness": {
                "verifier_key": str(state.checkpoints.witness.key),
                "unwitnessed": await state.checkpoints.unwitnessed(),
            }
            if state.checkpoints.witness
            else None,
        }
    )

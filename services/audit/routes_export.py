"""HTTP of exports: lines of events, and ranges of the log with their proof."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import IO, Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.responses import StreamingResponse

from libs.common.errors import InvalidInputError, UnavailableError
from libs.common.transparency.bundle import write_evidence
from libs.common.transparency.note import Checkpoint
from libs.common.transparency.spans import outside_ranges
from services.audit.adapters.log_reader import Search
from services.audit.domain.exports import csv_header, csv_line, ndjson_line, ocsf_line
from services.audit.errors import PrunedError
from services.audit.routes import caller_of, hide_seals, search_for, state_of
from services.audit.schemas import ExportQuery
from services.audit.state import AuditState

router = APIRouter(tags=["audit"])

PAGE = 1_000
EVIDENCE_LEAVES_MAX = 250_000
_SPOOL_BYTES = 4 << 20
_CHUNK_BYTES = 256 << 10

_LINES: dict[str, tuple[str, bytes, Callable[[Mapping[str, Any]], bytes]]] = {
    "ndjson": ("application/x-ndjson", b"", ndjson_line),
    "ocsf": ("application/x-ndjson", b"", ocsf_line),
    "csv": ("text/csv; charset=utf-8", csv_header(), csv_line),
}


@router.get("/v1/audit/export", summary="Export events, or a range of the log with its proof")
async def export(request: Request, query: Annotated[ExportQuery, Query()]) -> Response:
    """Stream the caller's events, newest first, or an evidence file of an index range.

    `x-total-rows` says how many lines will come, so that a client can show how far it is.
    """
    state = state_of(request)
    if query.format == "evidence":
        return await _evidence(state, query)
    if query.from_index or query.to_index is not None:
        raise InvalidInputError.field("/from_index", "is for the format evidence alone")
    content_type, header, line = _LINES[query.format]
    size = (await state.reader.state()).size
    search = await search_for(state, query, limit=PAGE, below=size)
    total = await state.reader.count(search) if search else 0
    return StreamingResponse(
        _lines(state, search, header, line),
        media_type=content_type,
        headers={
            "x-total-rows": str(total),
            "content-disposition": f'attachment; filename="audit.{query.format}"',
        },
    )


async def _lines(
    state: AuditState,
    search: Search | None,
    header: bytes,
    line: Callable[[Mapping[str, Any]], bytes],
) -> AsyncIterator[bytes]:
    if header:
        yield header
    if search is not None:
        search = await state.reader.bounded(search)
        search = replace(search, since=None, until=None)
    while search is not None:
        items = await state.reader.search(search)
        for item in items:
            hide_seals(item)
        if items:
            yield b"".join(map(line, items))
        search = replace(search, below=items[-1]["index"]) if len(items) == PAGE else None


async def _evidence(state: AuditState, query: ExportQuery) -> Response:
    last = await state.checkpoints.latest()
    if last is None or last["size"] == 0:
        raise UnavailableError("No checkpoint covers an event yet.")
    start, end = query.from_index, min(query.to_index or last["size"], last["size"])
    if not start < end:
        raise InvalidInputError.field("/from_index", f"must lie below {end}")
    if end - start > EVIDENCE_LEAVES_MAX:
        raise InvalidInputError.field("/to_index", f"spans more than {EVIDENCE_LEAVES_MAX} entries")
    if start < (await state.reader.state()).min_index:
        raise PrunedError("A part of the range was removed under the retention policy.")
    leaves = await state.reader.leaves(start, end)
    payloads = await state.reader.payloads(caller_of().tenant, start, end)
    proof = await state.reader.proof(outside_ranges(start, end, last["size"]))
    manifest = {
        "origin": Checkpoint.parse(last["note"]).origin,
        "from_index": start,
        "to_index": end,
        "log_size": last["size"],
        "tenant": caller_of().tenant,
        "payloads": len(payloads),
    }
    file = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 - closed by the stream
    await asyncio.to_thread(write_evidence, file, manifest, last["note"], leaves, proof, payloads)
    return StreamingResponse(
        _chunks(file),
        media_type="application/zip",
        headers={
            "content-length": str(file.tell()),
            "x-total-rows": str(end - start),
            "content-disposition": 'attachment; filename="audit-evidence.zip"',
        },
    )


async def _chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    with file:
        file.seek(0)
        while data := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            yield data

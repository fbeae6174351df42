"""HTTP of the compliance report: JSON for machines, HTML for people and printers."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from libs.common.errors import InvalidInputError
from libs.common.transparency.leaf import rfc3339
from libs.common.transparency.tree import consistency_ranges
from services.audit.domain.report import document, page
from services.audit.routes import answer, caller_of, state_of
from services.audit.schemas import ReportQuery
from services.audit.state import AuditState

router = APIRouter(tags=["audit"])
PERIOD_MAX = timedelta(days=3 * 366)


@router.get("/v1/audit/reports/compliance", summary="Compliance report")
async def compliance(request: Request, query: Annotated[ReportQuery, Query()]) -> Response:
    """Report on the caller's tenant; the default period is the last 30 days."""
    state, tenant = state_of(request), caller_of().tenant
    until = query.until or datetime.now(UTC)
    since = query.since or until - timedelta(days=30)
    if not since < until:
        raise InvalidInputError.field("/from", "must lie before `to`")
    if until - since > PERIOD_MAX:
        raise InvalidInputError.field("/from", "the period is longer than three years")
    integrity = await _integrity(state, query.previous_size, since)
    report = document(
        tenant,
        (rfc3339(since), rfc3339(until)),
        await state.facts.collect(tenant, since, until, int(integrity["checkpoint_size"])),
        integrity,
        await state.policies.describe(tenant),
    )
    wants_page = query.format == "html" or (
        query.format is None and "text/html" in request.headers.get("accept", "")
    )
    if not wants_page:
        return answer(report)
    return Response(
        page(report),
        media_type="text/html; charset=utf-8",
        headers={"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"},
    )


async def _integrity(
    state: AuditState, previous_size: int | None, since: datetime
) -> dict[str, Any]:
    now, last = await state.reader.state(), await state.checkpoints.latest()
    witness = state.checkpoints.witness
    return {
        "consistent": not state.checkpoints.is_forked,
        "log_size": now.size,
        "root": now.root.hex(),
        "min_index": now.min_index,
        "checkpoint": str(last["note"]) if last else None,
        "checkpoint_size": last["size"] if last else 0,
        "witnessed": bool(last and last["witnessed_at"]),
        "previous": await _previous(state, last, previous_size, since),
        "verifier_key": str(state.keys.verifier),
        "witness_key": str(witness.key) if witness else None,
    }


async def _previous(
    state: AuditState, last: Any, size: int | None, since: datetime
) -> dict[str, Any] | None:
    """Prove that the report's tree extends an earlier one: the caller's, or the period's start."""
    earlier = await state.checkpoints.earlier(size=size, before=since)
    if earlier is None:
        if size is not None:
            raise InvalidInputError.field("/previous_size", "no checkpoint of that size was signed")
        return None
    ranges = consistency_ranges(earlier["size"], last["size"])
    return {
        "size": earlier["size"],
        "checkpoint": str(earlier["note"]),
        "proof": [base64.b64encode(item).decode() for item in await state.reader.proof(ranges)],
    }

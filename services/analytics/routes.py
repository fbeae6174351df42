"""Routes of analytics: parse, one call, shape the answer."""

from datetime import UTC, datetime

from fastapi import APIRouter, Request

from libs.common.context import current
from services.analytics import schemas
from services.analytics.service import Analytics

router = APIRouter(tags=["analytics"])


def _service(request: Request) -> Analytics:
    service: Analytics = request.state.analytics
    return service


def _tenant() -> str:
    caller = current().caller
    return caller.tenant if caller else ""


@router.get("/metrics/count", summary="Total predictions")
async def count(request: Request) -> schemas.Count:
    """Count the tenant's predictions: all of them, and those since this process started."""
    return await _service(request).count(_tenant())


@router.post("/metrics/aggregated", summary="Figures of a time window")
async def aggregated(request: Request, body: schemas.AggregatedRequest) -> schemas.Aggregated:
    """Give totals, latencies, confidence, distributions and a status for a window."""
    return await _service(request).aggregated(_tenant(), body, datetime.now(UTC))

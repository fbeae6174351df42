"""Routes of analytics: parse, one call, shape the answer."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request, Response

from libs.common.context import current
from services.analytics import html_report, schemas
from services.analytics.adapters.rebuild import Rebuilder
from services.analytics.alert_views import Alerts
from services.analytics.charts import KINDS, Charts, Kind
from services.analytics.reports import Reports
from services.analytics.service import Analytics
from services.analytics.statistics import Statistics

router = APIRouter(tags=["analytics"])
# Paths that carry the service's name exist under /v1 only.
native = APIRouter(tags=["analytics"])


def _service(request: Request) -> Analytics:
    service: Analytics = request.state.analytics
    return service


def _now(request: Request) -> datetime:
    now: datetime = request.state.clock()
    return now


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
    return await _service(request).aggregated(_tenant(), body, _now(request))


@router.get("/metrics/thresholds", summary="Alert thresholds")
async def thresholds(request: Request) -> schemas.ThresholdsView:
    """Give the limits in force for the tenant."""
    return await _service(request).thresholds(_tenant())


@router.put("/metrics/thresholds", summary="Change alert thresholds")
async def change_thresholds(
    request: Request, body: schemas.ThresholdsRequest
) -> schemas.ThresholdsView:
    """Change some limits; the change is a new version and an audit event."""
    caller = current().caller
    by = caller.principal if caller else ""
    return await _service(request).change_thresholds(_tenant(), body, by=by)


@router.post("/analyze/performance", summary="Written analysis", response_model=schemas.Report)
async def analyze(request: Request, body: schemas.AnalyzeRequest) -> Response:
    """Explain the last closed window against the one before, by Gemini or by rules."""
    reports: Reports = request.state.reports
    answer = await reports.analyze(_tenant(), body, _now(request))
    # Held to its model when it was made; a cached one is sent as it is.
    return Response(orjson.dumps(answer), media_type="application/json")


@native.get("/v1/analytics/drift", summary="Drift against the window before")
async def drift(
    request: Request, query: Annotated[schemas.DriftQuery, Query()]
) -> schemas.DriftReport:
    """Compare the distributions of the last closed window with those of the one before."""
    statistics: Statistics = request.state.statistics
    return await statistics.drift(_tenant(), query, _now(request))


@native.get("/v1/analytics/comparison", summary="Two versions side by side")
async def comparison(
    request: Request, query: Annotated[schemas.ComparisonQuery, Query()]
) -> schemas.Comparison:
    """Compare the error and degradation rates of two versions, with intervals."""
    statistics: Statistics = request.state.statistics
    return await statistics.compare(_tenant(), query, _now(request))


@native.get(
    "/v1/analytics/report.html",
    summary="Written analysis as a page",
    response_class=Response,
    responses={200: {"content": {"text/html": {}}}},
)
async def report_page(
    request: Request, query: Annotated[schemas.ReportPageQuery, Query()]
) -> Response:
    """Give the analysis of the last closed window with its charts, as one HTML page."""
    reports: Reports = request.state.reports
    charts: Charts = request.state.charts
    now = _now(request)
    answer = await reports.analyze(_tenant(), schemas.AnalyzeRequest(**query.model_dump()), now)
    drawn = {
        f"Chart: {kind}": await charts.svg(
            _tenant(), kind, schemas.ChartQuery(**query.model_dump()), now
        )
        for kind in KINDS
    }
    page = html_report.render(schemas.Report.model_validate(answer), drawn)
    return Response(
        page,
        media_type="text/html",
        headers={
            "content-security-policy": html_report.CONTENT_SECURITY_POLICY,
            "cache-control": "private, no-store",
        },
    )


def _alerts(request: Request) -> Alerts:
    alerts: Alerts = request.state.alerts
    return alerts


@native.get("/v1/analytics/alerts", summary="Open alerts")
async def alerts(request: Request) -> schemas.Alerts:
    """List pending and firing alerts."""
    return await _alerts(request).open(_tenant())


@native.get("/v1/analytics/alerts/history", summary="Alerts that fired and ended")
async def alert_history(
    request: Request, query: Annotated[schemas.HistoryQuery, Query()]
) -> schemas.History:
    """List what was heard of alerts, newest first, with the fate of each message."""
    return await _alerts(request).history(_tenant(), query)


@native.get("/v1/analytics/alerts/webhook", summary="Where alerts are sent")
async def webhook(request: Request) -> schemas.WebhookView:
    """Give the destination of the tenant's alerts."""
    return await _alerts(request).webhook(_tenant())


@native.put("/v1/analytics/alerts/webhook", summary="Change where alerts are sent")
async def set_webhook(request: Request, body: schemas.WebhookRequest) -> schemas.WebhookSecretView:
    """Set or remove the destination; the answer holds the new signing secret, once."""
    caller = current().caller
    by = caller.principal if caller else ""
    return await _alerts(request).set_webhook(_tenant(), body, by=by)


@native.get("/v1/analytics/rebuild", summary="How the last rebuild stands")
async def rebuild(request: Request) -> schemas.RebuildView:
    """Say how far the roll-ups are rebuilt."""
    rebuilder: Rebuilder = request.state.rebuilder
    return schemas.RebuildView(**asdict(await rebuilder.progress()))


@native.post("/v1/analytics/rebuild", summary="Rebuild the roll-ups", status_code=202)
async def start_rebuild(request: Request, body: schemas.RebuildRequest) -> schemas.RebuildView:
    """Count the whole log again, beside what serves, and then put it in place."""
    rebuilder: Rebuilder = request.state.rebuilder
    return schemas.RebuildView(**asdict(await rebuilder.start(accept_loss=body.accept_loss)))


def _add_chart(kind: Kind) -> None:
    @native.get(
        f"/v1/analytics/charts/{kind}.svg",
        name=f"chart_{kind}",
        summary=f"Chart: {kind}",
        response_class=Response,
        responses={200: {"content": {"image/svg+xml": {}}}},
    )
    async def chart(request: Request, query: Annotated[schemas.ChartQuery, Query()]) -> Response:
        """Draw the last closed window as SVG."""
        charts: Charts = request.state.charts
        drawn = await charts.svg(_tenant(), kind, query, _now(request))
        return Response(
            drawn,
            media_type="image/svg+xml",
            headers={
                # Nothing in a picture may run or load, also when it is opened by itself.
                "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
                "cache-control": "private, max-age=30",
            },
        )


for _kind in KINDS:
    _add_chart(_kind)

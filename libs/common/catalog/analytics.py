"""Catalogue entry of analytics."""

from libs.common.catalog.model import Route, Service

ANALYTICS = Service(
    name="analytics",
    port=8084,
    summary="roll-ups, thresholds, drift, comparisons, Gemini reports",
    calls=("audit",),
    redis_prefixes=("reports:",),
    routes=(
        Route(
            "POST",
            "/metrics/aggregated",
            "metrics:read",
            "Figures of a time window",
            retry_safe=True,
            skips_ip_policy=True,
            also_v1=True,
        ),
        Route(
            "GET",
            "/metrics/count",
            "metrics:read",
            "Total predictions",
            skips_ip_policy=True,
            also_v1=True,
        ),
        Route(
            "GET",
            "/metrics/thresholds",
            "metrics:read",
            "Alert thresholds",
            also_v1=True,
        ),
        Route(
            "PUT",
            "/metrics/thresholds",
            "metrics:write",
            "Change alert thresholds",
            lane="admin",
            also_v1=True,
        ),
        Route(
            "POST",
            "/analyze/performance",
            "analytics:read",
            "Written analysis",
            deadline_ms=12_000,
            also_v1=True,
        ),
        Route("GET", "/v1/analytics/drift", "analytics:read", "Drift against the window before"),
        Route("GET", "/v1/analytics/comparison", "analytics:read", "Two versions side by side"),
        Route(
            "GET",
            "/v1/analytics/report.html",
            "analytics:read",
            "Written analysis as a page",
            deadline_ms=15_000,
        ),
        Route("GET", "/v1/analytics/alerts", "analytics:read", "Open alerts"),
        Route(
            "GET",
            "/v1/analytics/alerts/history",
            "analytics:read",
            "Alerts that fired and ended",
        ),
        Route("GET", "/v1/analytics/alerts/webhook", "analytics:read", "Where alerts are sent"),
        Route(
            "PUT",
            "/v1/analytics/alerts/webhook",
            "analytics:write",
            "Change where alerts are sent",
            lane="admin",
        ),
        Route("GET", "/v1/analytics/rebuild", "analytics:admin", "How the last rebuild stands"),
        Route(
            "POST", "/v1/analytics/rebuild", "analytics:admin", "Rebuild the roll-ups", lane="admin"
        ),
        *(
            Route("GET", f"/v1/analytics/charts/{kind}.svg", "analytics:read", f"Chart: {kind}")
            for kind in ("latency", "confidence", "distribution", "drift")
        ),
    ),
)

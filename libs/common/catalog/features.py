"""Catalogue entry of features."""

from libs.common.catalog.model import MIB, Route, Service

FEATURES = Service(
    name="features",
    port=8083,
    summary="feature definitions, ingestion, windows, online layout, history, parity",
    calls=("audit",),
    redis_prefixes=("features:",),
    routes=(
        Route(
            "POST", "/features/events", "features:write", "Ingest events",
            body_bytes_max=8 * MIB, deadline_ms=15_000, lane="batch", retry_safe=True,
            also_v1=True,
        ),
        Route(
            "POST", "/get-online-features", "features:read", "Feast-compatible online read",
            body_bytes_max=1 * MIB, retry_safe=True, error_shape="feast",
        ),
        Route(
            "GET", "/features/definitions", "features:read", "Entities, views, feature services",
            also_v1=True,
        ),
        Route(
            "GET", "/features/freshness", "features:read", "Lag and age per view", also_v1=True
        ),
        Route(
            "POST", "/features/backfills", "features:admin", "Load history",
            body_bytes_max=32 * MIB, deadline_ms=30_000, deadline_ms_max=120_000, lane="batch",
            retry_safe=True, also_v1=True,
        ),
        Route(
            "GET", "/features/backfills/{job_id}", "features:admin", "Progress of a backfill",
            "planned", lane="admin", also_v1=True,
        ),
        Route(
            "POST", "/features/historical", "features:read", "Point-in-time join", "planned",
            lane="batch", also_v1=True,
        ),
        Route(
            "GET", "/features/parity", "features:read", "Online against offline", "planned",
            also_v1=True,
        ),
        Route("POST", "/push", "features:write", "Feast push", "planned", error_shape="feast"),
        Route(
            "POST", "/write-to-online-store", "features:write", "Feast write", "planned",
            error_shape="feast",
        ),
        Route(
            "POST", "/materialize", "features:admin", "Feast materialize", "planned",
            error_shape="feast",
        ),
        Route(
            "POST", "/materialize-incremental", "features:admin", "Feast materialize", "planned",
            error_shape="feast",
        ),
        Route("POST", "/v1/feedback", "feedback:write", "Label a decision", "planned"),
    ),
    internal=(
        Route(
            "POST", "/features/samples", "features:samples", "Served vectors, for the parity job",
            "planned", body_bytes_max=1 * MIB, lane="batch",
        ),
    ),
)

"""Catalogue entry of audit."""

from libs.common.catalog.model import MIB, Route, Service

EVENTS_BATCH_PATH = "/v1/audit/events:batch"
LOG_ENTRIES_PATH = "/v1/audit/log/entries"

AUDIT = Service(
    name="audit",
    port=8085,
    summary="the event log, proofs, retention, erasure, compliance report",
    calls=("guardrails",),
    redis=False,
    routes=(
        Route("GET", "/v1/audit/events", "audit:read", "Search the log, newest first"),
        Route("GET", "/v1/audit/events/{event_id}", "audit:read", "One event"),
        Route("GET", "/v1/audit/events/{event_id}/proof", "audit:read", "Inclusion proof"),
        Route("GET", "/v1/audit/events/{event_id}/leaf", "audit:read", "Exact leaf bytes"),
        Route("GET", "/v1/audit/status", "audit:read", "Size and health of the log"),
        Route(
            "GET",
            "/v1/audit/export",
            "audit:read",
            "Events as NDJSON, CSV or OCSF, or a range with its proof",
            deadline_ms=120_000,
            deadline_ms_max=600_000,
            lane="batch",
        ),
        Route("GET", "/v1/audit/retention", "audit:read", "Policies, holds, what was removed"),
        Route(
            "PUT",
            "/v1/audit/retention/policies/{event_class}",
            "audit:admin",
            "Keep a class of events so many days",
            lane="admin",
        ),
        Route("POST", "/v1/audit/legal-holds", "audit:admin", "Place a legal hold", lane="admin"),
        Route(
            "DELETE",
            "/v1/audit/legal-holds/{hold_id}",
            "audit:admin",
            "Release a legal hold",
            lane="admin",
        ),
        Route(
            "POST",
            "/v1/audit/retention:run",
            "audit:admin",
            "Apply the policies now",
            lane="admin",
            deadline_ms=30_000,
            deadline_ms_max=120_000,
        ),
        Route("GET", "/checkpoint", None, "Latest signed checkpoint"),
        Route("GET", "/tile/{rest:path}", None, "Tiles of the transparency log"),
        Route(
            "GET",
            "/v1/audit/reports/compliance",
            "audit:read",
            "Compliance report, as JSON or as a page to print",
            deadline_ms=60_000,
            deadline_ms_max=120_000,
            lane="batch",
        ),
    ),
    internal=(
        Route(
            "POST",
            EVENTS_BATCH_PATH,
            "audit:write",
            "Deliver a batch of events",
            body_bytes_max=16 * MIB,
            deadline_ms=30_000,
            lane="batch",
            retry_safe=True,
        ),
        Route(
            "POST",
            "/v1/audit/erasures",
            "audit:erase",
            "Destroy the key of a data subject",
            lane="admin",
            retry_safe=True,
        ),
        Route(
            "POST",
            "/v1/audit/keys:rotate",
            "audit:erase",
            "Rotate the key-encryption key",
            lane="admin",
            deadline_ms=30_000,
        ),
        Route(
            "GET",
            LOG_ENTRIES_PATH,
            "audit:tail",
            "Read the log by index, for analytics",
            lane="batch",
        ),
    ),
)

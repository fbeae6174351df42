"""Catalogue entry of the gateway: its own routes, not the ones it proxies."""

from libs.common.catalog.model import Route, Service

GATEWAY = Service(
    name="gateway",
    port=8080,
    summary="identity, ingress limits, routing, OpenAPI merge, console",
    calls=("inference", "guardrails", "features", "analytics", "audit"),
    redis_prefixes=("limits:", "sessions:"),
    routes=(
        Route(
            "GET", "/", None, "Service status and links to the documentation", skips_ip_policy=True
        ),
        Route("GET", "/livez", None, "Liveness: this process answers", skips_ip_policy=True),
        Route(
            "GET",
            "/readyz",
            None,
            "Readiness: what this process cannot serve without",
            skips_ip_policy=True,
        ),
        Route("GET", "/ready", None, "Alias of /readyz", skips_ip_policy=True),
        Route(
            "GET",
            "/health",
            None,
            "Full report: components, versions, uptime",
            skips_ip_policy=True,
            also_v1=True,
        ),
        Route(
            "GET",
            "/metrics",
            None,
            "Prometheus metrics of the gateway",
            skips_ip_policy=True,
            also_v1=True,
        ),
        Route("GET", "/openapi.json", None, "The merged API description", skips_ip_policy=True),
        Route("GET", "/docs", None, "Interactive API documentation", skips_ip_policy=True),
        Route("GET", "/redoc", None, "Reference documentation", skips_ip_policy=True),
        Route(
            "GET",
            "/docs/assets/{name}",
            None,
            "Files of the documentation readers",
            skips_ip_policy=True,
        ),
        Route("GET", "/console", "console:read", "The console", lane="admin"),
        Route("GET", "/console/login", None, "Login form of the console", lane="admin"),
        Route("POST", "/console/login", None, "Open a console session", lane="admin"),
        Route("POST", "/console/logout", None, "Close a console session", lane="admin"),
        Route("GET", "/console/assets/{name}", None, "Files of the console", skips_ip_policy=True),
        Route("GET", "/console/events", "console:read", "Live figures (SSE)", lane="admin"),
        *(
            Route("GET", f"/console/{path}", "console:read", f"The console: {what}", lane="admin")
            for path, what in (
                ("request", "send a request"),
                ("requests/{request_id}", "hops and record of a request"),
                ("models", "models and rollouts"),
                ("analytics", "figures, alerts, charts"),
                ("charts/{kind}", "a chart"),
                ("report", "the written report"),
                ("guardrails", "validators and policies"),
                ("features", "freshness and definitions"),
                ("audit", "search the log"),
                ("audit/{event_id}", "one event with its proof"),
                ("compliance", "the compliance report"),
                ("system", "health, settings, keys"),
            )
        ),
        Route(
            "POST", "/console/request", "console:read", "The console: send a request", lane="admin"
        ),
        Route(
            "POST",
            "/console/models/{name}",
            "console:read",
            "The console: act on a model",
            lane="admin",
        ),
        Route("POST", "/v1/auth/keys", "keys:write", "Make an API key", lane="admin"),
        Route("GET", "/v1/auth/keys", "keys:read", "List API keys", lane="admin"),
        Route("DELETE", "/v1/auth/keys/{key_id}", "keys:write", "Revoke an API key", lane="admin"),
        Route("POST", "/v1/auth/keys/{key_id}/rotate", "keys:write", "Rotate a key", lane="admin"),
        Route("POST", "/v1/auth/token", None, "Access and refresh tokens"),
        Route("POST", "/v1/auth/revoke", None, "Revoke a token"),
        Route("POST", "/v1/auth/tickets", None, "A one-use ticket for a stream or WebSocket"),
        Route(
            "GET",
            "/.well-known/jwks.json",
            None,
            "Keys that sign access tokens",
            skips_ip_policy=True,
        ),
        *(
            Route(method, path, "tenants:admin", summary, lane="admin")
            for method, path, summary in (
                ("POST", "/v1/admin/tenants", "Make a tenant"),
                ("GET", "/v1/admin/tenants", "List tenants"),
                ("GET", "/v1/admin/tenants/{tenant}", "One tenant"),
                ("PUT", "/v1/admin/tenants/{tenant}", "Change limits and guard mode"),
                ("GET", "/v1/admin/roles", "List roles"),
                ("PUT", "/v1/admin/roles/{role}", "Make or replace a role"),
                ("DELETE", "/v1/admin/roles/{role}", "Delete a role"),
                ("GET", "/v1/admin/users", "List people"),
                ("POST", "/v1/admin/users", "Make a person"),
                ("PUT", "/v1/admin/users/{username}", "Change or disable a person"),
                ("POST", "/v1/admin/erasures", "Erase a data subject"),
                ("GET", "/v1/admin/erasures", "List erasures"),
                ("GET", "/v1/admin/erasures/{job_id}", "State of an erasure"),
            )
        ),
    ),
)

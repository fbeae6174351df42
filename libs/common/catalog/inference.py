"""Catalogue entry of inference."""

from libs.common.catalog.model import KIB, MIB, Route, Service

_V2 = {"error_shape": "v2"}

# What changes models; loading and proving a large version takes its time.
_LIFECYCLE = (
    Route("GET", "/models/{name}/rollouts", "models:read", "Rollouts of a model", also_v1=True),
    *(
        Route(
            method,
            path,
            "models:admin",
            summary,
            deadline_ms=60_000,
            deadline_ms_max=300_000,
            lane="admin",
            also_v1=True,
        )
        for method, path, summary in (
            ("POST", "/models/{name}/versions/{version}/load", "Load a version"),
            ("POST", "/models/{name}/versions/{version}/unload", "Unload a version"),
            ("POST", "/models/{name}/versions/{version}/promote", "Let a version serve"),
            ("POST", "/models/{name}/rollback", "Let the version before serve again"),
            ("POST", "/models/{name}/reload", "Look for new versions, retry failed ones"),
            ("PUT", "/models/{name}/aliases/{alias}", "Point an alias at a version"),
            ("POST", "/models/{name}/rollouts", "Start a rollout"),
            (
                "POST",
                "/models/{name}/rollouts/{rollout_id}/{action}",
                "Take the next step, pause, resume or take back",
            ),
        )
    ),
)

# What a tenant does about a score; each route speaks of the caller's own tenant.
_POLICIES = tuple(
    Route(method, path, scope, summary, lane="admin", also_v1=True)
    for method, path, scope, summary in (
        ("GET", "/decision-policies/{name}", "policies:read", "Thresholds in force"),
        ("PUT", "/decision-policies/{name}", "policies:admin", "Set the tenant's thresholds"),
        ("DELETE", "/decision-policies/{name}", "policies:admin", "Give back to the model's own"),
        ("GET", "/decision-policies/{name}/history", "policies:read", "All versions"),
    )
)

INFERENCE = Service(
    name="inference",
    port=8081,
    summary="model repository and lifecycle, batching, engines, ensembles, rollouts, scoring",
    calls=("features", "audit"),
    serves_without_postgres=True,
    redis_prefixes=("predictions:", "models:"),
    memory_mib=512,
    cpu_m=500,
    routes=(
        Route(
            "POST",
            "/score/fraud",
            "predict:fraud",
            "Score a card payment",
            retry_safe=True,
            also_v1=True,
        ),
        Route(
            "POST",
            "/score/personalization",
            "predict:personalization",
            "Score a user and an item",
            retry_safe=True,
            also_v1=True,
        ),
        Route(
            "POST",
            "/score/batch",
            "predict:batch",
            "Score up to 1,000 requests in one call",
            body_bytes_max=2 * MIB,
            deadline_ms=30_000,
            deadline_ms_max=60_000,
            lane="batch",
            retry_safe=True,
            also_v1=True,
        ),
        Route(
            "POST",
            "/recommend",
            "predict:personalization",
            "Top-k items for a user",
            body_bytes_max=128 * KIB,
            retry_safe=True,
            also_v1=True,
        ),
        Route("GET", "/models", "models:read", "List models with their metadata", also_v1=True),
        Route("GET", "/models/{name}", "models:read", "One model", also_v1=True),
        Route(
            "POST",
            "/predict",
            "predict:text",
            "Sentiment of a text",
            retry_safe=True,
            text_pointers=("/text",),
            also_v1=True,
            ip_quota=(10, 60),
        ),
        Route(
            "POST",
            "/predict/batch",
            "predict:text",
            "Sentiment of many texts",
            body_bytes_max=1 * MIB,
            lane="batch",
            retry_safe=True,
            text_pointers=("/texts/*",),
            also_v1=True,
        ),
        Route(
            "POST",
            "/v1/models/{name}/predict",
            "predict:model",
            "Predict with a named model",
            body_bytes_max=4 * MIB,
            retry_safe=True,
            text_pointers=("/inputs/*",),
        ),
        Route("GET", "/v1/predictions/cache", "models:read", "Statistics of the prediction cache"),
        Route(
            "DELETE",
            "/v1/predictions/cache",
            "models:admin",
            "Empty the caller's prediction cache",
            lane="admin",
        ),
        *_LIFECYCLE,
        *_POLICIES,
        Route(
            "POST",
            "/v2/repository/models/{name}/load",
            "models:admin",
            "Open Inference Protocol: load",
            deadline_ms=60_000,
            deadline_ms_max=120_000,
            lane="admin",
            error_shape="v2",
        ),
        Route(
            "POST",
            "/v2/repository/models/{name}/unload",
            "models:admin",
            "Open Inference Protocol: unload",
            lane="admin",
            error_shape="v2",
        ),
        Route(
            "POST",
            "/v2/repository/index",
            "models:read",
            "Open Inference Protocol: repository index",
            retry_safe=True,
            error_shape="v2",
        ),
        Route("GET", "/v2", "predict:model", "Open Inference Protocol: server", **_V2),  # type: ignore[arg-type] # keyword set shared by the V2 rows
        Route("GET", "/v2/{rest:path}", "predict:model", "Open Inference Protocol: read", **_V2),  # type: ignore[arg-type] # as above
        Route(
            "POST",
            "/v2/{rest:path}",
            "predict:model",
            "Open Inference Protocol: infer",
            body_bytes_max=32 * MIB,
            retry_safe=True,
            **_V2,  # type: ignore[arg-type] # as above
        ),
    ),
)

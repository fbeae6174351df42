"""Catalogue entry of inference."""

from libs.common.catalog.model import MIB, Route, Service

_V2 = {"error_shape": "v2", "status": "planned"}

INFERENCE = Service(
    name="inference",
    port=8081,
    summary="model repository and lifecycle, batching, engines, ensembles, rollouts, scoring",
    calls=("features", "audit"),
    redis_prefixes=("predictions:", "models:"),
    memory_mib=512,
    cpu_m=500,
    routes=(
        Route(
            "POST", "/score/fraud", "predict:fraud", "Score a card payment",
            retry_safe=True, also_v1=True,
        ),
        Route(
            "POST", "/score/personalization", "predict:personalization",
            "Score a user and an item", retry_safe=True, also_v1=True,
        ),
        Route(
            "POST", "/score/batch", "predict:batch", "Score up to 1,000 requests in one call",
            body_bytes_max=2 * MIB, deadline_ms=30_000, deadline_ms_max=60_000, lane="batch",
            retry_safe=True, also_v1=True,
        ),
        Route(
            "POST", "/recommend", "predict:personalization", "Top-k items for a user", "planned",
            retry_safe=True, also_v1=True,
        ),
        Route("GET", "/models", "models:read", "List models with their metadata", also_v1=True),
        Route("GET", "/models/{name}", "models:read", "One model", also_v1=True),
        Route(
            "POST", "/predict", "predict:text", "Sentiment of a text", "planned",
            retry_safe=True, text_pointers=("/text",), also_v1=True, ip_quota=(10, 60),
        ),
        Route(
            "POST", "/predict/batch", "predict:text", "Sentiment of many texts", "planned",
            body_bytes_max=1 * MIB, lane="batch", retry_safe=True, text_pointers=("/texts/*",),
            also_v1=True,
        ),
        Route(
            "POST", "/v1/models/{name}/predict", "predict:model", "Predict with a named model",
            "planned", body_bytes_max=4 * MIB, retry_safe=True, text_pointers=("/inputs/*",),
        ),
        Route(
            "POST", "/models/{name}/versions/{version}/load", "models:admin", "Load a version",
            "planned", lane="admin", also_v1=True,
        ),
        Route(
            "POST", "/models/{name}/versions/{version}/unload", "models:admin",
            "Unload a version", "planned", lane="admin", also_v1=True,
        ),
        Route(
            "PUT", "/models/{name}/aliases/{alias}", "models:admin", "Point an alias at a version",
            "planned", lane="admin", also_v1=True,
        ),
        Route(
            "POST", "/models/{name}/rollouts", "models:admin", "Start a rollout", "planned",
            lane="admin", also_v1=True,
        ),
        Route("GET", "/v2", "predict:model", "Open Inference Protocol: server", **_V2),  # type: ignore[arg-type] # keyword set shared by the V2 rows
        Route("GET", "/v2/{rest:path}", "predict:model", "Open Inference Protocol: read", **_V2),  # type: ignore[arg-type] # as above
        Route(
            "POST", "/v2/{rest:path}", "predict:model", "Open Inference Protocol: infer",
            body_bytes_max=32 * MIB, retry_safe=True, **_V2,  # type: ignore[arg-type] # as above
        ),
    ),
)

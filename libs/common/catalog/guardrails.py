"""Catalogue entry of guardrails."""

from libs.common.catalog.model import MIB, Route, Service

GUARDRAILS = Service(
    name="guardrails",
    port=8082,
    summary="validators, policies, verdicts, anonymization, streaming checks",
    calls=("inference", "audit"),
    redis_prefixes=("verdicts:",),
    memory_mib=384,
    routes=(
        Route(
            "POST", "/v1/guardrails/validate", "guardrails:check", "Check one text",
            body_bytes_max=2 * MIB, retry_safe=True,
        ),
        Route(
            "POST", "/v1/guardrails/validate/batch", "guardrails:check", "Check up to 100 texts",
            body_bytes_max=8 * MIB, deadline_ms=15_000, lane="batch", retry_safe=True,
        ),
        Route("GET", "/v1/guardrails/health", "guardrails:read", "Models, cache, memory, CPU"),
        Route("GET", "/v1/guardrails/validators", "guardrails:read", "List the validators"),
        Route(
            "WS", "/v1/guardrails/stream", "guardrails:check", "Live and streaming checks",
            "planned",
        ),
        Route(
            "GET", "/v1/guardrails/policies", "guardrails:read", "List policies", "planned",
            lane="admin",
        ),
        Route(
            "POST", "/v1/moderations", "guardrails:check", "OpenAI moderation", "planned",
            body_bytes_max=2 * MIB, retry_safe=True, error_shape="openai",
        ),
        Route(
            "POST", "/presidio/analyze", "guardrails:check", "Presidio analyzer", "planned",
            body_bytes_max=2 * MIB, retry_safe=True, error_shape="presidio",
        ),
        Route(
            "POST", "/presidio/anonymize", "guardrails:check", "Presidio anonymizer", "planned",
            body_bytes_max=2 * MIB, retry_safe=True, error_shape="presidio",
        ),
        Route(
            "POST", "/guardrail/{guardrail_id}/version/{version}/apply", "guardrails:check",
            "Bedrock ApplyGuardrail", "planned", body_bytes_max=2 * MIB, retry_safe=True,
            error_shape="bedrock",
        ),
    ),
)

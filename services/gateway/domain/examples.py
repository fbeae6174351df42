"""Examples for the API description: written by hand where a call tells a story, else by schema.

The schema's own example, default or first choice wins; otherwise required members get a plain value
of their type within their bounds.
"""

from collections.abc import Mapping
from typing import Any

_DEPTH_MAX = 8
_TEXTS = {
    "date-time": "2026-01-31T12:00:00Z",
    "date": "2026-01-31",
    "uuid": "0190f0c8-7f5e-7c3a-9d52-3a1f0f6f7b21",
    "uri": "https://example.com/hook",
    "password": "correct horse battery staple",
}
_TEXT = {"text": "The delivery was quick and the shoes fit."}

# (method, path) as in the catalogue -> body.
REQUESTS: Mapping[tuple[str, str], Any] = {
    ("post", "/score/fraud"): {
        "card_id": "card_00001234",
        "transaction_amount": 150.0,
        "merchant_id": "merchant_12345",
        "mcc_code": "5411",
        "country_code": "US",
    },
    ("post", "/score/personalization"): {
        "user_id": "user_00005678",
        "item_id": "item_electronics_001",
        "item_category": "electronics",
        "item_price": 299.99,
        "session_id": "session_abc123",
    },
    ("post", "/score/batch"): {
        "model_type": "fraud_detection",
        "requests": [
            {"card_id": "card_1", "transaction_amount": 100},
            {"card_id": "card_2", "transaction_amount": 500},
        ],
        "batch_id": "batch_20240902_001",
    },
    ("post", "/recommend"): {
        "user_id": "user_00005678",
        "candidates": [{"item_id": "item_electronics_001"}, {"item_id": "item_books_007"}],
    },
    ("post", "/predict"): {**_TEXT, "include_metrics": True},
    ("post", "/predict/batch"): {"texts": [_TEXT["text"], "It broke on the first day."]},
    ("post", "/v1/models/{name}/predict"): {"inputs": [_TEXT["text"]]},
    ("post", "/v1/feedback"): {
        "transaction_id": "txn_000000123",
        "label": "fraud",
        "occurred_at": "2026-01-31T12:00:00Z",
    },
    ("post", "/v1/guardrails/validate"): {"text": "Write to jane.doe@example.com, please."},
    ("post", "/v1/guardrails/validate/batch"): {
        "texts": ["Write to jane.doe@example.com, please.", _TEXT["text"]]
    },
    ("post", "/v1/moderations"): {"input": _TEXT["text"]},
    ("post", "/presidio/analyze"): {
        "text": "Write to jane.doe@example.com, please.",
        "language": "en",
    },
    ("post", "/metrics/aggregated"): {"time_window_minutes": 60},
    ("post", "/analyze/performance"): {"time_window_minutes": 60},
    ("post", "/v1/auth/keys"): {
        "name": "checkout",
        "scopes": ["predict:fraud"],
        "expires_in_s": 2_592_000,
        "limits": {"requests_max": 600, "window_s": 60},
    },
    ("post", "/v1/admin/tenants"): {"tenant": "acme", "name": "Acme"},
    ("put", "/v1/admin/tenants/{tenant}"): {
        "generation": 1,
        "name": "Acme",
        "guard": {"mode": "enforce"},
    },
    ("put", "/v1/admin/roles/{role}"): {"scopes": ["models:read", "metrics:read"], "generation": 0},
    ("post", "/v1/admin/users"): {
        "username": "ada",
        "password": "correct horse battery staple",
        "roles": ["viewer"],
    },
    ("put", "/v1/admin/users/{username}"): {"roles": ["viewer", "operator"]},
    ("post", "/v1/admin/erasures"): {"data_subject": {"entity": "card", "id": "card_00001234"}},
    ("put", "/models/{name}/aliases/{alias}"): {"version": "2"},
    ("post", "/models/{name}/rollouts"): {"candidate": "2", "mode": "shadow"},
    ("post", "/v1/guardrails/plugins/{name}/activate"): {"version": "1.0.0"},
    ("post", "/v1/guardrails/plugins/{name}/trial"): {
        "version": "1.1.0",
        "mode": "shadow",
        "stages": [{"weight": 0.1}],
    },
    ("post", "/v1/guardrails/policies/{policy_id}/diff"): {
        "texts": [_TEXT["text"]],
        "from": "1",
    },
    ("post", "/v1/guardrails/rulesets"): {
        "name": "order_numbers",
        "version": "1.0.0",
        "rules": [
            {
                "name": "order",
                "label": "ORDER_NUMBER",
                "pattern": "ORD-[0-9]{8}",
                "positives": ["ORD-12345678"],
                "negatives": ["ORD-12"],
            }
        ],
    },
}
# Bodies that a service reads by itself, so that its description has no schema for them.
UNDESCRIBED: Mapping[tuple[str, str], Any] = {
    ("post", "/features/events"): {
        "events": [
            {
                "event_id": "txn_000000123",
                "type": "card_transaction",
                "event_ms": 1_769_860_800_000,
                "entities": {"card_id": "card_00001234", "merchant_id": "merchant_12345"},
                "values": {"amount_minor": 15_000},
                "attrs": {"mcc_code": "5411", "country_code": "US"},
            }
        ]
    },
    ("post", "/get-online-features"): {
        "features": ["card:count_1h"],
        "entities": {"card_id": ["card_00001234"]},
    },
    ("post", "/v2/{rest}"): {
        "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [_TEXT["text"]]}]
    },
}
# Forms, which FastAPI does not describe.
FORMS: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("post", "/v1/auth/token"): {
        "grant_type": "client_credentials",
        "client_id": "4fQ0aZb1XyC2",
        "client_secret": "gh_...",
        "scope": "predict:fraud",
    },
    ("post", "/v1/auth/revoke"): {"token": "ghr_..."},
    ("post", "/console/login"): {"username": "ada", "password": "..."},
}


def example_of(schema: Mapping[str, Any], schemas: Mapping[str, Any], depth: int = 0) -> Any:
    """Give a value that a schema describes.

    Args:
        schema: JSON Schema, references into `#/components/schemas/` only.
        schemas: the components that it refers to.
        depth: of the recursion; a schema that contains itself ends at eight levels.
    """
    if "$ref" in schema:
        named = schemas.get(str(schema["$ref"]).rpartition("/")[2], {})
        return example_of(named, schemas, depth + 1) if depth < _DEPTH_MAX else {}
    for name in ("example", "const", "default"):
        if schema.get(name) is not None:
            return schema[name]
    for name in ("examples", "enum"):
        if schema.get(name):
            return schema[name][0]
    for name in ("anyOf", "oneOf", "allOf"):
        if schema.get(name):
            return example_of(schema[name][0], schemas, depth + 1)
    return _plain(schema, schemas, depth)


def _plain(schema: Mapping[str, Any], schemas: Mapping[str, Any], depth: int) -> Any:
    kind = schema.get("type")
    if kind == "object":
        return _members(schema, schemas, depth)
    if kind == "array":
        item = example_of(schema.get("items", {}), schemas, depth + 1)
        return [item] * max(1, int(schema.get("minItems", 1)))
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
        above = 1 if low == schema.get("exclusiveMinimum") else 0
        return low + above if low + above >= 1 else min(1, schema.get("maximum", 1))
    if kind == "boolean":
        return True
    if kind == "null":
        return None
    text = _TEXTS.get(str(schema.get("format")), "text")
    return text.ljust(int(schema.get("minLength", 0)), "x")[: int(schema.get("maxLength", 100))]


def _members(schema: Mapping[str, Any], schemas: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """Give an object with its required members, and further ones where it must not be so small."""
    known = schema.get("properties", {})
    names = list(schema.get("required", ()))
    least = int(schema.get("minProperties", 0))
    names += [name for name in known if name not in names][: max(0, least - len(names))]
    made = {name: example_of(known.get(name, {}), schemas, depth + 1) for name in names}
    others = schema.get("additionalProperties")
    if isinstance(others, dict):
        for number in range(len(made), least):
            made[f"name_{number + 1}"] = example_of(others, schemas, depth + 1)
    return made

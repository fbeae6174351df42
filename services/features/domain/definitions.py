"""Definitions as documents: entities, views, feature services; each with a fingerprint."""

import hashlib
import json
from typing import Any

from libs.common.features.contract import FeatureService
from libs.common.features.fraud import FRAUD_V1, FRAUD_V2
from libs.common.features.layout import VIEWS, RingView
from libs.common.features.personalization import PERSONALIZATION_V1
from libs.common.features.shipped import SHIPPED
from services.features.domain.computed import document_of

FEATURE_SERVICES: tuple[FeatureService, ...] = (FRAUD_V1, FRAUD_V2, PERSONALIZATION_V1)
_EVENT_TYPES = {"card": ["card_transaction"], "merchant": ["card_transaction"]}
_ITEM_TYPES = ["item_view", "item_cart", "item_purchase"]


def documents() -> list[dict[str, Any]]:
    """Give every definition, in a fixed order."""
    entities = [{"kind": "entity", "name": name, "join_key": f"{name}_id"} for name in VIEWS]
    views = [_view(view) for view in VIEWS.values()]
    views += [{**document_of(view), "schema_id": view.schema_id} for view in SHIPPED.values()]
    services = [
        {
            "kind": "feature_service",
            "name": service.name,
            "raw": list(service.raw),
            "features": [
                {"name": f.name, "view": f.view, "group": f.group, "description": f.label}
                for f in service.features
            ],
            "fingerprint": service.fingerprint,
        }
        for service in FEATURE_SERVICES
    ]
    return [_with_fingerprint(document) for document in (*entities, *views, *services)]


def _view(view: RingView) -> dict[str, Any]:
    raw = [name for service in FEATURE_SERVICES for name in service.raw]
    return {
        "kind": "feature_view",
        "name": view.name,
        "entity": view.name,
        "event_types": _EVENT_TYPES.get(view.name, _ITEM_TYPES),
        "engine": "ring",
        "schema_id": view.schema_id,
        "features": [name.partition(":")[2] for name in raw if name.partition(":")[0] == view.name],
        "window": "(t - w, t] by event time, t = wall clock of the read",
        "horizon_s": view.horizon_ms // 1000,
        "ttl_s": view.ttl_ms // 1000,
        "lateness_s": view.lateness_ms // 1000,
        "records_max": view.records_max,
        "dtype": "float64",
    }


def _with_fingerprint(document: dict[str, Any]) -> dict[str, Any]:
    if "fingerprint" in document:
        return document
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return {**document, "fingerprint": hashlib.sha256(canonical.encode()).hexdigest()[:16]}

"""Definitions of computed views: checked documents to views, and events to what they write. Pure.

A computed view is a `feature_view` with a `source` instead of a push source.
"""

from collections.abc import Mapping
from typing import Any

from libs.common.features.computed import OF_VALUE, Aggregate, ComputedView, entity_key
from libs.common.features.layout import LATENESS_MS
from services.features.domain.events import Touch
from services.features.domain.names import NAME, DefinitionError

EVENT_TYPES: dict[str, frozenset[str]] = {
    "card_transaction": frozenset(
        {"card_id", "merchant_id", "amount_minor", "mcc_code", "country_code", "device_id"}
    ),
    **{
        name: frozenset({"user_id", "item_id", "session_id", "price_minor", "item_category"})
        for name in ("item_view", "item_cart", "item_purchase")
    },
}
ENTITIES = frozenset({"card_id", "merchant_id", "user_id", "item_id", "session_id"})
NUMBERS = frozenset({"amount_minor", "price_minor"})
_KINDS = ("count", "distinct", "last", "max", "mean", "min", "rate", "std", "sum", "time_since")
_DELAYED = frozenset({"count", "rate"})
WINDOW_S_MAX, DELAY_S_MAX = 90 * 86_400, 60 * 86_400
LATENESS_S_MAX, _LATENESS_S = 30 * 86_400, LATENESS_MS // 1000
_MEMBERS = {"name", "aggregation", "field", "label", "window_s", "delay_s", "description"}
_CODES_MAX = 4
# A label comes as text or as true.
TRUE_LABELS = frozenset({"true"})


def check_source(document: Mapping[str, Any]) -> None:
    """Check what a computed view has besides name, join keys and ttl.

    Raises:
        DefinitionError: at the first mistake.
    """
    source = document["source"]
    if not isinstance(source, dict) or set(source) != {"event_types"}:
        raise DefinitionError("/source", "must be an object with event_types")
    types = source["event_types"]
    if not isinstance(types, list) or not types:
        raise DefinitionError("/source/event_types", "must be a list of at least one")
    for index, name in enumerate(types):
        if not isinstance(name, str) or name not in EVENT_TYPES:
            raise DefinitionError(
                f"/source/event_types/{index}", f"must be one of {', '.join(sorted(EVENT_TYPES))}"
            )
    if len(set(types)) < len(types):
        raise DefinitionError("/source/event_types", "must not repeat a type")
    carried = frozenset.intersection(*(EVENT_TYPES[name] for name in types))
    for index, key in enumerate(document["join_keys"]):
        if key not in carried & ENTITIES:
            raise DefinitionError(f"/join_keys/{index}", "is no entity of every event type")
    if document.get("engine", "ring") not in {"ring", "tiles"}:
        raise DefinitionError("/engine", "must be ring or tiles")
    _seconds(document.get("lateness_s", _LATENESS_S), "/lateness_s", 1, LATENESS_S_MAX)
    features = document["features"]
    for index, feature in enumerate(features):
        _check_feature(feature, f"/features/{index}", carried)
    _check_together(features)


def _check_feature(feature: Any, pointer: str, carried: frozenset[str]) -> None:
    if not isinstance(feature, dict) or set(feature) - _MEMBERS:
        raise DefinitionError(pointer, "must be an object with name, aggregation and window_s")
    name = feature.get("name")
    if not isinstance(name, str) or not NAME.match(name):
        raise DefinitionError(f"{pointer}/name", "must be a name of letters, digits and _")
    kind = feature.get("aggregation")
    if kind not in _KINDS:
        raise DefinitionError(f"{pointer}/aggregation", f"must be one of {', '.join(_KINDS)}")
    _seconds(feature.get("window_s"), f"{pointer}/window_s", 1, WINDOW_S_MAX)
    if "delay_s" in feature:
        if kind not in _DELAYED:
            raise DefinitionError(f"{pointer}/delay_s", "only a count or a rate is delayed")
        _seconds(feature["delay_s"], f"{pointer}/delay_s", 0, DELAY_S_MAX)
    allowed = carried & NUMBERS if kind in OF_VALUE else carried - NUMBERS
    if kind in OF_VALUE or kind == "distinct":
        if feature.get("field") not in allowed:
            raise DefinitionError(
                f"{pointer}/field", f"must be one of {', '.join(sorted(allowed))}"
            )
    elif "field" in feature:
        raise DefinitionError(f"{pointer}/field", f"a {kind} has no field")
    label = feature.get("label")
    if kind == "rate" and (not isinstance(label, str) or not 1 <= len(label) <= 64):
        raise DefinitionError(f"{pointer}/label", "must name the label that counts as positive")
    if kind != "rate" and label is not None:
        raise DefinitionError(f"{pointer}/label", f"a {kind} has no label")


def _seconds(value: Any, pointer: str, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise DefinitionError(pointer, f"must be a whole number from {least} to {most}")


def _check_together(features: list[Mapping[str, Any]]) -> None:
    names = [feature["name"] for feature in features]
    if len(set(names)) < len(names):
        raise DefinitionError("/features", "must not repeat a name")
    numbers = {item["field"] for item in features if item["aggregation"] in OF_VALUE}
    if len(numbers) > 1:
        raise DefinitionError("/features", "are about two numbers; make a view of each")
    if len({item["label"] for item in features if item["aggregation"] == "rate"}) > 1:
        raise DefinitionError("/features", "are about two labels; make a view of each")
    codes = {item["field"] for item in features if item["aggregation"] == "distinct"}
    if len(codes) > _CODES_MAX:
        raise DefinitionError("/features", f"count distinct ones of more than {_CODES_MAX} fields")


def view_of(document: Mapping[str, Any], version: int, schema_id: int) -> ComputedView:
    """Build a view from a checked document."""
    labels = [item["label"] for item in document["features"] if item["aggregation"] == "rate"]
    return ComputedView(
        name=document["name"],
        version=version,
        schema_id=schema_id,
        join_keys=tuple(sorted(document["join_keys"])),
        event_types=tuple(sorted(document["source"]["event_types"])),
        engine=document.get("engine", "ring"),
        aggregates=tuple(
            Aggregate(
                item["name"],
                item["aggregation"],
                item.get("field"),
                item["window_s"] * 1000,
                item.get("delay_s", 0) * 1000,
            )
            for item in document["features"]
        ),
        ttl_ms=document["ttl_s"] * 1000,
        label=labels[0] if labels else None,
        lateness_ms=document.get("lateness_s", _LATENESS_S) * 1000,
    )


def document_of(view: ComputedView) -> dict[str, Any]:
    """Give a view as the document that would define it."""
    features = []
    for item in view.aggregates:
        feature: dict[str, Any] = {
            "name": item.name,
            "aggregation": item.kind,
            "window_s": item.window_ms // 1000,
        }
        if item.field:
            feature["field"] = item.field
        if item.kind == "rate":
            feature["label"] = view.label
        if item.delay_ms:
            feature["delay_s"] = item.delay_ms // 1000
        features.append(feature)
    return {
        "kind": "feature_view",
        "name": view.name,
        "join_keys": list(view.join_keys),
        "source": {"event_types": list(view.event_types)},
        "engine": view.engine,
        "features": features,
        "ttl_s": view.ttl_ms // 1000,
        "lateness_s": view.lateness_ms // 1000,
    }


def is_positive(view: ComputedView, label: str | None) -> bool:
    """Say whether a label counts in the view's rates."""
    return label is not None and (label == view.label or label in TRUE_LABELS)


def entity_of(view: ComputedView, entities: Mapping[str, Any]) -> str | None:
    """Give the entity of an event, None where it names not all join keys."""
    values = [entities.get(key) for key in view.join_keys]
    if None in values:
        return None
    return entity_key([str(value) for value in values])


def touch_of(
    view: ComputedView, event_id: str, event_type: str, event_ms: int, body: Mapping[str, Any]
) -> Touch | None:
    """Give what an event writes for a view, None where it does not count."""
    if event_type not in view.event_types:
        return None
    entity = entity_of(view, body["entities"])
    if entity is None:
        return None
    fields: Mapping[str, Any] = {}
    if view.value_field is not None or view.code_fields:
        fields = {**body["entities"], **body.get("values", {}), **body.get("attrs", {})}
    return Touch(view.key, entity, view.record(event_id, event_ms, fields))


def label_touch(
    view: ComputedView,
    event: tuple[str, str, int, Mapping[str, Any]],
    available_ms: int,
    *,
    before: str | None,
    after: str,
) -> Touch | None:
    """Give what a label of an event (id, type, event_ms, body) writes, None where nothing."""
    event_id, event_type, event_ms, body = event
    was, is_now = is_positive(view, before), is_positive(view, after)
    if view.label is None or event_type not in view.event_types or was == is_now:
        return None
    entity = entity_of(view, body["entities"])
    if entity is None:
        return None
    record = view.label_record(event_id, event_ms, available_ms, is_positive=is_now)
    return Touch(view.key, entity, record)

"""The registry of event types: class, who may emit, fields, which of them are personal or text.

Audit refuses unknown types and unknown fields; a test holds each emitter to its row. A personal
field is sealed by audit before it is hashed (a key per data subject), so that it can be erased. A
text field may hold words of an operator; audit can have them anonymized before it hashes them.
"""

from dataclasses import dataclass

from libs.common.events.envelope import EventClass


@dataclass(frozen=True, slots=True)
class EventType:
    """One row: `fields` are the allowed members of `data`; `personal` are sealed.

    `text` members may hold words that somebody wrote.
    """

    name: str
    event_class: EventClass
    emitters: tuple[str, ...]
    fields: frozenset[str]
    personal: frozenset[str] = frozenset()
    text: frozenset[str] = frozenset()


def _row(
    name: str,
    event_class: EventClass,
    emitters: str,
    fields: str,
    *,
    personal: str = "",
    text: str = "",
) -> EventType:
    return EventType(
        name,
        event_class,
        tuple(emitters.split()),
        frozenset(fields.split()),
        frozenset(personal.split()),
        frozenset(text.split()),
    )


_PREDICTION = (
    "route model release version arm rollout label score confidence decision risk status reason "
    "cached latency_ms queue features input_length input_digest prediction_id batch_id index "
    "transaction_id ensemble policy reasons"
)
# The payment's number in the client's own books: it leads back to the person.
_PERSONAL = "transaction_id"
_CHANGE = "what from to by evidence reason"
_WORDS = "from to reason"
_ALL = "gateway inference guardrails features analytics audit"

_ROWS = (
    _row("prediction.made", "standard", "inference", _PREDICTION, personal=_PERSONAL),
    _row(
        "prediction.shadow",
        "sampled",
        "inference",
        f"{_PREDICTION} stable_label stable_score stable_prediction_id",
        personal=_PERSONAL,
    ),
    _row(
        "verdict.given",
        "standard",
        "guardrails",
        "policy version action validators cached latency_ms length coverage status digest "
        "batch_id index",
    ),
    _row(
        "verdict.blocked",
        "required",
        "guardrails",
        "policy version action validators cached latency_ms length coverage status digest "
        "batch_id index",
    ),
    _row("text.revealed", "required", "guardrails", "by count digest"),
    _row("verdict.labelled", "standard", "guardrails", "policy version validators digest"),
    _row(
        "label.received",
        "standard",
        "features",
        "transaction_id prediction_id label occurred_at available_at",
    ),
    _row(
        "rollout.changed",
        "required",
        "inference guardrails",
        f"{_CHANGE} rollout model step",
        text=_WORDS,
    ),
    _row("model.changed", "required", "inference", f"{_CHANGE} model version release", text=_WORDS),
    _row(
        "model.drift",
        "sampled",
        "inference",
        "model version release rows rows_compared reference_rows score_psi score_ks score_bins "
        "inputs_compared input_psi input_ks input_known input_bins",
    ),
    _row(
        "policy.changed",
        "required",
        "guardrails inference",
        f"{_CHANGE} policy version",
        text=_WORDS,
    ),
    _row(
        "validator.changed", "required", "guardrails", f"{_CHANGE} validator version", text=_WORDS
    ),
    _row("threshold.changed", "required", "analytics", _CHANGE, text=_WORDS),
    _row("auth.failed", "required", "gateway", "reason key_id network"),
    _row("auth.revoked", "required", "gateway", "reason key_id network family"),
    _row("key.created", "required", "gateway", "key_id by scopes expires_at"),
    _row("key.rotated", "required", "gateway", "key_id by new_key_id expires_at"),
    _row("key.revoked", "required", "gateway", "key_id by reason", text="reason"),
    _row("tenant.created", "required", "gateway", _CHANGE, text=_WORDS),
    _row("tenant.changed", "required", "gateway", _CHANGE, text=_WORDS),
    _row("limit.exceeded", "required", "gateway", "policy key_id network route"),
    _row("data_subject.erased", "required", "audit", "pseudonym by counts"),
    _row("kek.rotated", "required", "audit", "from to count"),
    _row(
        "retention.pruned",
        "required",
        "audit",
        "from_index to_index event_class policy count partition tenant",
    ),
    _row("retention.changed", "required", "audit", f"{_CHANGE} event_class tenant", text=_WORDS),
    _row(
        "legal_hold.changed",
        "required",
        "audit",
        f"{_CHANGE} event_class tenant hold_id",
        text=_WORDS,
    ),
    _row("audit.gap", "required", _ALL, "reason dropped event_class since until segment"),
    _row("security.alert", "required", "audit", "rule evidence severity"),
)

EVENT_TYPES: dict[str, EventType] = {row.name: row for row in _ROWS}


def problems_of(document: dict[str, object], source: str) -> str | None:
    """Say why a wire document is not acceptable from `source`, or None when it is."""
    kind = EVENT_TYPES.get(str(document.get("type")))
    if kind is None:
        return "unknown event type"
    if document.get("source") != source:
        return "source differs from the caller's service identity"
    if source not in kind.emitters:
        return "this service may not emit this type"
    data = document.get("data")
    if not isinstance(data, dict):
        return "data is not an object"
    if not data.keys() <= kind.fields:
        return f"unknown field in data: {min(data.keys() - kind.fields)}"
    if document.get("class") not in {"required", "standard", "sampled"}:
        return "class is unknown"
    for name in ("id", "time", "tenant"):
        if not isinstance(document.get(name), str):
            return f"{name} is missing"
    return None

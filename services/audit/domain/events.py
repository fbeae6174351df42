"""From a wire document to an accepted event: judged once, before anything is written."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from libs.common.events.registry import EVENT_TYPES, problems_of
from libs.common.ids import parse_traceparent
from libs.common.transparency.records import searchable

# The id is part of the leaf, which is bounded by 4 KiB; every id we make is a UUID.
_ID = re.compile(r"[A-Za-z0-9._:/-]{1,128}")
_TEXT_MAX = 256
_ENTRY_BYTES_MAX = 65_535


@dataclass(frozen=True, slots=True)
class Accepted:
    """An event that fits the registry; `document` is what the service sent, `encoded` its JSON."""

    id: str
    source: str
    type: str
    event_class: str
    tenant: str
    principal: str
    request_id: str
    trace_id: str
    data_subject: str | None
    decision: str
    model: str
    document: Mapping[str, Any]
    encoded: bytes

    @property
    def personal(self) -> frozenset[str]:
        """Names of the members of `data` that are sealed."""
        return EVENT_TYPES[self.type].personal & frozenset(self.document["data"])


def accept(document: object, source: str) -> Accepted | str:
    """Judge one wire document.

    Args:
        document: the parsed item of the batch.
        source: the caller's service identity.

    Returns:
        The event, or why it can never be taken.
    """
    if not isinstance(document, dict):
        return "the event is not an object"
    encoded = orjson.dumps(document)
    if len(encoded) > _ENTRY_BYTES_MAX:
        return "the event is too large"
    problem = problems_of(document, source)
    if problem:
        return problem
    if not _ID.fullmatch(document["id"]):
        return "id is malformed"
    if not _is_time(document["time"]):
        return "time is not an RFC 3339 time"
    subject = document.get("data_subject")
    texts = {
        name: document.get(name, "")
        for name in ("tenant", "principal", "request_id", "traceparent")
    }
    for name, value in [*texts.items(), ("data_subject", "" if subject is None else subject)]:
        if not isinstance(value, str) or len(value) > _TEXT_MAX or not _is_clean(value):
            return f"{name} is malformed"
    data = document["data"]
    parsed = parse_traceparent(texts["traceparent"])
    return Accepted(
        id=document["id"],
        source=source,
        type=document["type"],
        event_class=document["class"],
        tenant=texts["tenant"],
        principal=texts["principal"],
        request_id=texts["request_id"],
        trace_id=parsed[0] if parsed else "",
        data_subject=subject,
        **searchable(data),
        document=document,
        encoded=encoded,
    )


def _is_clean(value: str) -> bool:
    return value.isprintable()


def _is_time(value: str) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False

"""The one envelope for everything that is worth a record.

CloudEvents-shaped: `{specversion, id, source, type, time, schema_version, tenant, principal,
request_id, traceparent, data_subject?, class, data}`. No text of a user is ever in an event.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from libs.common.context import RequestContext, current
from libs.common.ids import uuid7

EventClass = Literal["required", "standard", "sampled"]


@dataclass(frozen=True, slots=True)
class Event:
    """One fact that happened; immutable, ready for the write-ahead log."""

    type: str
    source: str
    event_class: EventClass
    data: Mapping[str, Any]
    tenant: str
    principal: str = ""
    data_subject: str | None = None
    request_id: str = ""
    traceparent: str = ""
    id: str = field(default_factory=uuid7)
    time: str = field(
        default_factory=lambda: (
            datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        )
    )
    schema_version: int = 1

    def to_wire(self) -> dict[str, Any]:
        """Give the JSON document that travels."""
        document: dict[str, Any] = {
            "specversion": "1.0",
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "time": self.time,
            "schema_version": self.schema_version,
            "tenant": self.tenant,
            "principal": self.principal,
            "request_id": self.request_id,
            "traceparent": self.traceparent,
            "class": self.event_class,
            "data": dict(self.data),
        }
        if self.data_subject is not None:
            document["data_subject"] = self.data_subject
        return document


class EventEmitter(Protocol):
    """Where services put events; the failure policy depends on the class.

    `emit` returns after the events are durable on this machine. For `required` and `standard` it
    raises `UnavailableError` when they cannot be made durable (the request must then fail with
    503); `sampled` events are dropped and counted instead.
    """

    async def emit(self, *events: Event) -> None:
        """Make the events durable before the answer leaves."""
        ...


def event_for_request(
    event_type: str,
    source: str,
    event_class: EventClass,
    data: Mapping[str, Any],
    *,
    data_subject: str | None = None,
    context: RequestContext | None = None,
) -> Event:
    """Build an event with tenant, principal and ids of the current request, or of the one given."""
    context = context or current()
    caller = context.caller
    return Event(
        type=event_type,
        source=source,
        event_class=event_class,
        data=data,
        tenant=caller.tenant if caller else "",
        principal=caller.principal if caller else "",
        data_subject=data_subject,
        request_id=context.request_id,
        traceparent=context.traceparent,
    )

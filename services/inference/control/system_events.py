"""Events of the control plane: what somebody asked for, and what a replica does by itself."""

from libs.common.context import current
from libs.common.events.envelope import Event


def actor() -> str:
    """Name who asked: the caller, or the service itself."""
    caller = current().caller
    return caller.principal if caller else "service:inference"


def system_event(kind: str, data: dict[str, object]) -> Event:
    """Build a required event; what a replica does by itself belongs to the tenant `default`."""
    caller = current().caller
    return Event(
        type=kind,
        source="inference",
        event_class="required",
        data=data,
        tenant=caller.tenant if caller else "default",
        principal=actor(),
        request_id=current().request_id,
        traceparent=current().traceparent,
    )

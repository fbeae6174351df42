"""What the domain needs from outside, by role."""

from collections.abc import Sequence
from typing import Protocol

from services.features.domain.events import Accepted, LogRow


class EventLog(Protocol):
    """The raw events and the gap-free log of each partition."""

    async def append(self, tenant: str, events: Sequence[Accepted]) -> int:
        """Write the events that are not known yet, all or none, and give their number.

        Offsets grow without gaps within a partition; a known (tenant, event_id) is skipped.

        Raises:
            UnavailableError: the store does not answer; nothing was written.
        """
        ...


class RingStore(Protocol):
    """The online rings; writes are idempotent by the tag of an event."""

    async def apply(self, rows: Sequence[LogRow], *, epoch: int, written_ms: int) -> None:
        """Apply log rows of one partition, in offset order.

        Raises:
            StoreLostError: the store was emptied or rolled back meanwhile.
        """
        ...

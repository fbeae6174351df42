"""What the domain needs from outside, by role."""

from collections.abc import Sequence
from typing import Any, Protocol

from services.features.domain.events import Accepted


class EventLog(Protocol):
    """The raw events and the gap-free log of each partition."""

    async def append(self, tenant: str, events: Sequence[Accepted]) -> int:
        """Write the events that are not known yet, all or none, and give their number.

        Offsets grow without gaps within a partition; a known (tenant, event_id) is skipped.

        Raises:
            UnavailableError: the store does not answer; nothing was written.
        """
        ...


class EventSource(Protocol):
    """Where events come from besides HTTP: a Redis Stream, a Kafka topic."""

    async def open(self) -> None:
        """Get ready to take; safe to repeat."""
        ...

    async def take(self, most: int) -> list[tuple[str, Any]]:
        """Give the next entries as (id, event); empty after a while without any."""
        ...

    async def acknowledge(self, ids: Sequence[str]) -> None:
        """Say that the entries are committed; what is not is given again after a restart."""
        ...

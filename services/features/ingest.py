"""Ingestion: judge each event of a batch, write the good ones, say what became of the others."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter
from pydantic import ValidationError

from libs.common.errors import RateLimitedError, UnavailableError
from libs.common.problems import pointer_of
from services.features.domain.events import Accepted, is_ahead, is_late
from services.features.domain.ports import EventLog
from services.features.schemas import EVENT, IngestAnswer, RejectedEvent

_TYPES = frozenset({"card_transaction", "item_view", "item_cart", "item_purchase"})
_PARTS = ("entities", "values", "attrs")
# Events judged before others have their turn: a read waits for at most two milliseconds of it.
_TURN = 100


class Ingestion:
    """Takes batches of raw JSON events for one log, as fast as the log and the appliers follow."""

    def __init__(
        self,
        log: EventLog,
        registry: CollectorRegistry,
        *,
        lag: Callable[[], int] = lambda: 0,
        lag_max: int = 1_000_000,
        concurrency_max: int = 8,
    ) -> None:
        """Take the log and the bounds.

        Args:
            log: where events go.
            registry: for the counter of events.
            lag: gives how many log rows no ring has yet.
            lag_max: beyond it new events are refused with 503.
            concurrency_max: batches written at once; further ones are refused with 429.
        """
        self._log = log
        self._lag, self._lag_max = lag, lag_max
        self._running, self._running_max = 0, concurrency_max
        self._events = Counter(
            "gatehouse_features_events_total",
            "Events taken in, by what became of them.",
            ("outcome",),
            registry=registry,
        )

    @property
    def lag_events(self) -> int:
        """How many log rows no ring had when the appliers last looked."""
        return self._lag()

    async def take(self, tenant: str, batch: Sequence[Any], *, is_backfill: bool) -> IngestAnswer:
        """Write the good events of a batch in one transaction.

        Args:
            tenant: from the credential.
            batch: events as parsed from JSON, in arrival order.
            is_backfill: events carry their arrival; one without it arrived when it happened.

        Raises:
            RateLimitedError: too many batches are being written; nothing of this one is.
            UnavailableError: the appliers are too far behind, or Postgres does not answer.
        """
        if self._lag() > self._lag_max:
            raise UnavailableError("The online store is too far behind the log.", retry_after_s=5)
        if self._running >= self._running_max:
            raise RateLimitedError(
                "Too many batches are being written.", headers={"Retry-After": "1"}
            )
        self._running += 1
        try:
            return await self._take(tenant, batch, is_backfill=is_backfill)
        finally:
            self._running -= 1

    async def _take(self, tenant: str, batch: Sequence[Any], *, is_backfill: bool) -> IngestAnswer:
        now_ms = time.time_ns() // 1_000_000
        good: dict[str, Accepted] = {}
        rejected: list[RejectedEvent] = []
        duplicates = 0
        for index, raw in enumerate(batch):
            if index % _TURN == _TURN - 1:
                await asyncio.sleep(0)
            judged = _judge(raw, index, now_ms, is_backfill=is_backfill)
            if isinstance(judged, RejectedEvent):
                rejected.append(judged)
            elif judged.event_id in good:
                duplicates += 1
            else:
                good[judged.event_id] = judged
        accepted = await self._log.append(tenant, list(good.values())) if good else 0
        answer = IngestAnswer(
            accepted=accepted,
            duplicates=duplicates + len(good) - accepted,
            late=sum(event.is_late for event in good.values()),
            rejected=rejected,
        )
        for outcome, count in (
            ("accepted", answer.accepted),
            ("duplicate", answer.duplicates),
            ("late", answer.late),
            ("rejected", len(rejected)),
        ):
            self._events.labels(outcome).inc(count)
        return answer


def _judge(raw: Any, index: int, now_ms: int, *, is_backfill: bool) -> Accepted | RejectedEvent:
    def refuse(location: Sequence[int | str], reason: str) -> RejectedEvent:
        pointer = pointer_of(["events", index, *location])
        return RejectedEvent(index=index, pointer=pointer, reason=reason)

    try:
        event = EVENT.validate_python(raw)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        # The discriminator is a step of pydantic's path, not of the document's.
        location = [part for part in first["loc"] if part not in _TYPES]
        if first["type"].startswith("union_tag"):
            return refuse(["type"], f"must be one of {', '.join(sorted(_TYPES))}")
        return refuse(location, str(first["msg"]))
    if event.arrival_ms is not None and not is_backfill:
        return refuse(["arrival_ms"], "only backfills say when an event arrived")
    arrival_ms = now_ms
    if is_backfill:
        arrival_ms = event.event_ms if event.arrival_ms is None else event.arrival_ms
    if arrival_ms > now_ms:
        return refuse(["arrival_ms"], "lies in the future")
    if is_ahead(event.event_ms, arrival_ms):
        return refuse(["event_ms"], "lies more than five minutes after its arrival")
    return Accepted(
        event.event_id,
        event.type,
        event.event_ms,
        arrival_ms,
        # The models are strict and closed: what passed them is what was sent.
        {name: _without_nulls(raw.get(name, {})) for name in _PARTS},
        is_late(event.event_ms, arrival_ms),
    )


def _without_nulls(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}

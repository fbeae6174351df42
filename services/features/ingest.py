"""Ingestion: judge each event of a batch, write the good ones, say what became of the others."""

import time
from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter
from pydantic import ValidationError

from libs.common.problems import pointer_of
from services.features.domain.events import Accepted, is_ahead, is_late
from services.features.domain.ports import EventLog
from services.features.schemas import EVENT, IngestAnswer, RejectedEvent

_TYPES = frozenset({"card_transaction", "item_view", "item_cart", "item_purchase"})


class Ingestion:
    """Takes batches of raw JSON events for one log."""

    def __init__(self, log: EventLog, registry: CollectorRegistry) -> None:
        self._log = log
        self._events = Counter(
            "gatehouse_features_events_total",
            "Events taken in, by what became of them.",
            ("outcome",),
            registry=registry,
        )

    async def take(self, tenant: str, batch: Sequence[Any], *, is_backfill: bool) -> IngestAnswer:
        """Write the good events of a batch in one transaction.

        Args:
            tenant: from the credential.
            batch: events as parsed from JSON, in arrival order.
            is_backfill: events carry their arrival; one without it arrived when it happened.
        """
        now_ms = time.time_ns() // 1_000_000
        good: dict[str, Accepted] = {}
        rejected: list[RejectedEvent] = []
        duplicates = 0
        for index, raw in enumerate(batch):
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
        event.model_dump(include={"entities", "values", "attrs"}, exclude_none=True),
        is_late(event.event_ms, arrival_ms),
    )

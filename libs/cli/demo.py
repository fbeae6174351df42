"""Replays a day of payments through the gateway and shows what was decided, how fast, how fresh.

Payments go in the order of their time, a chunk at once: first each is scored, then the chunk is
ingested, so that later ones meet the history that earlier ones made.
"""

import asyncio
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp

from libs.cli.payments import Payment

CHUNK = 8
_HISTORY_BATCH = 500
_AUDIT_WITHIN_S = 15.0
_PAGE = 100


class DemoError(Exception):
    """The gateway refused something; the text holds its answer."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One scored payment, as the caller saw it."""

    payment: Payment
    request_id: str
    answer: dict[str, Any]
    round_trip_ms: float

    @property
    def action(self) -> str:
        """The recommended action."""
        return str(self.answer["recommended_action"])


async def load_history(
    session: aiohttp.ClientSession, history: list[Payment], advance: Callable[[int], None]
) -> None:
    """Load what the cards did before the day.

    Raises:
        DemoError: a batch was refused.
    """
    for start in range(0, len(history), _HISTORY_BATCH):
        batch = history[start : start + _HISTORY_BATCH]
        events = [{**payment.event(), "arrival_ms": payment.event_ms} for payment in batch]
        async with session.post("/features/backfills", json={"events": events}) as response:
            await _checked(response)
        advance(len(batch))


async def replay(
    session: aiohttp.ClientSession, payments: list[Payment], advance: Callable[[int], None]
) -> list[Decision]:
    """Score and ingest all payments.

    Args:
        session: carries address and key.
        payments: by time.
        advance: told how many payments are done, after each chunk.

    Raises:
        DemoError: an answer was neither a score nor an accepted batch.
    """
    decisions: list[Decision] = []
    for chunk in _chunks(payments):
        decisions += await asyncio.gather(*(_score(session, payment) for payment in chunk))
        await _ingest(session, chunk)
        advance(len(chunk))
    return decisions


def _chunks(payments: list[Payment]) -> Iterator[list[Payment]]:
    for start in range(0, len(payments), CHUNK):
        yield payments[start : start + CHUNK]


async def _score(session: aiohttp.ClientSession, payment: Payment) -> Decision:
    request_id = str(uuid.uuid4())
    moment = datetime.fromtimestamp(payment.event_ms / 1000, UTC).isoformat()
    body = {**payment.score_body(), "timestamp": moment}
    began = time.perf_counter()
    async with session.post(
        "/score/fraud", json=body, headers={"X-Request-ID": request_id}
    ) as response:
        answer = await _checked(response)
    return Decision(payment, request_id, answer, (time.perf_counter() - began) * 1e3)


async def _ingest(session: aiohttp.ClientSession, chunk: list[Payment]) -> None:
    events = {"events": [payment.event() for payment in chunk]}
    async with session.post("/features/events", json=events) as response:
        await _checked(response)


async def _checked(response: aiohttp.ClientResponse) -> dict[str, Any]:
    if response.status >= 300:
        raise DemoError(f"{response.url.path} answered {response.status}: {await response.text()}")
    document: dict[str, Any] = await response.json()
    return document


async def audit_ids(session: aiohttp.ClientSession, request_ids: set[str]) -> dict[str, str]:
    """Find the audit records of requests, newest first; waits for those still on their way."""
    found: dict[str, str] = {}
    deadline = time.monotonic() + _AUDIT_WITHIN_S
    while set(found) != request_ids and time.monotonic() < deadline:
        cursor: str | None = None
        while set(found) != request_ids:
            query = {"limit": str(_PAGE), **({"cursor": cursor} if cursor else {})}
            async with session.get("/v1/audit/events", params=query) as response:
                page = await _checked(response)
            for event in page["items"]:
                if event["request_id"] in request_ids:
                    found[event["request_id"]] = event["id"]
            cursor = page["next"]
            if cursor is None:
                break
        if set(found) != request_ids:
            await asyncio.sleep(0.2)
    return found


def by_action(decisions: list[Decision]) -> dict[str, list[Decision]]:
    """Group by recommended action, the most frequent first."""
    groups: dict[str, list[Decision]] = defaultdict(list)
    for decision in decisions:
        groups[decision.action].append(decision)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


@dataclass(frozen=True, slots=True)
class Span:
    """How well scores found fraud up to the end of one part of the day.

    Attributes:
        until_ms: end of the part, Unix milliseconds.
        payments / frauds: in the part.
        precision: share of fraud among the `k` highest scores of the part.
        precision_so_far: the same among the `k` highest scores since the day began.
        possible_so_far: the best that any order could have reached so far, `min(1, frauds / k)`.
        stopped: frauds so far that were not simply approved.
        frauds_so_far: since the day began.
    """

    until_ms: int
    payments: int
    frauds: int
    precision: float
    precision_so_far: float
    possible_so_far: float
    stopped: int
    frauds_so_far: int


def precision_over_time(decisions: list[Decision], *, k: int, parts: int = 8) -> list[Span]:
    """Measure precision@k in equal parts of the replayed time.

    Args:
        decisions: in order of time, at least one.
        k: how many of the highest scores are looked at; fewer where a part holds fewer.
        parts: into how many the time is cut.
    """
    first = decisions[0].payment.event_ms
    last = decisions[-1].payment.event_ms + 1
    spans: list[Span] = []
    so_far: list[Decision] = []
    for number in range(1, parts + 1):
        until_ms = first + (last - first) * number // parts
        part = [d for d in decisions[len(so_far) :] if d.payment.event_ms < until_ms]
        so_far += part
        frauds = [decision for decision in so_far if decision.payment.is_fraud]
        spans.append(
            Span(
                until_ms,
                len(part),
                sum(decision.payment.is_fraud for decision in part),
                _precision(part, k),
                _precision(so_far, k),
                min(1.0, len(frauds) / max(1, min(k, len(so_far)))),
                sum(decision.action != "approve" for decision in frauds),
                len(frauds),
            )
        )
    return spans


def _precision(decisions: list[Decision], k: int) -> float:
    """Share of fraud among the highest scores; equal scores by time, 0 without payments."""
    top = sorted(decisions, key=lambda decision: -float(decision.answer["fraud_score"]))[:k]
    return sum(decision.payment.is_fraud for decision in top) / len(top) if top else 0.0


def percentile(values: list[float], share: float) -> float:
    """Give the nearest-rank percentile of a non-empty list, 0 < share <= 1."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, round(share * len(ordered)) - 1))]

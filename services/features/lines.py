"""A stream of events, one JSON document per line, committed in parts while it arrives.

Memory is bounded by one part. The sender is slowed to the pace of the commits and of the appliers:
a pause of a store, or of appliers that fall behind, holds the stream up before it ends it. A stream
that ends early says how far it came, in every answer that is an error: `lines_taken` (blank lines
not counted) and `bytes_taken` of its body are committed, the rest is not.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import orjson

from libs.common.context import current
from libs.common.errors import (
    DeadlineExceededError,
    InvalidInputError,
    RateLimitedError,
    ServiceError,
    UnavailableError,
)
from services.features.ingest import Ingestion
from services.features.schemas import IngestAnswer, RejectedEvent

_LINES, _LINE_BYTES_MAX, _REJECTED_MAX = 1000, 64 * 1024, 1000
_PART_BYTES_MAX = 1024 * 1024
# A pause of the stores that lasts longer ends the stream.
_PAUSE_S = 30.0
_RETRY_S = 0.5
# Log rows that the rings may be behind before a stream waits for them: a second or two of work.
_LAG_MAX, _LAG_LOOK_S = 50_000, 0.02


class LineStream:
    """One stream on its way into the log."""

    def __init__(self, ingestion: Ingestion, tenant: str) -> None:
        self._ingestion, self._tenant = ingestion, tenant
        self._total = IngestAnswer(accepted=0, duplicates=0, late=0, rejected=[])
        self._lines = self._bytes = 0

    async def take(self, body: AsyncIterator[bytes]) -> IngestAnswer:
        """Take the stream to its end and sum up what became of its events.

        Raises:
            ServiceError: it ends early; `extra` says how far it came.
        """
        try:
            async for lines, end in _parts(body):
                await self._room()
                self._add(await self._commit([_event(line) for line in lines]))
                self._lines, self._bytes = self._lines + len(lines), end
        except ServiceError as error:
            error.extra |= {"lines_taken": self._lines, "bytes_taken": self._bytes}
            error.extra["accepted"] = self._total.accepted
            error.hint = error.hint or "Send the rest from `bytes_taken` on, or all of it again."
            raise
        return self._total

    async def _room(self) -> None:
        """Wait while the rings are far behind the log, as long as they come nearer."""
        least, since = self._ingestion.lag_events, time.monotonic()
        while (lag := self._ingestion.lag_events) > _LAG_MAX:
            now = time.monotonic()
            if lag < least:
                least, since = lag, now
            elif now - since > _PAUSE_S:
                raise UnavailableError("The online store does not follow the log.", retry_after_s=5)
            _check_deadline(now)
            await asyncio.sleep(_LAG_LOOK_S)

    async def _commit(self, events: list[Any]) -> IngestAnswer:
        """Write a part; a pause of the stores slows the sender before it ends the stream."""
        end = time.monotonic() + _PAUSE_S
        while True:
            _check_deadline(time.monotonic())
            try:
                return await self._ingestion.take(self._tenant, events, is_backfill=False)
            except (RateLimitedError, UnavailableError):
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(_RETRY_S)

    def _add(self, answer: IngestAnswer) -> None:
        total = self._total
        total.accepted += answer.accepted
        total.duplicates += answer.duplicates
        total.late += answer.late
        for item in answer.rejected[: _REJECTED_MAX - len(total.rejected)]:
            _, _, rest = item.pointer.removeprefix("/events/").partition("/")
            index = item.index + self._lines
            pointer = f"/{index}/{rest}".rstrip("/")
            total.rejected.append(RejectedEvent(index=index, pointer=pointer, reason=item.reason))


async def _parts(body: AsyncIterator[bytes]) -> AsyncIterator[tuple[list[bytes], int]]:
    """Cut a body into lists of lines; each comes with the bytes of the body up to its end."""
    lines: list[bytes] = []
    partial, size, number, end = b"", 0, 0, 0
    async for chunk in body:
        *whole, partial = (partial + chunk).split(b"\n")
        for line in whole:
            _check_line(line, number)
            end += len(line) + 1
            if stripped := line.strip():
                lines.append(stripped)
                size, number = size + len(stripped), number + 1
            if len(lines) >= _LINES or size >= _PART_BYTES_MAX:
                yield lines, end
                lines, size = [], 0
        _check_line(partial, number)
    if partial.strip():
        lines.append(partial)
    if lines:
        yield lines, end + len(partial)


def _check_line(line: bytes, number: int) -> None:
    if len(line) > _LINE_BYTES_MAX:
        raise InvalidInputError.field(f"/{number}", "is a line too long")


def _check_deadline(now: float) -> None:
    deadline = current().deadline
    if deadline is not None and now > deadline:
        raise DeadlineExceededError("The stream did not end before its deadline.")


def _event(line: bytes) -> Any:
    """Parse one line; what is no JSON is judged as no event."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return None

"""What the domain needs from outside; adapters implement these and are tested against them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from services.analytics.domain.fold import Series, Sums
from services.analytics.domain.model_drift import ModelDrift
from services.analytics.domain.windows import Window


@dataclass(frozen=True, slots=True)
class Filters:
    """Which series of a tenant to read; None means all.

    `histograms` names the metrics whose histograms are wanted: they are most of what is read.
    """

    kind: str = "prediction"
    model: str | None = None
    version: str | None = None
    release: str | None = None
    route: str | None = None
    histograms: tuple[str, ...] = ("latency_ms",)


@dataclass(slots=True)
class SeriesFigures:
    """What one series did in a window; histograms and categories by metric name."""

    series: Series
    sums: Sums
    histograms: dict[str, dict[int, int]] = field(default_factory=dict)
    categories: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Watermark:
    """How far the roll-ups follow the log.

    Attributes:
        log_index: every entry below it is rolled up.
        log_size: size of the log when it was last read.
        event_time: newest event time seen.
        caught_up_at: when the end of the log was last reached; None before the first time.
        skipped: entries that could not be used (pruned, or without a usable time).
    """

    log_index: int = 0
    log_size: int = 0
    event_time: datetime | None = None
    caught_up_at: datetime | None = None
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class LogBatch:
    """A run of log entries; documents are in index order, None where the payload was erased."""

    documents: Sequence[Mapping[str, Any] | None]
    next_index: int
    size: int
    min_index: int


class LogReader(Protocol):
    """Reads the audit log by index. Fails closed: UnavailableError, and the tailer waits."""

    async def read(self, from_index: int, limit: int) -> LogBatch:
        """Give at most `limit` entries from `from_index` on."""
        ...


class RollupReader(Protocol):
    """Reads roll-ups of one tenant. Raises UnavailableError when the database is gone."""

    async def read(self, tenant: str, window: Window, filters: Filters) -> list[SeriesFigures]:
        """Give the figures of every series with data in the window."""
        ...

    async def model_drifts(
        self, tenant: str, since: datetime, model: str | None, version: str | None
    ) -> list[ModelDrift]:
        """Give the newest drift of each version that was told of since then."""
        ...

    async def watermark(self) -> Watermark:
        """Say how far the roll-ups follow the log."""
        ...

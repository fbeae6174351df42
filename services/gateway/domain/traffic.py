"""What the gateway saw in the last minute: requests, errors and latency per second."""

from dataclasses import dataclass, field
from typing import Any

SECONDS_KEPT = 60
# Samples kept per second for the quantiles; a busier second keeps its first ones.
_SAMPLES_MAX = 512


@dataclass(slots=True)
class _Second:
    at: int = -1
    count: int = 0
    errors: int = 0
    samples: list[float] = field(default_factory=list)


class TrafficWindow:
    """A ring of one-second cells; recording costs one index and one append."""

    def __init__(self) -> None:
        self._ring = [_Second() for _ in range(SECONDS_KEPT + 2)]

    def record(self, now: float, seconds: float, *, is_error: bool) -> None:
        """Count one finished request that took `seconds`."""
        at = int(now)
        cell = self._ring[at % len(self._ring)]
        if cell.at != at:
            cell.at, cell.count, cell.errors, cell.samples = at, 0, 0, []
        cell.count += 1
        cell.errors += is_error
        if len(cell.samples) < _SAMPLES_MAX:
            cell.samples.append(seconds)

    def snapshot(self, now: float) -> dict[str, Any]:
        """Give the last minute, oldest second first, without the running second.

        Returns:
            `rate` and `p95_ms`: one value per second; and figures of the whole minute.
        """
        current = int(now)
        rate: list[int] = []
        p95: list[float] = []
        samples: list[float] = []
        errors = 0
        for at in range(current - SECONDS_KEPT, current):
            cell = self._ring[at % len(self._ring)]
            is_live = cell.at == at
            rate.append(cell.count if is_live else 0)
            p95.append(round(quantile(cell.samples, 0.95) * 1e3, 2) if is_live else 0.0)
            if is_live:
                samples += cell.samples
                errors += cell.errors
        total = sum(rate)
        return {
            "rate": rate,
            "p95_series_ms": p95,
            "requests": total,
            "errors": errors,
            "requests_per_s": round(sum(rate[-10:]) / 10, 1),
            "p50_ms": round(quantile(samples, 0.5) * 1e3, 2),
            "p95_ms": round(quantile(samples, 0.95) * 1e3, 2),
            "p99_ms": round(quantile(samples, 0.99) * 1e3, 2),
        }


def quantile(values: list[float], share: float) -> float:
    """Give the nearest-rank quantile, 0 for no values."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

"""What the V2 protocol reports as statistics: counts and nanoseconds per model version."""

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Duration:
    """A count and a sum of time."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float, count: int = 1) -> None:
        """Count `count` events that took `seconds` together."""
        self.count += count
        self.ns += int(seconds * 1e9)

    def to_wire(self) -> dict[str, int]:
        """Give the JSON form."""
        return {"count": self.count, "ns": self.ns}


_KINDS = (
    "success",
    "fail",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
    "cache_hit",
    "cache_miss",
)
_BATCH_KINDS = ("compute_input", "compute_infer", "compute_output")


def _durations(kinds: tuple[str, ...]) -> dict[str, Duration]:
    return {kind: Duration() for kind in kinds}


@dataclass(slots=True)
class VersionStatistics:
    """Statistics of one version."""

    last_inference_ms: int = 0
    inference_count: int = 0
    execution_count: int = 0
    inference: dict[str, Duration] = field(default_factory=lambda: _durations(_KINDS))
    batches: dict[int, dict[str, Duration]] = field(
        default_factory=lambda: defaultdict(lambda: _durations(_BATCH_KINDS))
    )

    def request(
        self,
        *,
        items: int,
        seconds: float,
        ok: bool,
        cached: int = 0,
        looked_up: int = 0,
        queue_s: float = 0.0,
    ) -> None:
        """Count one call; items from the cache are no inferences (as Triton counts)."""
        self.last_inference_ms = time.time_ns() // 1_000_000
        self.inference["success" if ok else "fail"].add(seconds)
        if ok:
            self.inference_count += items - cached
            self.inference["queue"].add(queue_s)
        if cached:
            self.inference["cache_hit"].add(seconds, cached)
        if looked_up > cached:
            self.inference["cache_miss"].add(seconds, looked_up - cached)

    def batch(self, size: int, input_s: float, infer_s: float, output_s: float) -> None:
        """Count one execution of the model."""
        self.execution_count += 1
        seconds = dict(zip(_BATCH_KINDS, (input_s, infer_s, output_s), strict=True))
        for kind, taken in seconds.items():
            self.inference[kind].add(taken)
            self.batches[size][kind].add(taken)

    def to_wire(self, name: str, version: str, memory_bytes: int) -> dict[str, Any]:
        """Give one element of `model_stats`."""
        return {
            "name": name,
            "version": version,
            "last_inference": self.last_inference_ms,
            "inference_count": self.inference_count,
            "execution_count": self.execution_count,
            "inference_stats": {kind: one.to_wire() for kind, one in self.inference.items()},
            "response_stats": {},
            "batch_stats": [
                {"batch_size": size, **{kind: one.to_wire() for kind, one in kinds.items()}}
                for size, kinds in sorted(self.batches.items())
            ],
            "memory_usage": [{"type": "CPU", "id": 0, "byte_size": memory_bytes}],
        }


class ModelStatistics:
    """Statistics by model and version, since the process started."""

    def __init__(self) -> None:
        self._versions: dict[tuple[str, str], VersionStatistics] = {}

    def of(self, name: str, version: str) -> VersionStatistics:
        """Give the statistics of one version, empty at first."""
        return self._versions.setdefault((name, version), VersionStatistics())

"""`python -m benchmarks.text_cycles`: load, answer, unload a text model, again and again.

    python -m benchmarks.text_cycles [--cycles 50] [--model sentiment]

Uses the repository and the text plane as the service does, so that hashing, proving, warm-up, the
runner's threads, draining, collection and trimming all take part. Prints the resident memory after
each unload; memory is flat when nothing grows after the fifth. Also gives what the first call after
a load takes beside later ones.
"""

import argparse
import asyncio
import os
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import psutil
from prometheus_client import CollectorRegistry

from services.inference.adapters.prediction_cache import PredictionCache
from services.inference.adapters.repository import ModelRepository
from services.inference.domain.batching import Limits
from services.inference.domain.lifecycle import VersionState
from services.inference.domain.text import TextModel
from services.inference.execution.plane import PlaneOptions, TextPlane
from services.inference.execution.scheduler import SchedulerOptions
from services.inference.metrics import InferenceMetrics

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SETTLED = 5  # cycles that may still grow: caches, arenas and imports fill
_GONE_S = 20.0
_LATER_CALLS = 5
_TEXTS = ["The battery lasts two days and the screen is bright.", "Never buying this again."]


@dataclass(slots=True)
class Cycles:
    """What the cycles gave; one entry each."""

    resident_mib: list[float] = field(default_factory=list)
    loaded_mib: list[float] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    load_s: list[float] = field(default_factory=list)
    first_call_ms: list[float] = field(default_factory=list)
    later_call_ms: list[float] = field(default_factory=list)

    @property
    def thirds_mib(self) -> tuple[float, float]:
        """Median resident memory in the first and the last third of the cycles after the fifth."""
        later = self.resident_mib[SETTLED:]
        third = max(1, len(later) // 3)
        return statistics.median(later[:third]), statistics.median(later[-third:])

    @property
    def growth_mib(self) -> float:
        """What the last third holds more than the first, MiB."""
        return self.thirds_mib[1] - self.thirds_mib[0]

    def figures(self) -> dict[str, float]:
        """Name the figures."""
        return {
            "cycles": len(self.resident_mib),
            "resident, first third after the fifth, MiB": self.thirds_mib[0],
            "resident, last third, MiB": self.thirds_mib[1],
            "growth, MiB": self.growth_mib,
            "lowest after the fifth, MiB": min(self.resident_mib[SETTLED:]),
            "highest after the fifth, MiB": max(self.resident_mib[SETTLED:]),
            "resident while loaded p50, MiB": statistics.median(self.loaded_mib),
            "threads after the last": self.threads[-1],
            "load p50, s": statistics.median(self.load_s),
            "first call after a load p50, ms": statistics.median(self.first_call_ms),
            "later calls p50, ms": statistics.median(self.later_call_ms),
        }


async def run(root: Path, name: str, count: int) -> Cycles:
    """Load, ask, unload; waits each time until the version has left memory.

    Args:
        root: model repository.
        name: a text model in it.
        count: cycles, more than five.
    """
    metrics = InferenceMetrics(CollectorRegistry())
    repository = ModelRepository(root)
    repository.scan()
    version = max(status.version for status in repository.versions(name))
    plane = TextPlane(
        repository,
        PlaneOptions(_scheduler_options),
        PredictionCache(None, ttl_s=60, value_bytes_max=4096),
        metrics,
    )
    repository.on_leaving(plane.leaving)
    process, found = psutil.Process(), Cycles()
    for _ in range(count):
        started = time.perf_counter()
        is_ready = await asyncio.to_thread(repository.load, name, version)
        found.load_s.append(time.perf_counter() - started)
        assert is_ready, repository.status(name, version).reason
        calls = [await _ask(plane, repository, name) for _ in range(1 + _LATER_CALLS)]
        found.first_call_ms.append(calls[0])
        found.later_call_ms.append(statistics.median(calls[1:]))
        found.loaded_mib.append(process.memory_info().rss / 2**20)
        await asyncio.to_thread(repository.unload, name, version)
        await _gone(repository, name, version)
        found.resident_mib.append(process.memory_info().rss / 2**20)
        found.threads.append(process.num_threads())
    await plane.close()
    return found


def _scheduler_options(model: TextModel) -> SchedulerOptions:
    limits = Limits(pad_multiple=model.engine.pad_multiple, executors=model.engine.executors)
    return SchedulerOptions(limits=limits)


async def _ask(plane: TextPlane, repository: ModelRepository, name: str) -> float:
    model = repository.serving(name)
    assert isinstance(model, TextModel)
    started = time.perf_counter()
    await plane.predict(model, _TEXTS)
    return (time.perf_counter() - started) * 1e3


async def _gone(repository: ModelRepository, name: str, version: int) -> None:
    """Sweep as the control loop does, until the version is unloaded."""
    give_up_at = time.monotonic() + _GONE_S
    while repository.status(name, version).state is not VersionState.UNLOADED:
        assert time.monotonic() < give_up_at, "the version did not leave memory"
        await asyncio.sleep(0.05)
        await asyncio.to_thread(repository.sweep)


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--model", default="sentiment", help="a text model under models/")
    arguments = parser.parse_args()
    found = asyncio.run(run(ROOT / "models", arguments.model, arguments.cycles))
    print("resident after each unload, MiB:", *(f"{value:.0f}" for value in found.resident_mib))
    for name, value in found.figures().items():
        print(f"{name:45} {value:10.2f}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    document = {"cpus": os.cpu_count(), "load": os.getloadavg()[0], "figures": found.figures()}
    (RESULTS / "text_cycles.json").write_bytes(orjson.dumps(document))


if __name__ == "__main__":
    main()

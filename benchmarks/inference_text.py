"""Text serving on this machine: throughput, padding, batching, idle latency, overload.

    python -m benchmarks.inference_text [--model models/sentiment/1] [--seconds 4]

Everything runs in this process on the real model, without HTTP, so that the figures compare the
scheduler with the bare calls it makes. Sides alternate; medians and ratios are reported, because
the machine may be shared. Prints a table and writes JSON under benchmarks/results/.
"""

import argparse
import asyncio
import math
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Table

from libs.common.errors import ServiceError
from libs.common.manifest import load_manifest
from services.inference.adapters.text_loading import load_text, prove_text
from services.inference.domain.batching import DEFAULT, Limits
from services.inference.domain.text import TextModel
from services.inference.execution.runner import TextRunner
from services.inference.execution.scheduler import Scheduler, SchedulerOptions
from services.inference.metrics import InferenceMetrics

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
Tokens = np.ndarray[Any, Any]
ROUNDS = 3
_WORDS = ("the", "service", "was", "very", "good", "and", "not", "bad", "phone", "day", "one")
BARS = {
    "throughput / offline sorted loop": ">= 0.90",
    "padded / real tokens, log-normal mix": "<= 1.4",
    "batching / batch 1, short": ">= 1.0",
    "batching / batch 1, long": ">= 1.0",
    "batching / batch 1, mixed": ">= 1.0",
    "idle p50 above the bare call, ms": "<= 2",
    "64 callers / one caller": ">= 3",
    "64 callers / one caller, short texts": ">= 3",
    "2x overload: reject p99, ms": "< 10",
    "2x overload: goodput / capacity": ">= 0.9",
    "2x overload: hung": "0",
    "p95 at half of saturation, ms": "<= 100",
}


def windows(count: int, longest: int, draw: Callable[[random.Random], float]) -> list[Tokens]:
    """Make token windows of random lengths."""
    generator = random.Random(7)
    lengths = [max(3, min(longest, round(draw(generator)))) for _ in range(count)]
    return [np.array([generator.randrange(1000, 20_000) for _ in range(n)]) for n in lengths]


def lognormal(generator: random.Random) -> float:
    """Draw the mix of the note: median 30 tokens, 95th percentile 133."""
    return generator.lognormvariate(math.log(30), 0.9)


MIXES: dict[str, Callable[[random.Random], float]] = {
    "short": lambda generator: generator.uniform(5, 16),
    "long": lambda generator: generator.uniform(70, 96),
    "mixed": lognormal,
}


def offline(model: TextModel, items: Sequence[Tokens], batch: int) -> float:
    """Sort by length, cut into batches, run on as many threads; gives items per second."""
    engine = model.engine
    ordered = sorted(items, key=len)
    batches = [ordered[at : at + batch] for at in range(0, len(ordered), batch)]

    def run(part: Sequence[Tokens]) -> None:
        engine.finish(engine.forward(engine.collate(part, len(part[-1]))))

    started = time.perf_counter()
    with ThreadPoolExecutor(engine.executors) as pool:
        list(pool.map(run, batches))
    return len(items) / (time.perf_counter() - started)


async def scheduled(
    model: TextModel, items: Sequence[Tokens], metrics: InferenceMetrics, batch_items: int = 32
) -> float:
    """Give everything to the scheduler at once; gives items per second."""
    limits = Limits(
        batch_items=batch_items,
        queue_items=1 << 20,
        queue_tokens=1 << 30,
        pad_multiple=model.engine.pad_multiple,
        executors=model.engine.executors,
    )
    scheduler = Scheduler(model, SchedulerOptions(limits=limits), metrics)
    deadline = time.monotonic() + 600
    # A closed loop of this many callers keeps a backlog without holding all items at once.
    feed = iter(items)

    async def caller() -> None:
        for tokens in feed:
            await scheduler.submit([tokens], deadline_s=deadline, priority=DEFAULT)[0]

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(256)))
    rate = len(items) / (time.perf_counter() - started)
    await scheduler.close(5)
    return rate


def _padding(metrics: InferenceMetrics, model: TextModel) -> float:
    tokens = metrics.text.batch_tokens
    real = tokens.labels(model.name, "real")._value.get()
    return float(tokens.labels(model.name, "padded")._value.get() / real)


async def throughput(model: TextModel, count: int) -> dict[str, float]:
    """Compare the scheduler with the offline loop, and with batch 1, on each mix."""
    found: dict[str, float] = {}
    longest = int(model.manifest.truncation.get("max_tokens", 512))
    for name, draw in MIXES.items():
        items = windows(count, longest, draw)
        ours, loops, ones = [], [], []
        for _ in range(ROUNDS):
            metrics = InferenceMetrics(CollectorRegistry())
            ours.append(await scheduled(model, items, metrics))
            if name == "mixed":
                loops.append(max(offline(model, items, size) for size in (4, 16)))
                found["padded / real tokens, log-normal mix"] = _padding(metrics, model)
            ones.append(await scheduled(model, items, InferenceMetrics(CollectorRegistry()), 1))
        found[f"batching / batch 1, {name}"] = statistics.median(
            mine / one for mine, one in zip(ours, ones, strict=True)
        )
        found[f"items/s, {name}"] = statistics.median(ours)
        if loops:
            found["throughput / offline sorted loop"] = statistics.median(
                mine / loop for mine, loop in zip(ours, loops, strict=True)
            )
            found["items/s, offline sorted loop"] = statistics.median(loops)
    return found


def _runner(model: TextModel, pool: ThreadPoolExecutor, **limits: int) -> TextRunner:
    options = SchedulerOptions(
        limits=Limits(
            pad_multiple=model.engine.pad_multiple, executors=model.engine.executors, **limits
        )
    )
    return TextRunner(model, options, pool, InferenceMetrics(CollectorRegistry()))


async def idle(model: TextModel, calls: int = 150) -> dict[str, float]:
    """Compare one caller's latency with tokenizing and running the model by hand."""
    text = "The battery lasts two days and the screen is bright, I would buy this phone again."
    bare, ours = [], []
    with ThreadPoolExecutor(2) as pool:
        runner = _runner(model, pool)
        await runner.run([text], deadline_s=time.monotonic() + 5, priority=DEFAULT)
        for _ in range(calls):
            started = time.perf_counter()
            encoding = model.encoder.encode([text])[0]
            assert not isinstance(encoding, Exception)
            window = encoding.windows[0]
            model.engine.finish(model.engine.forward(model.engine.collate([window], len(window))))
            bare.append(time.perf_counter() - started)
            started = time.perf_counter()
            await runner.run([text], deadline_s=time.monotonic() + 5, priority=DEFAULT)
            ours.append(time.perf_counter() - started)
        assert runner._scheduler is not None
        await runner._scheduler.close(5)
    return {
        "bare call p50, ms": statistics.median(bare) * 1e3,
        "idle p50, ms": statistics.median(ours) * 1e3,
        "idle p10 above the bare call, ms": (_quantile(sorted(ours), 0.1))
        - _quantile(sorted(bare), 0.1),
        "idle p50 above the bare call, ms": (statistics.median(ours) - statistics.median(bare))
        * 1e3,
    }


def sample_texts(mix: str = "mixed") -> list[str]:
    """Make texts of a mix; each of the words is one token, and two more mark the ends."""
    generator, draw = random.Random(3), MIXES[mix]
    return [
        " ".join(generator.choices(_WORDS, k=max(2, min(80, round(draw(generator))))))
        for _ in range(256)
    ]


async def closed_loop(
    model: TextModel, seconds: float, callers: int = 64, mix: str = "mixed"
) -> float:
    """Let callers ask without a pause; gives texts per second."""
    texts, done = sample_texts(mix), 0
    with ThreadPoolExecutor(2) as pool:
        runner = _runner(model, pool)
        until = time.monotonic() + seconds

        async def caller(number: int) -> None:
            nonlocal done
            while time.monotonic() < until:
                await runner.run(
                    [texts[(number + done) % 256]], deadline_s=until + 30, priority=DEFAULT
                )
                done += 1

        started = time.monotonic()
        await asyncio.gather(*(caller(number) for number in range(callers)))
        took = time.monotonic() - started
        assert runner._scheduler is not None
        await runner._scheduler.close(5)
    return done / took


async def open_loop(
    model: TextModel, rate: float, seconds: float, deadline_s: float
) -> dict[str, Any]:
    """Offer texts at a fixed rate; latency counts from the intended send time."""
    texts = sample_texts()
    done: list[float] = []
    rejected: list[float] = []
    late = 0
    with ThreadPoolExecutor(2) as pool:
        runner = _runner(model, pool)
        await runner.run(texts[:8], deadline_s=time.monotonic() + 30, priority=DEFAULT)

        async def one(index: int, intended: float) -> None:
            nonlocal late
            began = time.monotonic()
            try:
                await runner.run(
                    [texts[index % 256]], deadline_s=intended + deadline_s, priority=DEFAULT
                )
                done.append(time.monotonic() - intended)
            except ServiceError as error:
                if error.status == 503:
                    rejected.append(time.monotonic() - began)
                else:
                    late += 1

        started = time.monotonic()
        tasks: list[asyncio.Task[None]] = []
        for index in range(int(rate * seconds)):
            intended = started + index / rate
            if intended > time.monotonic():
                await asyncio.sleep(intended - time.monotonic())
            tasks.append(asyncio.create_task(one(index, intended)))
        _, hung = await asyncio.wait(tasks, timeout=deadline_s + 5)
        assert runner._scheduler is not None
        await runner._scheduler.close(5)
    took = time.monotonic() - started - (5 if hung else 0)
    return {
        "goodput": len(done) / max(seconds, min(took, seconds + deadline_s)),
        "done": sorted(done),
        "rejected": sorted(rejected),
        "late": late,
        "hung": len(hung),
    }


def _quantile(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))] * 1e3 if values else 0.0


async def overload(model: TextModel, seconds: float) -> dict[str, float]:
    """Find the capacity, then offer half and twice of it."""
    one_by_one = await closed_loop(model, seconds, callers=1)
    capacity = await closed_loop(model, seconds)
    one_short = await closed_loop(model, seconds, callers=1, mix="short")
    short = await closed_loop(model, seconds, mix="short")
    half = await open_loop(model, capacity * 0.5, seconds, 2.0)
    double = await open_loop(model, capacity * 2, seconds, 0.5)
    return {
        "capacity, texts/s": capacity,
        "one caller, texts/s": one_by_one,
        "64 callers / one caller": capacity / one_by_one,
        "64 callers / one caller, short texts": short / one_short,
        "p95 at half of saturation, ms": _quantile(half["done"], 0.95),
        "2x overload: reject p99, ms": _quantile(double["rejected"], 0.99),
        "2x overload: rejected": len(double["rejected"]),
        "2x overload: late": double["late"],
        "2x overload: goodput / capacity": double["goodput"] / capacity,
        "2x overload: hung": double["hung"],
        "2x overload: p99 of answers, ms": _quantile(double["done"], 0.99),
    }


def load(folder: Path) -> tuple[TextModel, float]:
    """Load and prove the model; gives it and the seconds that took."""
    started = time.perf_counter()
    model = load_text(folder, load_manifest(folder))
    prove_text(model)
    return model, time.perf_counter() - started


async def measure(folder: Path, count: int, seconds: float, parts: str) -> dict[str, float]:
    """Run the parts asked for."""
    model, load_s = load(folder)
    found = {"load with proof and warm-up, s": load_s}
    if "idle" in parts:
        found |= await idle(model)
    if "throughput" in parts:
        found |= await throughput(model, count)
    if "overload" in parts:
        found |= await overload(model, seconds)
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "sentiment" / "1")
    parser.add_argument("--count", type=int, default=512, help="windows per throughput round")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each open-loop run")
    parser.add_argument("--parts", default="idle,throughput,overload")
    arguments = parser.parse_args()
    found = asyncio.run(
        measure(arguments.model, arguments.count, arguments.seconds, arguments.parts)
    )
    table = Table(title=f"text serving, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for title in ("figure", "value", "bar"):
        table.add_column(title)
    for name, value in found.items():
        table.add_row(name, f"{value:.2f}", BARS.get(name, ""))
    Console().print(table)
    RESULTS.mkdir(parents=True, exist_ok=True)
    document = {
        "model": str(arguments.model.relative_to(ROOT)),
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version()},
        "load_average": os.getloadavg()[0],
        "figures": found,
    }
    (RESULTS / "inference_text.json").write_bytes(
        orjson.dumps(document, option=orjson.OPT_INDENT_2)
    )


if __name__ == "__main__":
    main()

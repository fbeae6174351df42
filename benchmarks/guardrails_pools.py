"""Long texts on threads or on processes: what each costs, and how long the event loop stands still.

    python -m benchmarks.guardrails_pools [--texts 200] [--chars 10000] [--workers 2] [--seed 1]

Runs the rule validators of the policy `default` over texts of ordinary words with findings among
them, as many at once as a busy service would, in this process's threads and in a pool of processes
(texts and findings are pickled there and back). A ticker on the loop measures its standstills.
"""

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.guardrails import texts
from services.guardrails.domain.document import Document
from services.guardrails.domain.lexical import injection_validator, malicious_validator
from services.guardrails.domain.pii import PiiValidator
from services.guardrails.domain.secrets import SecretsValidator
from services.guardrails.domain.verdict import Detection

RESULT = Path(__file__).parent / "results" / "guardrails_pools.json"
_TICK_S = 0.001
_AT_ONCE = 16
_DETECTORS: list[tuple[Any, Any]] = []


def detect(text: str) -> list[Detection]:
    """Judge one text with all four validators; they are built once per process."""
    if not _DETECTORS:
        for detector in (
            PiiValidator(), SecretsValidator(), injection_validator(), malicious_validator()
        ):  # fmt: skip
            _DETECTORS.append((detector, detector.parse({})))
    document = Document(text)
    return [detector.detect(document, params) for detector, params in _DETECTORS]


async def _run(pool: Executor, work: Sequence[str]) -> dict[str, float]:
    loop, lags, latencies = asyncio.get_running_loop(), [], []
    gate = asyncio.Semaphore(_AT_ONCE)

    async def tick() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(_TICK_S)
            lags.append((time.perf_counter() - before - _TICK_S) * 1e3)

    async def one(text: str) -> None:
        async with gate:
            before = time.perf_counter()
            await loop.run_in_executor(pool, detect, text)
            latencies.append((time.perf_counter() - before) * 1e3)

    await asyncio.gather(*(loop.run_in_executor(pool, detect, "warm up") for _ in range(8)))
    ticking = asyncio.create_task(tick())
    began = time.perf_counter()
    await asyncio.gather(*(one(text) for text in work))
    seconds = time.perf_counter() - began
    ticking.cancel()
    lags.sort()
    return {
        "texts per second": round(len(work) / seconds, 1),
        "ms per text, median": round(statistics.median(latencies), 1),
        "loop standstill ms, p99": round(lags[int(0.99 * len(lags))], 2),
        "loop standstill ms, longest": round(lags[-1], 2),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--chars", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args(arguments)
    draw = random.Random(asked.seed)
    words = max(1, asked.chars // 6)
    work = [text[: asked.chars] for text in texts(draw, asked.texts, words)]
    report = {}
    for name, kind in (("threads", ThreadPoolExecutor), ("processes", ProcessPoolExecutor)):
        with kind(asked.workers) as pool:
            report[name] = asyncio.run(_run(pool, work))
    for name, rows in report.items():
        for row, value in rows.items():
            print(f"| {name} | {row} | {value:g} |")
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"arguments": vars(asked), "results": report}, indent=1))


if __name__ == "__main__":
    main()

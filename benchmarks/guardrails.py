"""Guardrails over HTTP through the gateway: cold and warm apart, batches, hostile texts.

    python -m benchmarks.guardrails [--seconds 8] [--rate 500] [--seed 1] [--parts rules,warm]

Starts a suite of its own. Rates are open loop: a request is due at its time, and its latency counts
from then, whether or not it could be sent. CPU figures are the processes' own and hold on a busy
machine too; the last row says how many cores others took meanwhile. The warm trace is Zipf over
`--distinct` texts with exponent 1.1, drawn from the seed: the same seed gives the same trace. Rows
with the guard model appear when inference has it loaded.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import psutil

from benchmarks.connection import request_bytes
from benchmarks.suite import running
from deploy.local.layout import Layout

RESULT = Path(__file__).parent / "results" / "guardrails.json"
_WORDS = [
    "the", "order", "arrived", "late", "and", "we", "would", "like", "to",
    "know", "when", "new", "stock", "is", "due", "please", "tell", "our",
    "team", "about", "prices", "colours", "sizes", "returns", "because", "customers", "ask",
    "every", "day", "for", "details", "of", "delivery", "weather", "garden", "window",
    "music", "travel", "kitchen", "paper", "bridge", "market", "river", "summer", "letter",
    "number",
]  # fmt: skip
HOSTILE = {unit: (unit * 10_000)[:10_000] for unit in ("a.", "1 ", "4 ", "4111 ", "a@b.co ")}
BARS = {
    "rules, cold, p95 ms at 500/s": "<= 20",
    "batch of 100, cold, p95 ms": "<= 500",
    "singles against one batch of 100, times": "5 to 10",
    "hostile 10 kB, worst p50 ms": "<= 50",
    "warm, requests/s": ">= 1000",
    "warm, hit share": ">= 0.85",
    "strict, cold, texts/s": ">= 150",
    "strict, cold, p95 ms at half of that": "<= 100",
}


@dataclass
class Run:
    """Latencies of one run."""

    milliseconds: list[float] = field(default_factory=list)
    errors: int = 0
    seconds: float = 0.0

    def share(self, part: float) -> float:
        """Give a percentile in milliseconds."""
        ordered = sorted(self.milliseconds)
        return round(ordered[min(len(ordered) - 1, int(part * len(ordered)))], 2)

    @property
    def per_second(self) -> float:
        """Requests answered per second."""
        return round(len(self.milliseconds) / self.seconds, 1)


class Lane:
    """One kept-alive connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname, parts.port)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request, give status and body."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(*self._address)
        assert self._reader is not None
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line[15:])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        return int(head.split(b" ", 2)[1]), await self._reader.readexactly(length)

    def close(self) -> None:
        """Hang up."""
        if self._writer is not None:
            self._writer.close()


async def paced(url: str, requests: Sequence[bytes], rate: float, lanes: int = 64) -> Run:
    """Send requests at a fixed rate, over as many lanes as they need."""
    run, free = Run(), [Lane(url) for _ in range(lanes)]
    began = time.perf_counter()
    places: asyncio.Queue[Lane] = asyncio.Queue()
    for lane in free:
        places.put_nowait(lane)

    async def one(request: bytes, due: float) -> None:
        lane = await places.get()
        status, _ = await lane.ask(request)
        run.milliseconds.append((time.perf_counter() - due) * 1e3)
        run.errors += status != 200
        places.put_nowait(lane)

    tasks = []
    for number, request in enumerate(requests):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(request, due)))
    await asyncio.gather(*tasks)
    run.seconds = time.perf_counter() - began
    for lane in free:
        lane.close()
    return run


async def flat_out(url: str, requests: Iterable[bytes], lanes: int, seconds: float) -> Run:
    """Keep lanes busy until the time or the requests end."""
    run, source = Run(), iter(requests)
    began = time.perf_counter()

    async def work() -> None:
        lane = Lane(url)
        for request in source:
            sent = time.perf_counter()
            if sent - began > seconds:
                break
            status, _ = await lane.ask(request)
            run.milliseconds.append((time.perf_counter() - sent) * 1e3)
            run.errors += status != 200
        lane.close()

    await asyncio.gather(*(work() for _ in range(lanes)))
    run.seconds = time.perf_counter() - began
    return run


class Suite:
    """Where the suite answers, and what its processes have spent."""

    def __init__(self, layout: Layout, root: int) -> None:
        self.url = str(layout.read_suite()["services"]["gateway"]["url"])
        self._key = layout.demo_key.read_text().strip()
        self._processes: dict[str, psutil.Process] = {}
        for child in psutil.Process(root).children(recursive=True):
            command = " ".join(child.cmdline())
            for name in ("gateway", "guardrails", "inference"):
                if f"services.{name}" in command:
                    self._processes.setdefault(name, child)

    def request(self, path: str, body: dict[str, Any]) -> bytes:
        """Build one request."""
        sent = json.dumps(body).encode()
        return request_bytes(self.url + path, {"X-API-Key": self._key}, sent)

    def get(self, path: str) -> Any:
        """Read one JSON document."""
        request = Request(self.url + path, headers={"X-API-Key": self._key})
        with urlopen(request, timeout=10) as reply:
            return json.loads(reply.read())

    def cpu_s(self) -> dict[str, float]:
        """Give the CPU seconds of each process."""
        found = {}
        for name, process in self._processes.items():
            times = process.cpu_times()
            found[name] = times.user + times.system
        return found


def texts(draw: random.Random, count: int, words: int = 30) -> Iterator[str]:
    """Give distinct texts of about 30 words, one in five with something to find."""
    for number in range(count):
        chosen = draw.choices(_WORDS, k=words)
        if number % 5 == 0:
            chosen[draw.randrange(words)] = f"user{draw.randrange(10**9)}@example.org"
        yield " ".join(chosen) + f" {draw.randrange(10**9):x}"


def zipf(draw: random.Random, distinct: int, count: int) -> list[int]:
    """Draw positions by Zipf's law with exponent 1.1."""
    weights = [1 / (rank + 1) ** 1.1 for rank in range(distinct)]
    return draw.choices(range(distinct), weights=weights, k=count)


def _spent(suite: Suite, before: dict[str, float], count: int, name: str) -> dict[str, float]:
    return {
        f"{name}, CPU ms per text in {process}": round((now - before[process]) * 1e3 / count, 3)
        for process, now in suite.cpu_s().items()
        if process != "inference" or name.startswith("strict")
    }


def rules_cold(suite: Suite, draw: random.Random, rate: float, seconds: float) -> dict[str, float]:
    """The policy `default` on texts never seen, at a rate."""
    count = int(rate * seconds)
    asked = [
        suite.request("/v1/guardrails/validate", {"text": text, "cache_ttl": 0})
        for text in texts(draw, count)
    ]
    before = suite.cpu_s()
    run = asyncio.run(paced(suite.url, asked, rate))
    flat = asyncio.run(flat_out(suite.url, asked, 16, seconds / 2))
    name = f"rules, cold, p95 ms at {rate:g}/s"
    return {
        f"rules, cold, p50 ms at {rate:g}/s": run.share(0.5),
        name: run.share(0.95),
        "rules, cold, requests/s flat out": flat.per_second,
        "rules, cold, errors": run.errors + flat.errors,
        **_spent(suite, before, count + len(flat.milliseconds), "rules, cold"),
    }


def batches(suite: Suite, draw: random.Random) -> dict[str, float]:
    """100 texts in one call, against 100 calls on one connection."""
    whole, singles = Run(), []
    for _ in range(12):
        part = list(texts(draw, 100))
        body = {"texts": part, "cache_ttl": 0}
        request = suite.request("/v1/guardrails/validate/batch", body)
        run = asyncio.run(flat_out(suite.url, [request], 1, 60))
        whole.milliseconds += run.milliseconds
        whole.errors += run.errors
        single = [
            suite.request("/v1/guardrails/validate", {"text": text, "cache_ttl": 0})
            for text in part
        ]
        singles.append(sum(asyncio.run(flat_out(suite.url, single, 1, 60)).milliseconds))
    return {
        "batch of 100, cold, p50 ms": whole.share(0.5),
        "batch of 100, cold, p95 ms": whole.share(0.95),
        "singles against one batch of 100, times": round(
            statistics.median(singles) / whole.share(0.5), 1
        ),
        "batch, errors": whole.errors,
    }


def hostile(suite: Suite) -> dict[str, float]:
    """10 kB made to be slow, one at a time."""
    rows, worst = {}, 0.0
    for unit, text in HOSTILE.items():
        body = {"text": text, "cache_ttl": 0}
        asked = [suite.request("/v1/guardrails/validate", body)] * 15
        run = asyncio.run(flat_out(suite.url, asked, 1, 60))
        rows[f"hostile 10 kB of {unit!r}, p50 ms"] = run.share(0.5)
        worst = max(worst, run.share(0.5))
    return {**rows, "hostile 10 kB, worst p50 ms": worst}


def warm(suite: Suite, draw: random.Random, distinct: int, seconds: float) -> dict[str, float]:
    """The Zipf trace against the verdict cache."""
    pool = [
        suite.request("/v1/guardrails/validate", {"text": text}) for text in texts(draw, distinct)
    ]
    lead = [pool[place] for place in zipf(draw, distinct, 2_000)]
    asyncio.run(flat_out(suite.url, lead, 16, 60))
    before = suite.get("/v1/guardrails/health")["cache"]
    spent = suite.cpu_s()
    trace = [pool[place] for place in zipf(draw, distinct, 20_000)]
    run = asyncio.run(flat_out(suite.url, trace, 16, seconds))
    after = suite.get("/v1/guardrails/health")["cache"]
    hits, misses = (after[name] - before[name] for name in ("hit", "miss"))
    return {
        "warm, requests/s": run.per_second,
        "warm, p50 ms": run.share(0.5),
        "warm, p95 ms": run.share(0.95),
        "warm, hit share": round(hits / max(hits + misses, 1), 3),
        "warm, errors": run.errors,
        **_spent(suite, spent, len(run.milliseconds), "warm"),
    }


def strict(suite: Suite, draw: random.Random, seconds: float) -> dict[str, float]:
    """The policy `strict`, with the guard model, on texts never seen."""
    model = suite.get("/v1/guardrails/health")["models"][0]
    if model["status"] != "ready":
        return {}

    def asked(count: int, words: int = 30) -> list[bytes]:
        return [
            suite.request(
                "/v1/guardrails/validate", {"text": text, "policy": "strict", "cache_ttl": 0}
            )
            for text in texts(draw, count, words)
        ]

    asyncio.run(flat_out(suite.url, asked(50), 4, seconds))
    before = suite.cpu_s()
    flat = asyncio.run(flat_out(suite.url, asked(4_000), 16, seconds))
    spent = _spent(suite, before, len(flat.milliseconds), "strict, cold")
    half = flat.per_second / 2
    run = asyncio.run(paced(suite.url, asked(int(half * seconds)), half))
    long = asyncio.run(flat_out(suite.url, asked(30, 600), 1, seconds))
    return {
        "strict, cold, texts/s": flat.per_second,
        "strict, cold, p50 ms at half of that": run.share(0.5),
        "strict, cold, p95 ms at half of that": run.share(0.95),
        "strict, cold, long texts (600 words), p50 ms": long.share(0.5),
        "strict, errors": flat.errors + run.errors + long.errors,
        **spent,
    }


def settle(suite: Suite, within_s: float = 60.0) -> None:
    """Wait until no service works on its start any more: models load in the background."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        before = sum(suite.cpu_s().values())
        time.sleep(1)
        if sum(suite.cpu_s().values()) - before < 0.05:
            return


def measure(
    seconds: float, rate: float, seed: int, distinct: int, parts: Sequence[str] = ()
) -> dict[str, float]:
    """Run the parts, all by default, against a suite of its own."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="gh-g-", ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o755)  # the embedded PostgreSQL runs as another user under root
        layout = Layout(Path(name) / "s")
        with running(layout.root) as (_, process):
            suite = Suite(layout, process.pid)
            warm_up = [
                suite.request("/v1/guardrails/validate", {"text": text})
                for text in texts(draw, 200)
            ]
            asyncio.run(flat_out(suite.url, warm_up, 4, 20))
            settle(suite)
            jobs: dict[str, Callable[[], dict[str, float]]] = {
                "rules": lambda: rules_cold(suite, draw, rate, seconds),
                "batches": lambda: batches(suite, draw),
                "hostile": lambda: hostile(suite),
                "warm": lambda: warm(suite, draw, distinct, seconds),
                "strict": lambda: strict(suite, draw, seconds),
            }
            rows: dict[str, float] = {}
            machine = Machine(process.pid)
            for part in parts or jobs:
                rows |= jobs[part]()
            return {**rows, "cores that others took": machine.others()}


class Machine:
    """How busy the machine is with what is neither the suite nor this process."""

    def __init__(self, root: int) -> None:
        self._root = psutil.Process(root)
        self._began = (time.perf_counter(), self._rest())

    def _rest(self) -> float:
        times = psutil.cpu_times()
        spent = times.user + times.system
        own = [psutil.Process(), self._root, *self._root.children(recursive=True)]
        for process in own:
            with suppress(psutil.NoSuchProcess):
                used = process.cpu_times()
                spent -= used.user + used.system
        return float(spent)

    def others(self) -> float:
        """Give the cores that others took since the start."""
        began, before = self._began
        return float(round(max(0.0, self._rest() - before) / (time.perf_counter() - began), 2))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--distinct", type=int, default=2_000)
    parser.add_argument("--parts", type=lambda text: text.split(","), default=())
    asked = parser.parse_args(arguments)
    rows = measure(asked.seconds, asked.rate, asked.seed, asked.distinct, asked.parts)
    print("| measure | value | bar |\n|---|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value:g} | {BARS.get(name, '')} |")
    load = os.getloadavg()[0]
    print(f"\nLoad of the machine at the end: {load:.1f} on {os.cpu_count()} cores.")
    document = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpus": os.cpu_count(),
        "load_1m": load,
        "python": platform.python_version(),
        "arguments": vars(asked),
        "results": rows,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()

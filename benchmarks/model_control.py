"""Measures swaps under load, batches against single calls, and what routing adds.

    python -m benchmarks.model_control [--swaps 10] [--requests 5000]

Starts a suite of its own on free ports with a copy of models/fraud as versions 1 and 2, talks to
inference directly, prints a table and writes benchmarks/results/model_control.json.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.connection import read_answer, request_bytes
from benchmarks.suite import ROOT, running
from deploy.local.layout import Layout
from libs.common.identity import IDENTITY_HEADER, Signer
from libs.common.rollouts import Arm, Mode, Plan, Recorder, Stage, arm_of, bucket_of, subject_key

RESULT = ROOT / "benchmarks" / "results" / "model_control.json"
Identity = Callable[[], dict[str, str]]
_CONNECTIONS = 4
_BATCH = 500


class Caller:
    """One keep-alive connection to inference."""

    def __init__(self, url: str, identity: Identity) -> None:
        self._url, self._identity = url, identity
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: dict[str, Any]) -> tuple[int, float]:
        """Send one request; gives status and milliseconds."""
        if self._streams is None:
            parts = urlsplit(self._url)
            self._streams = await asyncio.open_connection(parts.hostname, parts.port)
        reader, writer = self._streams
        request = request_bytes(self._url + path, self._identity(), json.dumps(body).encode())
        began = time.perf_counter()
        writer.write(request)
        status = await read_answer(reader)
        return status, (time.perf_counter() - began) * 1e3


def _payment(number: int) -> dict[str, Any]:
    return {"card_id": f"card_{number % 1_000:08d}", "transaction_amount": 5.0 + number % 90}


async def swaps(url: str, identity: Identity, count: int, requests: int) -> dict[str, float]:
    """Promote versions 1 and 2 in turn while payments are scored."""
    steady: list[float] = []
    during: list[float] = []
    failed, sent, stop = 0, 0, asyncio.Event()
    swapping = False

    async def load(start: int) -> None:
        nonlocal failed, sent
        caller, number = Caller(url, identity), start
        while not stop.is_set():
            number += _CONNECTIONS
            status, took = await caller.post("/score/fraud", _payment(number))
            failed, sent = failed + (status != 200), sent + 1
            (during if swapping else steady).append(took)

    workers = [asyncio.create_task(load(number)) for number in range(_CONNECTIONS)]
    operator = Caller(url, identity)
    while sent < requests // 2:  # noqa: ASYNC110 - the workers count, nothing signals
        await asyncio.sleep(0.01)
    pace = requests // 2 // count
    for number in range(count):
        target, swapping = sent + pace, True
        status, _ = await operator.post(f"/models/fraud/versions/{1 + number % 2}/promote", {})
        assert status == 200, f"promote answered {status}"
        while sent < target:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.005)
        swapping = False
    stop.set()
    await asyncio.gather(*workers)
    return {
        "swaps": count,
        "requests": sent,
        "failed": failed,
        "steady p50 ms": round(statistics.median(steady), 2),
        "steady p99 ms": round(statistics.quantiles(steady, n=100)[98], 2),
        "swapping p99 ms": round(statistics.quantiles(during, n=100)[98], 2),
    }


async def batches(url: str, identity: Identity) -> dict[str, float]:
    """Compare the time per item of single calls and of batches; medians."""
    caller = Caller(url, identity)
    singles = [(await caller.post("/score/fraud", _payment(n)))[1] for n in range(300)]
    body = {"model_type": "fraud_detection", "requests": [_payment(n) for n in range(_BATCH)]}
    grouped = [(await caller.post("/score/batch", body))[1] for _ in range(9)]
    single, batch = statistics.median(singles), statistics.median(grouped) / _BATCH
    return {
        "single call, ms": round(single, 3),
        f"item of a batch of {_BATCH}, ms": round(batch, 4),
        "single / item": round(single / batch, 1),
    }


def routing() -> dict[str, float]:
    """Measure assignment and counting per request, and the split of 100,000 assignments."""
    plan = Plan(Mode.CANARY, (Stage(1_000),))
    recorder, count = Recorder(plan), 20_000
    began = time.perf_counter()
    for number in range(count):
        key = subject_key("rollout", "default", f"card_{number}")
        arm = arm_of(key % 10_000, 1_000)
        recorder.observe(arm, key, failed=False, latency_s=0.001, score=0.2)
    spent = (time.perf_counter() - began) / count * 1e6
    hits = sum(
        arm_of(bucket_of("rollout", "default", f"card_{n}"), 1_000) is Arm.CANDIDATE
        for n in range(100_000)
    )
    return {"routing and counting, us": round(spent, 2), "share at 10 %": round(hits / 1_000, 2)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure everything; exit code 1 when a request failed."""
    parser = argparse.ArgumentParser(description="Swaps, batches and routing.")
    parser.add_argument("--swaps", type=int, default=10)
    parser.add_argument("--requests", type=int, default=5_000)
    asked = parser.parse_args(arguments)
    rows = routing()
    with tempfile.TemporaryDirectory(prefix="gh-m-", ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o755)  # the embedded PostgreSQL runs as another user under root
        _two_versions(Path(name) / "models")
        os.environ["MODEL_PATH"] = str(Path(name) / "models")
        layout = Layout(Path(name) / "s")
        with running(layout.root):
            url = layout.read_suite()["services"]["inference"]["url"]
            identity = _identity(Signer.from_directory("gateway", layout.keys))
            rows |= asyncio.run(batches(url, identity))
            rows |= asyncio.run(swaps(url, identity, asked.swaps, asked.requests))
    for label, value in rows.items():
        print(f"| {label} | {value:g} |")
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(rows, indent=1))
    return int(rows["failed"] > 0)


def _identity(signer: Signer) -> Identity:
    """Give headers that are signed again every ten seconds, as the gateway does every thirty."""
    kept: dict[str, str] = {}
    signed_at = -1e9

    def headers() -> dict[str, str]:
        nonlocal kept, signed_at
        if time.monotonic() - signed_at > 10:
            header = signer.header("inference", tenant="default", scopes=("*",))
            kept, signed_at = {IDENTITY_HEADER: header}, time.monotonic()
        return kept

    return headers


def _two_versions(root: Path) -> None:
    for model in ("fraud", "relevance", "conversion"):
        shutil.copytree(ROOT / "models" / model / "1", root / model / "1")
    shutil.copytree(root / "fraud/1", root / "fraud/2")
    path = root / "fraud/2/manifest.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "version": 2, "release": "2.0.0"}))


if __name__ == "__main__":
    sys.exit(main())

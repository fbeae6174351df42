"""`python -m benchmarks.fraud_speed`: how fast payments are scored, through the gateway and alone.

Everything is on: authentication, features, explanation, write-ahead log, audit, analytics. It
starts a suite of its own over a temporary state directory. Payments are of many cards and shops.
Generator and suite share the machine: figures are lower bounds. It writes
benchmarks/results/fraud_speed.json; docs/benchmarks/fraud.md holds the table.
"""

import argparse
import asyncio
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

from benchmarks.connection import request_bytes
from benchmarks.load import Step, step
from benchmarks.raw_client import Load, closed_loop
from benchmarks.suite import RESULTS, ROOT, running
from deploy.local.layout import Layout
from libs.common.manifest import load_manifest
from services.inference.adapters.tabular import load_tabular
from services.inference.domain.model import TabularModel
from services.inference.domain.ports import Rows
from services.inference.domain.scoring import group_contributions, sentence, top_factors

RATE, BATCH_ROWS = 300.0, 1_000
_BATCHES_S, _SETTLE_S = 4.0, 3.0
_MODEL_CALLS, _DISTINCT = 4_000, 4_096
# What the figures are held against, by row: (text, whether a value keeps it).
BARS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "model, one payment, median us": ("<= 50", lambda value: value <= 50),
    "model and explanation, median us": ("<= 1500", lambda value: value <= 1_500),
    "32 connections, requests/s": (">= 1200", lambda value: value >= 1_200),
    "64 connections, requests/s": (">= 1200", lambda value: value >= 1_200),
    "300 requests/s, p95 ms": ("<= 15", lambda value: value <= 15),
    "batch of 1000 payments, median ms": ("<= 150", lambda value: value <= 150),
    "errors": ("0", lambda value: value == 0),
}


def payment(generator: random.Random) -> dict[str, object]:
    """Make one payment of many cards and shops."""
    return {
        "card_id": f"card_{generator.randrange(2_000):08d}",
        "transaction_amount": round(generator.uniform(1, 500), 2),
        "merchant_id": f"merchant_{generator.randrange(500):05d}",
        "mcc_code": "5411",
        "country_code": "US",
    }


def model_part() -> dict[str, float]:
    """Time the released model alone: one row through the engine, then with its reasons."""
    directory = max((ROOT / "models" / "fraud").iterdir(), key=lambda path: int(path.name))
    model = load_tabular(directory, load_manifest(directory), use_onnx=True)
    rows = np.random.default_rng(1).uniform(0, 100, (_MODEL_CALLS, len(model.service.names)))
    alone, explained = [], []
    for row in rows.astype(np.float32)[:, None, :]:
        began = time.perf_counter()
        score = _score(model, row)
        alone.append(time.perf_counter() - began)
        _explain(model, row, score)
        explained.append(time.perf_counter() - began)
    return {
        "model, one payment, median us": round(statistics.median(alone) * 1e6, 1),
        "model, one payment, p99 us": round(statistics.quantiles(alone, n=100)[98] * 1e6, 1),
        "model and explanation, median us": round(statistics.median(explained) * 1e6, 1),
        "model and explanation, p99 us": round(statistics.quantiles(explained, n=100)[98] * 1e6, 1),
    }


def _score(model: TabularModel, row: Rows) -> float:
    prepared = [model.engine.prepare(row)]
    scores = model.engine.finish(model.engine.forward(prepared), prepared)[0]
    return float(model.calibration.apply(scores)[0])


def _explain(model: TabularModel, row: Rows, score: float) -> str:
    assert model.explainer is not None
    assert model.bands is not None
    groups = group_contributions(model.grouping, row[0], model.explainer.contributions(row[0]))
    top_factors(groups)
    return sentence(model.bands.level(score), score, groups, missing=(), is_blind=False)


def saturated(url: str, requests: Sequence[bytes], connections: int, seconds: float) -> Load:
    """Keep connections busy; each answer is followed by the next payment."""
    port = urlsplit(url).port
    assert port is not None
    return asyncio.run(closed_loop(port, requests, connections, seconds))


def gateway_part(gateway: str, key: str, seconds: float) -> dict[str, float]:
    """Time the whole path."""
    generator = random.Random(1)
    headers = {"X-API-Key": key}
    url = f"{gateway}/score/fraud"
    singles = [
        request_bytes(url, headers, orjson.dumps(payment(generator))) for _ in range(_DISTINCT)
    ]
    saturated(gateway, singles, 8, 3.0)  # warm
    rows: dict[str, float] = {}
    errors = 0
    for connections in (1, 32, 64):
        load = saturated(gateway, singles, connections, seconds)
        noun = "connection" if connections == 1 else "connections"
        rows[f"{connections} {noun}, requests/s"] = round(load.per_s, 1)
        rows[f"{connections} {noun}, p50 ms"] = round(load.quantile_ms(0.5), 2)
        rows[f"{connections} {noun}, p99 ms"] = round(load.quantile_ms(0.99), 2)
        errors += load.errors
    time.sleep(2)  # audit and analytics catch up
    opened: Step = asyncio.run(step(gateway, key, RATE, seconds, 1, fraud_share=1.0))
    for share in (0.5, 0.95, 0.99):
        name = f"{RATE:.0f} requests/s, p{share * 100:.0f} ms"
        rows[name] = round(opened.quantile(share), 2)
    errors += opened.errors
    batch = {
        "model_type": "fraud_detection",
        "requests": [payment(generator) for _ in range(BATCH_ROWS)],
    }
    sent = request_bytes(f"{gateway}/score/batch", headers, orjson.dumps(batch))
    port = urlsplit(gateway).port
    assert port is not None
    batches = asyncio.run(closed_loop(port, sent, 1, _BATCHES_S))
    rows["batch of 1000 payments, median ms"] = round(batches.quantile_ms(0.5), 1)
    rows["batch of 1000 payments, p95 ms"] = round(batches.quantile_ms(0.95), 1)
    rows["errors"] = errors + batches.errors
    return rows


def measure(seconds: float) -> dict[str, float]:
    """Measure everything."""
    rows = model_part()
    with tempfile.TemporaryDirectory(prefix="gh-f-", ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o755)  # the embedded PostgreSQL runs as another user under root
        layout = Layout(Path(name) / "s")
        with running(layout.root):
            time.sleep(_SETTLE_S)
            told = layout.read_suite()
            key = layout.demo_key.read_text().strip()
            rows |= gateway_part(told["services"]["gateway"]["url"], key, seconds)
    return rows


def verdict(name: str, value: float) -> tuple[str, bool]:
    """Give a row's bar as text, and whether the value keeps it."""
    if name not in BARS:
        return "", True
    text, keeps = BARS[name]
    return (text, True) if keeps(value) else (f"{text}, **not met**", False)


def main() -> int:
    """Measure, print, write; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fraud_speed")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of each load run")
    parser.add_argument("--runs", type=int, default=1, help="suites started; rows are medians")
    options = parser.parse_args()
    runs = [measure(options.seconds) for _ in range(options.runs)]
    rows = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    table = Table("measure", "value", "bar", title="Scoring payments")
    for name, value in rows.items():
        table.add_row(name, f"{value:g}", verdict(name, value)[0])
    Console().print(table)
    RESULTS.mkdir(parents=True, exist_ok=True)
    document = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "runs": runs,
    }
    (RESULTS / "fraud_speed.json").write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    return int(not all(verdict(name, value)[1] for name, value in rows.items()))


if __name__ == "__main__":
    sys.exit(main())

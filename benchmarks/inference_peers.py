"""`python -m benchmarks.inference_peers`: the service beside LitServe and MLServer over HTTP.

The same files, tokenizer and number of model threads; each peer in its own environment
(`make peers`) and in several settings, of which the best counts. One server is up and busy at a
time, rounds alternate, medians count. Generator and server share the machine. Our service runs as
in production with its write-ahead log, prediction cache off, called directly as the peers are.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import orjson
from rich.console import Console
from rich.table import Table

from benchmarks.connection import request_bytes
from benchmarks.feature_feast import _free_port, _redis
from benchmarks.inference_text import sample_texts
from benchmarks.raw_client import Load, closed_loop
from libs.common.identity import ensure_keys
from libs.common.manifest import load_manifest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "inference_peers.json"
PEERS = ROOT / "benchmarks" / "peers"
TEXTS, ROWS = ROOT / "models" / "sentiment" / "1", ROOT / "models" / "fraud" / "2"
_READY_S = 60.0
_WARM_UP_S = 1.5


@dataclass(frozen=True)
class Side:
    """A server in one setting: its environment's Python and arguments; None is ours."""

    name: str
    model: str
    script: str = ""
    workers: int = 0
    batch: int = 1
    wait_s: float = 0.0

    @property
    def python(self) -> Path:
        """Of the environment that it runs in."""
        peer = self.script.partition("_")[0]
        return ROOT / ".venv" / "peers" / peer / "bin" / "python"


def sides(model: str, threads: int) -> list[Side]:
    """List the settings that are compared for one model."""
    lit, ml = "litserve_server.py", "mlserver_sentiment.py"
    found = [
        Side("Gatehouse", model),
        Side("LitServe, one by one", model, lit, threads),
        Side("LitServe, batches of 8 within 5 ms", model, lit, threads, 8, 0.005),
    ]
    if model == "sentiment":
        found += [
            Side("LitServe, batches of 32 within 10 ms", model, lit, threads, 32, 0.01),
            Side("MLServer, one by one", model, ml, threads),
            Side("MLServer, batches of 8 within 5 ms", model, ml, threads, 8, 0.005),
        ]
    return [side for side in found if not side.script or side.python.exists()]


@contextmanager
def up(side: Side, redis_url: str) -> Iterator[int]:
    """Run a server while the block runs; gives its port."""
    with tempfile.TemporaryDirectory() as folder:
        port = _free_port()
        environment = dict(os.environ)
        if side.script:
            directory = TEXTS if side.model == "sentiment" else ROWS
            first = [side.model, str(directory)] if "litserve" in side.script else [str(directory)]
            first += [] if "litserve" in side.script else [folder]
            numbers = map(str, (port, side.workers, side.batch, side.wait_s))
            command = [str(side.python), str(PEERS / side.script), *first, *numbers]
        else:
            ensure_keys(Path(folder) / "keys", ["gateway", "inference"])
            command = [sys.executable, "-m", "services.inference"]
            environment |= {
                "STATE_DIR": folder,
                "PORT": str(port),
                "REDIS_URL": redis_url,
                "IDENTITY_MODE": "open",
                "LOG_LEVEL": "error",
                "TEXT_LOADING": "eager",
                "MODELS_SERVED": side.model,
                "CACHE_TTL": "0",
                "AUDIT_URL": "http://127.0.0.1:9",
            }
        log = Path(folder) / "log.txt"
        with log.open("wb") as target:
            process = subprocess.Popen(
                command, cwd=folder if side.script else ROOT, env=environment,
                stdout=target, stderr=target, start_new_session=True,
            )  # fmt: skip
        try:
            _await_answer(side, port, process, log)
            yield port
        finally:
            # A peer's workers are its own children: the whole group of this one process goes.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 15)
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait(10)


def _await_answer(side: Side, port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    path, body = bodies(side)[0]
    give_up_at = time.monotonic() + _READY_S
    while time.monotonic() < give_up_at and process.poll() is None:
        with suppress(httpx2.HTTPError):
            headers = {"content-type": "application/json"}
            url = f"http://127.0.0.1:{port}{path}"
            if httpx2.post(url, content=body, headers=headers, timeout=5).status_code == 200:
                return
        time.sleep(0.1)
    raise SystemExit(f"{side.name} does not answer:\n{log.read_text()[-3000:]}")


def bodies(side: Side) -> list[tuple[str, bytes]]:
    """Give path and body of each distinct request."""
    if side.model == "fraud":
        cases = load_manifest(ROWS).golden_cases
        # JSON carries no missing value in a tensor.
        rows = [row for case in cases for row in case.inputs["features"] if None not in row]
        if side.script:
            return [("/predict", orjson.dumps({"features": row})) for row in rows]
        return [("/v2/models/fraud/infer", orjson.dumps(_tensor("FP32", row))) for row in rows]
    texts = sample_texts()
    if side.script.startswith("mlserver"):
        path = "/v2/models/sentiment/infer"
        return [(path, orjson.dumps(_tensor("BYTES", [text]))) for text in texts]
    return [("/predict", orjson.dumps({"text": text})) for text in texts]


def _tensor(datatype: str, data: Sequence[object]) -> dict[str, object]:
    name, shape = ("features", [1, len(data)]) if datatype == "FP32" else ("text", [len(data)])
    return {"inputs": [{"name": name, "shape": shape, "datatype": datatype, "data": data}]}


def measure(side: Side, redis_url: str, connections: int, seconds: float) -> Load:
    """Start, warm up, load, stop."""
    with up(side, redis_url) as port:
        url = f"http://127.0.0.1:{port}"
        requests = [request_bytes(url + path, {}, body) for path, body in bodies(side)]
        asyncio.run(closed_loop(port, requests, connections, _WARM_UP_S))
        return asyncio.run(closed_loop(port, requests, connections, seconds))


def compare(
    model: str, connections: int, *, threads: int, rounds: int, seconds: float
) -> dict[str, dict[str, float]]:
    """Measure all sides in turns; gives the medians by side."""
    loads: dict[str, list[Load]] = {}
    with ExitStack() as stack:
        redis_url = stack.enter_context(_redis(stack.enter_context(tempfile.TemporaryDirectory())))
        for _ in range(rounds):
            for side in sides(model, threads):
                load = measure(side, redis_url, connections, seconds)
                loads.setdefault(side.name, []).append(load)
                print(f"{side.name}: {load.per_s:.0f}/s, p99 {load.quantile_ms(0.99):.0f} ms")
    return {
        name: {
            "requests/s": statistics.median(load.per_s for load in found),
            "p50 ms": statistics.median(load.quantile_ms(0.5) for load in found),
            "p99 ms": statistics.median(load.quantile_ms(0.99) for load in found),
            "errors": sum(load.errors for load in found),
        }
        for name, found in loads.items()
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=("sentiment", "fraud"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    document: dict[str, object] = {"at": datetime.now(UTC).isoformat(timespec="seconds")}
    for model, connections in (("sentiment", 64), ("fraud", 32)):
        if arguments.only not in {None, model}:
            continue
        found = compare(
            model, connections, threads=threads, rounds=arguments.rounds, seconds=arguments.seconds
        )
        table = Table(title=f"{model}, {connections} connections, load {os.getloadavg()[0]:.1f}")
        for title in ("server", "requests/s", "ours / theirs", "p50 ms", "p99 ms", "errors"):
            table.add_column(title)
        ours = found["Gatehouse"]["requests/s"]
        for name, row in found.items():
            shown = (row["requests/s"], ours / row["requests/s"], row["p50 ms"], row["p99 ms"])
            table.add_row(name, *(f"{value:.2f}" for value in shown), f"{row['errors']:.0f}")
        Console().print(table)
        document[model] = found
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    main()

"""`python -m benchmarks.inference_peers`: the service beside other servers over HTTP.

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
from collections.abc import Iterator, Mapping, Sequence
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
from benchmarks.tree_model import train_trees
from libs.common.identity import ensure_keys
from libs.common.manifest import load_manifest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "inference_peers.json"
PEERS = ROOT / "benchmarks" / "peers"
TEXTS, ROWS = ROOT / "models" / "sentiment" / "1", ROOT / "models" / "fraud" / "2"
_READY_S = 60.0
_WARM_UP_S = 1.5


@dataclass(frozen=True)
class Subject:
    """A model that is compared: its folder, the name it is served by, and how many connections."""

    name: str
    directory: Path
    served: str
    connections: int


@dataclass(frozen=True)
class Side:
    """A server in one setting: its script, workers, and how it batches; no script is ours."""

    name: str
    script: str = ""
    workers: int = 0
    batch: int = 1
    wait_s: float = 0.0

    @property
    def peer(self) -> str:
        """Name of the peer; empty for ours."""
        return self.script.partition("_")[0]

    @property
    def python(self) -> Path:
        """Of the environment that it runs in."""
        if self.peer in {"", "fastapi"}:
            return Path(sys.executable)
        return ROOT / ".venv" / "peers" / self.peer / "bin" / "python"


def sides(subject: Subject, threads: int) -> list[Side]:
    """List the settings that are compared for one model."""
    lit, bento, triton = "litserve_server.py", "bentoml_server.py", "triton_server.py"
    found = [
        Side("Gatehouse"),
        Side("LitServe, one by one", lit, threads),
        Side("LitServe, batches of 8 within 5 ms", lit, threads, 8, 0.005),
        Side("BentoML, one by one", bento, threads),
        Side("BentoML, batches of 8", bento, threads, 8, 1.0),
        Side("Triton, one by one", triton, threads),
        Side("Triton, batches of 8", triton, threads, 8),
    ]
    if subject.served == "sentiment":
        ml = "mlserver_sentiment.py"
        found += [
            Side("LitServe, batches of 32 within 10 ms", lit, threads, 32, 0.01),
            Side("MLServer, one by one", ml, threads),
            Side("MLServer, batches of 8 within 5 ms", ml, threads, 8, 0.005),
        ]
    else:
        found += [
            Side("FastAPI, model inline, one process", "fastapi_server.py", 1),
            Side("FastAPI, model inline, two processes", "fastapi_server.py", threads),
        ]
    return [side for side in found if side.python.exists()]


def _command(subject: Subject, side: Side, folder: Path, port: int) -> list[str]:
    if not side.script:
        return [sys.executable, "-m", "services.inference"]
    place = [str(subject.directory)]
    place = [*place, str(folder)] if side.peer == "mlserver" else [subject.served, *place]
    numbers = map(str, (port, side.workers, side.batch, side.wait_s))
    return [str(side.python), str(PEERS / side.script), *place, *numbers]


def _environment(subject: Subject, side: Side, folder: Path, port: int, redis: str) -> list[str]:
    """Give `env`'s arguments: what ours and the peers read from the environment."""
    if side.script:
        return [f"PYTRITON_HOME={folder}", f"TMPDIR={folder}"]
    ensure_keys(folder / "keys", ["gateway", "inference"])
    return [
        f"STATE_DIR={folder}",
        f"PORT={port}",
        f"REDIS_URL={redis}",
        f"MODEL_PATH={subject.directory.parents[1]}",
        f"MODELS_SERVED={subject.served}",
        "IDENTITY_MODE=open",
        "LOG_LEVEL=error",
        "TEXT_LOADING=eager",
        "CACHE_TTL=0",
        "AUDIT_URL=http://127.0.0.1:9",
    ]


@contextmanager
def up(subject: Subject, side: Side, redis_url: str) -> Iterator[int]:
    """Run a server while the block runs; gives its port."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        port, folder = _free_port(), Path(name)
        environment = ["env", *_environment(subject, side, folder, port, redis_url)]
        log = folder / "log.txt"
        with log.open("wb") as target:
            process = subprocess.Popen(
                [*environment, *_command(subject, side, folder, port)],
                cwd=PEERS if side.script else ROOT,
                stdout=target, stderr=target, start_new_session=True,
            )  # fmt: skip
        try:
            _await_answer(subject, side, port, process, log)
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


def _await_answer(
    subject: Subject, side: Side, port: int, process: "subprocess.Popen[bytes]", log: Path
) -> None:
    path, body = bodies(subject, side)[0]
    give_up_at = time.monotonic() + _READY_S
    while time.monotonic() < give_up_at and process.poll() is None:
        with suppress(httpx2.HTTPError):
            headers = {"content-type": "application/json"}
            url = f"http://127.0.0.1:{port}{path}"
            if httpx2.post(url, content=body, headers=headers, timeout=5).status_code == 200:
                return
        time.sleep(0.1)
    raise SystemExit(f"{side.name} does not answer:\n{log.read_text()[-3000:]}")


def bodies(subject: Subject, side: Side) -> list[tuple[str, bytes]]:
    """Give path and body of each distinct request."""
    is_list = side.peer == "bentoml" and side.batch > 1
    speaks_tensors = side.peer in {"mlserver", "triton"}
    tensors = f"/v2/models/{subject.served}/infer"
    if subject.served == "fraud":
        cases = load_manifest(subject.directory).golden_cases
        # JSON carries no missing value in a tensor.
        rows = [row for case in cases for row in case.inputs["features"] if None not in row]
        if not side.script or speaks_tensors:
            return [(tensors, orjson.dumps(_tensor("FP32", [1, len(row)], row))) for row in rows]
        shaped = [{"rows": [row]} if is_list else {"features": row} for row in rows]
        return [("/predict", orjson.dumps(document)) for document in shaped]
    texts = sample_texts()
    if speaks_tensors:
        shape = [1, 1] if side.peer == "triton" else [1]
        return [(tensors, orjson.dumps(_tensor("BYTES", shape, [text]))) for text in texts]
    documents = [{"texts": [text]} if is_list else {"text": text} for text in texts]
    return [("/predict", orjson.dumps(document)) for document in documents]


def _tensor(datatype: str, shape: Sequence[int], data: Sequence[object]) -> dict[str, object]:
    name = "features" if datatype == "FP32" else "text"
    return {"inputs": [{"name": name, "shape": shape, "datatype": datatype, "data": data}]}


def measure(subject: Subject, side: Side, redis_url: str, seconds: float) -> Load:
    """Start, warm up, load, stop."""
    with up(subject, side, redis_url) as port:
        url = f"http://127.0.0.1:{port}"
        requests = [request_bytes(url + path, {}, body) for path, body in bodies(subject, side)]
        asyncio.run(closed_loop(port, requests, subject.connections, _WARM_UP_S))
        return asyncio.run(closed_loop(port, requests, subject.connections, seconds))


def compare(
    subject: Subject, chosen: Sequence[Side], *, rounds: int, seconds: float
) -> dict[str, dict[str, float]]:
    """Measure all sides in turns; gives the medians by side."""
    loads: dict[str, list[Load]] = {}
    with ExitStack() as stack:
        redis_url = stack.enter_context(_redis(stack.enter_context(tempfile.TemporaryDirectory())))
        for _ in range(rounds):
            for side in chosen:
                load = measure(subject, side, redis_url, seconds)
                loads.setdefault(side.name, []).append(load)
                shown = ", ".join(f"{load.quantile_ms(q):.1f}" for q in (0.5, 0.95, 0.99))
                print(f"{subject.name}: {side.name}: {load.per_s:.0f}/s, p50, p95, p99 {shown} ms")
    return {
        name: {
            "requests/s": statistics.median(load.per_s for load in found),
            "p50 ms": statistics.median(load.quantile_ms(0.5) for load in found),
            "p99 ms": statistics.median(load.quantile_ms(0.99) for load in found),
            "errors": sum(load.errors for load in found),
        }
        for name, found in loads.items()
    }


def show(subject: Subject, found: Mapping[str, Mapping[str, float]]) -> None:
    """Print the table of one model."""
    title = f"{subject.name}, {subject.connections} connections, load {os.getloadavg()[0]:.1f}"
    table = Table(title=title)
    for column in ("server", "requests/s", "ours / theirs", "p50 ms", "p99 ms", "errors"):
        table.add_column(column)
    ours = found["Gatehouse"]["requests/s"]
    for name, row in found.items():
        shown = (row["requests/s"], ours / row["requests/s"], row["p50 ms"], row["p99 ms"])
        table.add_row(name, *(f"{value:.2f}" for value in shown), f"{row['errors']:.0f}")
    Console().print(table)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=("sentiment", "fraud", "trees"))
    parser.add_argument("--sides", nargs="+", help="beginnings of names; ours is in")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    document: dict[str, object] = {"at": datetime.now(UTC).isoformat(timespec="seconds")}
    wanted = ("Gatehouse", *(arguments.sides or ()))
    with tempfile.TemporaryDirectory() as made:
        subjects = [
            Subject("sentiment", TEXTS, "sentiment", 64),
            Subject("fraud", ROWS, "fraud", 32),
        ]
        if arguments.only in {None, "trees"}:
            subjects.append(Subject("trees", train_trees(Path(made)), "fraud", 32))
        for subject in subjects:
            if arguments.only not in {None, subject.name}:
                continue
            chosen = sides(subject, threads)
            if arguments.sides:
                chosen = [side for side in chosen if side.name.startswith(wanted)]
            found = compare(subject, chosen, rounds=arguments.rounds, seconds=arguments.seconds)
            show(subject, found)
            document[subject.name] = found
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    main()

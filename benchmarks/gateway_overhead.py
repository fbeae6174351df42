"""What the gateway adds to one call: `python -m benchmarks.gateway_overhead [--seconds 4]`.

A tiny service answers 1 KB at once; the same client calls it directly and through the gateway
(full chain: key, limits in Redis, identity, metrics, log), at 1 and at 32 connections. Prints a
table: p50 and p99 in milliseconds, requests per second, gateway CPU microseconds per request.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
import psutil

from deploy.local.servers import EmbeddedPostgres, EmbeddedRedis
from libs.common.catalog import SERVICES
from libs.common.identity import ensure_keys
from libs.common.migrations import migrate

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1024\r\n\r\n"
_ANSWER += b'"' + b"x" * 1022 + b'"'
_BODY = json.dumps({"card_id": "card_00000001", "transaction_amount": 1.0, "pad": "y" * 960})


@dataclass
class Row:
    """One line of the table."""

    path: str
    connections: int
    requests: int
    errors: int
    per_s: float
    p50_ms: float
    p99_ms: float
    gateway_cpu_us: float


class _Tiny(asyncio.Protocol):
    """Answers every request at once; knows just enough HTTP for this client."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._held = b""

    def data_received(self, data: bytes) -> None:
        self._held += data
        while (end := self._held.find(b"\r\n\r\n")) >= 0:
            head = self._held[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._held) < end + 4 + length:
                return
            self._held = self._held[end + 4 + length :]
            self._transport.write(_ANSWER)  # type: ignore[attr-defined] # a socket transport


async def _measure(
    url: str, key: str, connections: int, seconds: float, gateway: psutil.Process, path: str
) -> Row:
    headers = {"X-API-Key": key, "Content-Type": "application/json"}
    samples: list[float] = []
    errors = 0
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections), headers=headers
    ) as session:

        async def worker(until: float) -> None:
            nonlocal errors
            while time.perf_counter() < until:
                started = time.perf_counter()
                async with session.post(url + "/score/fraud", data=_BODY) as reply:
                    await reply.read()
                    errors += reply.status != 200
                samples.append(time.perf_counter() - started)

        await asyncio.gather(
            *(worker(time.perf_counter() + 0.5) for _ in range(connections))
        )  # warm
        samples.clear()
        before = sum(gateway.cpu_times()[:2])
        started = time.perf_counter()
        await asyncio.gather(*(worker(started + seconds) for _ in range(connections)))
        elapsed = time.perf_counter() - started
        cpu = sum(gateway.cpu_times()[:2]) - before
    ordered = sorted(samples)
    return Row(
        path,
        connections,
        len(ordered),
        errors,
        round(len(ordered) / elapsed, 1),
        round(ordered[len(ordered) // 2] * 1e3, 3),
        round(ordered[int(len(ordered) * 0.99)] * 1e3, 3),
        round(cpu / len(ordered) * 1e6, 1) if path == "gateway" else 0.0,
    )


async def _run(state: Path, seconds: float) -> list[Row]:
    postgres, redis = EmbeddedPostgres(state / "pg"), EmbeddedRedis(state / "redis")
    url = await asyncio.to_thread(postgres.start)
    await asyncio.to_thread(redis.start)
    gateway: subprocess.Popen[bytes] | None = None
    try:
        await migrate(url, list(SERVICES))
        ensure_keys(state / "keys", SERVICES)
        loop = asyncio.get_running_loop()
        tiny = await loop.create_server(_Tiny, "127.0.0.1", 0)
        upstream = f"http://127.0.0.1:{tiny.sockets[0].getsockname()[1]}"
        port = _free_port()
        environment = {
            **os.environ,
            "STATE_DIR": str(state),
            "POSTGRES_URL": url,
            "REDIS_URL": redis.url,
            "GATEWAY_PORT": str(port),
            "LOG_FORMAT": "json",
            **{f"{name.upper()}_URL": upstream for name in SERVICES if name != "gateway"},
        }
        key_file = state / "demo-api-key"
        module = [sys.executable, "-m", "services.gateway"]
        await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "services.gateway.bootstrap", "--demo-key", str(key_file)],
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        with (state / "gateway.log").open("wb") as log:
            gateway = subprocess.Popen(  # noqa: ASYNC220 - starting is quick
                module, env=environment, stderr=log
            )
        base = f"http://127.0.0.1:{port}"
        await _ready(base)
        key, process = key_file.read_text().strip(), psutil.Process(gateway.pid)
        rows = []
        for connections in (1, 32):
            rows.append(await _measure(upstream, key, connections, seconds, process, "direct"))
            rows.append(await _measure(base, key, connections, seconds, process, "gateway"))
        return rows
    finally:
        if gateway:
            gateway.terminate()
            await asyncio.to_thread(gateway.wait)
        await asyncio.to_thread(redis.stop)
        await asyncio.to_thread(postgres.stop)


def _free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


async def _ready(base: str) -> None:
    async with asyncio.timeout(20), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(base + "/readyz") as reply:
                    if reply.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gh-") as state:
        rows = asyncio.run(_run(Path(state), options.seconds))
    print(f"{'path':8} {'conns':>5} {'req/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'cpu us':>8} errors")
    for row in rows:
        print(
            f"{row.path:8} {row.connections:5} {row.per_s:8.0f} {row.p50_ms:8.3f} "
            f"{row.p99_ms:8.3f} {row.gateway_cpu_us:8.1f} {row.errors}"
        )
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()

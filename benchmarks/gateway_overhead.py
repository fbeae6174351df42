"""What the gateway adds to one call: `python -m benchmarks.gateway_overhead [--seconds 2]`.

A tiny service answers 1 KB at once. The same client calls it directly, through nginx (if it is
installed), through a bare aiohttp proxy without any of the chain, and through the gateway (key,
limits in Redis, identity, metrics, log), in alternating rounds so that other load meets all alike.
Closed loop at several connection counts, then open loop: arrivals on a schedule, latency from the
intended time. Prints tables of medians over the rounds.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import uvloop

from benchmarks.raw_client import Load, closed_loop, open_loop, request_bytes
from deploy.local.servers import EmbeddedPostgres, EmbeddedRedis
from libs.common.catalog import SERVICES
from libs.common.identity import ensure_keys
from libs.common.migrations import migrate

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1024\r\n\r\n"
_ANSWER += b'"' + b"x" * 1022 + b'"'
_NGINX = """
worker_processes 1; daemon off; error_log stderr crit; pid {state}/nginx.pid;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_body_temp_path {state}/body; proxy_temp_path {state}/proxy;
  fastcgi_temp_path {state}/f; uwsgi_temp_path {state}/u; scgi_temp_path {state}/s;
  keepalive_requests 1000000;
  upstream tiny {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 1000000; }}
  server {{ listen 127.0.0.1:{port};
    location / {{ proxy_pass http://tiny; proxy_http_version 1.1;
                  proxy_set_header Connection ""; }} }}
}}
"""


class _Tiny(asyncio.Protocol):
    """Answers every request at once; knows just enough HTTP for these clients."""

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


@dataclass
class Way:
    """One way to the service."""

    name: str
    port: int
    process: psutil.Process | None


@dataclass
class Row:
    """One line of a table; medians over the rounds."""

    load: str
    path: str
    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    errors: int


def _free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _start(stack: ExitStack, command: list[str], environment: dict[str, str], log: Path) -> int:
    process = subprocess.Popen(command, env=environment, stderr=stack.enter_context(log.open("wb")))
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return process.pid


async def _ready(port: int, request: bytes) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                if (await closed_loop(port, request, 1, 0.01)).samples:
                    return
            except OSError:
                pass
            await asyncio.sleep(0.1)


def _paths(stack: ExitStack, state: Path, upstream: int, environment: dict[str, str]) -> list[Way]:
    """Start the proxies; they stop with the stack."""
    found = [Way("direct", upstream, None)]
    nginx = shutil.which("nginx")
    if nginx:
        port = _free_port()
        config = state / "nginx.conf"
        config.write_text(_NGINX.format(state=state, upstream=upstream, port=port))
        pid = _start(stack, [nginx, "-c", str(config)], environment, state / "nginx.log")
        found.append(Way("nginx", port, psutil.Process(pid)))
    port = _free_port()
    bare = [sys.executable, "-m", "benchmarks.bare_proxy", str(port), str(upstream)]
    pid = _start(stack, bare, environment, state / "bare.log")
    found.append(Way("bare aiohttp proxy", port, psutil.Process(pid)))
    port = _free_port()
    environment = {**environment, "GATEWAY_PORT": str(port)}
    pid = _start(
        stack, [sys.executable, "-m", "services.gateway"], environment, state / "gateway.log"
    )
    found.append(Way("gateway", port, psutil.Process(pid)))
    return found


def _cpu(path: Way) -> float:
    if path.process is None:
        return 0.0
    family = [path.process, *path.process.children()]
    return sum(sum(process.cpu_times()[:2]) for process in family)


async def _measure(
    paths: list[Way], key: str, seconds: float, rounds: int, loads: list[str]
) -> list[Row]:
    rows = []
    for load in loads:
        seen: dict[str, list[tuple[float, Load]]] = {path.name: [] for path in paths}
        for _ in range(rounds):
            for path in paths:
                request = request_bytes(path.port, key)
                before = _cpu(path)
                if load.endswith("/s"):
                    made = await open_loop(path.port, request, int(load[:-2]), seconds)
                else:
                    made = await closed_loop(path.port, request, int(load), seconds)
                seen[path.name].append((_cpu(path) - before, made))
        for path in paths:
            runs = seen[path.name]
            rows.append(
                Row(
                    load,
                    path.name,
                    round(statistics.median(made.per_s for _, made in runs)),
                    round(statistics.median(made.quantile_ms(0.5) for _, made in runs), 3),
                    round(statistics.median(made.quantile_ms(0.99) for _, made in runs), 3),
                    round(statistics.median(cpu / len(m.samples) * 1e6 for cpu, m in runs), 1),
                    sum(made.errors for _, made in runs),
                )
            )
    return rows


async def _run(state: Path, seconds: float, rounds: int, loads: list[str]) -> list[Row]:
    postgres, redis = EmbeddedPostgres(state / "pg"), EmbeddedRedis(state / "redis")
    url = await asyncio.to_thread(postgres.start)
    await asyncio.to_thread(redis.start)
    with ExitStack() as stack:
        stack.callback(postgres.stop)
        stack.callback(redis.stop)
        await migrate(url, list(SERVICES))
        ensure_keys(state / "keys", SERVICES)
        tiny = await asyncio.get_running_loop().create_server(_Tiny, "127.0.0.1", 0)
        upstream = tiny.sockets[0].getsockname()[1]
        environment = {
            **os.environ,
            "STATE_DIR": str(state),
            "POSTGRES_URL": url,
            "REDIS_URL": redis.url,
            "LOG_FORMAT": "json",
            **{
                f"{name.upper()}_URL": f"http://127.0.0.1:{upstream}"
                for name in SERVICES
                if name != "gateway"
            },
        }
        key_file = state / "demo-api-key"
        await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "services.gateway.bootstrap", "--demo-key", str(key_file)],
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        key = key_file.read_text().strip()
        paths = _paths(stack, state, upstream, environment)
        for path in paths:
            await _ready(path.port, request_bytes(path.port, key))
            await closed_loop(path.port, request_bytes(path.port, key), 16, 0.5)  # warm
        return await _measure(paths, key, seconds, rounds, loads)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--loads",
        default="1,16,64,512,1000,500/s",
        help="connections of a closed loop, or arrivals per second of an open one",
    )
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gh-") as state:
        rows = uvloop.run(
            _run(Path(state), options.seconds, options.rounds, options.loads.split(","))
        )
    print("| load | path | answers/s | p50 ms | p99 ms | CPU us per request | errors |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        cpu = row.cpu_us or "-"
        print(
            f"| {row.load} | {row.path} | {row.per_s:.0f} | {row.p50_ms:.3f} | {row.p99_ms:.3f} "
            f"| {cpu} | {row.errors} |"
        )
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()

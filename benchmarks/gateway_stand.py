"""What the gateway's benchmarks stand on: stores, a tiny service, gateways and other proxies.

Everything listens on loopback and stops with the stack that started it.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.raw_client import closed_loop, request_bytes
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
_LITELLM = """
general_settings:
  pass_through_endpoints:
    - path: "/score/fraud"
      target: "http://127.0.0.1:{upstream}/score/fraud"
      headers: {{content-type: "application/json"}}
"""


class _Tiny(asyncio.Protocol):
    """Answers every request at once; knows just enough HTTP for these clients."""

    def __init__(self, stand: "Stand") -> None:
        self._stand = stand

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
            self._stand.answered += 1
            self._transport.write(_ANSWER)  # type: ignore[attr-defined] # a socket transport


@dataclass
class Way:
    """One way to the service."""

    name: str
    port: int
    process: psutil.Process | None

    def cpu_s(self) -> float:
        """Seconds of CPU used so far, children included."""
        if self.process is None:
            return 0.0
        family = [self.process, *self.process.children()]
        return sum(sum(process.cpu_times()[:2]) for process in family)

    def memory_mib(self) -> float:
        """Resident memory."""
        return float(self.process.memory_info().rss) / 2**20 if self.process else 0.0


@dataclass
class Stand:
    """The stores and the service behind; starts ways to it."""

    state: Path
    stack: ExitStack
    upstream: int = 0
    answered: int = 0
    key: str = ""
    redis_url: str = ""
    store_pids: dict[str, int] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    def direct(self) -> Way:
        """Give the service itself."""
        return Way("direct", self.upstream, None)

    def nginx(self) -> Way | None:
        """Start nginx with one worker, if it is installed."""
        program = shutil.which("nginx")
        if program is None:
            return None
        port, config = free_port(), self.state / "nginx.conf"
        config.write_text(_NGINX.format(state=self.state, upstream=self.upstream, port=port))
        return Way("nginx", port, self._start([program, "-c", str(config)], "nginx"))

    def bare_proxy(self) -> Way:
        """Start a proxy of aiohttp alone."""
        port = free_port()
        command = [sys.executable, "-m", "benchmarks.bare_proxy", str(port), str(self.upstream)]
        return Way("bare aiohttp proxy", port, self._start(command, "bare"))

    def litellm(self, python: Path) -> Way | None:
        """Start LiteLLM's pass-through with one worker, if that environment has it."""
        program = python.with_name("litellm")
        if not program.exists():
            return None
        port, config = free_port(), self.state / "litellm.yaml"
        config.write_text(_LITELLM.format(upstream=self.upstream))
        # Its own table of models (it would fetch a newer one), and no authentication at all.
        more = {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        }
        command = [str(program), "--config", str(config), "--port", str(port),
                   "--host", "127.0.0.1", "--num_workers", "1"]  # fmt: skip
        return Way("LiteLLM pass-through", port, self._start(command, "litellm", more))

    def gateway(self, name: str = "gateway", *, folder: Path | None = None, **more: str) -> Way:
        """Start a gateway process; `folder` holds another revision of the code."""
        port = free_port()
        own = self.state / f"of-{port}"  # its write-ahead log; the pepper is the same for all
        shutil.copytree(self.state / "secrets", own / "secrets")
        more = {
            "GATEWAY_PORT": str(port),
            "STATE_DIR": str(own),
            "KEYS_DIR": str(self.state / "keys"),
            **more,
        }
        command = [sys.executable, "-m", "services.gateway"]
        return Way(name, port, self._start(command, f"{name}-{port}", more, folder))

    async def ready(self, way: Way, timeout_s: float = 30.0) -> None:
        """Wait until a way answers, then warm it."""
        request = request_bytes(way.port, self.key)
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    load = await closed_loop(way.port, request, 1, 0.01)
                    if load.samples and not load.errors:
                        break
                except OSError:
                    pass
                await asyncio.sleep(0.1)
        await closed_loop(way.port, request, 16, 0.5)

    def _start(
        self,
        command: list[str],
        name: str,
        more: dict[str, str] | None = None,
        folder: Path | None = None,
    ) -> psutil.Process:
        log = self.stack.enter_context((self.state / f"{name}.log").open("wb"))
        process = subprocess.Popen(
            command,
            env={**self.environment, **(more or {})},
            stdout=subprocess.DEVNULL,
            stderr=log,
            cwd=folder,
        )
        self.stack.callback(process.wait)
        self.stack.callback(process.terminate)
        return psutil.Process(process.pid)


def free_port() -> int:
    """Give a loopback port that was free just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@asynccontextmanager
async def stand(state: Path) -> AsyncIterator[Stand]:
    """Start stores and service; everything started on them stops with the block."""
    postgres, redis = EmbeddedPostgres(state / "pg"), EmbeddedRedis(state / "redis")
    url = await asyncio.to_thread(postgres.start)
    await asyncio.to_thread(redis.start)
    with ExitStack() as stack:
        stack.callback(postgres.stop)
        stack.callback(redis.stop)
        pids = {"postgres": postgres.pid or 0, "redis": redis.pid or 0}
        made = Stand(state, stack, redis_url=redis.url, store_pids=pids)
        await migrate(url, list(SERVICES))
        ensure_keys(state / "keys", SERVICES)
        loop = asyncio.get_running_loop()
        tiny = await loop.create_server(lambda: _Tiny(made), "127.0.0.1", 0, backlog=4096)
        made.upstream = tiny.sockets[0].getsockname()[1]
        made.environment = {
            **os.environ,
            "STATE_DIR": str(state),
            "POSTGRES_URL": url,
            "REDIS_URL": redis.url,
            "LOG_FORMAT": "json",
            **{
                f"{name.upper()}_URL": f"http://127.0.0.1:{made.upstream}"
                for name in SERVICES
                if name != "gateway"
            },
        }
        key_file = state / "demo-api-key"
        await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "services.gateway.bootstrap", "--demo-key", str(key_file)],
            env=made.environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        made.key = key_file.read_text().strip()
        yield made

"""A real audit process: `python -m services.audit` on a free port, with real identities."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from libs.common.events.envelope import Event
from libs.common.http_client import Reply, ServiceClient
from libs.common.identity import Signer

ROOT = Path(__file__).resolve().parents[3]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class AuditProcess:
    def __init__(self, state_dir: Path, postgres_url: str, port: int = 0) -> None:
        self.state_dir = state_dir
        self.port = port or free_port()
        self._environ = {
            **os.environ,
            "STATE_DIR": str(state_dir),
            "POSTGRES_URL": postgres_url,
            "AUDIT_PORT": str(self.port),
            "DRAIN_S": "0",
            "LOG_FORMAT": "json",
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "services.audit"], cwd=ROOT, env=self._environ
        )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            assert self._process.poll() is None, "audit ended while starting"
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=1) as reply:
                    if reply.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise AssertionError("audit did not become ready")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def stop(self) -> int:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(20)
        self._process = None
        return code

    def client(self, service: str) -> ServiceClient:
        signer = Signer.from_directory(service, self.state_dir / "keys")
        return ServiceClient("audit", self.url, signer)


def prediction(number: int, tenant: str = "default", **facts: object) -> Event:
    return Event(
        type="prediction.made",
        source="inference",
        event_class="standard",
        data={"model": "fraud", "decision": "approve", "score": 0.1, "index": number},
        tenant=tenant,
        principal="key:demo",
        **facts,  # type: ignore[arg-type] # names of Event's own fields
    )


async def deliver(client: ServiceClient, events: list[Event]) -> Reply:
    return await client.request(
        "POST",
        "/v1/audit/events:batch",
        json=[event.to_wire() for event in events],
        scopes=("audit:write",),
        timeout_s=20,
    )

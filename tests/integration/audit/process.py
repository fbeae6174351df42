"""A real audit process: `python -m services.audit` on a free port, with real identities."""

import asyncio
import base64
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path

from deploy.local.ports import free_port
from libs.common.events.envelope import Event
from libs.common.http_client import Reply, ServiceClient
from libs.common.identity import Signer
from libs.common.transparency.note import COSIGNATURE, VerifierKey
from services.witness.settings import DEFAULT_NAME

ROOT = Path(__file__).resolve().parents[3]


class _Process:
    """`python -m MODULE` on a port of its own; killed or stopped by its id."""

    module = ""

    def __init__(self, state_dir: Path, port: int, environ: dict[str, str]) -> None:
        self.state_dir = state_dir
        self.port = port or free_port()
        self._environ = {**os.environ, "STATE_DIR": str(state_dir), **environ}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", self.module], cwd=ROOT, env=self._environ
        )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            assert self._process.poll() is None, f"{self.module} ended while starting"
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=1) as reply:
                    if reply.status == 200:
                        return
            except urllib.error.HTTPError as error:
                error.close()
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.05)
        raise AssertionError(f"{self.module} did not become ready")

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

    def memory_mib(self) -> float:
        assert self._process is not None
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


class AuditProcess(_Process):
    module = "services.audit"

    def __init__(self, state_dir: Path, postgres_url: str, port: int = 0, **environ: str) -> None:
        port = port or free_port()
        own = {
            "POSTGRES_URL": postgres_url,
            "AUDIT_PORT": str(port),
            "DRAIN_S": "0",
            "LOG_FORMAT": "json",
        }
        super().__init__(state_dir, port, {**own, **environ})

    def client(self, service: str) -> ServiceClient:
        signer = Signer.from_directory(service, self.state_dir / "keys")
        return ServiceClient("audit", self.url, signer)


class GuardrailsProcess(_Process):
    module = "services.guardrails"

    def __init__(self, state_dir: Path, postgres_url: str, redis_url: str) -> None:
        port = free_port()
        own = {
            "POSTGRES_URL": postgres_url,
            "REDIS_URL": redis_url,
            "GUARDRAILS_PORT": str(port),
            "DRAIN_S": "0",
            "LOG_FORMAT": "json",
        }
        super().__init__(state_dir, port, own)


class WitnessProcess(_Process):
    module = "services.witness"

    def __init__(self, state_dir: Path) -> None:
        port = free_port()
        super().__init__(state_dir, port, {"WITNESS_PORT": str(port)})

    @property
    def verifier(self) -> VerifierKey:
        text = (self.state_dir / "keys" / "witness.pub").read_text().strip()
        public = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        return VerifierKey.of(DEFAULT_NAME, public, COSIGNATURE)


async def until(holds: Callable[[], Awaitable[bool]], seconds: float = 15) -> None:
    """Poll a claim until it holds."""
    deadline = time.monotonic() + seconds
    while not await holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.03)


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

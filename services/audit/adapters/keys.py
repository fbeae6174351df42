"""The log's own keys, outside of PostgreSQL: signing key, key-encryption key, index key."""

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.audit.domain.note import VerifierKey


@dataclass(frozen=True, slots=True)
class LogKeys:
    """Secrets of one log; never in the database, never in a message."""

    signing: Ed25519PrivateKey
    verifier: VerifierKey
    kek: bytes
    kek_id: str
    index: bytes

    @classmethod
    def open(cls, directory: Path, origin: str) -> "LogKeys":
        """Read the keys, making the missing ones with mode 0600.

        Raises:
            OSError: the directory cannot be used.
        """
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        signing = Ed25519PrivateKey.from_private_bytes(_secret(directory / "log.key"))
        public = signing.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return cls(
            signing=signing,
            verifier=VerifierKey.of(origin, public),
            kek=_secret(directory / "kek-1.key"),
            kek_id="kek-1",
            index=_secret(directory / "index.key"),
        )


def _secret(path: Path) -> bytes:
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(32))
            file.flush()
            os.fsync(file.fileno())
    return path.read_bytes()

"""The log's own keys, outside of PostgreSQL: signing key, key-encryption key, index key."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from libs.common.transparency.note import VerifierKey


@dataclass(frozen=True, slots=True)
class KekRing:
    """The key-encryption keys of one moment; `current` wraps, all of them unwrap."""

    current: str
    ciphers: Mapping[str, AESGCM]

    def is_destroyed(self, name: str) -> bool:
        """Say whether a rotation destroyed this key; a key that merely is missing is an error."""
        return name not in self.ciphers and _number(name) < _number(self.current)


class KeyEncryptionKeys:
    """The files `kek-<n>.key`. Read again for each use: another replica may have rotated."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        if not self._names():
            _secret(self._path("kek-1"))

    def ring(self) -> KekRing:
        """Read the keys that exist now."""
        names = self._names()
        return KekRing(names[-1], {name: AESGCM(self._path(name).read_bytes()) for name in names})

    def add(self) -> None:
        """Make the next key, which is the current one from then on."""
        _secret(self._path(f"kek-{_number(self._names()[-1]) + 1}"))

    def destroy_old(self) -> None:
        """Delete every key but the current one."""
        for name in self._names()[:-1]:
            self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.key"

    def _names(self) -> list[str]:
        return sorted((path.stem for path in self._directory.glob("kek-*.key")), key=_number)


def _number(name: str) -> int:
    return int(name.removeprefix("kek-"))


@dataclass(frozen=True, slots=True)
class LogKeys:
    """Secrets of one log; never in the database, never in a message."""

    signing: Ed25519PrivateKey
    verifier: VerifierKey
    keks: KeyEncryptionKeys
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
        verifier = VerifierKey.of(origin, public)
        # Public: what the witness and every verifier need.
        (directory / "log.vkey").write_text(f"{verifier}\n")
        return cls(
            signing=signing,
            verifier=verifier,
            keks=KeyEncryptionKeys(directory),
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

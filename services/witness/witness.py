"""The witness itself: known logs, own key, one decision at a time."""

import base64
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from libs.common.transparency.crypto import verify_ed25519
from libs.common.transparency.note import COSIGNATURE, Checkpoint, VerifierKey, cosign
from services.witness.domain import RefusalError, Request, judge, origin_of
from services.witness.settings import WitnessSettings
from services.witness.store import Store, origin_hash


class Witness:
    """Cosigns checkpoints; calls must not overlap, which the one event loop sees to."""

    def __init__(
        self,
        key: Ed25519PrivateKey,
        name: str,
        store: Store,
        logs_file: Path,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.verifier = VerifierKey.of(name, public, COSIGNATURE)
        self._key = key
        self._store = store
        self._logs_file = logs_file
        self._now = now

    @classmethod
    def open(cls, settings: WitnessSettings) -> "Witness":
        """Open key and state.

        Raises:
            OSError: the key is missing or the directory cannot be used.
        """
        text = settings.key_file.read_text().strip()
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        key = Ed25519PrivateKey.from_private_bytes(raw)
        return cls(key, settings.name, Store(settings.state), settings.logs_file)

    def logs(self) -> dict[str, VerifierKey]:
        """Give the keys of the watched logs by origin; read again for each use."""
        try:
            lines = self._logs_file.read_text().split("\n")
        except OSError:
            return {}
        keys = [VerifierKey.parse(line) for line in lines if line.strip()]
        return {key.name: key for key in keys}

    def add(self, body: bytes) -> str:
        """Judge, remember, then cosign; give the signature line.

        Raises:
            RefusalError: with the protocol's status.
            OSError: the decision could not be made durable; nothing was signed.
        """
        request = Request.parse(body)
        origin = origin_of(request.note)
        key = self.logs().get(origin)
        if key is None:
            raise RefusalError(404, "unknown origin\n")
        digest = origin_hash(origin)
        kept = self._store.read(digest)
        last = Checkpoint.parse(kept) if kept is not None else None
        checkpoint = judge(request, key, last, verify_ed25519)
        line = cosign(checkpoint.text(), self.verifier, int(self._now()), self._key.sign)
        self._store.write(digest, request.note.rstrip("\n") + "\n" + line)
        return line

    def latest(self, digest: str) -> str | None:
        """Give the last cosigned checkpoint by the origin's hash."""
        return self._store.read(digest)

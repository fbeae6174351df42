"""Asks the witness to cosign a checkpoint (C2SP tlog-witness, add-checkpoint)."""

import base64

from libs.common.errors import ServiceError
from libs.common.http_client import Reply, ServiceClient
from libs.common.logging import get_logger
from libs.common.transparency.crypto import verify_ed25519
from libs.common.transparency.note import Checkpoint, VerifierKey, open_note
from libs.common.transparency.tree import VerificationError, consistency_ranges
from services.audit.adapters.log_reader import LogReader

log = get_logger()

TIMEOUT_S = 0.5
_ATTEMPTS = 3


class WitnessClient:
    """Remembers what the witness cosigned last, so that one call is enough."""

    def __init__(self, client: ServiceClient, reader: LogReader, key: VerifierKey) -> None:
        self.key = key
        self._client = client
        self._reader = reader
        self._size = 0
        self._is_answering = True

    async def cosign(self, note: str, checkpoint: Checkpoint) -> str | None:
        """Give the note with the cosignature, or None when the witness does not answer in time.

        Raises:
            VerificationError: the witness has cosigned what this log does not extend.
        """
        for _ in range(_ATTEMPTS):
            try:
                reply = await self._ask(note, checkpoint)
            except ServiceError as error:
                self._note_answer(None, error.detail)
                return None
            if reply.status == 409:
                known = int(reply.body)
                if known > checkpoint.size:
                    await self._compare(known)
                    return None
                self._size = known
                continue
            if reply.status == 422:
                raise VerificationError("the witness refuses the proof", index=self._size)
            if reply.status != 200:
                break
            signed = note + reply.body.decode()
            _, signers = open_note(signed, [self.key], verify_ed25519)
            self._size = checkpoint.size
            self._note_answer(signers[0], "")
            return signed
        self._note_answer(None, f"status {reply.status}")
        return None

    async def _ask(self, note: str, checkpoint: Checkpoint) -> Reply:
        old = min(self._size, checkpoint.size)
        hashes = await self._reader.proof(consistency_ranges(old, checkpoint.size)) if old else []
        lines = [f"old {old}", *(base64.b64encode(item).decode() for item in hashes)]
        body = "\n".join(lines) + "\n\n" + note
        return await self._client.request(
            "POST",
            "/add-checkpoint",
            body=body.encode(),
            content_type="text/plain",
            timeout_s=TIMEOUT_S,
        )

    async def _compare(self, known: int) -> None:
        """A larger size is another replica's newer checkpoint, or the log shrank below us."""
        size = (await self._reader.state()).size
        if size < known:
            raise VerificationError(
                "the witness has cosigned a larger log", expected=known, found=size, index=size
            )

    def _note_answer(self, signer: str | None, reason: str) -> None:
        if self._is_answering != (signer is not None):
            self._is_answering = signer is not None
            state = "up" if signer else "down"
            log.warning("dependency changed", dependency="witness", state=state, reason=reason)

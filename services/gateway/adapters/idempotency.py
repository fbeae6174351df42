"""Answers kept for 24 h under their Idempotency-Key, so that a repeated POST creates nothing twice.

A stored answer may show a secret once more to whoever holds the same credential and body, so it is
sealed under a key derived from the pepper.
"""

import hashlib
import secrets
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from libs.common.context import Caller
from libs.common.errors import BadRequestError
from libs.common.postgres import Postgres
from services.gateway.errors import IdempotencyError

_NONCE_BYTES = 12
# A request that began this long ago and left no answer died with its process.
_ABANDONED_S = 60.0
_KEPT_HOURS = 24


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """What the first request was answered."""

    status: int
    media_type: str
    body: bytes


def parse_key(value: str) -> str:
    """Give the key out of the header: a quoted string (draft-07), or bare.

    Raises:
        BadRequestError: empty, longer than 255, or not printable ASCII.
    """
    key = value.strip()
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():
        raise BadRequestError("Idempotency-Key has 1 to 255 printable ASCII characters.")
    return key


class IdempotentAnswers:
    """Begins, finishes and replays requests that create."""

    def __init__(self, postgres: Postgres, pepper: bytes) -> None:
        self._postgres = postgres
        self._seal = AESGCM(HKDF(SHA256(), 32, None, b"gatehouse idempotency").derive(pepper))

    async def begin(self, caller: Caller, route: str, key: str, body: bytes) -> StoredAnswer | None:
        """Claim a key; None means: go on, and call `finish` or `give_up`.

        Raises:
            IdempotencyError: the key is in progress, or belongs to another body.
        """
        row_id = (caller.tenant, caller.principal, route, key)
        digest = hashlib.sha256(body).digest()
        claimed = await self._postgres.fetchval(
            "INSERT INTO idempotent_answers (tenant, principal, route, key, body_sha) "
            "VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant, principal, route, key) DO UPDATE "
            "SET created_at = now(), body_sha = $5, status = NULL, body = NULL "
            "WHERE idempotent_answers.created_at < now() - make_interval(hours => $6) "
            "OR (idempotent_answers.status IS NULL AND idempotent_answers.body_sha = $5 "
            "AND idempotent_answers.created_at < now() - make_interval(secs => $7)) "
            "RETURNING true",
            *row_id,
            digest,
            _KEPT_HOURS,
            _ABANDONED_S,
        )
        if claimed:
            return None
        row = await self._postgres.fetchrow(
            "SELECT body_sha, status, media_type, body FROM idempotent_answers "
            "WHERE tenant = $1 AND principal = $2 AND route = $3 AND key = $4",
            *row_id,
        )
        if row is None or (row["status"] is None and bytes(row["body_sha"]) == digest):
            raise IdempotencyError("A request with this Idempotency-Key is being served.")
        if bytes(row["body_sha"]) != digest:
            raise IdempotencyError(
                "This Idempotency-Key was used with another body.", is_mismatch=True
            )
        sealed = bytes(row["body"])
        body = self._seal.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _context(row_id))
        return StoredAnswer(row["status"], row["media_type"], body)

    async def finish(self, caller: Caller, route: str, key: str, answer: StoredAnswer) -> None:
        """Keep the answer of a claimed key."""
        row_id = (caller.tenant, caller.principal, route, key)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        await self._postgres.execute(
            "UPDATE idempotent_answers SET status = $5, media_type = $6, body = $7 "
            "WHERE tenant = $1 AND principal = $2 AND route = $3 AND key = $4",
            *row_id,
            answer.status,
            answer.media_type,
            nonce + self._seal.encrypt(nonce, answer.body, _context(row_id)),
        )

    async def give_up(self, caller: Caller, route: str, key: str) -> None:
        """Free a claimed key after a failure on our side: the caller may try again."""
        await self._postgres.execute(
            "DELETE FROM idempotent_answers "
            "WHERE tenant = $1 AND principal = $2 AND route = $3 AND key = $4 AND status IS NULL",
            caller.tenant,
            caller.principal,
            route,
            key,
        )

    async def sweep(self) -> None:
        """Delete what is older than a day."""
        await self._postgres.execute(
            "DELETE FROM idempotent_answers WHERE created_at < now() - make_interval(hours => $1)",
            _KEPT_HOURS,
        )


def _context(row_id: tuple[Any, ...]) -> bytes:
    return "\0".join(row_id).encode()

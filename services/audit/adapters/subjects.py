"""Crypto-shredding: personal fields are sealed under a key per data subject, before hashing.

AES-256-GCM, fresh nonce, AAD = event id and field path. The data key is wrapped by a key outside of
PostgreSQL. The log carries a random pseudonym. While key or salt lives the data is still
pseudonymous personal data (EDPB 02/2025).
"""

import base64
import hmac
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.audit.adapters.keys import KekRing, KeyEncryptionKeys, LogKeys
from services.audit.domain.events import Accepted

ERASED = "erased"
# Principals are keys and services, not people's data; data subjects are never cached.
_ACTORS_MAX = 4096


@dataclass(frozen=True, slots=True)
class Subject:
    """A data subject's pseudonym and data key; no key after erasure."""

    pseudonym: str
    dek: bytes | None


class SubjectKeys:
    """Reads and makes subject keys inside the append's transaction."""

    def __init__(self, keys: LogKeys) -> None:
        self._keys = keys
        self._actors: dict[tuple[str, str], str] = {}

    def hmac_of(self, tenant: str, subject: str) -> bytes:
        """Give the lookup value of a data subject; useless without the index key."""
        return hmac.digest(self._keys.index, orjson.dumps(["subject", tenant, subject]), "sha256")

    def actor_of(self, tenant: str, principal: str) -> str:
        """Give the pseudonym under which a principal can be searched."""
        known = self._actors.get((tenant, principal))
        if known is None:
            message = orjson.dumps(["actor", tenant, principal])
            known = hmac.digest(self._keys.index, message, "sha256")[:16].hex()
            if len(self._actors) >= _ACTORS_MAX:
                self._actors.clear()
            self._actors[tenant, principal] = known
        return known

    @staticmethod
    def new_pseudonym() -> str:
        """Give a random name for a data subject."""
        return os.urandom(16).hex()

    async def known(
        self, connection: Any, events: Iterable[Accepted]
    ) -> dict[tuple[str, str], Subject]:
        """Give the living subjects of a batch that the log has met, by (tenant, data subject).

        It needs no lock: a key that is destroyed meanwhile leaves nothing that opens what was
        sealed under it. Whoever is new, erased or being wrapped anew is left to `load`.
        """
        wanted = self._wanted(events)
        rows = await self._rows(connection, wanted)
        ring = self._keys.keks.ring()
        return {
            wanted[bytes(row["subject_hmac"])]: _subject(row, ring)
            for row in rows
            if row["wrapped_dek"] is not None and row["kek_id"] in ring.ciphers
        }

    async def load(
        self, connection: Any, events: Iterable[Accepted]
    ) -> dict[tuple[str, str], Subject]:
        """Give the subjects of a batch inside of the append's transaction, making missing keys."""
        wanted = self._wanted(events)
        if not wanted:
            return {}
        rows = await self._rows(connection, wanted)
        ring = self._keys.keks.ring()
        found = {wanted[bytes(row["subject_hmac"])]: _subject(row, ring) for row in rows}
        missing = [(key, who) for key, who in wanted.items() if who not in found]
        records = []
        for key, who in missing:
            subject = Subject(self.new_pseudonym(), AESGCM.generate_key(256))
            found[who] = subject
            records.append((key, who[0], subject.pseudonym, _wrap(subject, ring), ring.current))
        if records:
            await connection.copy_records_to_table(
                "subject_key",
                records=records,
                columns=("subject_hmac", "tenant", "pseudonym", "wrapped_dek", "kek_id"),
            )
        return found

    def _wanted(self, events: Iterable[Accepted]) -> dict[bytes, tuple[str, str]]:
        return {
            self.hmac_of(event.tenant, event.data_subject): (event.tenant, event.data_subject)
            for event in events
            if event.data_subject is not None
        }

    @staticmethod
    async def _rows(connection: Any, wanted: Iterable[bytes]) -> Any:
        return await connection.fetch(
            "SELECT subject_hmac, pseudonym, wrapped_dek, kek_id FROM subject_key "
            "WHERE subject_hmac = ANY($1)",
            list(wanted),
        )

    async def by_pseudonym(self, connection: Any, pseudonym: str) -> Subject:
        """Give the subject that the log knows under a pseudonym; without a key once erased."""
        row = await connection.fetchrow(
            "SELECT pseudonym, wrapped_dek, kek_id FROM subject_key WHERE pseudonym = $1",
            pseudonym,
        )
        return _subject(row, self._keys.keks.ring())

    async def rewrap(self, connection: Any) -> int:
        """Wrap every living key under a new key-encryption key; give how many there are.

        The caller holds the sequencer's lock and destroys the old key after COMMIT.
        """
        rows = await connection.fetch(
            "SELECT pseudonym, wrapped_dek, kek_id FROM subject_key "
            "WHERE wrapped_dek IS NOT NULL FOR UPDATE"  # an erasure waits, it is never undone
        )
        self._keys.keks.add()
        ring = self._keys.keks.ring()
        found = [_subject(row, ring) for row in rows]
        subjects = [subject for subject in found if subject.dek is not None]
        await connection.execute(
            "UPDATE subject_key k SET wrapped_dek = n.wrapped, kek_id = $3 "
            "FROM unnest($1::text[], $2::bytea[]) AS n (pseudonym, wrapped) "
            "WHERE k.pseudonym = n.pseudonym",
            [subject.pseudonym for subject in subjects],
            [_wrap(subject, ring) for subject in subjects],
            ring.current,
        )
        return len(subjects)

    @property
    def keks(self) -> KeyEncryptionKeys:
        """The keys that wrap."""
        return self._keys.keks


def _wrap(subject: Subject, ring: KekRing) -> bytes:
    nonce = os.urandom(12)
    assert subject.dek is not None
    cipher = ring.ciphers[ring.current]
    return nonce + cipher.encrypt(nonce, subject.dek, subject.pseudonym.encode())


def _subject(row: Any, ring: KekRing) -> Subject:
    pseudonym, wrapped = row["pseudonym"], row["wrapped_dek"]
    # A row restored from a backup must not undo an erasure, nor stop the log.
    if wrapped is None or ring.is_destroyed(row["kek_id"]):
        return Subject(pseudonym, None)
    cipher = ring.ciphers[row["kek_id"]]
    return Subject(pseudonym, cipher.decrypt(wrapped[:12], wrapped[12:], pseudonym.encode()))


def stored_body(event: Accepted, subject: Subject | None) -> bytes:
    """Give the bytes that are stored and hashed: personal fields sealed, or replaced if erased."""
    personal = event.personal
    if subject is None and not personal:
        return event.encoded
    document = dict(event.document)
    cipher = AESGCM(subject.dek) if subject and subject.dek else None
    if subject is not None:
        document["data_subject"] = {
            "pseudonym": subject.pseudonym,
            "sealed": _seal(cipher, event.id, "/data_subject", event.data_subject),
        }
    if personal:
        data = dict(document["data"])
        for name in sorted(personal):
            # Without a data subject there is no key to destroy, so the value is not kept at all.
            data[name] = (
                {"sealed": _seal(cipher, event.id, f"/data/{name}", data[name])}
                if subject
                else ERASED
            )
        document["data"] = data
    return orjson.dumps(document)


def _seal(cipher: AESGCM | None, event_id: str, path: str, value: object) -> str:
    if cipher is None:
        return ERASED
    nonce = os.urandom(12)
    sealed = cipher.encrypt(nonce, orjson.dumps(value), f"{event_id}{path}".encode())
    return base64.b64encode(nonce + sealed).decode()


def unsealed(document: Mapping[str, Any], subject: Subject) -> dict[str, Any]:
    """Give a stored document with its personal fields readable, or `erased`.

    Raises:
        cryptography.exceptions.InvalidTag: a field was moved from elsewhere, or altered.
    """
    shown, event_id = dict(document), str(document["id"])
    sealed = document["data_subject"]["sealed"]
    shown["data_subject"] = _open(subject, event_id, "/data_subject", sealed)
    shown["data"] = {
        name: _open(subject, event_id, f"/data/{name}", value["sealed"])
        if isinstance(value, dict) and value.keys() == {"sealed"}
        else value
        for name, value in document["data"].items()
    }
    return shown


def _open(subject: Subject, event_id: str, path: str, sealed: str) -> Any:
    if subject.dek is None or sealed == ERASED:
        return ERASED
    data = base64.b64decode(sealed)
    plain = AESGCM(subject.dek).decrypt(data[:12], data[12:], f"{event_id}{path}".encode())
    return orjson.loads(plain)

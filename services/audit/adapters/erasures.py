"""Erasure of a data subject: its key is destroyed; leaves, tiles and proofs stay as they are.

The row remains as a tombstone, so that late events of the subject are sealed under nothing. Dead
row versions and backups still hold the wrapped key until the key-encryption key is rotated.
"""

from dataclasses import dataclass

from libs.common.events.envelope import EventEmitter, event_for_request
from libs.common.postgres import Postgres
from services.audit.adapters.sequencer import LOCK_LOG
from services.audit.adapters.subjects import SubjectKeys


@dataclass(frozen=True, slots=True)
class Erasure:
    """What was done: the pseudonym that the log keeps, and how many events carry it."""

    pseudonym: str
    events: int
    was_erased_now: bool


class Erasures:
    """Destroys subject keys and puts that on record."""

    def __init__(self, postgres: Postgres, subjects: SubjectKeys, events: EventEmitter) -> None:
        self._postgres = postgres
        self._subjects = subjects
        self._events = events

    async def erase(self, tenant: str, data_subject: str) -> Erasure:
        """Erase a data subject of a tenant; repeating it changes and records nothing.

        The record is durable before the key is gone for good: the event is appended inside of the
        transaction that destroys the key.

        Raises:
            UnavailableError: database or event log do not answer; nothing was erased.
        """
        key = self._subjects.hmac_of(tenant, data_subject)
        async with self._postgres.transaction() as connection:
            row = await connection.fetchrow(
                "INSERT INTO subject_key (subject_hmac, tenant, pseudonym, kek_id, erased_at) "
                "VALUES ($1, $2, $3, '', now()) ON CONFLICT (subject_hmac) "
                "DO UPDATE SET tenant = excluded.tenant "
                "RETURNING pseudonym, wrapped_dek IS NOT NULL AS has_key, xmax = 0 AS is_new",
                key,
                tenant,
                self._subjects.new_pseudonym(),
            )
            pseudonym, is_now = row["pseudonym"], row["has_key"] or row["is_new"]
            count = await connection.fetchval(
                "SELECT count(*) FROM search_row WHERE tenant = $1 AND subject = $2",
                tenant,
                pseudonym,
            )
            if is_now:
                await connection.execute(
                    "UPDATE subject_key SET wrapped_dek = NULL, kek_id = '', erased_at = now() "
                    "WHERE subject_hmac = $1",
                    key,
                )
                await self._events.emit(
                    event_for_request(
                        "data_subject.erased",
                        "audit",
                        "required",
                        {"pseudonym": pseudonym, "counts": {"events": count}},
                    )
                )
        if is_now:
            await self._postgres.execute("VACUUM subject_key")
        return Erasure(pseudonym, count, is_now)

    async def rotate(self) -> tuple[str, int]:
        """Re-wrap the living keys under a new key and destroy the old one.

        After it, dead row versions, write-ahead log and backups of the database hold nothing that
        opens an erased subject's fields.

        Returns:
            Name of the new key-encryption key, and how many subject keys live.

        Raises:
            UnavailableError: nothing was destroyed; a new key without rows may lie in the folder.
        """
        keks = self._subjects.keks
        async with self._postgres.transaction() as connection:
            await connection.execute(LOCK_LOG)
            previous = keks.ring().current
            count = await self._subjects.rewrap(connection)
            current = keks.ring().current
            facts = {"from": previous, "to": current, "count": count}
            await self._events.emit(event_for_request("kek.rotated", "audit", "required", facts))
        keks.destroy_old()
        return current, count

"""Signs and publishes checkpoints: at most one per second, whenever the log grew.

Before signing, the new size is proven consistent with the last signed one: a log that was rolled
back or rewritten below us is never signed again: appending stops, status and readiness say so. The
witness gets half a second; without its answer the checkpoint is published unwitnessed and asked for
again.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import asyncpg

from libs.common.errors import UnavailableError
from libs.common.health import Health
from libs.common.logging import get_logger
from libs.common.postgres import Postgres
from libs.common.transparency.leaf import rfc3339
from libs.common.transparency.note import Checkpoint, sign_note
from libs.common.transparency.tree import VerificationError, consistency_ranges, verify_consistency
from services.audit.adapters.keys import LogKeys
from services.audit.adapters.log_reader import LogReader, State
from services.audit.adapters.witness import WitnessClient

log = get_logger()

INTERVAL_S = 1.0


class Checkpointer:
    """Publishes the signed tree head; several replicas may run one each."""

    def __init__(
        self,
        postgres: Postgres,
        reader: LogReader,
        keys: LogKeys,
        health: Health,
        *,
        witness: WitnessClient | None = None,
        on_fork: Callable[[], None] = lambda: None,
    ) -> None:
        self._postgres = postgres
        self._reader = reader
        self._keys = keys
        self._health = health
        self._on_fork = on_fork
        self.witness = witness
        self.is_forked = False
        # Monotonic seconds at which the newest checkpoint, and its cosignature, covered all.
        self.covered_at = self.cosigned_at = time.monotonic()

    async def run(self) -> None:
        """Publish every second until cancelled."""
        while True:
            try:
                await self.publish()
            except VerificationError as error:
                self._stop(error)
            except (UnavailableError, asyncpg.PostgresError) as error:
                log.warning("checkpoint not published", error_type=type(error).__name__)
            await asyncio.sleep(INTERVAL_S)

    async def publish(self) -> str:
        """Sign the present tree if it grew; give the latest note.

        Raises:
            VerificationError: the tree does not extend the last signed one.
        """
        started = time.monotonic()
        state = await self._reader.state()
        last = await self.latest()
        if last is not None and last["size"] == state.size and last["root"] == state.root:
            self.covered_at = started
            if last["witnessed_at"] is not None:
                self.cosigned_at = started
            return await self._witness_late(last)
        if last is not None:
            await self._prove(last, state)
        checkpoint = Checkpoint(self._keys.verifier.name, state.size, state.root)
        note = sign_note(checkpoint.text(), self._keys.verifier, self._keys.signing.sign)
        cosigned = await self.witness.cosign(note, checkpoint) if self.witness else None
        await self._postgres.execute(
            "INSERT INTO checkpoint (size, root, note, witnessed_at) "
            "VALUES ($1, $2, $3, CASE WHEN $4 THEN now() END) ON CONFLICT DO NOTHING",
            state.size,
            state.root,
            cosigned or note,
            cosigned is not None,
        )
        self.covered_at = started
        if cosigned is not None:
            self.cosigned_at = started
        return cosigned or note

    async def _witness_late(self, last: Any) -> str:
        """Ask again for a checkpoint that was published without a cosignature."""
        note = str(last["note"])
        if self.witness is None or last["witnessed_at"] is not None:
            return note
        checkpoint = Checkpoint(self._keys.verifier.name, last["size"], bytes(last["root"]))
        cosigned = await self.witness.cosign(note, checkpoint)
        if cosigned is None:
            return note
        await self._postgres.execute(
            "UPDATE checkpoint SET note = $2, witnessed_at = now() "
            "WHERE size = $1 AND witnessed_at IS NULL",
            last["size"],
            cosigned,
        )
        return cosigned

    async def latest(self) -> Any:
        """Give the newest published checkpoint's row or None."""
        return await self._postgres.fetchrow(
            "SELECT size, root, note, published_at, witnessed_at FROM checkpoint "
            "ORDER BY size DESC LIMIT 1"
        )

    async def earlier(self, *, size: int | None, before: datetime) -> Any:
        """Give the checkpoint of a size, or the newest published before a moment; None without."""
        return await self._postgres.fetchrow(
            "SELECT size, root, note FROM checkpoint WHERE size > 0 AND "
            "CASE WHEN $1::bigint IS NULL THEN published_at < $2 ELSE size = $1 END "
            "ORDER BY size DESC LIMIT 1",
            size,
            before,
        )

    async def unwitnessed(self) -> dict[str, Any] | None:
        """Give the open span: from which size on, and since when, nothing is cosigned."""
        row = await self._postgres.fetchrow(
            "SELECT min(size) AS size, min(published_at) AS since FROM checkpoint WHERE size > "
            "coalesce((SELECT max(size) FROM checkpoint WHERE witnessed_at IS NOT NULL), -1)"
        )
        if row["since"] is None:
            return None
        return {"from_size": row["size"], "since": rfc3339(row["since"])}

    async def _prove(self, last: Any, state: State) -> None:
        old_size, old_root = last["size"], bytes(last["root"])
        if old_size == 0:
            return
        if state.size < old_size:
            raise VerificationError("the log shrank", expected=old_size, found=state.size)
        proof = await self._reader.proof(consistency_ranges(old_size, state.size))
        verify_consistency(old_size, state.size, old_root, state.root, proof)

    def _stop(self, error: VerificationError) -> None:
        if not self.is_forked:
            self.is_forked = True
            self._on_fork()
            self._health.block("checkpoint", "the log does not extend its last signed checkpoint")
            log.error("log is not consistent", reason=str(error), index=error.index)

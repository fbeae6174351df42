"""Signs and publishes checkpoints: at most one per second, whenever the log grew.

Before signing, the new size is proven consistent with the last signed one: a log that was rolled
back or rewritten below us is never signed again. The failure is loud: status and readiness say so.
"""

import asyncio
from typing import Any

import asyncpg

from libs.common.errors import UnavailableError
from libs.common.health import Health
from libs.common.logging import get_logger
from libs.common.postgres import Postgres
from libs.common.transparency.note import Checkpoint, sign_note
from libs.common.transparency.tree import VerificationError, consistency_ranges, verify_consistency
from services.audit.adapters.keys import LogKeys
from services.audit.adapters.log_reader import LogReader, State

log = get_logger()

INTERVAL_S = 1.0


class Checkpointer:
    """Publishes the signed tree head; several replicas may run one each."""

    def __init__(
        self, postgres: Postgres, reader: LogReader, keys: LogKeys, origin: str, health: Health
    ) -> None:
        self._postgres = postgres
        self._reader = reader
        self._keys = keys
        self._origin = origin
        self._health = health
        self.is_forked = False

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
        state = await self._reader.state()
        last = await self.latest()
        if last is not None and last["size"] == state.size and last["root"] == state.root:
            return str(last["note"])
        if last is not None:
            await self._prove(last, state)
        text = Checkpoint(self._origin, state.size, state.root).text()
        note = sign_note(text, self._keys.verifier, self._keys.signing.sign)
        await self._postgres.execute(
            "INSERT INTO checkpoint (size, root, note) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            state.size,
            state.root,
            note,
        )
        return note

    async def latest(self) -> Any:
        """Give the newest published checkpoint's row (size, root, note, published_at) or None."""
        return await self._postgres.fetchrow(
            "SELECT size, root, note, published_at FROM checkpoint ORDER BY size DESC LIMIT 1"
        )

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
            self._health.block("checkpoint", "the log does not extend its last signed checkpoint")
            log.error("log is not consistent", reason=str(error), index=error.index)

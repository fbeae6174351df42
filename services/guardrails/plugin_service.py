"""Keeps the serving plug-in versions as the database has them, in every process."""

import asyncio

from libs.common.errors import ServiceError, UnavailableError
from libs.common.events.envelope import EventEmitter, event_for_request
from libs.common.logging import get_logger
from libs.common.postgres import Postgres
from services.guardrails.adapters.plugins import PluginRegistry, PluginValidator

log = get_logger()
_SYNC_EVERY_S = 5.0


class PluginService:
    """Activation with memory: what an operator activated serves after a restart too."""

    def __init__(
        self, registry: PluginRegistry, postgres: Postgres | None, events: EventEmitter
    ) -> None:
        """Build.

        Args:
            registry: runs the versions.
            postgres: remembers them; None forgets at the end of the process.
            events: told of versions that were disabled.
        """
        self.registry = registry
        self._postgres = postgres
        self._events = events
        self._telling: set[asyncio.Task[None]] = set()
        self._refused: set[tuple[str, str]] = set()

    async def activate(self, name: str, version: str) -> PluginValidator:
        """Swap a version in and remember it.

        Raises:
            ServiceError: as `PluginRegistry.activate`, or the database is down; nothing changed.
        """
        validator = await self.registry.activate(name, version)
        if self._postgres is not None:
            await self._postgres.execute(
                "INSERT INTO plugins (name, version) VALUES ($1, $2) "
                "ON CONFLICT (name) DO UPDATE SET version = $2, activated_at = now()",
                name,
                version,
            )
        return validator

    async def follow(self) -> None:
        """Bring this process to what the database says, now and every few seconds."""
        while True:
            await self.synchronize()
            await asyncio.sleep(_SYNC_EVERY_S)

    async def synchronize(self) -> None:
        """Activate what is remembered and does not serve here; one that fails is tried once."""
        if self._postgres is None:
            return
        try:
            rows = await self._postgres.fetch("SELECT name, version FROM plugins")
        except UnavailableError:
            return
        for row in rows:
            own = self.registry.serving().get(row["name"])
            wanted = (row["name"], row["version"])
            if own is not None and own.version.startswith(f"{row['version']}+"):
                continue
            if wanted in self._refused:
                continue
            try:
                await self.registry.activate(*wanted)
            except ServiceError as error:
                self._refused.add(wanted)
                log.error("plug-in not started", validator=row["name"], code=error.problem_code)

    def disabled(self, name: str, version: str) -> None:
        """Record that a version crashed too often."""
        event = event_for_request(
            "validator.changed",
            "guardrails",
            "required",
            {
                "what": "disabled",
                "validator": name,
                "version": version,
                "reason": "three crashes within a minute",
            },
        )
        task = asyncio.ensure_future(self._events.emit(event))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

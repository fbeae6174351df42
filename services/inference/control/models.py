"""Lifecycle of models: what an operator may ask for, and how a replica follows it.

A wish is checked here first (a version is loaded and proven before anybody is told to serve it),
then written with compare-and-set, then carried out by every replica that reads it. Postgres down:
what serves goes on serving, wishes are refused with 503.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from libs.common.errors import ConflictError, InvalidInputError, UnavailableError
from libs.common.events.envelope import Event, EventEmitter
from libs.common.logging import get_logger
from services.inference.adapters.repository import EVICTED, Key, ModelRepository
from services.inference.control.system_events import actor, system_event
from services.inference.domain.control import (
    STABLE,
    ControlStore,
    ModelRecord,
    RolloutSums,
    wanted_of,
)
from services.inference.domain.lifecycle import VersionState, VersionStatus
from services.inference.errors import VersionBrokenError
from services.inference.metrics import InferenceMetrics

log = get_logger()

_ALIASES_MAX = 20
_DRIFT_EVERY_S = 15.0


class ModelControl:
    """Carries out wishes about models; one per process."""

    def __init__(
        self,
        repository: ModelRepository,
        store: ControlStore | None,
        sums: RolloutSums | None,
        events: EventEmitter,
        metrics: InferenceMetrics,
        *,
        keep: Callable[[dict[str, int]], None] | None = None,
    ) -> None:
        self._keep = keep
        self.repository = repository
        self.records: dict[str, ModelRecord] = {}
        self._store = store
        self._sums = sums
        self._events = events
        self._metrics = metrics
        self._applied: dict[str, int] = {}
        self._written = 0
        self.publish_drift: Callable[[], None] = lambda: None
        self.drift_events: Callable[[], list[Event]] = list
        self._drift_at = 0.0
        self._told: dict[Key, tuple[VersionState, str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._wanted: set[str] = set()

    @property
    def has_store(self) -> bool:
        """Whether there are records to follow."""
        return self._store is not None

    @property
    def store(self) -> ControlStore:
        """The store of records; UnavailableError when this process has no database."""
        if self._store is None:
            raise UnavailableError("No database is configured.", hint="Set POSTGRES_URL.")
        return self._store

    async def record(self, name: str) -> ModelRecord:
        """Give the present record of a known model; UnknownModelError when it is not known."""
        self.repository.versions(name)
        return await self.store.model(name)

    async def load(self, name: str, version: int, expected: int | None) -> ModelRecord:
        """Ask for a version to be loaded and stand by; the load goes on after the answer.

        Raises:
            UnknownModelError, ConflictError.
        """
        self.repository.status(name, version)
        record = await self._read(name, expected)
        if version != record.stable and version not in record.standby:
            standby = (*record.standby, version)
            record = await self._write(replace(record, standby=standby))
            await self._tell("load", name, version=version)
        self._start(self._carry_out(record))
        return record

    async def unload(self, name: str, version: int, expected: int | None) -> ModelRecord:
        """Ask for a version to leave memory.

        Raises:
            ConflictError: it serves, or a rollout or an ensemble holds it.
        """
        self.repository.status(name, version)
        record = await self._read(name, expected)
        if version in {self.repository.serving_version(name), record.stable}:
            raise ConflictError("This version serves.", hint="Promote another one first.")
        if self.repository.is_held((name, version)):
            raise ConflictError("A rollout or an ensemble needs this version.")
        standby = tuple(kept for kept in record.standby if kept != version)
        record = await self._write(replace(record, standby=standby))
        await self._carry_out(record)
        await asyncio.to_thread(self.repository.unload, name, version)
        await self._tell("unload", name, version=version)
        return record

    async def bring(self, name: str) -> None:
        """Let a model serve that may be new on disk or withdrawn; returns when it is ready or not.

        What serves goes on serving while a rollout or an ensemble holds it or an operator chose it;
        else the newest version that passes its checks takes over. Without a database the wish holds
        for this process.

        Raises:
            UnknownModelError.
        """
        await asyncio.to_thread(self.repository.scan)
        self.repository.versions(name)
        record = await self._present(name)
        if record.withdrawn:
            record = await self._keep_wish(replace(record, withdrawn=False))
        self._follow(record)
        before = self.repository.serving_version(name)
        is_chosen = before is not None and (
            before == record.stable or self.repository.is_held((name, before))
        )
        if not is_chosen:
            await asyncio.to_thread(self.repository.load_newest, name)
        await self._carry_out(record)
        await self._tell("load", name, version=self.repository.serving_version(name), before=before)

    async def withdraw(self, name: str) -> None:
        """Take all versions of a model out of service, on every replica, until it is asked for.

        Without a database the wish holds for this process.

        Raises:
            UnknownModelError.
            ConflictError: a rollout or an ensemble needs a version.
        """
        self.repository.versions(name)
        before = self.repository.serving_version(name)
        if any(self.repository.is_held((name, v)) for v in self.repository.loaded_versions(name)):
            raise ConflictError("A rollout or an ensemble needs a version of this model.")
        record = await self._present(name)
        record = await self._keep_wish(replace(record, standby=(), withdrawn=True))
        await self._carry_out(record)
        await self._tell("unload", name, before=before)

    async def promote(
        self, name: str, version: int, expected: int | None, *, what: str = "promote"
    ) -> ModelRecord:
        """Let a version serve: load, prove, write, switch, drain the one before.

        Raises:
            VersionBrokenError: it does not pass its checks; the old one serves on.
            ConflictError: somebody else changed the model meanwhile.
        """
        self.repository.status(name, version)
        record = await self._read(name, expected)
        await self.prepare(name, version)
        before = record.stable or self.repository.serving_version(name)
        previous = before if before != version else record.previous
        standby = tuple(kept for kept in record.standby if kept != version)
        changed = replace(
            record, stable=version, previous=previous, standby=standby, withdrawn=False
        )
        record = await self._write(changed)
        await self._carry_out(record)
        await self._tell(what, name, version=version, before=before)
        return record

    async def rollback(self, name: str, expected: int | None) -> ModelRecord:
        """Promote the version that served before; ConflictError when none did."""
        record = await self._read(name, expected)
        if record.previous is None:
            raise ConflictError("No version served before.", hint="Promote one by its number.")
        return await self.promote(name, record.previous, record.generation, what="rollback")

    async def alias(self, name: str, alias: str, version: int, expected: int | None) -> ModelRecord:
        """Point an alias at a version; `stable` promotes it.

        Raises:
            UnknownModelError: it would point nowhere.
        """
        if alias == STABLE:
            return await self.promote(name, version, expected)
        self.repository.status(name, version)
        record = await self._read(name, expected)
        if alias not in record.aliases and len(record.aliases) >= _ALIASES_MAX:
            raise InvalidInputError.field("/alias", f"a model has at most {_ALIASES_MAX} aliases")
        before = record.aliases.get(alias)
        record = await self._write(replace(record, aliases={**record.aliases, alias: version}))
        self._follow(record)
        await self._tell(f"alias {alias}", name, version=version, before=before)
        return record

    async def reload(self, name: str) -> None:
        """Look for new versions on disk, and try again what failed and is wanted."""
        await asyncio.to_thread(self.repository.scan)
        self.repository.versions(name)
        record = self.records.get(name, ModelRecord(name))
        if self.repository.serving_version(name) is None:
            await asyncio.to_thread(self.repository.load_newest, name)
        await self._carry_out(record)
        await self._tell("reload", name)

    async def prepare(self, name: str, version: int) -> None:
        """Load and prove a version without letting it serve.

        Raises:
            VersionBrokenError: it does not pass; its reason is in /models as well.
        """
        if not await asyncio.to_thread(partial(self.repository.load, serve=False), name, version):
            status = self.repository.status(name, version)
            await self._tell("load", name, version=version, reason=status.reason)
            raise VersionBrokenError(
                f"Version {version} of {name} cannot serve: {status.reason}",
                hint="The version that serves is untouched.",
            )

    def want(self, name: str) -> None:
        """Load an evicted model again, in the background; called when a call misses it."""
        if name in self._wanted or name not in self.repository.names():
            return
        if all(item.reason != EVICTED for item in self.repository.versions(name)):
            return
        self._wanted.add(name)
        self._start(self._load_again(name))

    async def follow(self) -> None:
        """Read all records and carry out what is new; UnavailableError when the store is down."""
        written = -1
        while written != self._written:  # what was written here meanwhile is newer than the read
            written = self._written
            found = await self.store.models()
        for record in found:
            if self._applied.get(record.name, 0) != record.generation:
                await self._carry_out(record)

    async def reprove(self, every_s: float) -> None:
        """Run the golden cases again of versions whose last proof is older than `every_s`."""
        now = time.monotonic()
        for item in self.repository.residents():
            status = self.repository.status(item.name, item.version)
            if now - status.proven_at < every_s:
                continue
            if not await asyncio.to_thread(self.repository.reprove, item.name, item.version):
                await self._tell("golden", item.name, version=item.version, reason=status.reason)
                self._metrics.errors.labels("golden_cases", "", item.name, str(item.version)).inc()

    async def tick(self) -> None:
        """Close what has drained and show the states as metrics."""
        await asyncio.to_thread(self.repository.sweep)
        self.publish()
        if time.monotonic() - self._drift_at >= _DRIFT_EVERY_S:
            self._drift_at = time.monotonic()
            await asyncio.to_thread(self.publish_drift)
            events = await asyncio.to_thread(self.drift_events)
            if events:
                await self._events.emit(*events)

    def publish(self) -> None:
        """Bring the gauges up to the present states; gone states are 0."""
        for name in self.repository.names():
            for status in self.repository.versions(name):
                key, found = (name, status.version), (status.state, status.loaded_at)
                if self._told.get(key) == found:
                    continue
                self._told[key] = found
                version = str(status.version)
                for state in VersionState:
                    is_it = float(state is status.state)
                    self._metrics.model_state.labels(name, version, state.value).set(is_it)
                is_ready = status.state is VersionState.READY
                held = status.memory_bytes if is_ready else 0
                self._metrics.model_memory.labels(name, version).set(held)
                if is_ready:
                    self._metrics.model_load.labels(name, version).set(status.load_s)

    async def tell_failures(self, statuses: Iterable[tuple[str, VersionStatus]]) -> None:
        """Emit an event for each version that failed to load at start."""
        for name, status in statuses:
            if status.state is VersionState.FAILED:
                await self._tell("load", name, version=status.version, reason=status.reason)

    async def close(self) -> None:
        """Wait for loads that are under way."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5.0)

    async def _read(self, name: str, expected: int | None) -> ModelRecord:
        record = await self.store.model(name)
        if expected is not None and expected != record.generation:
            raise ConflictError(
                f"The model {name} is at generation {record.generation}.", hint="Read it again."
            )
        return record

    async def _present(self, name: str) -> ModelRecord:
        """Give the record of the store, or of this process where there is no store."""
        if self._store is None:
            return self.records.get(name, ModelRecord(name))
        return await self._store.model(name)

    async def _keep_wish(self, record: ModelRecord) -> ModelRecord:
        return record if self._store is None else await self._write(record)

    async def _write(self, record: ModelRecord) -> ModelRecord:
        written = await self.store.put_model(record, record.generation)
        self._written += 1
        if self._sums is not None:
            await self._sums.notify()
        return written

    async def _carry_out(self, record: ModelRecord) -> None:
        """Bring this replica to a record; a version that fails leaves the old one serving."""
        name, before = record.name, self.records.get(record.name)
        self._follow(record)
        known = await asyncio.to_thread(self.repository.scan)
        if name not in known:
            return
        if record.withdrawn:
            await self._withdraw(name)
        elif record.stable not in {None, self.repository.serving_version(name)}:
            await self._serve(name, record.stable or 0)
        elif before is not None and before.withdrawn:
            await asyncio.to_thread(self.repository.load_newest, name)
        for version in record.standby:
            if version not in self.repository.loaded_versions(name):
                await asyncio.to_thread(partial(self.repository.load, serve=False), name, version)
        for version in self.repository.loaded_versions(name):
            is_wanted = version in {self.repository.serving_version(name), *record.standby}
            if not is_wanted and not self.repository.is_held((name, version)):
                await asyncio.to_thread(self.repository.unload, name, version)

    async def _withdraw(self, name: str) -> None:
        serving = self.repository.serving_version(name)
        if serving is not None:
            await asyncio.to_thread(self.repository.unload, name, serving)

    async def _serve(self, name: str, version: int) -> None:
        if not await asyncio.to_thread(self.repository.load, name, version):
            reason = self.repository.status(name, version).reason
            await self._tell("load", name, version=version, reason=reason)

    def _follow(self, record: ModelRecord) -> None:
        self.records[record.name] = record
        self._applied[record.name] = record.generation
        wanted = wanted_of(self.records.values())
        if wanted != self.repository.wanted:
            self.repository.wanted = wanted
            if self._keep is not None:
                self._keep(wanted)

    async def _load_again(self, name: str) -> None:
        try:
            await asyncio.to_thread(self.repository.load_newest, name)
        finally:
            self._wanted.discard(name)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(
        self,
        what: str,
        name: str,
        *,
        version: int | None = None,
        before: int | None = None,
        reason: str = "",
    ) -> None:
        """Show the states and emit model.changed, with the caller as actor if there is one."""
        self.publish()
        data: dict[str, object] = {"what": what, "model": name, "by": actor()}
        if version is not None:
            data["version"] = data["to"] = str(version)
            manifest = self.repository.manifest(name, version)
            if manifest is not None:
                data["release"] = manifest.release
        if before is not None:
            data["from"] = str(before)
        if reason:
            data["reason"] = reason
        await self._events.emit(system_event("model.changed", data))

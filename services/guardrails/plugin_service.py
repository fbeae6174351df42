"""Keeps the serving plug-in versions as the database has them, in every process."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

from libs.common.errors import ConflictError, NotFoundError, ServiceError, UnavailableError
from libs.common.events.envelope import Event, EventEmitter, event_for_request
from libs.common.ids import uuid7
from libs.common.logging import get_logger
from libs.common.postgres import Postgres
from libs.common.rollouts import Decision, Plan
from services.guardrails.adapters.plugins import PluginRegistry, Served
from services.guardrails.adapters.rule_sets import PostgresRuleSets, RuleSetVersion
from services.guardrails.adapters.trial_store import PostgresTrials, StoredTrial
from services.guardrails.domain.ports import Validator
from services.guardrails.domain.trial import Trial

log = get_logger()
_SYNC_EVERY_S = 5.0
# While a trial runs its sums are exchanged this often.
_EXCHANGE_EVERY_S = 1.0


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
        self._rule_sets = PostgresRuleSets(postgres) if postgres is not None else None
        self._trials = PostgresTrials(postgres) if postgres is not None else None
        self._events = events
        self._wake = asyncio.Event()
        self._telling: set[asyncio.Task[None]] = set()
        self._refused: set[tuple[str, str]] = set()

    async def upload(self, version: RuleSetVersion, by: str) -> bool:
        """Store a rule set that compiles; say whether it is new.

        Raises:
            ConflictError: the name is taken, or the version exists with other rules.
            UnavailableError: there is no database, or it is down.
        """
        if not self.registry.is_free(version.name):
            raise ConflictError("The name is taken.")
        is_new = await self._stored().add(version, by)
        self.registry.learn(version)
        return is_new

    async def rule_set(self, tenant: str, name: str, version: str) -> RuleSetVersion:
        """Give a rule set of the tenant.

        Raises:
            NotFoundError: there is none.
        """
        return await self._stored().get(tenant, name, version)

    async def learn(self) -> None:
        """Read the rule sets that other processes stored."""
        if self._rule_sets is None:
            return
        known = {(item.name, item.version) for item in self.registry.rule_sets()}
        for item in await self._rule_sets.unknown(known):
            self.registry.learn(item)

    def _stored(self) -> PostgresRuleSets:
        if self._rule_sets is None:
            raise UnavailableError("Rule sets need a database.", hint="Set POSTGRES_URL.")
        return self._rule_sets

    def check_owner(self, tenant: str, name: str) -> None:
        """Refuse names of another tenant.

        Raises:
            NotFoundError: the rule set is another tenant's.
        """
        if self.registry.owner(name) not in {None, tenant}:
            raise NotFoundError("No such plug-in version.")

    async def activate(self, name: str, version: str) -> Served:
        """Swap a version in and remember it.

        Raises:
            ServiceError: as `PluginRegistry.activate`, or the database is down; nothing changed.
        """
        validator = await self.registry.activate(name, version)
        await self._remember(name, version)
        return validator

    async def follow(self) -> None:
        """Bring this process to what the database says, now and every few seconds."""
        while True:
            await self.synchronize()
            self._wake.clear()
            pause_s = _EXCHANGE_EVERY_S if self.registry.trials() else _SYNC_EVERY_S
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()

    async def synchronize(self) -> None:
        """Activate what is remembered and does not serve here; one that fails is tried once."""
        if self._postgres is None:
            return
        try:
            await self.learn()
            rows = await self._postgres.fetch("SELECT name, version FROM plugins")
        except UnavailableError:
            return
        for row in rows:
            if row["name"] in self.registry.trials():
                continue
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
        await self._synchronize_trials({row["name"]: row["version"] for row in rows})

    async def _synchronize_trials(self, serving: Mapping[str, str]) -> None:
        """Exchange sums with the other processes; join trials they started, end those they ended.

        Args:
            serving: the version of each plug-in that the database says serves.
        """
        assert self._trials is not None  # as `synchronize` checked
        try:
            for name, trial in self.registry.trials().items():
                await self._exchange(trial, serving.get(name))
            for stored in await self._trials.running():
                await self._join(stored)
        except UnavailableError:
            return

    async def _exchange(self, trial: Trial, serves: str | None) -> None:
        assert self._trials is not None  # as above
        increments = trial.take()
        try:
            found = await self._trials.exchange(trial.id, increments, trial.stage)
        except UnavailableError:
            trial.give_back(increments)
            raise
        if found is None:
            # Another process ended it, and recorded that; the database says how.
            is_promoted = trial.candidate.version.partition("+")[0] == serves
            self.registry.finish(trial.name, promote=is_promoted)
            return
        trial.absorb(found.counts or {}, stage=found.stage, elapsed_s=found.elapsed_s)

    async def _join(self, stored: StoredTrial) -> None:
        wanted = (stored.name, stored.candidate)
        if stored.name in self.registry.trials() or wanted in self._refused:
            return
        try:
            trial = await self.registry.try_out(*wanted, self._maker(stored.id, stored.plan))
        except NotFoundError:
            return  # the serving version is not here yet
        except ServiceError as error:
            self._refused.add(wanted)
            log.error("trial not joined", validator=stored.name, code=error.problem_code)
            return
        trial.absorb(stored.counts or {}, stage=stored.stage, elapsed_s=stored.elapsed_s)

    async def try_out(self, name: str, version: str, plan: Plan) -> Trial:
        """Start a trial; its end is recorded whoever ends it.

        Raises:
            ServiceError: as `PluginRegistry.try_out`, or the database is down; nothing changed.
        """
        trial_id = uuid7()
        trial = await self.registry.try_out(name, version, self._maker(trial_id, plan))
        try:
            is_new = await self._remember_trial(StoredTrial(name, trial_id, plan, version))
        except ServiceError:
            self.registry.finish(name, promote=False)
            raise
        if not is_new:
            self.registry.finish(name, promote=False)
            raise ConflictError("A version of this plug-in is on trial.", hint="End it first.")
        self._wake.set()
        self._tell(_changed(trial, "started", {}))
        return trial

    def _maker(self, trial_id: str, plan: Plan) -> Callable[[Validator, Validator], Trial]:
        def make(stable: Validator, candidate: Validator) -> Trial:
            return Trial(trial_id, plan, stable, candidate, on_verdict=self._decided)

        return make

    async def _remember_trial(self, stored: StoredTrial) -> bool:
        return self._trials is None or await self._trials.add(stored)

    async def _forget_trial(self, trial: Trial) -> bool:
        """Say whether this process is the one that ends the trial, and thus records it."""
        return self._trials is None or await self._trials.remove(trial.id)

    async def finish(self, name: str, *, promote: bool, by: str) -> Trial:
        """End a trial by hand.

        Raises:
            NotFoundError: no trial of this validator runs.
            ServiceError: the database is down; the trial goes on.
        """
        trial = self.registry.trials().get(name)
        if trial is None:
            raise NotFoundError("No trial of this plug-in runs.")
        if promote:
            await self._remember(name, trial.candidate.version.partition("+")[0])
        is_ours = await self._forget_trial(trial)
        self.registry.finish(name, promote=promote)
        if is_ours:
            self._tell(_changed(trial, "promoted" if promote else "rolled_back", {"by": by}))
        return trial

    def _decided(self, trial: Trial, decision: Decision) -> None:
        """Act on the judge's verdict; routing has changed already."""
        evidence = {signal.value: round(value, 3) for signal, value in decision.evidence.items()}
        reason = decision.signal.value if decision.signal else None
        event = _changed(trial, decision.verdict.value, {"evidence": evidence, "reason": reason})
        if not trial.ended:
            self._tell(event)
            return
        if trial.ended == "rolled_back":
            self.registry.finish(trial.name, promote=False)
        self._run(self._end(trial, event))

    async def _end(self, trial: Trial, event: Event) -> None:
        """Record the end that the judge decided on; one process does, the others find it done."""
        try:
            if trial.ended == "promoted":
                await self._remember(trial.name, trial.candidate.version.partition("+")[0])
            is_ours = await self._forget_trial(trial)
        except ServiceError as error:
            # The row stays: another process, or this one after a restart, judges the same sums.
            log.error("end of a trial not kept", validator=trial.name, code=error.problem_code)
            is_ours = True
        if trial.ended == "promoted":
            self.registry.finish(trial.name, promote=True)
        if is_ours:
            await self._events.emit(event)

    async def _remember(self, name: str, version: str) -> None:
        if self._postgres is not None:
            await self._postgres.execute(
                "INSERT INTO plugins (name, version) VALUES ($1, $2) "
                "ON CONFLICT (name) DO UPDATE SET version = $2, activated_at = now()",
                name,
                version,
            )

    def _tell(self, event: Event) -> None:
        self._run(self._events.emit(event))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def close(self) -> None:
        """Deliver the sums of trials, finish what is being recorded, stop every version."""
        if self._trials is not None:
            with suppress(UnavailableError):
                for trial in self.registry.trials().values():
                    await self._trials.exchange(trial.id, trial.take(), trial.stage)
        await asyncio.gather(*self._telling, return_exceptions=True)
        await self.registry.close()

    def disabled(self, name: str, version: str) -> None:
        """Record that a version crashed too often."""
        self._tell(
            event_for_request(
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
        )


def _changed(trial: Trial, what: str, fields: dict[str, Any]) -> Event:
    data = {
        "what": what,
        "rollout": trial.id,
        "model": trial.name,
        "step": trial.stage,
        "from": trial.stable.version,
        "to": trial.candidate.version,
    }
    return event_for_request("rollout.changed", "guardrails", "required", {**data, **fields})

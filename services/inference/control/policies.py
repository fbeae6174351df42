"""Decision policies of tenants: what answers decide by, and how a change reaches every replica.

Postgres down: every replica goes on deciding by what it read last; one that starts meanwhile reads
the copy it wrote to its state directory, so a tenant's stricter thresholds do not vanish with the
database. Changes are refused with 503 then.
"""

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from libs.common.context import current
from libs.common.errors import ConflictError, ServiceError, UnavailableError
from libs.common.events.envelope import EventEmitter
from libs.common.logging import get_logger
from services.inference.control.system_events import actor, system_event
from services.inference.domain.model import TabularModel
from services.inference.domain.policy import MODEL_POLICY, Deciding, DecisionPolicy, PolicyStore
from services.inference.domain.scoring import RiskBands

log = get_logger()


class PolicyControl:
    """Knows the newest policy of each tenant and model; one per process."""

    def __init__(
        self,
        store: PolicyStore | None,
        events: EventEmitter,
        *,
        review_amount: float,
        copy: Path | None = None,
    ) -> None:
        self._store = store
        self._events = events
        self._review_amount = review_amount
        self._copy = copy
        self._is_up = True
        self._policies: dict[tuple[str, str], DecisionPolicy] = {}

    def deciding(self, model: TabularModel) -> Deciding:
        """Give what decides for the caller's tenant: its own policy, else the model's."""
        assert model.bands is not None, "a fraud model is not loaded without its bands"
        caller = current().caller
        policy = self._policies.get((caller.tenant if caller else "", model.name))
        if policy is None:
            return Deciding(model.bands, self._review_amount, MODEL_POLICY)
        amount = self._review_amount if policy.review_amount is None else policy.review_amount
        if policy.bands is None:
            return Deciding(model.bands, amount, f"{MODEL_POLICY}, tenant version {policy.version}")
        return Deciding(policy.bands, amount, f"tenant version {policy.version}")

    def present(self, tenant: str, model: str) -> DecisionPolicy | None:
        """Give the policy that this replica decides by, None without one."""
        return self._policies.get((tenant, model))

    async def history(self, tenant: str, model: str) -> Sequence[DecisionPolicy]:
        """Give all versions, newest first; UnavailableError when the store is down."""
        return await self._needed().history(tenant, model)

    async def change(
        self,
        model: str,
        bands: RiskBands | None,
        review_amount: float | None,
        *,
        reason: str,
        expected: int | None,
    ) -> DecisionPolicy:
        """Add the next version of the caller's tenant; it decides here at once.

        Args:
            model: whose scores it judges.
            bands: thresholds, None gives the decision back to the model's own.
            review_amount: see `DecisionPolicy`.
            reason: for the audit log.
            expected: version that the change was decided on, None takes the present one.

        Raises:
            ConflictError: the policy has another version by now.
            UnavailableError: the database does not answer; nothing changed.
        """
        store, caller = self._needed(), current().caller
        tenant = caller.tenant if caller else ""
        versions = await store.history(tenant, model)
        before = versions[0] if versions else None
        number = before.version if before else 0
        if expected is not None and expected != number:
            raise ConflictError(f"The policy is at version {number}.", hint="Read it again.")
        now = datetime.now(UTC)
        added = await store.add(
            DecisionPolicy(tenant, model, number + 1, bands, review_amount, reason, actor(), now)
        )
        self._keep([*self._others(tenant, model), added])
        data: dict[str, object] = {
            "what": f"decision policy of {model}",
            "policy": model,
            "version": str(added.version),
            "from": before.to_json() if before else None,
            "to": added.to_json(),
            "by": actor(),
            "reason": reason,
        }
        await self._events.emit(system_event("policy.changed", data))
        return added

    async def follow(self) -> None:
        """Read what all tenants decide by; UnavailableError when the store is down."""
        if self._store is not None:
            self._keep(await self._store.current())

    async def run(self, every_s: float) -> None:
        """Follow the store until cancelled; what is known stays while it is down."""
        while True:
            try:
                await self.follow()
                self._note(is_up=True)
            except ServiceError as error:
                self._note(is_up=False, reason=error.problem_code)
            except Exception:  # a defect in one round must not end the loop
                log.exception("reading the decision policies failed")
            await asyncio.sleep(every_s)

    def recall(self) -> None:
        """Take the copy of the last run, for a start without the database."""
        if self._copy is None:
            return
        with suppress(OSError, ValueError, KeyError, TypeError):
            self._policies = {
                (item["tenant"], item["model"]): _from_copy(item)
                for item in json.loads(self._copy.read_text(encoding="utf-8"))
            }

    def _keep(self, policies: Sequence[DecisionPolicy]) -> None:
        found = {(item.tenant, item.model): item for item in policies}
        if found == self._policies:
            return
        self._policies = found
        if self._copy is not None:
            self._copy.parent.mkdir(parents=True, exist_ok=True)
            part = self._copy.with_suffix(".part")
            part.write_text(json.dumps([_to_copy(item) for item in policies]), encoding="utf-8")
            part.replace(self._copy)

    def _others(self, tenant: str, model: str) -> list[DecisionPolicy]:
        return [item for key, item in self._policies.items() if key != (tenant, model)]

    def _needed(self) -> PolicyStore:
        if self._store is None:
            raise UnavailableError("No database is configured.", hint="Set POSTGRES_URL.")
        return self._store

    def _note(self, *, is_up: bool, reason: str = "") -> None:
        """Log a change of state once."""
        if is_up != self._is_up:
            self._is_up = is_up
            log.warning("following the policies", state="up" if is_up else "down", reason=reason)


def _to_copy(policy: DecisionPolicy) -> dict[str, Any]:
    return {
        "tenant": policy.tenant,
        "model": policy.model,
        "version": policy.version,
        "document": policy.to_json(),
        "reason": policy.reason,
        "changed_by": policy.changed_by,
        "changed_at": policy.changed_at.isoformat(),
    }


def _from_copy(item: dict[str, Any]) -> DecisionPolicy:
    bands, review_amount = DecisionPolicy.read(item["document"])
    return DecisionPolicy(
        item["tenant"],
        item["model"],
        int(item["version"]),
        bands,
        review_amount,
        item["reason"],
        item["changed_by"],
        datetime.fromisoformat(item["changed_at"]),
    )

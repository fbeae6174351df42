"""Reads the organisation's floor policy and raises every resolved policy to it."""

from pathlib import Path

import orjson
from pydantic import ValidationError

from libs.common.settings import SettingsError
from services.guardrails.domain.floor import raised
from services.guardrails.domain.policy import Policy, PolicyBody
from services.guardrails.domain.ports import PolicySource


def read_floor(path: Path) -> PolicyBody:
    """Read the floor.

    Raises:
        SettingsError: no such file, or it is no policy body.
    """
    try:
        return PolicyBody.model_validate(orjson.loads(path.read_bytes()))
    except (OSError, orjson.JSONDecodeError, ValidationError) as error:
        raise SettingsError(
            f"guardrails: the floor policy cannot be read ({type(error).__name__}); "
            "GUARDRAILS_FLOOR must name a JSON file with a policy body"
        ) from None


class FlooredPolicies:
    """Implements `PolicySource` over another source; the floor never changes while it runs."""

    def __init__(self, source: PolicySource, floor: PolicyBody | None) -> None:
        self.source = source
        self._floor = floor
        self._raised: dict[int, tuple[Policy, Policy]] = {}

    async def resolve(self, tenant: str, reference: str | None) -> Policy:
        """Give the policy, raised; a policy object is raised once."""
        policy = await self.source.resolve(tenant, reference)
        if self._floor is None:
            return policy
        known = self._raised.get(id(policy))
        if known is None or known[0] is not policy:
            if len(self._raised) >= 10_000:
                self._raised.clear()
            known = self._raised[id(policy)] = (policy, raised(policy, self._floor))
        return known[1]

    def epoch(self, tenant: str) -> int | None:
        """Give the epoch of the source."""
        return self.source.epoch(tenant)

    async def refresh(self, tenant: str, *, forced: bool) -> None:
        """Refresh the source."""
        await self.source.refresh(tenant, forced=forced)

    async def bump(self, tenant: str) -> int:
        """Raise the epoch of the source."""
        return await self.source.bump(tenant)

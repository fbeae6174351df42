"""Policies of a service without a database: the built-in one only."""

from libs.common.errors import NotFoundError
from services.guardrails.domain.policy import DEFAULT_POLICY, Policy


class BuiltinPolicies:
    """Implements the port `PolicySource` with the built-in policy `default`."""

    async def resolve(self, tenant: str, reference: str | None) -> Policy:
        """Give the built-in policy.

        Raises:
            NotFoundError: another policy is asked for.
        """
        if reference in {None, "default", "default@1"}:
            return DEFAULT_POLICY
        raise NotFoundError("No such policy.", hint="Policies need a database: set POSTGRES_URL.")

    def epoch(self, tenant: str) -> int | None:
        """Nothing ever changes."""
        return 0

    async def refresh(self, tenant: str, *, forced: bool) -> None:
        """Nothing to read."""

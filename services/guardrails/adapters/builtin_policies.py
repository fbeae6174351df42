"""Policies of a service without a database: the built-in ones only."""

from libs.common.errors import NotFoundError, UnavailableError
from services.guardrails.domain.policy import Policy, builtin


class BuiltinPolicies:
    """Implements the port `PolicySource` with the built-in policies."""

    async def resolve(self, tenant: str, reference: str | None) -> Policy:
        """Give a built-in policy.

        Raises:
            NotFoundError: another policy is asked for.
        """
        if policy := builtin(reference or "default"):
            return policy
        raise NotFoundError("No such policy.", hint="Policies need a database: set POSTGRES_URL.")

    def epoch(self, tenant: str) -> int | None:
        """Nothing ever changes."""
        return 0

    async def refresh(self, tenant: str, *, forced: bool) -> None:
        """Nothing to read."""

    async def bump(self, tenant: str) -> int:
        """Refuse: an epoch that is not stored would be forgotten."""
        raise UnavailableError("Cached verdicts need a database.", hint="Set POSTGRES_URL.")

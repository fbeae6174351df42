"""What the gateway knows of a tenant: its limits and what happens to its texts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from services.gateway.domain.limits import Policy

GuardMode = Literal["off", "shadow", "enforce"]


@dataclass(frozen=True, slots=True)
class GuardRule:
    """Whether texts are checked, and under which policy; without one the tenant's active policy."""

    mode: GuardMode = "off"
    policy: str | None = None
    version: int | None = None

    @property
    def reference(self) -> str | None:
        """The policy as guardrails names it: `id`, `id@version`, or None."""
        if self.policy and self.version:
            return f"{self.policy}@{self.version}"
        return self.policy


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant row; `requests` is the shared quota of all its keys, if there is one."""

    tenant: str
    name: str
    guard: GuardRule = field(default_factory=GuardRule)
    requests: Policy | None = None
    erasure_contact: str = ""
    generation: int = 1


def tenant_of(
    row: Mapping[str, Any], guard: Mapping[str, Any], limits: Mapping[str, Any]
) -> Tenant:
    """Build a tenant from its row and the two parsed documents in it."""
    quota = limits.get("requests_max")
    window = limits.get("window_s") or 60
    return Tenant(
        tenant=row["tenant"],
        name=row["name"],
        guard=GuardRule(guard.get("mode", "off"), guard.get("policy"), guard.get("version")),
        requests=Policy("tenant", quota, window, limits.get("burst") or quota) if quota else None,
        erasure_contact=row["erasure_contact"],
        generation=row["generation"],
    )

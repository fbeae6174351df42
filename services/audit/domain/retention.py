"""What may be removed, and when: pure decisions over policies, holds and monthly partitions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

CLASSES = ("required", "standard", "sampled")
# A detached partition can be attached again until it is dropped.
GRACE = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Policy:
    """How long events of a class are kept; tenant `""` means everybody."""

    tenant: str
    event_class: str
    keep_days: int
    version: int


# Deployers of high-risk systems keep logs for six months at least (Reg. 2024/1689, art. 26).
DEFAULTS = (
    Policy("", "required", 730, 0),
    Policy("", "standard", 190, 0),
    Policy("", "sampled", 30, 0),
)


@dataclass(frozen=True, slots=True)
class Hold:
    """What must not be removed: tenant `""`, class None, open times mean all."""

    tenant: str
    event_class: str | None
    since: datetime | None
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Month:
    """One monthly partition; class None for leaves and search rows, which serve all classes."""

    name: str
    parent: str
    event_class: str | None
    start: datetime
    end: datetime


def keep_days(policies: Iterable[Policy], event_class: str | None) -> int:
    """Give the longest time that anybody wants a class kept, in days."""
    return max(
        policy.keep_days
        for policy in policies
        if event_class is None or policy.event_class == event_class
    )


def is_held(month: Month, holds: Iterable[Hold]) -> bool:
    """Say whether a hold touches the partition; a tenant's hold keeps its neighbours' rows too."""
    return any(
        (hold.event_class is None or month.event_class in (None, hold.event_class))
        and (hold.since is None or hold.since < month.end)
        and (hold.until is None or hold.until > month.start)
        for hold in holds
    )


def prunable(
    months: Sequence[Month], policies: Sequence[Policy], holds: Sequence[Hold], now: datetime
) -> list[Month]:
    """List the partitions whose time is over, payloads before the leaves they belong to.

    Leaves and search rows go strictly oldest first: the minimum index can only rise.
    """

    def is_over(month: Month) -> bool:
        days = keep_days(policies, month.event_class)
        return month.end + timedelta(days=days) <= now and not is_held(month, holds)

    found = [month for month in months if month.event_class is not None and is_over(month)]
    for parent in ("search_row", "leaf"):
        own = sorted((m for m in months if m.parent == parent), key=lambda m: m.start)
        for month in own:
            if not is_over(month):
                break
            found.append(month)
    return found


def tenant_cuts(
    policies: Sequence[Policy], holds: Sequence[Hold], now: datetime
) -> list[tuple[Policy, datetime]]:
    """List the tenants that keep a class for less time than its partitions live.

    Returns:
        The policy, and the moment before which the tenant's payloads go. A tenant under a hold is
        left out.
    """
    held = {hold.tenant for hold in holds}
    return [
        (policy, now - timedelta(days=policy.keep_days))
        for policy in policies
        if policy.tenant
        and policy.keep_days < keep_days(policies, policy.event_class)
        and not held & {"", policy.tenant}
    ]

"""Rate limits: the generic cell rate algorithm, a bounded table of it, and the fields on the wire.

GCRA keeps one number per key, the theoretical arrival time (TAT): with period T = window / quota a
request passes when TAT - burst x T <= now, and moves TAT to max(TAT, now) + T. Any window admits at
most burst + quota requests. Fields: draft-ietf-httpapi-ratelimit-headers, `RateLimit` and
`RateLimit-Policy`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Policy:
    """A named quota: `quota` requests per `window_s` seconds, at most `burst` at once."""

    name: str
    quota: int
    window_s: float
    burst: int
    period_s: float = field(init=False)  # seconds between two requests at the sustained rate
    field_value: str = field(init=False)  # the policy's item in `RateLimit-Policy`

    def __post_init__(self) -> None:
        object.__setattr__(self, "period_s", self.window_s / self.quota)
        value = f'"{self.name}";q={self.quota};w={math.ceil(self.window_s)}'
        object.__setattr__(self, "field_value", value)

    def shared_by(self, replicas: int) -> "Policy":
        """Give one replica's share, at least one request."""
        if replicas <= 1:
            return self
        return Policy(
            self.name,
            max(1, self.quota // replicas),
            self.window_s,
            max(1, self.burst // replicas),
        )


@dataclass(slots=True)
class Decision:
    """What a policy said about one request; durations in seconds."""

    policy: Policy
    allowed: bool
    remaining: int
    retry_after_s: float = 0.0
    reset_s: float = 0.0


def gcra(tat: float, now: float, policy: Policy, cost: int = 1) -> tuple[float, Decision]:
    """Judge one request of `cost` units.

    Args:
        tat: the key's theoretical arrival time, seconds; any past time for a new key.
        now: seconds on the same clock.
        policy: the quota.
        cost: units taken.

    Returns:
        The new theoretical arrival time (unchanged on refusal) and the decision.
    """
    period = policy.period_s
    base = max(tat, now)
    new = base + cost * period
    # A nanosecond of slack: (now + k x T) - k x T is not exactly now in binary floating point.
    allow_at = new - policy.burst * period - 1e-9
    if now < allow_at:
        # Rounding keeps the promise that a caller who waits so long passes.
        return tat, Decision(policy, False, 0, allow_at - now + 2e-9, base - now)
    remaining = max(0, math.floor((policy.burst * period - (new - now)) / period + 1e-6))
    return new, Decision(policy, True, remaining, 0.0, new - now)


class LocalLimiter:
    """GCRA per key in this process; bounded, and full means that new keys are refused.

    Refusing instead of forgetting keeps an attacker with many addresses from evicting the state
    that limits them.
    """

    def __init__(self, entries_max: int = 100_000) -> None:
        self._entries_max = entries_max
        self._tats: dict[str, float] = {}

    def take(self, key: str, policy: Policy, now: float) -> Decision:
        """Count one request of `key`."""
        tat = self._tats.get(key)
        if tat is None:
            if len(self._tats) >= self._entries_max:
                self._sweep(now)
                if len(self._tats) >= self._entries_max:
                    return Decision(policy, False, 0, 1.0, 1.0)
            tat = now
        new, decision = gcra(tat, now, policy)
        self._tats[key] = new
        return decision

    def _sweep(self, now: float) -> None:
        self._tats = {key: tat for key, tat in self._tats.items() if tat > now}


class DenyCache:
    """Addresses that a store refused, until when; they get their 429 without a store call."""

    def __init__(self, entries_max: int = 50_000) -> None:
        self._entries_max = entries_max
        self._until: dict[str, float] = {}

    def deny(self, key: str, until: float) -> None:
        """Remember a refusal; when full, the entry is simply not kept."""
        if len(self._until) < self._entries_max or key in self._until:
            self._until[key] = until

    def remaining_s(self, key: str, now: float) -> float:
        """Give the seconds for which `key` stays refused, or 0."""
        until = self._until.get(key)
        if until is None:
            return 0.0
        if until <= now:
            del self._until[key]
            return 0.0
        return until - now


def retry_after(seconds: float) -> int:
    """Give the value of Retry-After: whole seconds, rounded up, at least 1."""
    return max(1, math.ceil(seconds))


def rate_limit_fields(decisions: Iterable[Decision]) -> list[tuple[bytes, bytes]]:
    """Render the decisions as `RateLimit-Policy` and `RateLimit`."""
    policies, states = [], []
    for decision in decisions:
        policy = decision.policy
        policies.append(policy.field_value)
        states.append(
            f'"{policy.name}";r={decision.remaining};t={math.ceil(max(0.0, decision.reset_s))}'
        )
    if not policies:
        return []
    return [
        (b"ratelimit-policy", ", ".join(policies).encode()),
        (b"ratelimit", ", ".join(states).encode()),
    ]

"""GCRA against its definition, and the fields on the wire."""

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.domain.limits import (
    Decision,
    DenyCache,
    LocalLimiter,
    Policy,
    rate_limit_fields,
    retry_after,
)

_POLICIES = st.builds(
    Policy,
    st.just("p"),
    st.integers(1, 50),
    st.floats(0.5, 120, allow_nan=False),
    st.integers(1, 50),
)
_GAPS = st.lists(st.floats(0, 5, allow_nan=False), min_size=1, max_size=120)


@given(_POLICIES, _GAPS)
def test_no_window_admits_more_than_burst_plus_quota(policy: Policy, gaps: list[float]) -> None:
    limiter, now, admitted = LocalLimiter(), 100.0, []
    for gap in gaps:
        now += gap
        if limiter.take("k", policy, now).allowed:
            admitted.append(now)
    for start in admitted:
        inside = [at for at in admitted if start <= at < start + policy.window_s]
        assert len(inside) <= policy.burst + policy.quota


@given(_POLICIES, _GAPS)
def test_a_call_after_retry_after_passes(policy: Policy, gaps: list[float]) -> None:
    limiter, now = LocalLimiter(), 100.0
    for gap in gaps:
        now += gap
        decision = limiter.take("k", policy, now)
        if not decision.allowed:
            now += decision.retry_after_s
            assert limiter.take("k", policy, now).allowed


@given(_POLICIES, _GAPS)
def test_it_equals_a_token_bucket(policy: Policy, gaps: list[float]) -> None:
    """The oracle: a bucket of `burst` tokens that refills at quota / window."""
    limiter, now, tokens = LocalLimiter(), 100.0, float(policy.burst)
    for gap in gaps:
        now += gap
        tokens = min(float(policy.burst), tokens + gap * policy.quota / policy.window_s)
        decision = limiter.take("k", policy, now)
        if abs(tokens - 1) < 1e-6:
            return  # on the edge, rounding decides
        assert decision.allowed == (tokens > 1)
        if decision.allowed:
            tokens -= 1


def test_a_full_table_refuses_new_keys_and_keeps_old_ones() -> None:
    limiter, policy = LocalLimiter(entries_max=2), Policy("p", 1, 60, 1)
    assert limiter.take("a", policy, 0).allowed
    assert limiter.take("b", policy, 0).allowed
    assert not limiter.take("c", policy, 1).allowed
    assert not limiter.take("a", policy, 1).allowed
    assert limiter.take("c", policy, 61).allowed


def test_a_denial_ends_on_time() -> None:
    cache = DenyCache()
    cache.deny("a", 10.0)
    assert cache.remaining_s("a", 4.0) == 6.0
    assert cache.remaining_s("a", 10.0) == 0.0
    assert cache.remaining_s("b", 0.0) == 0.0


def test_fields_follow_the_draft() -> None:
    fields = rate_limit_fields(
        [
            Decision(Policy("ip", 60, 60, 60), True, 12, 0, 40.2),
            Decision(Policy("key", 600, 60, 600), True, 5, 0, 1.0),
        ]
    )
    assert fields == [
        (b"ratelimit-policy", b'"ip";q=60;w=60, "key";q=600;w=60'),
        (b"ratelimit", b'"ip";r=12;t=41, "key";r=5;t=1'),
    ]
    assert rate_limit_fields([]) == []
    assert [retry_after(0.0), retry_after(1.2)] == [1, 2]

"""The security rules, on streams made by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.audit.domain.rules import (
    AUTH_BURST,
    BLOCKED_MIN,
    NETWORKS_MAX,
    QUIET_S,
    Alert,
    Rules,
)


def event(kind: str, tenant: str = "t", **data: object) -> dict[str, object]:
    return {"type": kind, "tenant": tenant, "data": data}


def fed(events: list[tuple[dict[str, object], float]], rules: Rules | None = None) -> list[Alert]:
    rules = rules or Rules()
    return [alert for item, at in events for alert in rules.see(item, at)]


def refusals(
    count: int, every_s: float, start: float = 0.0
) -> list[tuple[dict[str, object], float]]:
    return [
        (event("auth.failed", reason="key", network="10.0.0.0/24"), start + i * every_s)
        for i in range(count)
    ]


def test_a_burst_of_refusals_from_one_network_is_one_alert():
    alerts = fed(refusals(3 * AUTH_BURST, 0.5))
    assert [(a.rule, a.subject, a.severity) for a in alerts] == [
        ("auth_burst", "10.0.0.0/24", "high")
    ]
    assert alerts[0].at_s == (AUTH_BURST - 1) * 0.5


def test_slow_refusals_and_refusals_from_many_places_are_none():
    assert fed(refusals(200, 4.0)) == []
    spread = [(event("auth.failed", network=f"10.0.{i}.0/24"), i * 0.1) for i in range(200)]
    assert fed(spread) == []


def test_after_the_quiet_time_the_same_burst_is_news_again():
    rules = Rules()
    assert len(fed(refusals(AUTH_BURST, 0.5), rules)) == 1
    assert len(fed(refusals(AUTH_BURST, 0.5, start=100.0), rules)) == 0
    assert len(fed(refusals(AUTH_BURST, 0.5, start=QUIET_S + 100), rules)) == 1


def test_a_key_from_many_networks_is_seen_and_from_few_is_not():
    def used(networks: int) -> list[tuple[dict[str, object], float]]:
        return [
            (event("limit.exceeded", key_id="k1", network=f"n{i % networks}"), i * 5.0)
            for i in range(40)
        ]

    assert [a.rule for a in fed(used(NETWORKS_MAX))] == ["key_many_networks"]
    assert fed(used(NETWORKS_MAX - 1)) == []


@pytest.mark.parametrize("kind", ["verdict.blocked", "verdict.given"])
def test_a_spike_of_blocked_texts_is_measured_against_the_tenants_own_hour(kind):
    usual = [
        (event(kind, action="block"), minute * 60.0 + i) for minute in range(60) for i in range(10)
    ]
    rules = Rules()
    assert fed(usual, rules) == []
    burst = [(event(kind, action="block"), 3600.0 + i * 0.5) for i in range(100)]
    assert [a.rule for a in fed(burst, rules)] == ["blocked_spike"]
    assert fed([(event(kind, action="allow"), float(i)) for i in range(200)]) == (
        [] if kind == "verdict.given" else fed([(event(kind), float(i)) for i in range(200)])
    )


def test_a_quiet_tenant_needs_an_absolute_number_too():
    few = [(event("verdict.blocked"), float(i)) for i in range(BLOCKED_MIN - 1)]
    assert fed(few) == []


def test_a_model_that_is_not_its_manifest_is_critical():
    told = "model.onnx: sha256 0123456789ab…, the manifest says ba9876543210…"
    stream = [
        event("model.changed", model="fraud", version="2", what="load", reason=told),
        event("model.changed", model="text", version="1", what="golden", reason="case 3"),
        event("model.changed", model="x", what="promote", reason="better"),
    ]
    alerts = fed([(item, float(at)) for at, item in enumerate(stream)])
    assert [(a.rule, a.subject, a.severity) for a in alerts] == [
        ("model_hash_mismatch", "fraud", "critical"),
        ("model_hash_mismatch", "text", "critical"),
    ]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["auth.failed", "verdict.blocked", "limit.exceeded", "model.changed"]),
            st.integers(0, 5),
            st.floats(0, 30),
        ),
        max_size=300,
    )
)
def test_alerts_of_one_subject_keep_the_quiet_time(stream):
    at, events = 0.0, []
    for kind, number, step in stream:
        at += step
        data = {"network": f"n{number}", "key_id": f"k{number % 2}", "what": "golden"}
        events.append((event(kind, f"t{number % 2}", **data), at))
    last: dict[tuple[str, str, str], float] = {}
    for alert in fed(events):
        key = (alert.rule, alert.tenant, alert.subject)
        assert alert.at_s - last.get(key, float("-inf")) >= QUIET_S
        last[key] = alert.at_s

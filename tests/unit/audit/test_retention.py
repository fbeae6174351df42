"""What may be removed: pure decisions."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.audit.domain.retention import (
    CLASSES,
    DEFAULTS,
    Hold,
    Month,
    Policy,
    keep_days,
    prunable,
    tenant_cuts,
)

NOW = datetime(2030, 6, 15, tzinfo=UTC)


def month(parent: str, year: int, number: int) -> Month:
    start = datetime(year, number, 1, tzinfo=UTC)
    end = (start + timedelta(days=32)).replace(day=1)
    event_class = parent.removeprefix("payload_") if "payload" in parent else None
    return Month(f"{parent}_{year}{number:02}", parent, event_class, start, end)


PARENTS = ("leaf", "search_row", "payload_required", "payload_standard", "payload_sampled")


def every() -> list[Month]:
    return [
        month(parent, year, number)
        for parent in PARENTS
        for year in (2028, 2029, 2030)
        for number in range(1, 13)
    ]


def names(months: list[Month]) -> set[str]:
    return {item.name for item in months}


def test_a_class_goes_when_its_month_is_over_for_everybody_and_leaves_when_the_longest_is():
    found = names(prunable(every(), DEFAULTS, [], NOW))
    assert "payload_sampled_203004" in found
    assert "payload_sampled_203005" not in found  # ended 14 days ago
    assert "payload_standard_202911" in found
    assert "payload_standard_202912" not in found
    assert {"leaf_202805", "search_row_202805", "payload_required_202805"} <= found
    assert "leaf_202806" not in found


def test_one_tenant_that_keeps_longer_keeps_the_partition():
    longer = [*DEFAULTS, Policy("bank", "sampled", 400, 1)]
    assert keep_days(longer, "sampled") == 400
    assert "payload_sampled_203004" not in names(prunable(every(), longer, [], NOW))
    assert tenant_cuts(longer, [], NOW) == []


def test_one_tenant_that_keeps_shorter_is_cut_alone_unless_held():
    own = Policy("shop", "standard", 20, 3)
    policies = [*DEFAULTS, own]
    assert tenant_cuts(policies, [], NOW) == [(own, NOW - timedelta(days=20))]
    for tenant in ("", "shop"):
        assert tenant_cuts(policies, [Hold(tenant, None, None, None)], NOW) == []
    assert tenant_cuts(policies, [Hold("other", None, None, None)], NOW) != []


def test_a_hold_keeps_what_it_names_and_everything_its_leaves_are_needed_for():
    hold = Hold(
        "", "standard", datetime(2028, 2, 10, tzinfo=UTC), datetime(2028, 2, 11, tzinfo=UTC)
    )
    found = names(prunable(every(), DEFAULTS, [hold], NOW))
    assert "payload_standard_202802" not in found
    assert "payload_standard_202801" in found
    assert "payload_required_202802" in found
    assert "leaf_202801" in found
    # The minimum index can only rise, so later leaves wait for the held month.
    assert not {"leaf_202802", "leaf_202803", "search_row_202803"} & found


@given(
    st.lists(
        st.tuples(st.sampled_from(["", "a", "b"]), st.sampled_from(CLASSES), st.integers(1, 900))
    ),
    st.integers(0, 1500),
)
def test_nothing_is_removed_before_everybodys_time(extra, days):
    policies = [*DEFAULTS, *(Policy(t, c, d, 1) for t, c, d in extra)]
    now = datetime(2028, 1, 1, tzinfo=UTC) + timedelta(days=days)
    for found in prunable(every(), policies, [], now):
        for policy in policies:
            if found.event_class in (None, policy.event_class):
                assert found.end + timedelta(days=policy.keep_days) <= now

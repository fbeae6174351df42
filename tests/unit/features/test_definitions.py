"""Definitions of tenants: checked whole, compared, and what the command line says of it."""

from typing import Any

import pytest

from libs.cli.features import lines_of
from libs.common.features.computed import entity_key
from services.features.domain.names import DefinitionError
from services.features.domain.pushed import check, plan

VIEW: dict[str, Any] = {
    "kind": "feature_view",
    "name": "v",
    "join_keys": ["card_id"],
    "features": [{"name": "a", "dtype": "float64"}, {"name": "b", "dtype": "string"}],
    "ttl_s": 60,
}
COMPUTED: dict[str, Any] = {
    "source": {"event_types": ["card_transaction"]},
    "features": [{"name": "n", "aggregation": "count", "window_s": 60}],
}
SERVICE: dict[str, Any] = {"kind": "feature_service", "name": "s", "features": ["v:a"]}


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"kind": "table"}, "/kind"),
        ({"name": "1x"}, "/name"),
        ({"name": "card"}, "/name"),
        ({"name": "a:b"}, "/name"),
        ({"join_keys": []}, "/join_keys"),
        ({"join_keys": ["k", "k"]}, "/join_keys"),
        ({"features": []}, "/features"),
        ({"features": [{"name": "a", "dtype": "decimal"}]}, "/features/0/dtype"),
        ({"features": [{"name": "card_id", "dtype": "int64"}]}, "/features/0/name"),
        ({"ttl_s": 0}, "/ttl_s"),
        ({"ttl_s": True}, "/ttl_s"),
        ({"owner": 3}, "/owner"),
        ({"surprise": 1}, "/surprise"),
        ({"lateness_s": 60}, "/lateness_s"),
        ({**COMPUTED, "lateness_s": 0}, "/lateness_s"),
        ({**COMPUTED, "lateness_s": 31 * 86_400}, "/lateness_s"),
        ({**COMPUTED, "lateness_s": True}, "/lateness_s"),
        ({**COMPUTED, "lateness_s": 60.5}, "/lateness_s"),
    ],
)
def test_a_wrong_definition_is_named(change: dict[str, Any], pointer: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        check({**VIEW, **change})
    assert caught.value.pointer == pointer


def test_another_lateness_is_another_version_of_a_view() -> None:
    before = {**VIEW, **COMPUTED}
    after = {**before, "lateness_s": 3600}
    check(after)
    (change,) = plan({("feature_view", "v"): before}, [after])
    assert (change.action, change.details) == ("update", ("lateness_s changes",))


def test_a_plan_says_what_comes_goes_and_changes() -> None:
    current = {("feature_view", "v"): VIEW}
    wanted = {
        **VIEW,
        "ttl_s": 120,
        "features": [{"name": "a", "dtype": "int64"}, {"name": "c", "dtype": "bool"}],
    }
    assert [c.action for c in plan({}, [VIEW, SERVICE])] == ["create", "create"]
    assert plan(current, [VIEW])[0].action == "unchanged"
    (change,) = plan(current, [wanted])
    assert change.action == "update"
    assert change.details == (
        "feature b goes",
        "feature c comes",
        "feature a changes its type",
        "ttl_s changes",
    )


def test_a_plan_refuses_what_would_lose_or_dangle() -> None:
    current = {("feature_view", "v"): VIEW}
    with pytest.raises(DefinitionError, match="/0/join_keys"):
        plan(current, [{**VIEW, "join_keys": ["user_id"]}])
    with pytest.raises(DefinitionError, match="/0/features/0"):
        plan({}, [SERVICE])
    with pytest.raises(DefinitionError, match="comes twice"):
        plan({}, [VIEW, VIEW])


def test_keys_of_several_values_never_collide() -> None:
    pairs = [("a|b", "c"), ("a", "b|c"), ("a%7Cb", "c"), ("a", "b", "c")]
    assert len({entity_key(pair) for pair in pairs}) == len(pairs)


def test_the_command_line_prints_one_line_per_definition() -> None:
    answer = {
        "changes": [
            {"action": "create", "kind": "feature_view", "name": "v", "details": []},
            {"action": "update", "kind": "feature_service", "name": "s", "details": ["x changes"]},
        ],
        "applied": False,
    }
    assert lines_of(answer) == [
        "+ feature_view v",
        "~ feature_service s",
        "    x changes",
        "planned: 1 create, 1 update, 0 unchanged",
    ]

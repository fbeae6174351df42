"""The offline twin against brute force."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.features import item_windows, windows
from libs.common.features.fraud import FRAUD_V1
from libs.common.features.personalization import PERSONALIZATION_V1
from tests.unit.common.features import oracle
from tests.unit.common.features.strategies import (
    START_MS,
    STEP,
    interaction,
    interactions,
    payments,
)


def _arrays(rows: Any, kind: Any, names: list[str] | None = None) -> dict[str, Any]:
    fields = names or list(kind.__dataclass_fields__)
    columns = {name: [getattr(row, name) for row in rows] for name in fields}
    return {name: np.array(column, dtype=np.int64) for name, column in columns.items()}


def _assert_equal(columns: dict[str, Any], expected: list[dict[str, float]]) -> None:
    for index, row in enumerate(expected):
        for name, value in row.items():
            got = columns[name][index]
            np.testing.assert_allclose(got, value, rtol=1e-9, err_msg=f"{name} of row {index}")


@settings(max_examples=150, deadline=None)
@given(payments())
def test_fraud_columns_equal_brute_force(rows):
    columns = windows.fraud_columns(windows.CardEvents(**_arrays(rows, windows.CardEvents)))
    assert sorted(columns) == sorted([*FRAUD_V1.raw, "card:same_device_30d"])
    expected = [
        {
            **oracle.fraud_row(rows[:i], row),
            "card:same_device_30d": oracle.same_device(rows[:i], row),
        }
        for i, row in enumerate(rows)
    ]
    _assert_equal(columns, expected)


@settings(max_examples=80, deadline=None)
@given(payments(), st.data())
def test_attributes_hidden_from_the_request_stay_in_the_history(rows, data):
    events = windows.CardEvents(**_arrays(rows, windows.CardEvents))
    hide = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    shown = {
        f"shown_{name}": np.where(np.array(hide, dtype=bool), -1, getattr(events, name))
        for name in ("merchant", "mcc", "country")
    }
    expected = []
    for index, row in enumerate(rows):
        seen = oracle.Payment(row.event_ms, row.card, -1, row.amount_minor, -1, -1)
        expected.append(oracle.fraud_row(rows[:index], seen if hide[index] else row))
    _assert_equal(windows.fraud_columns(events, **shown), expected)


@settings(max_examples=150, deadline=None)
@given(interactions(), st.data())
def test_personalization_columns_equal_brute_force(rows, data):
    steps = data.draw(st.lists(STEP, max_size=6))
    asked = [interaction(data.draw, START_MS + sum(steps[: i + 1])) for i in range(len(steps))]
    request_fields = ["user", "item", "session", "category", "price_minor"]
    requests = item_windows.ItemRequests(
        request_ms=np.array([row.event_ms for row in asked], dtype=np.int64),
        **_arrays(asked, None, request_fields),
    )
    columns = item_windows.personalization_columns(
        item_windows.ItemEvents(**_arrays(rows, item_windows.ItemEvents)), requests
    )
    assert tuple(sorted(columns)) == tuple(sorted(PERSONALIZATION_V1.raw))
    _assert_equal(columns, [oracle.personalization_row(rows, row) for row in asked])

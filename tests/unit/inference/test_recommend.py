"""POST /recommend: ranking, filters, seen items, bad input."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.events.registry import problems_of
from libs.common.features.personalization import PERSONALIZATION_V1
from services.inference.schemas import Candidate, RecommendAnswer
from services.inference.scoring.recommend import rank

ITEMS = [
    {"item_id": f"item_{n}", "item_category": "books" if n % 2 else "toys", "item_price": 10.0 * n}
    for n in range(6)
]


@pytest.mark.anyio
async def test_candidates_come_back_ranked_with_one_read_and_one_event(client, reader, events):
    response = await client.post(
        "/recommend", json={"user_id": "u1", "session_id": "s1", "candidates": ITEMS, "k": 4}
    )
    assert response.status_code == 200
    body = RecommendAnswer.model_validate(response.json())
    assert [item.rank for item in body.items] == [1, 2, 3, 4]
    scores = [item.score for item in body.items]
    assert scores == sorted(scores, reverse=True)
    ((service, _, asked),) = reader.calls
    assert service is PERSONALIZATION_V1
    assert [request.entities["item"] for request in asked] == [item["item_id"] for item in ITEMS]
    (event,) = events.events
    assert problems_of(event.to_wire(), "inference") is None
    assert (event.id, event.data_subject) == (body.prediction_id, "u1")


@pytest.mark.anyio
async def test_filters_hold_before_scoring(client, reader):
    response = await client.post(
        "/v1/recommend",
        json={
            "user_id": "u1",
            "candidates": ITEMS,
            "categories": ["toys"],
            "price_max": 40.0,
            "exclude_items": ["item_0"],
        },
    )
    assert {item["item_id"] for item in response.json()["items"]} == {"item_2", "item_4"}
    assert len(reader.calls[-1][2]) == 2


@pytest.mark.anyio
async def test_more_filters_bound_price_and_categories(client):
    async def names(**rules: Any) -> set[str]:
        body = {"user_id": "u1", "candidates": ITEMS, **rules}
        answer = await client.post("/recommend", json=body)
        return {item["item_id"] for item in answer.json()["items"]}

    assert await names(price_min=20.0, price_max=40.0) == {"item_2", "item_3", "item_4"}
    assert await names(exclude_categories=["toys"]) == {"item_1", "item_3", "item_5"}
    spread = await names(max_per_category=1)
    assert len(spread) == 2
    assert {int(name[-1]) % 2 for name in spread} == {0, 1}


@pytest.mark.anyio
async def test_a_visitor_without_a_user_is_served_by_the_session(client, reader, events):
    answer = await client.post("/recommend", json={"session_id": "s9", "candidates": ITEMS})
    assert len(answer.json()["items"]) == 6
    assert {"user"} & reader.calls[-1][2][0].entities.keys() == set()
    assert reader.calls[-1][2][0].entities["session"] == "s9"
    assert events.events[0].data_subject == "s9"
    assert problems_of(events.events[0].to_wire(), "inference") is None


@pytest.mark.anyio
async def test_the_order_of_the_candidates_changes_nothing(client, reader):
    flat = np.arange(6 * len(PERSONALIZATION_V1.names), dtype=np.float32)
    rows = flat.reshape(6, -1) % 7
    lists = []
    for order in ([0, 1, 2, 3, 4, 5], [5, 2, 0, 4, 1, 3]):
        reader.rows = rows[order]
        body = {"user_id": "u1", "candidates": [ITEMS[at] for at in order]}
        lists.append((await client.post("/recommend", json=body)).json()["items"])
    assert lists[0] == lists[1]


@pytest.mark.anyio
async def test_seen_items_are_left_out_when_asked(client, reader):
    rows = np.full((3, len(PERSONALIZATION_V1.names)), np.nan, dtype=np.float32)
    rows[1, PERSONALIZATION_V1.names.index("user_same_item_30d")] = 2
    reader.rows = rows
    asked = {"user_id": "u1", "item_ids": ["a", "b", "c"]}
    everything = await client.post("/recommend", json=asked)
    unseen = await client.post("/recommend", json={**asked, "exclude_seen": True})
    assert len(everything.json()["items"]) == 3
    assert {item["item_id"] for item in unseen.json()["items"]} == {"a", "c"}


@pytest.mark.anyio
async def test_nothing_left_is_an_empty_list_and_no_event(client, events):
    response = await client.post(
        "/recommend", json={"user_id": "u1", "item_ids": ["a"], "exclude_items": ["a"]}
    )
    body = RecommendAnswer.model_validate(response.json())
    assert (body.items, body.prediction_id) == ([], None)
    assert events.events == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"item_ids": []}, "/"),
        ({"item_ids": [f"i{n}" for n in range(501)]}, "/item_ids"),
        ({"k": 0}, "/k"),
        ({"k": "10"}, "/k"),
        ({"user_id": None}, "/user_id"),
        ({"price_max": -1}, "/price_max"),
        ({"max_per_category": 0}, "/max_per_category"),
        ({"user_id": None, "session_id": "s", "exclude_seen": True}, "/exclude_seen"),
        ({"surprise": 1}, "/surprise"),
        ({"candidates": [{"item_id": "a", "item_price": True}]}, "/candidates/0/item_price"),
    ],
)
async def test_bad_input_names_the_field(client, events, change, pointer):
    response = await client.post("/recommend", json={"user_id": "u1", "item_ids": ["a"], **change})
    assert response.status_code == 422
    assert pointer in [error["pointer"] for error in response.json()["errors"]]
    assert events.events == []


@given(
    st.lists(st.tuples(st.integers(0, 30), st.floats(0, 1), st.booleans()), max_size=40),
    st.integers(1, 50),
)
def test_ranking_equals_a_plain_sort(rows, most):
    names = [Candidate(item_id=f"i{at}") for at in range(len(rows))]
    scores, seen = [row[1] for row in rows], [row[2] for row in rows]
    ranked = rank(names, scores, seen=seen, most=most)
    expected = sorted((-scores[at], names[at].item_id) for at in range(len(rows)) if not seen[at])[
        :most
    ]
    assert [item["item_id"] for item in ranked] == [name for _, name in expected]
    assert [item["rank"] for item in ranked] == list(range(1, len(ranked) + 1))

"""The audit service as a real process, over real HTTP, PostgreSQL and identities."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from libs.common.http_client import Reply, ServiceClient
from tests.integration.audit.process import deliver, prediction

pytestmark = pytest.mark.anyio


async def _get(
    client: ServiceClient, path: str, tenant: str = "default", scope: str = "audit:read"
) -> Reply:
    return await client.request("GET", path, tenant=tenant, scopes=(scope,))


async def test_delivered_events_are_found_by_search_id_and_index(audit):
    client = audit.client("inference")
    events = [prediction(i, data_subject="card:4711") for i in range(5)]
    events.append(prediction(5, tenant="other"))
    reply = await deliver(client, events)
    assert reply.status == 200, reply.body
    body = reply.json()
    assert body["size"] == 6
    assert [(r["index"], r["status"]) for r in body["results"]] == [
        (i, "appended") for i in range(6)
    ]

    first = (await _get(client, "/v1/audit/events?limit=3")).json()
    assert [item["index"] for item in first["items"]] == [4, 3, 2]
    assert first["items"][0]["id"] == events[4].id
    assert first["items"][0]["time"] == events[4].time
    rest = (await _get(client, f"/v1/audit/events?limit=3&cursor={first['next']}")).json()
    assert [item["index"] for item in rest["items"]] == [1, 0]
    assert rest["next"] is None

    one = await _get(client, f"/v1/audit/events/{events[2].id}")
    assert one.json()["index"] == 2
    assert (await _get(client, f"/v1/audit/events/{events[2].id}", "other")).status == 404
    subject = (await _get(client, "/v1/audit/events?data_subject=card:4711")).json()
    assert len(subject["items"]) == 5
    none = (await _get(client, "/v1/audit/events?type=label.received")).json()
    assert none == {"items": [], "next": None}

    tail = await _get(client, "/v1/audit/log/entries?from_index=2&limit=3", "", "audit:tail")
    document = tail.json()
    assert [item["index"] for item in document["items"]] == [2, 3, 4]
    assert (document["next_index"], document["size"], document["min_index"]) == (5, 6, 0)
    assert document["items"][0]["leaf"]["id"] == document["items"][0]["payload"]["id"]
    assert b"card:4711" not in tail.body
    await client.close()


async def test_a_batch_sent_twice_is_logged_once(audit):
    client = audit.client("inference")
    events = [prediction(i) for i in range(20)]
    replies = await asyncio.gather(*(deliver(client, events) for _ in range(5)))
    statuses = [r["status"] for reply in replies for r in reply.json()["results"]]
    assert statuses.count("appended") == 20
    assert statuses.count("duplicate") == 80
    indices = {tuple(r["index"] for r in reply.json()["results"]) for reply in replies}
    assert len(indices) == 1
    assert (await _get(client, "/v1/audit/status")).json()["size"] == 20
    await client.close()


async def test_wrong_events_are_rejected_one_by_one_and_the_rest_is_taken(audit):
    client = audit.client("inference")
    good = prediction(0).to_wire()
    bad = [
        {**prediction(1).to_wire(), "source": "gateway"},
        {**prediction(2).to_wire(), "type": "no.such"},
        {**prediction(3).to_wire(), "data": {"text": "of a user"}},
        {**prediction(4).to_wire(), "id": "nul\0"},
        {**prediction(5).to_wire(), "time": "yesterday"},
        {**prediction(6).to_wire(), "principal": "nul\0"},
        {**prediction(7).to_wire(), "data": {"reason": "x" * 70_000}},
        "text",
    ]
    reply = await client.request(
        "POST", "/v1/audit/events:batch", json=[*bad, good], scopes=("audit:write",)
    )
    assert [r["status"] for r in reply.json()["results"]] == ["rejected"] * len(bad) + ["appended"]
    assert reply.json()["size"] == 1
    assert b"of a user" not in reply.body
    await client.close()


BAD_REQUESTS = [
    ("POST", "/v1/audit/events:batch", b"{", 400),
    ("POST", "/v1/audit/events:batch", b"[]", 422),
    ("POST", "/v1/audit/events:batch", b'{"a": 1}', 422),
    ("GET", "/v1/audit/events?limit=0", None, 422),
    ("GET", "/v1/audit/events?limit=1001", None, 422),
    ("GET", "/v1/audit/events?cursor=abc", None, 422),
    ("GET", "/v1/audit/events?nothing=1", None, 422),
    ("GET", "/v1/audit/events?since=2026-01-01T00:00:00", None, 422),
    ("GET", "/v1/audit/log/entries?from_index=-1", None, 422),
    ("GET", "/v1/audit/events/a%00b", None, 404),
]


async def test_bad_input_is_refused_with_a_problem(audit):
    client = audit.client("inference")
    for method, path, body, status in BAD_REQUESTS:
        reply = await client.request(
            method, path, body=body, scopes=("audit:read", "audit:write", "audit:tail")
        )
        assert reply.status == status, (path, reply.body)
        assert reply.json()["status"] == status
    assert (await _get(client, "/v1/audit/status")).json()["size"] == 0
    await client.close()


async def test_after_kill_and_restart_the_log_goes_on_without_a_gap(audit):
    client = audit.client("inference")
    await deliver(client, [prediction(i) for i in range(300)])
    await client.close()
    audit.kill()
    audit.start()
    client = audit.client("inference")
    reply = await deliver(client, [prediction(i) for i in range(300, 310)])
    assert [r["index"] for r in reply.json()["results"]] == list(range(300, 310))
    status = (await _get(client, "/v1/audit/status")).json()
    assert status["epoch"] == 2
    assert status["consistent"]
    await client.close()
    assert audit.stop() == 0


async def test_times_that_emitters_claim_neither_order_the_log_nor_run_ahead_of_it(audit):
    client = audit.client("inference")
    claimed = ["2999-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "2026-05-05T00:00:00+02:00"]
    events = [prediction(i, time=moment) for i, moment in enumerate(claimed)]
    before = datetime.now(UTC) - timedelta(seconds=1)
    for event in reversed(events):
        assert (await deliver(client, [event])).json()["results"][0]["status"] == "appended"
    items = (await _get(client, "/v1/audit/events")).json()["items"]
    assert [(item["index"], item["time"]) for item in items] == list(
        zip([2, 1, 0], claimed, strict=True)
    )
    arrived = [datetime.fromisoformat(item["ingested_at"]) for item in reversed(items)]
    assert arrived == sorted(arrived)
    assert before < arrived[0]
    assert arrived[-1] <= datetime.now(UTC)
    # The search by time is by the log's own time: a claimed one hides nothing and prunes nothing.
    future = (await _get(client, "/v1/audit/events?since=2900-01-01T00:00:00Z")).json()
    assert future["items"] == []
    await client.close()

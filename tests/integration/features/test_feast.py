"""Feast's protocol, shape by shape; bodies are what a 0.67 client sends."""

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson
import pytest
from redis import Redis

from libs.common.feast_errors import feast_error_body
from libs.common.features.layout import SERVING_KEY
from services.features.errors import UnknownViewError
from tests.integration.features.conftest import Running, Start

pytestmark = pytest.mark.anyio

EPOCH = "1970-01-01T00:00:00Z"
VIEW = {
    "kind": "feature_view",
    "name": "fv1",
    "join_keys": ["card_id"],
    "features": [
        {"name": "f1_0", "dtype": "float64"},
        {"name": "f1_1", "dtype": "int64"},
        {"name": "f1_2", "dtype": "string"},
        {"name": "f1_3", "dtype": "bool"},
        {"name": "f1_4", "dtype": "bytes"},
    ],
    "ttl_s": 3600,
    "push_source": "fv1_push",
}
SERVICE = {"kind": "feature_service", "name": "svc", "features": ["fv1:f1_0", "fv1:f1_2"]}


async def _define(running: Running, *documents: Any) -> Any:
    answer = await running.client.post(
        "/features/definitions", json={"definitions": list(documents or (VIEW, SERVICE))}
    )
    assert answer.status_code == 200, answer.text
    await running.applied()  # a store that starts is not served from
    return answer.json()


def _stamp(age_s: float = 5.0) -> str:
    moment = datetime.now(UTC) - timedelta(seconds=age_s)
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds")


def _frame(card: Any = 7, stamp: str | None = None, **values: Any) -> dict[str, Any]:
    return {
        "card_id": [card],
        "event_timestamp": [stamp or _stamp()],
        "created": [None],
        **{name: [value] for name, value in values.items()},
    }


async def _write(running: Running, view: str = "fv1", **frame: Any) -> Any:
    body = {"feature_view_name": view, "df": _frame(**frame), "allow_registry_cache": False}
    answer = await running.client.post("/write-to-online-store", json=body)
    await running.applied()  # the answer waits for it only so long
    return answer


async def _read(running: Running, *features: str, cards: Any = (7,), **more: Any) -> Any:
    body = {
        "entities": {"card_id": list(cards)},
        "full_feature_names": False,
        "include_feature_view_version_metadata": False,
        **({"features": list(features)} if features else {}),
        **more,
    }
    return await running.client.post("/get-online-features", json=body)


async def test_a_written_row_is_read_back_in_feasts_shape(start: Start) -> None:
    async with start() as running:
        await _define(running)
        stamp = _stamp()
        wrote = await _write(
            running, stamp=stamp, f1_0=1.0, f1_1=-3, f1_2="a|ü", f1_3=True, f1_4="AAE="
        )
        assert (wrote.status_code, wrote.content) == (200, b"null")
        names = [f"fv1:f1_{number}" for number in range(5)]
        answer = await _read(running, *names, cards=[7, 8])
        shown = f"{stamp}Z"
        assert answer.json() == {
            "metadata": {"feature_names": ["card_id", "f1_0", "f1_1", "f1_2", "f1_3", "f1_4"]},
            "results": [
                {
                    "values": [7, 8],
                    "statuses": ["PRESENT", "PRESENT"],
                    "event_timestamps": [EPOCH, EPOCH],
                },
                *(
                    {
                        "values": [value, None],
                        "statuses": ["PRESENT", "NOT_FOUND"],
                        "event_timestamps": [shown, EPOCH],
                    }
                    for value in (1.0, -3, "a|ü", True, "AAE=")
                ),
            ],
        }
        assert b'"values":[1.0,null]' in answer.content


@pytest.mark.parametrize(
    ("moment", "shown"),
    [
        ("2026-11-20T10:00:00", "2026-11-20T10:00:00Z"),
        ("2026-11-20 10:00:00.5", "2026-11-20T10:00:00.500Z"),
        ("2026-11-20T12:00:00.632751+02:00", "2026-11-20T10:00:00.632751Z"),
    ],
)
async def test_times_are_the_shortest_exact_ones(start: Start, moment: str, shown: str) -> None:
    async with start() as running:
        await _define(running, {**VIEW, "ttl_s": 400 * 86_400})
        await _write(running, stamp=moment, f1_0=0.5)
        column = (await _read(running, "fv1:f1_0")).json()["results"][1]
        assert column["event_timestamps"] == [shown]


async def test_the_five_statuses_are_told_apart(start: Start, redis_url: str) -> None:
    async with start() as running:
        await _define(running)
        await _write(running, card="present", f1_0=0.5)
        await _write(running, card="null", f1_0=None)
        await _write(running, card="old", stamp=_stamp(3601), f1_0=0.5)
        await _write(running, card="broken", f1_0=0.5)
        client = Redis.from_url(redis_url)
        client.set("features:{default:vector:broken}:fv1", b"nonsense")
        client.close()
        cards = ["present", "null", "old", "broken", "never"]
        column = (await _read(running, "fv1:f1_0", cards=cards)).json()["results"][1]
        assert column["statuses"] == [
            "PRESENT",
            "NULL_VALUE",
            "OUTSIDE_MAX_AGE",
            "INVALID",
            "NOT_FOUND",
        ]
        assert column["values"] == [0.5, None, None, None, None]


async def test_computed_views_are_read_beside_pushed_ones(start: Start) -> None:
    event = {
        "event_id": "e1",
        "type": "card_transaction",
        "event_ms": time.time_ns() // 1_000_000 - 60_000,
        "entities": {"card_id": "7", "merchant_id": "m"},
        "values": {"amount_minor": 1250},
    }
    async with start() as running:
        await _define(running)
        await running.client.post("/features/events", json={"events": [event]})
        await running.applied()
        await _write(running, f1_0=0.5)
        answer = await _read(
            running, "card:count_1h", "card:mean_amount_1d", "fv1:f1_0", cards=["7", "8"]
        )
        count, mean, pushed = answer.json()["results"][1:]
        assert (count["values"], count["statuses"]) == ([1.0, None], ["PRESENT", "NOT_FOUND"])
        assert mean["values"] == [12.5, None]
        assert pushed["values"] == [0.5, None]
        service = {"feature_service": "fraud_v1", "full_feature_names": True}
        both = {"card_id": ["7"], "merchant_id": ["m"]}
        served = (await _read(running, entities=both, **service)).json()
        names = served["metadata"]["feature_names"]
        assert names[:3] == ["card_id", "merchant_id", "card__count_1h"]
        assert served["results"][names.index("merchant__count_1d")]["values"] == [1.0]
        metrics = (await running.client.get("/metrics")).text
        assert 'gatehouse_feature_freshness_seconds_bucket{le="300.0",view="card"} 2.0' in metrics


async def test_full_names_services_versions_and_the_content_type(start: Start) -> None:
    async with start() as running:
        await _define(running)
        await _write(running, f1_0=0.5, f1_2="x")
        body = {
            "entities": {"card_id": [7]},
            "feature_service": "svc",
            "full_feature_names": True,
            "include_feature_view_version_metadata": True,
        }
        answer = await running.client.post(
            "/get-online-features",
            content=orjson.dumps(body),
            headers={"content-type": "application/x-www-form-urlencoded"},
        )
        assert answer.json()["metadata"] == {
            "feature_names": ["card_id", "fv1__f1_0", "fv1__f1_2"],
            "feature_view_metadata": [{"name": "fv1", "version": 1}],
        }
        changed = {**VIEW, "features": [{"name": "f1_0", "dtype": "float64"}]}
        assert (await _define(running, changed))["changes"][0]["action"] == "update"
        pinned = (await _read(running, "fv1@v1:f1_2", full_feature_names=True)).json()
        assert pinned["metadata"]["feature_names"] == ["card_id", "fv1@v1__f1_2"]
        assert pinned["results"][1]["values"] == ["x"]
        assert (await _read(running, "fv1:f1_0")).json()["results"][1]["values"] == [0.5]


async def test_a_push_reaches_its_views_and_repeats_change_nothing(
    start: Start, clean_postgres: str
) -> None:
    async with start() as running:
        await _define(running)
        stamp = _stamp()
        body = {
            "push_source_name": "fv1_push",
            "df": _frame(stamp=stamp, f1_0=0.25),
            "allow_registry_cache": True,
            "to": "online_and_offline",
            "transform_on_write": True,
        }
        first = await running.client.post("/push", json=body)
        await running.applied()
        assert (first.status_code, first.content) == (200, b"")
        assert (await running.client.post("/push", json=body)).status_code == 200
        connection = await asyncpg.connect(clean_postgres)
        assert await connection.fetchval("SELECT count(*) FROM features.log") == 1
        await connection.close()
        older = {**body, "df": _frame(stamp=_stamp(60), f1_0=9.0)}
        await running.client.post("/push", json=older)
        same_time = {**body, "df": _frame(stamp=stamp, f1_0=0.75)}
        await running.client.post("/push", json=same_time)
        await running.applied()
        assert (await _read(running, "fv1:f1_0")).json()["results"][1]["values"] == [0.75]


async def test_offline_pushes_come_online_by_materialization(start: Start) -> None:
    async with start() as running:
        await _define(running)
        push = {"push_source_name": "fv1_push", "df": _frame(f1_0=0.25), "to": "offline"}
        await running.client.post("/push", json=push)
        assert (await _read(running, "fv1:f1_0")).json()["results"][1]["statuses"] == ["NOT_FOUND"]
        body = {
            "start_ts": _stamp(3600),
            "end_ts": _stamp(0),
            "feature_views": None,
            "disable_event_timestamp": False,
            "full_feature_names": False,
            "version": None,
        }
        done = await running.client.post("/materialize", json=body)
        assert (done.status_code, done.content) == (200, b"null")
        await running.applied()
        assert (await _read(running, "fv1:f1_0")).json()["results"][1]["values"] == [0.25]
        incremental = {"end_ts": _stamp(0), "feature_views": ["fv1"], "full_feature_names": False}
        later = await running.client.post("/materialize-incremental?async=true", json=incremental)
        assert later.status_code == 202
        assert later.json()["feature_views"] == ["fv1"]
        job = f"/features/backfills/{later.json()['job_id']}"

        async def is_done() -> bool:
            return bool((await running.client.get(job)).json()["state"] == "done")

        await running.until(is_done)


@pytest.mark.parametrize(
    ("path", "body", "status", "name"),
    [
        ("read", {"features": ["nope:f"]}, 404, "FeatureViewNotFoundException"),
        ("read", {"features": ["fv1@v9:f1_0"]}, 404, "FeatureViewNotFoundException"),
        ("read", {"feature_service": "nope"}, 404, "FeatureServiceNotFoundException"),
        ("read", {"features": ["fv1:nope"]}, 422, "FeastError"),
        ("read", {"features": ["card:amount_z"]}, 422, "FeastError"),
        ("read", {"features": ["fv1"]}, 422, "FeastError"),
        ("read", {"features": []}, 422, "FeastError"),
        ("read", {"features": ["fv1:f1_0"], "entities": {"nope": [1]}}, 422, "FeastError"),
        ("read", {"features": ["fv1:f1_0"], "entities": {"user_id": [1]}}, 422, "FeastError"),
        ("read", {"features": ["fv1:f1_0"], "entities": {"card_id": 1}}, 422, "FeastError"),
        ("read", {"features": ["fv1:f1_0"], "entities": {"card_id": []}}, 422, "FeastError"),
        ("read", {"features": ["fv1:f1_0"], "entities": {"card_id": [1.5]}}, 422, "FeastError"),
        ("read", {"features": ["fv1:f1_0"], "entities": {"card_id": [None]}}, 422, "FeastError"),
        (
            "read",
            {"features": ["fv1:f1_0"], "entities": {"card_id": [1], "user_id": [1, 2]}},
            422,
            "FeastError",
        ),
        ("push", {"push_source_name": "nope"}, 422, "PushSourceNotFoundException"),
        ("push", {"to": "sideways"}, 422, "FeastError"),
        ("push", {"df": {"card_id": [1]}}, 422, "FeastError"),
        ("write", {"feature_view_name": "nope"}, 404, "FeatureViewNotFoundException"),
        ("write", {"feature_view_name": "card"}, 404, "FeatureViewNotFoundException"),
        ("write", {"df": _frame(f1_0="text")}, 422, "FeastError"),
        ("write", {"df": _frame(f1_1=1.5)}, 422, "FeastError"),
        ("write", {"df": _frame(f1_1=2**63)}, 422, "FeastError"),
        ("write", {"df": _frame(f1_4="no base64")}, 422, "FeastError"),
        ("write", {"df": _frame(surprise=1)}, 422, "FeastError"),
        ("write", {"df": _frame(stamp="2999-01-01T00:00:00")}, 422, "FeastError"),
        ("write", {"df": _frame(stamp="yesterday")}, 422, "FeastError"),
    ],
)
async def test_mistakes_are_named_as_the_client_expects(
    start: Start, path: str, body: dict[str, Any], status: int, name: str
) -> None:
    whole: dict[str, tuple[str, dict[str, Any]]] = {
        "read": ("/get-online-features", {"entities": {"card_id": [1]}}),
        "push": ("/push", {"push_source_name": "fv1_push", "df": _frame(f1_0=0.5)}),
        "write": (
            "/write-to-online-store",
            {"feature_view_name": "fv1", "df": _frame(f1_0=0.5)},
        ),
    }
    route, base = whole[path]
    async with start() as running:
        await _define(running)
        answer = await running.client.post(route, json={**base, **body})
        assert answer.status_code == status, answer.text
        detail = json.loads(answer.json())
        assert (detail["module"], detail["class"]) == ("feast.errors", name)
        assert set(detail) == {"module", "class", "message"}


async def test_broken_json_and_a_store_that_is_not_ready(start: Start, redis_url: str) -> None:
    async with start() as running:
        await _define(running)
        broken = await running.client.post("/get-online-features", content=b"{")
        assert broken.status_code == 400
        assert json.loads(broken.json())["class"] == "FeastError"
        missing = b'{"feature_view_name": "fv1", "df": {"card_id": [7], "f1_0": [NaN], '
        missing += b'"event_timestamp": ["%s"]}}' % _stamp().encode()
        assert (await running.client.post("/write-to-online-store", content=missing)).is_success
        await running.applied()
        assert (await _read(running, "fv1:f1_0")).json()["results"][1]["statuses"] == ["NULL_VALUE"]


def test_an_error_is_a_string_that_holds_json() -> None:
    body = feast_error_body(UnknownViewError("gone"))
    assert json.loads(json.loads(body)) == {
        "module": "feast.errors",
        "class": "FeatureViewNotFoundException",
        "message": "gone",
    }


async def test_a_lost_store_is_rebuilt_with_the_vectors(start: Start, redis_url: str) -> None:
    async with start() as running:
        await _define(running)
        await _write(running, f1_0=0.5)
        client = Redis.from_url(redis_url)
        client.flushall()
        answer = await _read(running, "fv1:f1_0")
        if answer.status_code == 503:
            assert "retry-after" in answer.headers

        async def is_back() -> bool:
            if client.get(SERVING_KEY) is None:
                return False
            column = (await _read(running, "fv1:f1_0")).json()["results"][1]
            return bool(column["values"] == [0.5])

        await running.until(is_back)
        client.close()

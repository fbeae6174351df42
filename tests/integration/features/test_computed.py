"""Computed views by definition, over real stores: SQL, streaming and brute force agree."""

import asyncio
import json
import math
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from libs.common.features.shipped import MERCHANT_RISK
from libs.common.features.shipped import read as read_bytes
from libs.common.postgres import Postgres
from services.features.adapters.computed_history import ComputedHistory
from services.features.adapters.definitions import DefinitionStore
from services.features.adapters.labels import Label, LabelStore
from services.features.adapters.log import PostgresEventLog
from services.features.domain.computed import document_of
from services.features.domain.events import Accepted, is_late
from tests.integration.features.conftest import Running, Start
from tests.integration.features.worlds import DAY_MS, TENANT, payments
from tests.unit.common.features.computed_worlds import World, brute_force, same, worlds

pytestmark = pytest.mark.anyio

RISK: dict[str, Any] = {
    "kind": "feature_view",
    "name": "card_risk",
    "join_keys": ["card_id"],
    "source": {"event_types": ["card_transaction"]},
    "ttl_s": 90 * 86_400,
    "features": [
        {"name": "count_7d", "aggregation": "count", "window_s": 7 * 86_400},
        {"name": "sum_7d", "aggregation": "sum", "field": "amount_minor", "window_s": 7 * 86_400},
        {
            "name": "shops_30d",
            "aggregation": "distinct",
            "field": "merchant_id",
            "window_s": 30 * 86_400,
        },
        {
            "name": "fraud_7d",
            "aggregation": "rate",
            "label": "fraud",
            "window_s": 7 * 86_400,
            "delay_s": 86_400,
        },
    ],
}


async def _check_sql(postgres: Postgres, number: int, world: World) -> None:
    """Put a world into the log of a tenant of its own, and ask the SQL about every moment."""
    tenant, store = f"t{number}", DefinitionStore(postgres)
    document = {**document_of(world.view), "name": "v"}
    await store.apply(tenant, [document], is_dry=False)
    view = (await store.catalog(tenant, is_fresh=True)).computed_versions["v", 1]
    log, labels = PostgresEventLog(postgres, store), LabelStore(postgres, store)
    for event in world.events:
        times = (event.event_ms, event.arrival_ms)
        facts = (*times, event.body, is_late(*times))
        await log.append(tenant, [Accepted(event.event_id, "card_transaction", *facts)])
    for known in world.labels:
        label = Label("transaction", known.event_id, known.label, None, known.available_ms)
        await labels.keep(tenant, label)
    asked = [(entity, now_ms) for entity in ("a", "b") for now_ms in world.moments]
    found = await ComputedHistory(postgres).read(
        tenant, view, [entity for entity, _ in asked], [now_ms for _, now_ms in asked]
    )
    for (entity, now_ms), values in zip(asked, found, strict=True):
        expected = brute_force(world, entity, now_ms)
        got = dict(zip(expected, values, strict=True))
        differing = {n: (got[n], expected[n]) for n in expected if not same(got[n], expected[n])}
        assert not differing, (entity, now_ms)


@pytest.mark.parametrize("engine", ["ring", "tiles"])
async def test_the_compiled_sql_gives_what_brute_force_gives(
    clean_postgres: str, engine: str
) -> None:
    examples: list[World] = []

    @settings(
        max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(worlds(engine, size_max=15), st.just(None))
    def collect(world: World, _: None) -> None:
        examples.append(world)

    collect()
    postgres = Postgres(clean_postgres, "features")
    try:
        await PostgresEventLog(postgres, DefinitionStore(postgres)).ensure_partitions()
        for number, world in enumerate(examples):
            await _check_sql(postgres, number, world)
    finally:
        await postgres.close()


async def _define(running: Running, *documents: dict[str, Any]) -> dict[str, Any]:
    body = {"definitions": list(documents)}
    answer = await running.client.post("/features/definitions", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def _online(running: Running, features: list[str], cards: list[str]) -> dict[str, Any]:
    body = {"features": features, "entities": {"card_id": cards}}
    answer = await running.client.post("/get-online-features", json=body)
    if answer.status_code == 503:
        return {}
    assert answer.status_code == 200, answer.text
    document = answer.json()
    names = document["metadata"]["feature_names"]
    return {name: part["values"] for name, part in zip(names, document["results"], strict=True)}


async def _agrees(running: Running, names: list[str], cards: list[str]) -> dict[str, Any]:
    """Give what is online once history says the same; a window's edge may pass between the two."""
    store: DefinitionStore = running.state["definitions"]
    history: ComputedHistory = running.state["computed_history"]

    async def check() -> dict[str, Any]:
        view = (await store.catalog(TENANT, is_fresh=True)).computed["card_risk"]
        online = await _online(running, [f"card_risk:{name}" for name in names], cards)
        now_ms = time.time_ns() // 1_000_000
        offline = await history.read(TENANT, view, cards, [now_ms] * len(cards))
        found = [[online[name][row] for name in names] for row in range(len(cards))]
        said = [[None if math.isnan(v) else v for v in values] for values in offline]
        return online if found == said else {}

    return dict(await running.until(check, within_s=15.0))


@pytest.mark.parametrize("engine", ["ring", "tiles"])
async def test_a_view_defined_after_its_events_serves_what_its_history_says_and_survives_a_flush(
    start: Start, redis_url: str, engine: str
) -> None:
    events, more = payments(400, seed=5, days=20), payments(100, seed=6, days=2)
    document: dict[str, Any] = {**RISK, "engine": engine}
    names = [feature["name"] for feature in document["features"]]
    cards = sorted({event["entities"]["card_id"] for event in events})
    async with start() as running:
        client = running.client
        await client.post("/features/backfills", json={"events": events})
        for event in events[::7]:
            body = {"transaction_id": event["event_id"], "label": "fraud"}
            assert (await client.post("/v1/feedback", json=body)).status_code == 200
        await _define(running, document)
        await client.post("/features/backfills", json={"events": more})
        body = {"transaction_id": events[0]["event_id"], "label": "legit"}
        await client.post("/v1/feedback", json=body)
        features = [f"card_risk:{name}" for name in names]
        await running.until(lambda: _online(running, features, cards))
        await running.applied()
        online = await _agrees(running, names, cards)
        store: DefinitionStore = running.state["definitions"]
        view = (await store.catalog(TENANT, is_fresh=True)).computed["card_risk"]
        job = (await client.get(f"/features/backfills/view-{view.key}")).json()
        redis = Redis.from_url(redis_url)
        redis.flushall()
        redis.close()
        await running.applied()
        await _agrees(running, names, cards)
    assert job["state"] == "done"
    assert job["done"] == len(events)
    assert sum(online["count_7d"]) > 0
    assert any(rate for rate in online["fraud_7d"])


async def test_an_older_version_serves_until_the_new_one_is_filled_and_stays_readable(
    start: Start,
) -> None:
    events = payments(200, seed=8, days=5)
    card = events[0]["entities"]["card_id"]
    changed = {**RISK, "features": RISK["features"][:1]}
    async with start() as running:
        await _define(running, RISK)
        await running.client.post("/features/backfills", json={"events": events})
        await running.applied()
        first = await running.until(lambda: _online(running, ["card_risk:count_7d"], [card]))
        planned = await running.client.post(
            "/features/definitions", json={"definitions": [changed], "dry_run": True}
        )
        assert planned.json()["changes"][0]["details"] == [
            "feature fraud_7d goes",
            "feature shops_30d goes",
            "feature sum_7d goes",
        ]
        await _define(running, changed)
        assert await _online(running, ["card_risk:count_7d"], [card]) == first

        async def both() -> bool:
            new = await _online(running, ["card_risk@v2:count_7d"], [card])
            old = await _online(running, ["card_risk@v1:sum_7d"], [card])
            return bool(new) and new["count_7d"] == first["count_7d"] and bool(old["sum_7d"][0])

        await running.until(both)


async def test_a_merchants_delayed_fraud_rate_follows_labels_and_their_correction(
    start: Start, redis_url: str
) -> None:
    now_ms = time.time_ns() // 1_000_000
    events = [
        {
            "event_id": f"old-{number}",
            "type": "card_transaction",
            "event_ms": now_ms - 9 * DAY_MS + number,
            "entities": {"card_id": f"c{number}", "merchant_id": "shop"},
            "values": {"amount_minor": 100},
        }
        for number in range(4)
    ]
    key = MERCHANT_RISK.redis_key(TENANT, "shop")
    async with start() as running:
        client = running.client
        early = {"transaction_id": "old-0", "label": "fraud"}
        await client.post("/v1/feedback", json=early)  # before its event is known
        await client.post("/features/backfills", json={"events": events})
        await client.post("/v1/feedback", json={"transaction_id": "old-1", "label": True})
        await client.post("/v1/feedback", json={"transaction_id": "old-2", "label": "fraud"})
        await client.post("/v1/feedback", json={"transaction_id": "old-2", "label": "legit"})
        await running.applied()
        redis = Redis.from_url(redis_url)
        blob = redis.get(key)
        redis.close()
        assert isinstance(blob, bytes)
        # Before its labels came nothing was known to be fraud.
        assert read_bytes(MERCHANT_RISK, blob, now_ms).values[-1] == 0.0
        now_ms = time.time_ns() // 1_000_000
        reading = read_bytes(MERCHANT_RISK, blob, now_ms)
        found = dict(zip([a.name for a in MERCHANT_RISK.aggregates], reading.values, strict=True))
        assert found["labelled_count_7d"] == 4
        assert found["fraud_rate_7d"] == 0.5
        history: ComputedHistory = running.state["computed_history"]
        again = await history.read(TENANT, MERCHANT_RISK, ["shop"], [now_ms])
    assert [str(value) for value in again[0]] == [str(value) for value in reading.values]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"engine": "magic"}, "/definitions/0/engine"),
        ({"join_keys": ["user_id"]}, "/definitions/0/join_keys/0"),
        ({"source": {"event_types": ["nope"]}}, "/definitions/0/source/event_types/0"),
        ({"push_source": "p"}, "/definitions/0/push_source"),
        ({"features": [{"name": "x", "aggregation": "median", "window_s": 1}]}, "/features/0"),
        ({"features": [{"name": "x", "aggregation": "sum", "window_s": 1}]}, "/features/0/field"),
        ({"features": [{"name": "x", "aggregation": "count", "window_s": 0}]}, "window_s"),
        ({"features": [{"name": "x", "aggregation": "rate", "window_s": 9}]}, "/features/0/label"),
        ({"name": "merchant_risk"}, "/definitions/0/name"),
    ],
)
async def test_a_wrong_definition_is_refused_by_its_member(
    start: Start, change: dict[str, Any], pointer: str
) -> None:
    async with start() as running:
        body = {"definitions": [{**RISK, **change}]}
        answer = await running.client.post("/features/definitions", json=body)
    assert answer.status_code == 422
    assert pointer in answer.json()["errors"][0]["pointer"]


async def test_a_tenants_service_over_computed_views_joins_history_without_leaking_labels(
    start: Start,
) -> None:
    events = payments(150, seed=9, days=12)
    service = {
        "kind": "feature_service",
        "name": "risk",
        "features": ["card_risk:count_7d", "card_risk:fraud_7d"],
    }
    async with start() as running:
        client = running.client
        await _define(running, RISK, service)
        await client.post("/features/backfills", json={"events": events})
        before = datetime.now(UTC).isoformat()
        for event in events:
            body = {"transaction_id": event["event_id"], "label": "fraud"}
            await client.post("/v1/feedback", json=body)
        await running.applied()
        card = events[0]["entities"]["card_id"]
        rows = [
            {"entities": {"card_id": card}, "as_of": moment}
            for moment in (before, datetime.now(UTC).isoformat())
        ]
        body = {"feature_service": "risk", "rows": rows}
        answer = await client.post("/features/historical", json=body)
        wrong = await client.post(
            "/features/historical",
            json={"feature_service": "risk", "rows": [{"entities": {}, "as_of": before}]},
        )
        missing = await client.post(
            "/features/historical", json={"feature_service": "nope", "rows": rows}
        )
    then, now, end = (json.loads(line) for line in answer.text.splitlines())
    assert end == {"rows": 2, "complete": True}
    assert then["card_risk:count_7d"] == now["card_risk:count_7d"] > 0
    assert (then["card_risk:fraud_7d"], now["card_risk:fraud_7d"]) == (0.0, 1.0)
    assert wrong.status_code == 422
    assert wrong.json()["errors"][0]["pointer"] == "/rows/0/entities/card_id"
    assert missing.status_code == 404


@pytest.mark.parametrize("engine", ["ring", "tiles"])
async def test_a_builder_that_is_stopped_anywhere_goes_on_and_counts_each_event_once(
    start: Start, engine: str
) -> None:
    events = payments(4500, seed=10, days=25)
    document = {**RISK, "engine": engine}
    cards = sorted({event["entities"]["card_id"] for event in events})
    names = [feature["name"] for feature in RISK["features"]]
    async with start() as running:
        await running.client.post("/features/backfills", json={"events": events})
        await _define(running, document)
    for _ in range(3):
        async with start(is_whole=False):
            await asyncio.sleep(0.05)
    async with start() as running:
        features = [f"card_risk:{name}" for name in names]
        await running.until(lambda: _online(running, features, cards))
        await running.applied()
        await _agrees(running, names, cards)
        store: DefinitionStore = running.state["definitions"]
        view = (await store.catalog(TENANT, is_fresh=True)).computed["card_risk"]
        job = (await running.client.get(f"/features/backfills/view-{view.key}")).json()
    assert job["done"] == len(events)


async def test_each_view_has_a_lateness_of_its_own_online_and_when_filled_from_history(
    start: Start,
) -> None:
    now_ms = time.time_ns() // 1_000_000
    events = [
        {
            "event_id": f"behind-{hours}",
            "type": "card_transaction",
            "event_ms": now_ms - hours * 3_600_000 - 1000,
            "arrival_ms": now_ms - 1000,
            "entities": {"card_id": "late_card"},
            "values": {"amount_minor": 100},
        }
        for hours in (0, 2, 30)  # the built-in views take 24
    ]
    views = {"strict": 3600, "usual": None, "patient": 48 * 3600}
    documents = [
        {
            **RISK,
            "name": name,
            "features": RISK["features"][:1],
            **({"lateness_s": lateness_s} if lateness_s else {}),
        }
        for name, lateness_s in views.items()
    ]
    wanted = {f"{name}__count_7d": [float(count)] for count, name in enumerate(views, 1)}
    async with start() as running:
        # The first is filled from history, the others are written by the events.
        backfill = {"events": events}
        await _define(running, *documents[1:])
        answer = await running.client.post("/features/backfills", json=backfill)
        assert answer.json()["late"] == 1
        await _define(running, documents[0])
        features = [f"{name}:count_7d" for name in views]

        body: dict[str, Any] = {"features": features, "entities": {"card_id": ["late_card"]}}
        body["full_feature_names"] = True

        async def is_counted() -> bool:
            answer = await running.client.post("/get-online-features", json=body)
            if answer.status_code == 503:
                return False
            found = answer.json()
            named = zip(found["metadata"]["feature_names"], found["results"], strict=True)
            return wanted.items() <= {name: part["values"] for name, part in named}.items()

        await running.until(is_counted)
        store: DefinitionStore = running.state["definitions"]
        history: ComputedHistory = running.state["computed_history"]
        computed = (await store.catalog(TENANT, is_fresh=True)).computed
        as_of = time.time_ns() // 1_000_000
        past = [
            (await history.read(TENANT, computed[name], ["late_card"], [as_of]))[0][0]
            for name in views
        ]
    assert past == [1.0, 2.0, 3.0]


async def test_a_label_counts_for_those_that_were_served_from_bytes_that_had_it(
    clean_postgres: str,
) -> None:
    postgres = Postgres(clean_postgres, "features")
    try:
        store = DefinitionStore(postgres)
        log, labels = PostgresEventLog(postgres, store), LabelStore(postgres, store)
        await log.ensure_partitions()
        document = {**RISK, "features": [{**RISK["features"][3], "delay_s": 0}]}
        await store.apply("t", [document], is_dry=False)
        view = (await store.catalog("t", is_fresh=True)).computed_versions["card_risk", 1]
        now_ms = time.time_ns() // 1_000_000
        body = {"entities": {"card_id": "c"}, "values": {"amount_minor": 1}, "attrs": {}}
        ids = ["a", "b"]
        times = (now_ms - DAY_MS, now_ms - DAY_MS)
        for event_id in ids:
            await log.append("t", [Accepted(event_id, "card_transaction", *times, body, False)])
        for number, event_id in enumerate(ids):
            known = Label("transaction", event_id, "fraud", None, now_ms - 1000 + number)
            await labels.keep("t", known)
        # Four rows in the entity's partition: two events, then the label of each.
        until: list[int | None] = [1, 2, 3, 4, None]
        rates = await ComputedHistory(postgres).read(
            "t", view, ["c"] * 5, [now_ms] * 5, until=until
        )
    finally:
        await postgres.close()
    assert [rate for [rate] in rates] == [0.0, 0.0, 0.5, 1.0, 1.0]

"""Alerts from roll-ups to a webhook, over real stores and a real receiver."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from libs.common.postgres import Postgres
from services.analytics.adapters.alert_store import AlertStore
from services.analytics.adapters.rollup_writer import RollupWriter
from services.analytics.adapters.rollups import RollupStore
from services.analytics.adapters.thresholds import ThresholdStore
from services.analytics.adapters.webhooks import WebhookSender
from services.analytics.alerting import Alerting, AlertMetrics, Deliveries
from services.analytics.domain.fold import fold
from services.analytics.domain.webhooks import Destinations, headers_of, secret_of
from services.analytics.domain.windows import MINUTE, floor_minute
from tests.integration.analytics.conftest import RecordedEvents, Start
from tests.support.predictions import prediction

pytestmark = pytest.mark.anyio
MASTER = "a secret of the tests"
# Fixed within a month, so that every run writes the same partitions.
START = datetime(2026, 3, 10, 12, tzinfo=UTC)


@dataclass
class Receiver:
    """A webhook endpoint that keeps what came and answers as it is told."""

    url: str = ""
    status: int = 204
    location: str = ""
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        headers = {"Location": self.location} if self.location else {}
        return web.Response(status=self.status, headers=headers)


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    found = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield found
    finally:
        await runner.cleanup()


class World:
    """Roll-ups that a test fills, and the alerting over them at a time it chooses."""

    def __init__(self, postgres: Postgres, events: RecordedEvents) -> None:
        self.postgres, self.now, self.index = postgres, START, 0
        self.registry = CollectorRegistry()
        self.metrics = AlertMetrics(self.registry)
        self.writer = RollupWriter()
        self.store = AlertStore(postgres, events)
        self.alerting = Alerting(
            postgres,
            RollupStore(postgres),
            ThresholdStore(postgres, events),
            self.store,
            self.metrics,
            clock=lambda: self.now,
        )

    async def minute(self, n: int = 60, *, is_counted: bool = True, **data: object) -> None:
        """Let a minute pass with n predictions, then judge."""
        at = self.now
        documents = [
            prediction(at + timedelta(seconds=59 * i / max(1, n)), **data).to_wire()  # type: ignore[arg-type] # members of data
            for i in range(n)
        ]
        async with self.postgres.connection() as connection:
            index = await self.writer.next_index(connection)
            await self.writer.apply(
                connection, fold(documents), from_index=index, next_index=index + n, log_size=0
            )
            self.now += MINUTE
            if is_counted:
                reached = floor_minute(self.now) + timedelta(seconds=6)
                await self.writer.mark_caught_up(connection, 0, reached)
        self.now = floor_minute(self.now) + timedelta(seconds=7)
        await self.alerting.judge_if_due()
        self.now = floor_minute(self.now)

    async def open(self) -> set[tuple[str, str, str]]:
        found = await self.store.open_alerts("default")
        return {(one.watched.metric, one.watched.kind, one.state) for one in found}

    def firing(self, metric: str, severity: str) -> float | None:
        return self.registry.get_sample_value(
            "gatehouse_analytics_alerts_firing", {"metric": metric, "severity": severity}
        )


@pytest.fixture
async def world(clean_postgres: str) -> AsyncIterator[World]:
    postgres = Postgres(clean_postgres, "analytics")
    yield World(postgres, RecordedEvents())
    await postgres.close()


async def test_a_slow_quarter_of_an_hour_fires_once_and_ends_below_the_clear_limit(world: World):
    for _ in range(8):
        await world.minute(latency_ms={"total": 50.0})
    assert await world.open() == set()
    for _ in range(2):
        await world.minute(latency_ms={"total": 300.0})
    assert ("latency_p95_ms", "absolute", "pending") in await world.open()
    for _ in range(13):
        await world.minute(latency_ms={"total": 300.0})
    # The change is still one: its baseline is the time before.
    assert await world.open() == {
        ("latency_p95_ms", "absolute", "firing"),
        ("latency_p95_ms", "change", "firing"),
    }
    assert world.firing("latency_p95_ms", "medium") == 2
    for _ in range(6):
        await world.minute(latency_ms={"total": 190.0})
    assert ("latency_p95_ms", "absolute", "firing") in await world.open()
    for _ in range(6):
        await world.minute(latency_ms={"total": 50.0})
    assert await world.open() == set()
    assert world.firing("latency_p95_ms", "medium") is None
    heard = await world.store.transitions("default", None, 50)
    absolute = [row["reason"] for row in reversed(heard) if row["kind"] == "absolute"]
    assert absolute == ["limit_broken", "back_inside"]


async def test_traffic_that_stops_fires_but_a_log_that_stands_still_does_not(world: World):
    for _ in range(12):
        await world.minute(n=80)
    for _ in range(8):
        await world.minute(n=0, is_counted=False)
    assert await world.open() == set()
    for _ in range(8):
        await world.minute(n=0)
    assert ("requests", "change", "firing") in await world.open()


async def test_one_failing_release_is_named_beside_all_traffic(world: World):
    for _ in range(8):
        await world.minute(release="1.0.0")
        await world.minute(release="2.0.0", status="failed", reason="timeout")
    watched = {
        (one.watched.model, one.watched.release)
        for one in await world.store.open_alerts("default")
        if one.state == "firing"
    }
    assert watched == {("", ""), ("sentiment", "2.0.0")}


async def fire(world: World) -> None:
    for _ in range(8):
        await world.minute(latency_ms={"total": 900.0})


def deliveries(world: World, *private: str, public: tuple[str, ...] = ()) -> Deliveries:
    sender = WebhookSender(Destinations(public, private), timeout_s=1.0)
    return Deliveries(world.store, sender, world.metrics, master=MASTER)


async def test_a_message_is_signed_and_a_failed_one_is_tried_again_until_it_arrives(world: World):
    async with receiver() as target:
        set_up = await world.store.set_webhook("default", f"{target.url}/hook?k=1", by="t")
        await fire(world)
        target.status = 500
        sending = deliveries(world, target.url)
        assert await sending.send_due() == 1
        assert await sending.send_due() == 0
        await world.postgres.execute("UPDATE alert_deliveries SET next_at = now()")
        target.status = 204
        assert await sending.send_due() == 1
        (headers, body), again = target.got
        assert headers["webhook-id"] == again[0]["webhook-id"]
        secret = secret_of(MASTER, "default", set_up.version)
        signed = headers_of(secret, headers["webhook-id"], int(headers["webhook-timestamp"]), body)
        assert headers["webhook-signature"] == signed["webhook-signature"]
        assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
        message = json.loads(body)
        assert (message["type"], message["data"]["severity"]) == ("alert.firing", "critical")
        (row,) = await world.store.transitions("default", None, 10)
        assert (row["delivery"], row["attempts"]) == ("delivered", 2)


async def test_a_message_that_never_arrives_is_given_up_after_the_last_attempt(world: World):
    async with receiver() as target:
        await world.store.set_webhook("default", target.url, by="t")
        await fire(world)
        target.status = 503
        sending = deliveries(world, target.url)
        for _ in range(10):
            await sending.send_due()
            await world.postgres.execute("UPDATE alert_deliveries SET next_at = now()")
        assert len(target.got) == 6
        (row,) = await world.store.transitions("default", None, 10)
        assert (row["delivery"], row["last_outcome"]) == ("dead", "rejected")


async def test_private_addresses_unlisted_origins_and_redirects_lead_nowhere():
    async with receiver() as target, receiver() as inner:
        port = target.url.rpartition(":")[2]
        listed = WebhookSender(Destinations([], [target.url]))
        assert await listed.send(f"{target.url}/x", {}, b"{}") == "delivered"
        assert await listed.send(f"{inner.url}/x", {}, b"{}") == "refused"
        target.status, target.location = 307, f"{inner.url}/metadata"
        assert await listed.send(f"{target.url}/x", {}, b"{}") == "rejected"
        assert inner.got == []
        # Listed as public, but the name and the number lead to this machine.
        for host in ("localhost", "127.0.0.1", "[::1]", "0x7f000001", "2130706433"):
            url = f"https://{host}:{port}"
            sender = WebhookSender(Destinations([url], []))
            assert await sender.send(f"{url}/x", {}, b"{}") == "refused", host
        assert len(target.got) == 2


async def test_the_webhook_is_set_by_api_with_a_secret_shown_once_and_an_event(start: Start):
    settings = {
        "webhook_secret": MASTER,
        "webhook_origins": "https://hooks.example.com",
    }
    path = "/v1/analytics/alerts/webhook"
    async with start(**settings) as running:
        refused = await running.client.put(path, json={"url": "https://elsewhere.example.com/"})
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["pointer"] == "/url"
        assert "elsewhere" not in refused.text
        url = "https://hooks.example.com/services/credential"
        done = (await running.client.put(path, json={"url": url})).json()
        assert done["secret"].startswith("whsec_")
        shown = (await running.client.get(path)).text
        assert "credential" not in shown
        assert "whsec_" not in shown
        (event,) = running.events.events
        assert event.data["what"] == "alert_webhook"
        assert "credential" not in str(event.data)
        changed = (await running.client.put(path, json={"url": url})).json()
        assert changed["secret"] != done["secret"]
        off = (await running.client.put(path, json={"url": None})).json()
        assert (off["origin"], off["secret"]) == (None, None)
        alerts = (await running.client.get("/v1/analytics/alerts")).json()
        assert alerts["items"] == []
        history = await running.client.get("/v1/analytics/alerts/history?limit=5")
        assert history.json() == {"items": [], "next": None}
        assert (await running.client.get(f"{path[:-8]}/history?limit=0")).status_code == 422


async def test_without_a_secret_no_webhook_can_be_set(start: Start):
    async with start() as running:
        answer = await running.client.put("/v1/analytics/alerts/webhook", json={"url": None})
        assert (answer.status_code, answer.json()["code"]) == (409, "webhooks_off")

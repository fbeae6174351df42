"""The emitter: group commit, fail modes by class, delivery, shutdown."""

import asyncio
import json
import threading
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from libs.common.errors import UnavailableError
from libs.common.events.envelope import Event, EventClass
from libs.common.events.log import EventLog, EventMetrics
from libs.common.events.shipper import Shipper
from libs.common.events.wal import WriteAheadLog
from libs.common.health import Health
from libs.common.http_client import Reply

pytestmark = pytest.mark.anyio
SECRET = bytes(32)


def event(event_class: EventClass = "standard", **data: object) -> Event:
    return Event(
        type="prediction.made",
        source="inference",
        event_class=event_class,
        data=data,
        tenant="default",
    )


class Audit:
    """Records what it commits; down, or refusing some, on request."""

    def __init__(self) -> None:
        self.is_up = True
        self.calls = 0
        self.events: list[dict[str, object]] = []
        self.refuse: set[str] = set()
        self.batch_limit = 10_000

    async def send(self, body: bytes, timeout_s: float) -> Reply:
        self.calls += 1
        if not self.is_up:
            raise UnavailableError("audit cannot be reached")
        documents = json.loads(body)
        if len(documents) > self.batch_limit:
            return Reply(413, {}, b"{}")
        results = []
        for document in documents:
            is_bad = document["id"] in self.refuse
            results.append({"id": document["id"], "status": "rejected" if is_bad else "appended"})
            if not is_bad:
                self.events.append(document)
        return Reply(200, {}, json.dumps({"results": results}).encode())


class Rig:
    def __init__(self, directory: Path, events_max: int) -> None:
        self.wal = WriteAheadLog(directory, SECRET)
        self.wal.open()
        self.registry = CollectorRegistry()
        self.health = Health("inference", "1")
        self.health.started()
        self.log = EventLog(
            "inference",
            self.wal,
            self.health,
            EventMetrics("inference", self.registry, self.wal),
            bytes_max=1 << 30,
            events_max=events_max,
        )
        self.audit = Audit()
        self.shipper = Shipper(self.wal, self.audit.send, self.log.rejected, jitter=lambda: 0.05)
        self.log.shipper = self.shipper

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"gatehouse_inference_events_{name}", labels) or 0.0

    async def until(self, condition, seconds: float = 5.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - counters of threads cannot be awaited
                await asyncio.sleep(0.005)


@asynccontextmanager
async def rig(tmp_path: Path, events_max: int = 1000, *, ships: bool = False):
    built = Rig(tmp_path / "wal", events_max)
    task = asyncio.create_task(built.shipper.run()) if ships else None
    try:
        yield built
    finally:
        if task:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await built.log.close()
        built.wal.close()


async def test_emitted_events_are_on_disk_before_emit_returns(tmp_path):
    async with rig(tmp_path) as r:
        await asyncio.gather(*(r.log.emit(event(index=i)) for i in range(50)))
        assert r.wal.backlog_events == 50
        assert r.metric("backlog") == 50
        assert r.metric("backlog_bytes") == r.wal.backlog_bytes > 0
        assert 0 < r.metric("oldest_age_seconds") < 60
        bodies, _ = r.wal.read(100, 1 << 20)
        assert [json.loads(body)["data"]["index"] for body in bodies] == list(range(50))
        groups = r.metric("fsync_duration_seconds_count")
        assert groups < 10, "concurrent callers must share a sync"


async def test_backlog_refuses_by_class_and_reports_what_was_dropped(tmp_path):
    async with rig(tmp_path, events_max=100) as r:
        for _ in range(50):
            await r.log.emit(event())
        await r.log.emit(event("sampled"))
        assert r.metric("dropped_total", event_class="sampled") == 1
        for _ in range(28):
            await r.log.emit(event())
        await r.until(lambda: r.wal.backlog_events == 79)  # the gap report is one of them
        await r.log.emit(event())
        with pytest.raises(UnavailableError) as refused:
            await r.log.emit(event("standard"))
        assert refused.value.headers["Retry-After"] == "5"
        for _ in range(20):
            await r.log.emit(event("required"))
        with pytest.raises(UnavailableError):
            await r.log.emit(event("required"))
        assert (await r.log.check()).status == "down"
        bodies, _ = r.wal.read(1000, 1 << 20)
        gaps = [e["data"] for e in map(json.loads, bodies) if e["type"] == "audit.gap"]
        assert [(gap["dropped"], gap["event_class"]) for gap in gaps] == [(1, "sampled")]


async def test_failed_writes_answer_503_and_sampled_events_are_counted(tmp_path, monkeypatch):
    async with rig(tmp_path) as r:

        def fail(bodies):
            raise OSError("disk")

        with monkeypatch.context() as patch:
            patch.setattr(r.wal, "append", fail)
            with pytest.raises(UnavailableError):
                await r.log.emit(event())
            await r.log.emit(event("sampled"))
            await r.until(lambda: r.metric("dropped_total", event_class="sampled") == 1)
        await r.log.emit(event())
        await r.until(lambda: r.wal.backlog_events == 2)


async def test_a_hanging_disk_frees_the_callers_and_turns_the_process_not_ready(
    tmp_path, monkeypatch
):
    async with rig(tmp_path) as r:
        release, real = threading.Event(), r.wal.append

        def hang(bodies):
            release.wait(10)
            real(bodies)

        monkeypatch.setattr(r.wal, "append", hang)
        async with asyncio.timeout(2):
            with pytest.raises(UnavailableError):
                await r.log.emit(event())
            assert not r.health.is_ready
            with pytest.raises(UnavailableError):
                await r.log.emit(event())
        release.set()
        await r.until(lambda: r.health.is_ready)
        await r.log.emit(event())


async def test_events_arrive_in_order_after_audit_is_back_none_lost_none_twice(tmp_path):
    async with rig(tmp_path, ships=True) as r:
        r.audit.is_up = False
        for i in range(30):
            await r.log.emit(event(index=i))
        await r.until(lambda: r.audit.calls >= 3)
        assert r.wal.backlog_events == 30
        assert (await r.log.check()).status == "degraded"
        r.audit.is_up = True
        await r.until(lambda: r.wal.backlog_events == 0)
        assert [e["data"]["index"] for e in r.audit.events] == list(range(30))
        assert (await r.log.check()).status == "ok"


async def test_rejected_events_are_parked_counted_and_reported_and_block_nothing(tmp_path):
    async with rig(tmp_path, ships=True) as r:
        bad = event()
        r.audit.refuse.add(bad.id)
        await r.log.emit(event(), bad, event())
        await r.until(lambda: len(r.audit.events) == 3 and r.wal.backlog_events == 0)
        assert r.metric("rejected_total") == 1
        assert r.audit.events[-1]["type"] == "audit.gap"
        assert len(list((tmp_path / "wal" / "parked").iterdir())) == 1


async def test_a_batch_that_is_too_large_is_split_until_it_fits(tmp_path):
    async with rig(tmp_path) as r:
        r.audit.batch_limit = 3
        await r.log.emit(*(event(index=i) for i in range(10)))
        assert await r.shipper.drain(2)
        assert [e["data"]["index"] for e in r.audit.events] == list(range(10))


async def test_an_answer_that_does_not_fit_the_batch_is_no_acknowledgement(tmp_path):
    async with rig(tmp_path) as r:

        async def nonsense(body, timeout_s):
            return Reply(200, {}, b'{"results": []}')

        r.shipper._send = nonsense
        await r.log.emit(event())
        assert not await r.shipper.drain(1)
        assert r.wal.backlog_events == 1


async def test_an_event_too_large_for_the_log_is_the_callers_error(tmp_path):
    async with rig(tmp_path) as r:
        with pytest.raises(ValueError, match="at most"):
            await r.log.emit(event(reason="x" * 70_000))
        await r.log.emit(event())
        assert r.wal.backlog_events == 1


async def test_after_closing_nothing_is_taken(tmp_path):
    async with rig(tmp_path) as r:
        await r.log.close()
        with pytest.raises(UnavailableError):
            await r.log.emit(event("required"))

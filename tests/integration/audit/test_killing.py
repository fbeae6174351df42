"""kill -9 at each of the eight points, a crash of PostgreSQL, a full disk."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.servers import EmbeddedPostgres
from libs.common.errors import ServiceError
from libs.common.migrations import migrate
from libs.common.postgres import Postgres
from services.audit.adapters.keys import LogKeys
from services.audit.adapters.sequencer import Sequencer, running
from services.audit.adapters.subjects import SubjectKeys
from services.audit.domain.events import Accepted, accept
from tests.integration.audit.killing import run_rounds
from tests.integration.audit.process import ROOT, prediction
from tests.integration.audit.test_sequencer import check_log
from tests.integration.audit.victim import POINTS

pytestmark = pytest.mark.anyio


@pytest.fixture
async def own_server(tmp_path):
    """A server that may be killed and a schema that may lose partitions."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="gh-") as directory:
        server = EmbeddedPostgres(Path(directory) / "pg")
        url = server.start()
        await migrate(url, ["audit"])
        yield server, url
        server.stop()


async def test_acknowledged_is_logged_once_after_a_kill_at_every_point(own_server, tmp_path):
    _, url = own_server
    facts = await run_rounds(url, tmp_path, len(POINTS), seed=3)
    assert facts["acknowledged"] > 50
    assert facts["logged"] >= facts["acknowledged"]
    assert facts["leaves_checked"] == facts["logged"]
    assert facts["published"] > 5


async def test_after_a_crash_of_postgres_nothing_acknowledged_is_gone(own_server, tmp_path):
    _, url = own_server
    postgres = Postgres(url, "audit")
    keys = LogKeys.open(tmp_path / "keys", "crash.example/log")
    found = [accept(prediction(i).to_wire(), "inference") for i in range(600)]
    events = [item for item in found if isinstance(item, Accepted)]
    acknowledged = 0
    async with running(Sequencer(postgres, SubjectKeys(keys))) as sequencer:
        for start in range(0, 300, 20):
            await sequencer.append(events[start : start + 20])
            acknowledged += 20
        backend = await postgres.fetchval("SELECT pg_backend_pid()")
        task = asyncio.create_task(sequencer.append(events[300:400]))
        await asyncio.sleep(0.003)
        # A killed backend takes the whole server down; the postmaster recovers from its log.
        os.kill(backend, signal.SIGKILL)
        await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(30):
            while True:
                try:
                    outcomes = await sequencer.append(events)
                    break
                except ServiceError:
                    await asyncio.sleep(0.1)
    assert [outcome.index for outcome in outcomes] == list(range(600))
    assert all(item.status == "duplicate" for item in outcomes[:acknowledged])
    assert await check_log(postgres) == 600
    await postgres.close()


_FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from prometheus_client import CollectorRegistry, generate_latest
from libs.common.errors import UnavailableError
from libs.common.events.envelope import Event
from libs.common.events.log import EventLog, EventMetrics
from libs.common.events.wal import WriteAheadLog, node_secret
from libs.common.health import Health

def event(kind, number):
    return Event(type="prediction.made", source="inference", event_class=kind,
                 data={"index": number, "reason": "x" * 400}, tenant="t")

async def main(directory):
    wal = WriteAheadLog(directory / "wal", node_secret(directory))
    wal.open()
    registry = CollectorRegistry()
    log = EventLog("inference", wal, Health("inference", "0"),
                   EventMetrics("inference", registry, wal), bytes_max=1 << 30, events_max=10**6)
    kept = []
    # Then every write fails with EFBIG, as with ENOSPC: even a new segment's header.
    await log.emit(event("required", -1))
    kept.append(-1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
    refused = {"required": 0, "standard": 0}
    for number in range(40):
        for kind in ("required", "standard"):
            try:
                await log.emit(event(kind, number))
                kept.append(number)
            except UnavailableError:
                refused[kind] += 1
        await log.emit(event("sampled", number))
    assert refused["required"] or refused["standard"], refused
    before = wal.backlog_events
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await log.emit(event("required", 999))
    await asyncio.sleep(0)
    await log.close()
    wal.close()
    again = WriteAheadLog(directory / "wal", node_secret(directory))
    again.open()
    bodies, position = again.read(10_000, 1 << 24)
    found = 0
    while position is not None:
        found += len(bodies)
        again.ack(position)
        bodies, position = again.read(10_000, 1 << 24)
    again.close()
    print(refused["required"] + refused["standard"], len(kept) + 1 <= found, before)

asyncio.run(main(Path(sys.argv[1])))
"""


def test_on_a_full_disk_what_must_not_be_lost_is_refused_and_what_was_taken_is_kept(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    refused, is_all_there, _ = result.stdout.splitlines()[-1].split()
    assert int(refused) > 0
    assert is_all_there == "True"

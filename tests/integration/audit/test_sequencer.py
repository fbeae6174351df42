"""The sequencer on real PostgreSQL: two writers, crashes, poison, clocks."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from libs.common.errors import ServiceError
from libs.common.postgres import Postgres
from libs.common.transparency import tree
from libs.common.transparency.leaf import payload_hash
from services.audit.adapters.keys import LogKeys
from services.audit.adapters.log_reader import LogReader
from services.audit.adapters.sequencer import Sequencer, running
from services.audit.adapters.subjects import SubjectKeys
from services.audit.domain.events import Accepted, accept
from tests.integration.audit.process import prediction

pytestmark = pytest.mark.anyio


def accepted(count: int) -> list[Accepted]:
    """Half of them about data subjects, whose keys a broken transaction takes with it."""
    subjects = {i: f"card:{i}" for i in range(0, count, 2)}
    events = [
        accept(prediction(i, data_subject=subjects.get(i)).to_wire(), "inference")
        for i in range(count)
    ]
    return [event for event in events if isinstance(event, Accepted)]


@pytest.fixture
def subjects(tmp_path: Path) -> SubjectKeys:
    return SubjectKeys(LogKeys.open(tmp_path / "keys", "test.example/log"))


async def check_log(postgres: Postgres) -> int:
    """Rebuild everything from the rows and compare; give the size."""
    reader = LogReader(postgres)
    state = await reader.state()
    leaves = await reader.leaves(0, 1 << 40)
    assert len(leaves) == state.size
    assert tree.root_of([tree.leaf_hash(leaf) for leaf in leaves]) == state.root
    rows = await postgres.fetch(
        "SELECT l.index, l.leaf, p.salt, p.body FROM leaf l JOIN payload p USING (index) "
        "ORDER BY index"
    )
    assert [row["index"] for row in rows] == list(range(state.size))
    for row in rows:
        assert payload_hash(row["salt"], row["body"]).encode() in row["leaf"]
    pseudonyms = {json.loads(row["leaf"]).get("subject") for row in rows} - {None}
    known = await postgres.fetch("SELECT pseudonym FROM subject_key WHERE wrapped_dek IS NOT NULL")
    assert pseudonyms <= {row["pseudonym"] for row in known}
    return state.size


async def test_two_sequencers_are_slow_not_wrong(clean_postgres, subjects):
    first_pool, second_pool = (Postgres(clean_postgres, "audit") for _ in range(2))
    events = accepted(600)
    async with (
        running(Sequencer(first_pool, subjects)) as first,
        running(Sequencer(second_pool, subjects)) as second,
    ):
        # Every event goes to both, as after a lost answer.
        outcomes = await asyncio.gather(
            *(
                writer.append(events[start : start + 20])
                for start in range(0, 600, 20)
                for writer in (first, second)
            )
        )
    statuses = [outcome.status for group in outcomes for outcome in group]
    assert statuses.count("appended") == statuses.count("duplicate") == 600
    assert await check_log(first_pool) == 600
    await first_pool.close()
    await second_pool.close()


@pytest.fixture
async def tolerant_loop(anyio_backend):
    """The driver tells the loop about a connection that died under it; that is the point here."""
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()
    loop.set_exception_handler(lambda _loop, _context: None)
    yield
    loop.set_exception_handler(handler)


@pytest.mark.usefixtures("tolerant_loop")
async def test_a_broken_transaction_leaves_no_trace_and_no_gap(clean_postgres, subjects):
    postgres = Postgres(clean_postgres, "audit")
    events = accepted(300)
    async with running(Sequencer(postgres, subjects)) as sequencer:
        await sequencer.append(events[:100])
        task = asyncio.create_task(sequencer.append(events[100:200]))
        await asyncio.sleep(0.002)
        await postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'gatehouse-audit' AND pid <> pg_backend_pid()"
        )
        await asyncio.gather(task, return_exceptions=True)
        for _ in range(3):
            try:
                await sequencer.append(events)
                break
            except ServiceError:
                continue
    assert await check_log(postgres) == 300
    await postgres.close()


async def test_time_never_runs_backwards_and_a_new_month_gets_its_partition(
    clean_postgres, subjects
):
    postgres = Postgres(clean_postgres, "audit")
    start = datetime(2031, 1, 31, 23, 59, tzinfo=UTC)
    moments = iter(
        [start, start - timedelta(days=3), start + timedelta(days=100), start + timedelta(days=1)]
    )
    sequencer = Sequencer(postgres, subjects, now=lambda: next(moments))
    async with running(sequencer):
        for event in accepted(4):
            await sequencer.append([event])
    rows = await postgres.fetch("SELECT ingested_at FROM leaf ORDER BY index")
    times = [row["ingested_at"] for row in rows]
    assert times == [start, start, start + timedelta(days=100), start + timedelta(days=100)]
    assert await check_log(postgres) == 4
    await postgres.close()

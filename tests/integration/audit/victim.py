"""`python -m tests.integration.audit.victim`: emits, ships, appends and signs, and kills itself.

One process holds everything that can die half-way: the write-ahead log, the shipper, the sequencer,
the checkpointer and the retention job. At the chosen point of its Nth pass it sends itself SIGKILL.
What `emit` acknowledged is written to a file, synced, before the next event. Nothing of the service
knows about this: the points are reached by wrapping functions from outside.
"""

import asyncio
import os
import random
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from prometheus_client import CollectorRegistry

from libs.common.errors import UnavailableError
from libs.common.events import wal as wal_module
from libs.common.events.log import EventLog, EventMetrics
from libs.common.events.shipper import Shipper
from libs.common.events.wal import WriteAheadLog, node_secret
from libs.common.health import Health
from libs.common.http_client import Reply
from libs.common.postgres import Postgres
from services.audit.adapters import sequencer as sequencer_module
from services.audit.adapters.checkpoints import Checkpointer
from services.audit.adapters.keys import LogKeys
from services.audit.adapters.log_reader import LogReader
from services.audit.adapters.retention import Retention
from services.audit.adapters.sequencer import Sequencer, running
from services.audit.adapters.subjects import SubjectKeys
from services.audit.domain.events import Accepted, accept
from tests.integration.audit.process import prediction

POINTS = (
    "after_emit",
    "mid_frame",
    "before_copy",
    "before_commit",
    "before_ack",
    "during_tile_write",
    "during_checkpoint",
    "during_detach",
)
ORIGIN = "kill.example/log"
EVENTS = 40


def die() -> None:
    """End at once, as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


class Fuse:
    """Burns down on each pass; at zero the process dies."""

    def __init__(self, passes: int) -> None:
        self._left = passes

    def burn(self) -> None:
        self._left -= 1
        if self._left <= 0:
            die()


def arm(point: str, fuse: Fuse) -> None:
    """Wrap what the point lies in."""
    if point == "mid_frame":
        _arm_frame(fuse)
    elif point in ("before_copy", "before_commit"):
        copy = sequencer_module._copy

        async def around(*arguments: Any) -> None:
            if point == "before_copy":
                fuse.burn()
            await copy(*arguments)
            if point == "before_commit":
                fuse.burn()

        sequencer_module._copy = around  # type: ignore[assignment] # same arguments, passed on
    elif point == "during_tile_write":
        _arm_statement("INSERT INTO tile", fuse)
    elif point == "during_checkpoint":
        _arm_statement("INSERT INTO checkpoint", fuse)
    elif point == "during_detach":
        _arm_statement("DETACH PARTITION", Fuse(1))


def _arm_frame(fuse: Fuse) -> None:
    """Write half of a frame, then die."""
    append = WriteAheadLog._append

    def torn(self: WriteAheadLog, bodies: Any) -> None:
        fuse._left -= 1
        if fuse._left <= 0:
            segment, file = self._writable()
            frame = segment.seal.frame(segment.count, bodies[0])
            file.write(frame[: len(frame) // 2])
            os.fsync(file.fileno())
            die()
        append(self, bodies)

    wal_module.WriteAheadLog._append = torn  # type: ignore[method-assign] # reached from outside


def _arm_statement(text: str, fuse: Fuse) -> None:
    """Die while the server works on a statement."""
    from asyncpg.connection import Connection

    execute = Connection.execute

    async def around(self: Any, query: str, *arguments: Any, **more: Any) -> Any:
        if text not in query:
            return await execute(self, query, *arguments, **more)
        running_now = asyncio.ensure_future(execute(self, query, *arguments, **more))
        # Far enough for the statement to be on its way, not for its answer.
        await asyncio.sleep(0)
        fuse.burn()
        return await running_now

    Connection.execute = around


async def main(url: str, directory: Path, point: str, passes: int, seed: int) -> None:
    """Emit events until the fuse burns down, or all are shipped when there is none."""
    fuse = Fuse(passes)
    if point:
        arm(point, fuse)
    postgres = Postgres(url, "audit")
    keys = LogKeys.open(directory / "keys", ORIGIN)
    reader, clock = LogReader(postgres), _Clock(seed)
    health = Health("audit", "0")
    async with running(Sequencer(postgres, SubjectKeys(keys), now=clock)) as sequencer:
        checkpoints = Checkpointer(postgres, reader, keys, health)
        retention = Retention(postgres, sequencer, now=clock)

        async def send(body: bytes, timeout_s: float) -> Reply:
            documents = orjson.loads(body)
            judged = [accept(item, item["source"]) for item in documents]
            outcomes = await sequencer.append([e for e in judged if isinstance(e, Accepted)])
            if point == "before_ack":
                fuse.burn()
            results = [
                {"id": d["id"], "status": o.status}
                for d, o in zip(documents, outcomes, strict=True)
            ]
            return Reply(200, {}, orjson.dumps({"results": results}))

        log = WriteAheadLog(directory / "wal", node_secret(directory), segment_bytes=8192)
        await asyncio.to_thread(log.open)
        metrics = EventMetrics("inference", CollectorRegistry(), log)
        events = EventLog(
            "inference", log, health, metrics, bytes_max=1 << 30, events_max=1_000_000
        )
        events.shipper = Shipper(log, send, events.rejected)
        tasks = [asyncio.create_task(events.shipper.run())]
        if point:
            await _emit(events, directory, checkpoints, fuse if point == "after_emit" else None)
            if point == "during_detach":
                clock.leap((await reader.state()).ingested_at or datetime.now(UTC))
                await events.emit(prediction(0))
            await _drain(log)
            await retention.apply()
            while True:
                await _emit(events, directory, checkpoints, None)
        await _drain(log)
        await checkpoints.publish()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await events.close()
        await asyncio.to_thread(log.close)
    await postgres.close()


class _Clock:
    """Real time with jumps backwards; a leap makes a month old enough to be retired."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self._shift = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self._shift - timedelta(seconds=self._draw.choice([0, 0, 5, 90]))

    def leap(self, last: datetime) -> None:
        self._shift = last + timedelta(days=300) - datetime.now(UTC)


async def _emit(
    events: EventLog, directory: Path, checkpoints: Checkpointer, fuse: Fuse | None
) -> None:
    with (directory / "acknowledged").open("ab", buffering=0) as file:
        for number in range(EVENTS):
            event = prediction(number, data_subject=f"card:{number % 7}")
            try:
                await events.emit(event)
            except UnavailableError:  # a slow disk: refused, so not acknowledged
                continue
            file.write(event.id.encode() + b"\n")
            if fuse:
                fuse.burn()
            if number % 10 == 9:
                note = await checkpoints.publish()
                with (directory / "published").open("ab", buffering=0) as seen:
                    seen.write(orjson.dumps(note) + b"\n")


async def _drain(log: WriteAheadLog) -> None:
    async with asyncio.timeout(60):
        while log.backlog_events:  # noqa: ASYNC110 - threads empty it
            await asyncio.sleep(0.01)


def run_victim() -> Callable[[], None]:
    """Read the command line."""
    url, directory, point, passes, seed = sys.argv[1:6]
    return lambda: asyncio.run(main(url, Path(directory), point, int(passes), int(seed)))


if __name__ == "__main__":
    run_victim()()

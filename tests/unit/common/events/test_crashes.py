"""Any interleaving of appends, deliveries and crashes: acknowledged is logged, each event once.

The write-ahead log is the real one, on disk. The other side is a model of what the sequencer
promises: a batch is taken whole or not at all, an id is taken once, an answer may be lost.
"""

import contextlib
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from libs.common.events.wal import WriteAheadLog
from tests.unit.common.events.test_wal import SECRET, crash


class Crashes(RuleBasedStateMachine):
    """Emitter, write-ahead log, shipper and sequencer, each of which may die at any step."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="gh-"))
        self.number = 0
        self.acknowledged: list[bytes] = []
        self.perhaps: set[bytes] = set()  # written, but the process died before it said so
        self.log: list[bytes] = []
        self.wal = self.opened()

    def opened(self) -> WriteAheadLog:
        wal = WriteAheadLog(self.directory, SECRET, segment_bytes=400)
        wal.open()
        return wal

    def new_bodies(self, count: int) -> list[bytes]:
        self.number += count
        return [b"event-%d" % n for n in range(self.number - count, self.number)]

    def commit(self, bodies: list[bytes]) -> None:
        """Take a batch as the sequencer does: new ids at the end, known ones not again."""
        self.log += [body for body in dict.fromkeys(bodies) if body not in self.log]

    @rule(count=st.integers(1, 6))
    def emit(self, count: int) -> None:
        bodies = self.new_bodies(count)
        self.wal.append(bodies)
        self.acknowledged += bodies

    @rule(count=st.integers(1, 6), cut=st.integers(0, 300))
    def die_while_writing(self, count: int, cut: int) -> None:
        """The write is there up to any byte of it, and nobody was told."""
        bodies = self.new_bodies(count)
        self.wal.append(bodies)
        self.perhaps |= set(bodies)
        segment = self.wal._segments[-1]
        size = segment.path.stat().st_size
        written = sum(len(segment.seal.frame(0, body)) for body in bodies)
        crash(self.wal)
        with segment.path.open("r+b") as file:
            file.truncate(size - min(cut, written))
        self.wal = self.opened()

    @rule()
    def die(self) -> None:
        crash(self.wal)
        self.wal = self.opened()

    @rule()
    def stop_cleanly(self) -> None:
        self.wal.close()
        self.wal = self.opened()

    @rule(count=st.integers(1, 9))
    def deliver(self, count: int) -> None:
        bodies, position = self.wal.read(count, 1 << 20)
        if position is not None:
            self.commit(bodies)
            self.wal.ack(position)

    @rule(count=st.integers(1, 9))
    def lose_the_answer(self, count: int) -> None:
        """Committed, but the shipper heard nothing, so it will send again."""
        self.commit(self.wal.read(count, 1 << 20)[0])

    @rule(count=st.integers(1, 9))
    def die_between_commit_and_ack(self, count: int) -> None:
        self.commit(self.wal.read(count, 1 << 20)[0])
        self.die()

    @rule()
    def lose_the_cursor(self) -> None:
        crash(self.wal)
        with contextlib.suppress(FileNotFoundError):
            (self.directory / "cursor").unlink()
        self.wal = self.opened()

    @invariant()
    def each_once_and_only_what_was_written(self) -> None:
        assert len(self.log) == len(set(self.log))
        assert set(self.log) <= set(self.acknowledged) | self.perhaps
        assert not self.wal.gaps

    def teardown(self) -> None:
        """In the end all that was acknowledged is in the log, in the order of its writing."""
        while True:
            bodies, position = self.wal.read(1000, 1 << 20)
            if position is None:
                break
            self.commit(bodies)
            self.wal.ack(position)
        assert [body for body in self.log if body not in self.perhaps] == self.acknowledged
        assert self.wal.backlog_events == 0
        self.wal.close()
        shutil.rmtree(self.directory)


TestCrashes = Crashes.TestCase
TestCrashes.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)

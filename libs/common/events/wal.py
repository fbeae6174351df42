"""The local write-ahead log: durable when `append` returns, deleted when audit has committed.

Blocking code, called from threads: one thread appends, one reads and acknowledges. What is lost if
the process dies: before `append` returns, perhaps the records of that call, which nobody was told
are safe; after it, nothing. A lost acknowledgement costs duplicates, which audit collapses.
"""

import contextlib
import fcntl
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import orjson

from libs.common.events import frames
from libs.common.events.frames import DamagedFrameError, Seal, UnreadableSegmentError

SEGMENT_BYTES = 4 << 20
# A quiet process must not keep delivered events on disk: the next append starts a new segment.
SEGMENT_AGE_S = 60.0
_LOCK_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Gap:
    """Records that were damaged on disk and could not be read back."""

    segment: int
    lost: int
    reason: str


@dataclass(frozen=True, slots=True)
class Position:
    """Behind the last record of a batch: segment, offset, and how many records it took."""

    segment: int
    offset: int
    count: int
    bytes: int


@dataclass(slots=True)
class _Segment:
    number: int
    path: Path
    seal: Seal
    start: int
    end: int  # durable bytes
    count: int = 0
    created: float = field(default_factory=time.monotonic)


def node_secret(state_dir: Path) -> bytes:
    """Give the node's 32-byte secret, made on first use with mode 0600."""
    path = state_dir / "node.secret"
    state_dir.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        temporary = path.with_name(f".node.secret.{os.getpid()}.{threading.get_ident()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(32))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # a neighbour was faster: its secret counts
            os.link(temporary, path)
        temporary.unlink()
        sync_directory(state_dir)
    return path.read_bytes()


def sync_directory(path: Path) -> None:
    """Make file creation, renaming and deletion in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class WriteAheadLog:
    """Segments in one directory, owned by one process at a time (a lock file says so)."""

    def __init__(
        self, directory: Path, secret: bytes, *, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        self._directory = directory
        self._secret = secret
        self._segment_bytes = segment_bytes
        self._segments: deque[_Segment] = deque()
        self._active: IO[bytes] | None = None
        self._number = 0
        self._cursor = (0, 0)
        self._ages: deque[tuple[int, float]] = deque()
        self._appended = self._acked = 0
        self._appended_bytes = self._acked_bytes = 0
        self._state = threading.Lock()
        self._writing = threading.Lock()
        self._lock_file: IO[bytes] | None = None
        self.gaps: deque[Gap] = deque()
        self.cut_bytes = 0

    @property
    def backlog_events(self) -> int:
        """Records that audit has not committed yet."""
        return self._appended - self._acked

    @property
    def backlog_bytes(self) -> int:
        """Bytes of their frames."""
        return self._appended_bytes - self._acked_bytes

    @property
    def oldest_age_s(self) -> float:
        """Seconds since the oldest such record was written; 0 without any."""
        try:
            return max(0.0, time.time() - self._ages[0][1])
        except IndexError:
            return 0.0

    def open(self) -> None:
        """Take the lock, read what a former process left, cut torn tails, set bad segments aside.

        Raises:
            OSError: the directory cannot be used, or another process holds it.
        """
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._take_lock()
        self._cursor = self._read_cursor()
        # A clean stop leaves a cursor and no segment: a number used again would lie behind it,
        # and what is written there would count as delivered.
        self._number = self._cursor[0]
        paths = sorted(self._directory.glob("*.wal"))
        for path in paths:
            self._number = max(self._number, int(path.stem))
            self._recover(path, is_last=path is paths[-1])

    def append(self, bodies: Sequence[bytes]) -> None:
        """Write the records and make them durable.

        A failed write or fsync poisons the segment: the records go once more to a new one, and no
        later fsync of the old one is trusted (the kernel drops pages that it could not write).

        Raises:
            OSError: the new segment failed too; nothing was promised.
            ValueError: a record is too large.
        """
        with self._writing:
            try:
                self._append(bodies)
            except OSError:
                self._abandon()
                try:
                    self._append(bodies)
                except OSError:
                    self._abandon()
                    raise

    def read(self, count_max: int, bytes_max: int) -> tuple[list[bytes], Position | None]:
        """Give the oldest records behind the cursor, of one segment, without removing them."""
        with self._state:
            cursor = self._cursor
            found = next((s for s in self._segments if s.end > self._from(s, cursor)), None)
            end = found.end if found else 0
        if found is None:
            return [], None
        start = self._from(found, cursor)
        with found.path.open("rb") as file:
            file.seek(start)
            # One frame more than asked, so that the last one is whole.
            data = file.read(min(end - start, bytes_max + frames.FRAME_BODY_BYTES_MAX + 8))
        result = frames.scan(data, 0, count_max)
        taken = [frame for frame in result.frames if frame.end <= bytes_max] or (result.frames[:1])
        is_whole = bool(taken) and taken[0].offset == 0 and result.damage != "bad"
        try:
            if not is_whole:
                raise DamagedFrameError
            bodies = [found.seal.open(data, frame) for frame in taken]
        except DamagedFrameError:
            self._set_aside(found)
            return [], None
        offset = start + taken[-1].end
        return bodies, Position(found.number, offset, len(bodies), taken[-1].end)

    def ack(self, position: Position) -> None:
        """Remember that everything up to `position` is committed; delete finished segments."""
        self._write_cursor(position.segment, position.offset)
        with self._state:
            self._cursor = (position.segment, position.offset)
            self._count_acked(position.count, position.bytes)
            active = self._segments[-1] if self._active and self._segments else None
            done = [s for s in self._segments if s is not active and self._is_done(s)]
            for segment in done:
                self._segments.remove(segment)
        for segment in done:
            segment.path.unlink(missing_ok=True)

    def park(self, bodies: Sequence[bytes]) -> None:
        """Keep records that audit refuses for good, sealed, outside of the queue."""
        directory = self._directory / "parked"
        directory.mkdir(exist_ok=True, mode=0o700)
        number = time.time_ns()
        path = directory / f"{number}.wal"
        path.write_bytes(frames.whole_segment(number, self._secret, bodies))
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sync_directory(directory)

    def close(self) -> None:
        """Close the files; an empty log leaves no segment behind."""
        with self._writing, self._state:
            if self._active is not None:
                self._active.close()
                self._active = None
            if self.backlog_events == 0:
                for segment in self._segments:
                    segment.path.unlink(missing_ok=True)
                self._segments.clear()
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    def _append(self, bodies: Sequence[bytes]) -> None:
        segment, file = self._writable()
        data = b"".join(
            segment.seal.frame(ordinal, body) for ordinal, body in enumerate(bodies, segment.count)
        )
        file.write(data)
        os.fdatasync(file.fileno())
        with self._state:
            segment.end += len(data)
            segment.count += len(bodies)
            self._count_appended(len(bodies), len(data), time.time())

    def _writable(self) -> tuple[_Segment, IO[bytes]]:
        if self._active is not None:
            segment = self._segments[-1]
            is_old = time.monotonic() - segment.created > SEGMENT_AGE_S
            if segment.end < self._segment_bytes and not is_old:
                return segment, self._active
            self._active.close()
            self._active = None
            with self._state:
                if self._is_done(segment):
                    self._segments.pop()
                    segment.path.unlink(missing_ok=True)
        self._number += 1
        path = self._directory / f"{self._number:012d}.wal"
        header, seal = frames.new_header(self._number, self._secret)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        file = os.fdopen(descriptor, "wb", buffering=0)
        self._active = file
        segment = _Segment(self._number, path, seal, len(header), len(header))
        with self._state:
            self._segments.append(segment)
        file.write(header)
        os.fsync(descriptor)
        sync_directory(self._directory)
        return segment, file

    def _abandon(self) -> None:
        """Stop using the active segment; what was durable before stays readable."""
        file, self._active = self._active, None
        if file is None:
            return
        with self._state:
            segment = self._segments[-1]
            if segment.count == 0:
                self._segments.pop()
        with contextlib.suppress(OSError):
            if segment.count == 0:
                segment.path.unlink(missing_ok=True)
            else:
                os.ftruncate(file.fileno(), segment.end)
        with contextlib.suppress(OSError):
            file.close()

    def _recover(self, path: Path, *, is_last: bool) -> None:
        number, data = int(path.stem), path.read_bytes()
        try:
            start, seal = frames.read_header(data, self._secret)
        except UnreadableSegmentError as error:
            # The header looks like a frame itself, so the search starts inside of it.
            intact = len(frames.scan(data, len(frames.MAGIC) + 8).frames)
            if intact:
                self._quarantine(path, Gap(number, intact, str(error)))
            else:  # died while making it: no record was promised
                path.unlink()
                self.cut_bytes += len(data)
            return
        result = frames.scan(data, start)
        segment = _Segment(number, path, seal, start, result.end, len(result.frames))
        if result.damage == "bad" or (result.damage == "torn" and not is_last):
            self._salvage(segment, data, result)
            return
        if result.damage == "torn":
            self.cut_bytes += len(data) - result.end
            with path.open("r+b") as file:
                file.truncate(result.end)
                os.fsync(file.fileno())
        unread = [f for f in result.frames if f.offset >= self._from(segment, self._cursor)]
        if not unread:
            path.unlink()
            return
        self._segments.append(segment)
        self._count_appended(len(unread), result.end - unread[0].offset, path.stat().st_mtime)

    def _set_aside(self, segment: _Segment) -> None:
        """Handle a segment that went bad while this process was running."""
        data = segment.path.read_bytes()
        with self._writing, self._state:
            self._segments.remove(segment)
            if self._active is not None and segment.number == self._number:
                self._active.close()
                self._active = None
            start = self._from(segment, self._cursor)
            unread = segment.end - start
            events = max(0, self.backlog_events - sum(s.count for s in self._segments))
            self._count_acked(events, unread)
        self._salvage(segment, data, frames.scan(data, segment.start))

    def _salvage(self, segment: _Segment, data: bytes, result: frames.Scan) -> None:
        """Write the intact, undelivered records again and move the bad segment away."""
        start, bodies, lost = self._from(segment, self._cursor), [], max(1, result.lost)
        for frame in result.frames:
            if frame.offset >= start:
                try:
                    bodies.append(segment.seal.open(data, frame))
                except DamagedFrameError:
                    lost += 1
        if bodies:
            self.append(bodies)
        self._quarantine(segment.path, Gap(segment.number, lost, "damaged record"))

    def _quarantine(self, path: Path, gap: Gap) -> None:
        directory = self._directory / "quarantine"
        directory.mkdir(exist_ok=True, mode=0o700)
        if path.exists():
            path.rename(directory / path.name)
        sync_directory(self._directory)
        self.gaps.append(gap)

    def _take_lock(self) -> None:
        self._lock_file = (self._directory / "lock").open("wb")
        deadline = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    self._lock_file.close()
                    raise
                time.sleep(0.05)

    def _read_cursor(self) -> tuple[int, int]:
        try:
            document = orjson.loads((self._directory / "cursor").read_bytes())
            return int(document["segment"]), int(document["offset"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0, 0  # costs duplicates only

    def _write_cursor(self, segment: int, offset: int) -> None:
        path = self._directory / "cursor"
        temporary = path.with_suffix(".new")
        with temporary.open("wb") as file:
            file.write(orjson.dumps({"segment": segment, "offset": offset}))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(self._directory)

    @staticmethod
    def _from(segment: _Segment, cursor: tuple[int, int]) -> int:
        """Give the first unread offset of a segment under a cursor."""
        if segment.number < cursor[0]:
            return segment.end
        return max(segment.start, cursor[1]) if segment.number == cursor[0] else segment.start

    def _is_done(self, segment: _Segment) -> bool:
        return self._from(segment, self._cursor) >= segment.end

    def _count_appended(self, count: int, size: int, now: float) -> None:
        self._appended += count
        self._appended_bytes += size
        if self._ages and now - self._ages[-1][1] < 1.0 and len(self._ages) > 1:
            self._ages[-1] = (self._appended, self._ages[-1][1])
        else:
            self._ages.append((self._appended, now))

    def _count_acked(self, count: int, size: int) -> None:
        self._acked += count
        self._acked_bytes += size
        while self._ages and self._ages[0][0] <= self._acked:
            self._ages.popleft()

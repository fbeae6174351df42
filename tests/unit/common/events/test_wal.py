"""The write-ahead log over crashes: nothing acknowledged is lost, nothing comes back once acked."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.events.wal import WriteAheadLog, node_secret

SECRET = os.urandom(32)
ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "wal"


def opened(directory: Path, **options: int) -> WriteAheadLog:
    wal = WriteAheadLog(directory, SECRET, **options)
    wal.open()
    return wal


def crash(wal: WriteAheadLog) -> None:
    """Let go of the files as a killed process does, without tidying up."""
    assert wal._lock_file is not None
    wal._lock_file.close()
    if wal._active is not None:
        wal._active.close()


def drain(wal: WriteAheadLog, count_max: int = 1000) -> list[bytes]:
    found: list[bytes] = []
    while True:
        bodies, position = wal.read(count_max, 1 << 20)
        if position is None:
            return found
        found += bodies
        wal.ack(position)


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.wal"))


def test_records_are_read_in_order_and_gone_after_the_ack(directory):
    wal = opened(directory)
    wal.append([b"a", b"b"])
    wal.append([b"c"])
    assert wal.backlog_events == 3
    assert drain(wal, count_max=2) == [b"a", b"b", b"c"]
    assert (wal.backlog_events, wal.backlog_bytes, wal.oldest_age_s) == (0, 0, 0.0)
    wal.close()
    assert segments(directory) == []


def test_unacknowledged_records_survive_a_crash_and_acknowledged_ones_do_not_return(directory):
    wal = opened(directory)
    wal.append([b"a", b"b", b"c"])
    _, position = wal.read(1, 1 << 20)
    assert position is not None
    wal.ack(position)
    crash(wal)
    again = opened(directory)
    assert again.backlog_events == 2
    assert drain(again) == [b"b", b"c"]
    again.close()


def test_a_lost_cursor_costs_duplicates_only(directory):
    wal = opened(directory)
    wal.append([b"a", b"b"])
    _, position = wal.read(1, 1 << 20)
    assert position is not None
    wal.ack(position)
    crash(wal)
    (directory / "cursor").write_bytes(b"{nonsense")
    again = opened(directory)
    assert drain(again) == [b"a", b"b"]
    again.close()


def test_segments_roll_and_are_deleted_once_delivered(directory):
    wal = opened(directory, segment_bytes=500)
    records = [f"{i:050d}".encode() for i in range(40)]
    for record in records:
        wal.append([record])
    assert len(segments(directory)) > 3
    assert drain(wal) == records
    assert len(segments(directory)) == 1
    wal.close()


@given(cut=st.integers(min_value=0, max_value=900))
@settings(max_examples=30, deadline=None)
def test_a_crash_that_leaves_any_prefix_of_the_last_segment_keeps_whole_records(cut):
    with tempfile.TemporaryDirectory() as name:
        wal = opened(Path(name), segment_bytes=1 << 20)
        records = [f"record {i}".encode() for i in range(10)]
        ends = []
        for record in records:
            wal.append([record])
            ends.append(wal._segments[-1].end)
        crash(wal)
        path = segments(Path(name))[-1]
        size = min(cut, path.stat().st_size)
        os.truncate(path, size)
        again = opened(Path(name))
        again.append([b"later"])
        whole = sum(end <= size for end in ends)
        assert drain(again) == [*records[:whole], b"later"]
        assert not again.gaps
        again.close()


def test_a_bad_record_is_set_aside_and_reported_and_its_neighbours_are_delivered(directory):
    wal = opened(directory)
    wal.append([b"first", b"second", b"third"])
    end = wal._segments[-1].end
    crash(wal)
    path = segments(directory)[0]
    data = bytearray(path.read_bytes())
    data[end - 45] ^= 1  # inside the second of three frames
    path.write_bytes(data)
    again = opened(directory)
    assert drain(again) == [b"first", b"third"]
    assert [(gap.lost, gap.reason) for gap in again.gaps] == [(1, "damaged record")]
    assert len(list((directory / "quarantine").iterdir())) == 1
    again.close()


def test_damage_under_a_running_process_is_set_aside_too(directory):
    wal = opened(directory)
    wal.append([b"first", b"second", b"third"])
    path = segments(directory)[0]
    data = bytearray(path.read_bytes())
    data[-45] ^= 1
    path.write_bytes(data)
    while wal.backlog_events and not wal.gaps:
        wal.read(10, 1 << 20)
    wal.append([b"fourth"])
    assert drain(wal) == [b"first", b"third", b"fourth"]
    assert wal.backlog_events == 0
    wal.close()


def test_a_segment_of_another_node_is_quarantined_not_deleted(directory):
    wal = WriteAheadLog(directory, os.urandom(32))
    wal.open()
    wal.append([b"a", b"b"])
    crash(wal)
    again = opened(directory)
    assert again.backlog_events == 0
    assert [gap.lost for gap in again.gaps] == [2]
    again.close()


def test_a_failed_fsync_poisons_the_segment_and_the_records_go_to_a_new_one(directory, monkeypatch):
    wal = opened(directory)
    wal.append([b"a"])
    real, failures = os.fdatasync, [OSError("disk")]

    def fdatasync(descriptor: int) -> None:
        if failures:
            raise failures.pop()
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    wal.append([b"b"])
    assert len(segments(directory)) == 2
    assert drain(wal) == [b"a", b"b"]
    wal.close()


def test_a_disk_that_stays_full_promises_nothing_and_works_again_later(directory, monkeypatch):
    wal = opened(directory)
    wal.append([b"a"])
    with monkeypatch.context() as patch:

        def full(descriptor: int) -> None:
            raise OSError(28, "no space")

        patch.setattr(os, "fdatasync", full)
        with pytest.raises(OSError, match="no space"):
            wal.append([b"b"])
    wal.append([b"c"])
    assert drain(wal) == [b"a", b"c"]
    wal.close()


def test_two_processes_cannot_share_a_directory(directory, monkeypatch):
    monkeypatch.setattr("libs.common.events.wal._LOCK_WAIT_S", 0.0)
    wal = opened(directory)
    with pytest.raises(BlockingIOError):
        opened(directory)
    wal.close()


def test_the_node_secret_is_private_and_stable(tmp_path):
    secret = node_secret(tmp_path)
    assert len(secret) == 32
    assert node_secret(tmp_path) == secret
    assert (tmp_path / "node.secret").stat().st_mode & 0o777 == 0o600


CHILD = """
import sys
from pathlib import Path
from libs.common.events.wal import WriteAheadLog
wal = WriteAheadLog(Path(sys.argv[1]), bytes.fromhex(sys.argv[2]), segment_bytes=20_000)
wal.open()
number = int(sys.argv[3])
while True:
    wal.append([b"%08d" % (number + i) for i in range(7)])
    number += 7
    print(number, flush=True)
"""


def test_after_kill_9_in_mid_write_every_promised_record_is_there(directory):
    number = 0
    for round_number in range(5):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(directory), SECRET.hex(), str(number)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert child.stdout is not None
        for _ in range(20 + 13 * round_number):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().splitlines()
        child.wait()
        child.stdout.close()
        promised = int(rest[-1]) if rest else number
        wal = opened(directory)
        found = [int(body) for body in drain(wal)]
        wal.close()
        assert found[: promised - number] == list(range(number, promised))
        assert len(set(found)) == len(found)
        number += 1_000_000


def test_after_a_clean_stop_of_a_delivered_log_new_records_are_read_and_survive_a_crash(
    directory: Path,
) -> None:
    wal = opened(directory)
    wal.append([b"one" * 100])
    assert drain(wal) == [b"one" * 100]
    wal.close()
    again = opened(directory)
    again.append([b"two"])
    assert again.read(10, 1 << 20)[0] == [b"two"]
    crash(again)
    last = opened(directory)
    assert drain(last) == [b"two"]
    last.close()

"""The bytes of a segment, under truncation and flipped bits."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.events import frames

SECRET = os.urandom(32)
BODIES = [f"record {i} ".encode() * (i % 7 + 1) for i in range(12)]
SEGMENT = frames.whole_segment(1, SECRET, BODIES)
START, SEAL = frames.read_header(SEGMENT, SECRET)
ENDS = [frame.end for frame in frames.scan(SEGMENT, START).frames]


def _bodies(data: bytes) -> list[bytes]:
    return [SEAL.open(data, frame) for frame in frames.scan(data, START).frames]


def test_every_record_comes_back_in_order():
    result = frames.scan(SEGMENT, START)
    assert _bodies(SEGMENT) == BODIES
    assert (result.damage, result.lost, result.end) == ("none", 0, len(SEGMENT))


def test_records_are_not_readable_without_the_secret():
    assert not any(body in SEGMENT for body in BODIES)
    with pytest.raises(frames.UnreadableSegmentError):
        frames.read_header(SEGMENT, os.urandom(32))


def test_checksum_is_castagnoli():
    assert frames.checksum(b"123456789") == 0xE3069283


@given(st.integers(min_value=START, max_value=len(SEGMENT)))
def test_after_truncation_anywhere_exactly_the_whole_frames_are_left(cut):
    data = SEGMENT[:cut]
    result = frames.scan(data, START)
    whole = sum(end <= cut for end in ENDS)
    assert _bodies(data) == BODIES[:whole]
    assert result.damage == ("none" if cut in {START, *ENDS} else "torn")


@given(st.integers(min_value=START * 8, max_value=len(SEGMENT) * 8 - 1))
@settings(max_examples=300)
def test_a_flipped_bit_costs_its_own_frame_only_and_is_noticed(bit):
    data = bytearray(SEGMENT)
    data[bit // 8] ^= 1 << (bit % 8)
    hit = next(i for i, end in enumerate(ENDS) if bit // 8 < end)
    result = frames.scan(bytes(data), START)
    assert _bodies(bytes(data)) == BODIES[:hit] + BODIES[hit + 1 :]
    is_last = hit == len(BODIES) - 1
    assert (result.damage, result.lost) == (("torn", 0) if is_last else ("bad", 1))


@given(st.binary(max_size=400))
def test_any_bytes_behind_the_last_frame_are_cut(noise):
    result = frames.scan(SEGMENT + noise, START)
    assert [SEAL.open(SEGMENT + noise, frame) for frame in result.frames] == BODIES
    assert result.end == len(SEGMENT)


def test_a_record_that_is_too_large_is_refused():
    with pytest.raises(ValueError, match="at most"):
        SEAL.frame(0, b"x" * (frames.EVENT_BYTES_MAX + 1))

"""The bytes of a write-ahead-log segment: header, sealed frames, and what can be read after damage.

Segment = magic, u32 length and u32 CRC32C of a JSON header, header, frames. The header names
format and checksum and holds the segment's key, wrapped by the node secret. Frame = u32 length, u32
CRC32C, body; body = u64 ordinal, then AES-256-GCM under the segment key with the ordinal as nonce.
A segment is never appended to after a restart, so no nonce is used twice. Integers are big-endian.
"""

import base64
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import google_crc32c
import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC = b"GHWAL001"
_PAIR = struct.Struct(">II")
_ORDINAL = struct.Struct(">Q")
# A length below 2**16 starts with two zero bytes, by which a reader finds frames after damage; it
# is also the largest entry that tlog-tiles can carry.
FRAME_BODY_BYTES_MAX = 65_535
_OVERHEAD = 8 + 16  # ordinal and GCM tag
EVENT_BYTES_MAX = FRAME_BODY_BYTES_MAX - _OVERHEAD
_HEADER_BYTES_MAX = 4096


class UnreadableSegmentError(Exception):
    """The header is damaged or the key does not unwrap with this node's secret."""


class DamagedFrameError(Exception):
    """A frame's checksum or seal does not hold."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Where one frame lies: `end` is the offset behind it."""

    ordinal: int
    offset: int
    end: int


@dataclass(slots=True)
class Scan:
    """What a segment holds.

    Attributes:
        frames: every intact frame in file order.
        end: offset behind the last intact frame.
        damage: `torn` when only the tail is unreadable, `bad` when intact frames follow damage.
        lost: frames known to be missing between intact ones.
    """

    frames: list[Frame] = field(default_factory=list)
    end: int = 0
    damage: Literal["none", "torn", "bad"] = "none"
    lost: int = 0


def checksum(data: bytes) -> int:
    """Give the CRC32C (Castagnoli) of the data; `zlib.crc32` is another polynomial."""
    return int(google_crc32c.value(data))


class Seal:
    """Seals and opens the bodies of one segment."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def frame(self, ordinal: int, plain: bytes) -> bytes:
        """Give the whole frame of one body.

        Raises:
            ValueError: the body is longer than `EVENT_BYTES_MAX`.
        """
        if len(plain) > EVENT_BYTES_MAX:
            raise ValueError(f"a log record has at most {EVENT_BYTES_MAX} bytes, not {len(plain)}")
        number = _ORDINAL.pack(ordinal)
        body = number + self._cipher.encrypt(b"\0\0\0\0" + number, plain, None)
        return _PAIR.pack(len(body), checksum(body)) + body

    def open(self, data: bytes, frame: Frame) -> bytes:
        """Give the plain body of a frame.

        Raises:
            DamagedFrameError: the checksum or the seal does not hold.
        """
        length, crc = _PAIR.unpack_from(data, frame.offset)
        body = data[frame.offset + 8 : frame.end]
        if length != len(body) or checksum(body) != crc:
            raise DamagedFrameError
        try:
            return self._cipher.decrypt(b"\0\0\0\0" + body[:8], body[8:], None)
        except InvalidTag:
            raise DamagedFrameError from None


def new_header(segment: int, secret: bytes) -> tuple[bytes, Seal]:
    """Make the header of a new segment with a fresh key, and its seal."""
    key, nonce = AESGCM.generate_key(256), os.urandom(12)
    wrapped = nonce + AESGCM(secret).encrypt(nonce, key, _aad(segment))
    text = orjson.dumps(
        {
            "format": 1,
            "checksum": "crc32c",
            "cipher": "aes-256-gcm",
            "segment": segment,
            "key": base64.b64encode(wrapped).decode(),
        }
    )
    return MAGIC + _PAIR.pack(len(text), checksum(text)) + text, Seal(key)


def read_header(data: bytes, secret: bytes) -> tuple[int, Seal]:
    """Give the offset of the first frame and the segment's seal.

    Raises:
        UnreadableSegmentError: damaged, of another format, or sealed with another node's secret.
    """
    start = len(MAGIC) + 8
    if len(data) < start or not data.startswith(MAGIC):
        raise UnreadableSegmentError("no header")
    length, crc = _PAIR.unpack_from(data, len(MAGIC))
    text = data[start : start + length]
    if length > _HEADER_BYTES_MAX or len(text) != length or checksum(text) != crc:
        raise UnreadableSegmentError("damaged header")
    header = orjson.loads(text)
    if (header["format"], header["checksum"]) != (1, "crc32c"):
        raise UnreadableSegmentError("unknown format")
    wrapped = base64.b64decode(header["key"])
    try:
        key = AESGCM(secret).decrypt(wrapped[:12], wrapped[12:], _aad(header["segment"]))
    except InvalidTag:
        raise UnreadableSegmentError("the node secret does not fit") from None
    return start + length, Seal(key)


def scan(data: bytes, start: int, count_max: int | None = None) -> Scan:
    """Find the intact frames from `start`, past damage too, without opening them."""
    result, position, expected = Scan(end=start), start, 0
    while position < len(data) and (count_max is None or len(result.frames) < count_max):
        frame = _frame_at(data, position)
        if frame is None:
            frame = next(_candidates(data, position + 1), None)
            if frame is None:
                result.damage = "torn" if result.damage == "none" else "bad"
                return result
            result.damage = "bad"
        result.lost += max(0, frame.ordinal - expected)
        expected = frame.ordinal + 1
        result.frames.append(frame)
        result.end = position = frame.end
    return result


def _frame_at(data: bytes, offset: int) -> Frame | None:
    if offset + 8 > len(data):
        return None
    length, crc = _PAIR.unpack_from(data, offset)
    end = offset + 8 + length
    if not _OVERHEAD <= length <= FRAME_BODY_BYTES_MAX or end > len(data):
        return None
    body = data[offset + 8 : end]
    if checksum(body) != crc:
        return None
    return Frame(_ORDINAL.unpack_from(body)[0], offset, end)


def _candidates(data: bytes, position: int) -> Iterator[Frame]:
    while (position := data.find(b"\0\0", position)) != -1:
        frame = _frame_at(data, position)
        if frame is not None:
            yield frame
        position += 1


def whole_segment(segment: int, secret: bytes, bodies: Sequence[bytes]) -> bytes:
    """Give the bytes of a closed segment that holds `bodies`."""
    header, seal = new_header(segment, secret)
    return header + b"".join(seal.frame(ordinal, body) for ordinal, body in enumerate(bodies))


def _aad(segment: int) -> bytes:
    return f"gatehouse-wal-segment:{segment}".encode()

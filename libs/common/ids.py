"""Identifiers: UUIDv7 for events and requests, W3C trace context."""

import os
import re
import time
import uuid

_TRACEPARENT = re.compile(r"^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$")
_REQUEST_ID = re.compile(r"^[A-Za-z0-9._:-]{1,128}$")


def uuid7() -> str:
    """Make a time-ordered UUID (RFC 9562 version 7) as text."""
    milliseconds = time.time_ns() // 1_000_000
    random_bits = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & 0xFFFFFFFFFFFF) << 80
    value |= 0x7 << 76 | (random_bits >> 68) << 64
    value |= 0b10 << 62 | (random_bits & 0x3FFFFFFFFFFFFFFF)
    return str(uuid.UUID(int=value))


def acceptable_request_id(value: str | None) -> str | None:
    """Return the caller's id if it is safe to log and echo, else None."""
    return value if value and _REQUEST_ID.match(value) else None


def parse_traceparent(value: str | None) -> tuple[str, str, bool] | None:
    """Split a W3C traceparent into (trace id, span id, sampled), or None if it is malformed."""
    match = _TRACEPARENT.match(value or "")
    if not match or set(match[1]) == {"0"} or set(match[2]) == {"0"}:
        return None
    return match[1], match[2], bool(int(match[3], 16) & 1)

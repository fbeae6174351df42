"""Identifiers: UUIDv7 for events and requests, W3C trace context."""

import os
import re
import time
from collections import deque

_TRACEPARENT = re.compile(r"^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$")
_REQUEST_ID = re.compile(r"^[A-Za-z0-9._:-]{1,128}$")


# A request makes three ids: the kernel gives randomness for so many at once, each used once.
# A child of a fork would repeat its parent's ids, so it starts over.
_DRAWN = 256
_random: deque[str] = deque()
os.register_at_fork(after_in_child=_random.clear)


def uuid7() -> str:
    """Make a time-ordered UUID (RFC 9562 version 7) as text."""
    moment = f"{time.time_ns() // 1_000_000:012x}"
    try:
        random = _random.popleft()
    except IndexError:
        drawn = os.urandom(10 * _DRAWN).hex()
        _random.extend(drawn[at : at + 20] for at in range(20, len(drawn), 20))
        random = drawn[:20]
    variant = "89ab"[int(random[3], 16) & 3]
    return f"{moment[:8]}-{moment[8:]}-7{random[:3]}-{variant}{random[4:7]}-{random[7:19]}"


def random_trace_id() -> str:
    """Make a trace id: 32 hex digits, random, never zero."""
    return os.urandom(16).hex()


def acceptable_request_id(value: str | None) -> str | None:
    """Return the caller's id if it is safe to log and echo, else None."""
    return value if value and _REQUEST_ID.match(value) else None


def parse_traceparent(value: str | None) -> tuple[str, str, bool] | None:
    """Split a W3C traceparent into (trace id, span id, sampled), or None if it is malformed."""
    match = _TRACEPARENT.match(value or "")
    if not match or set(match[1]) == {"0"} or set(match[2]) == {"0"}:
        return None
    return match[1], match[2], bool(int(match[3], 16) & 1)
